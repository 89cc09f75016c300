"""What the Layers tab shows: of one question each layer's similarity map, mask and probability (for READ its points);
of a whole split each layer's mean IoU and loss."""

import base64
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from checkpoints.processing import GroundingProcessor
from dashboard import markup
from dashboard.context import read_upload
from dataloaders.batching.batch import Batch
from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from evaluation.layer_analysis import TargetPoints, analyse_split, layer_analysis, point_analysis
from groundscore.colours import Colour, choose_colours
from groundscore.drawing import heat_map, overlay
from groundscore.errors import UserError
from groundscore.scoring import percent
from groundscore.scoring.counts import mask_iou
from groundscore.splits import EvaluationItem, evaluation_set
from groundscore.splits.wording import worded
from groundscore.targets import SEG
from inference.limits import Limits, check_prompt
from model.grounding import GroundingModel

CARD_SIDE = 280  # pixels
MOST_TARGETS = 4
INSIDE, OUTSIDE = (60, 220, 90), (235, 60, 60)


@dataclass
class Question:
    """image uint8 [H, W, 3]; the given answer names its targets as `[SEG]`; truth uint8 [m, H, W] or None."""

    image: np.ndarray
    prompt: str
    answer: str
    truth: np.ndarray | None
    ignore: np.ndarray | None = None


def _shrunk(image: np.ndarray, pixels: int) -> np.ndarray:
    """The image, scaled down to at most `pixels` pixels with its aspect ratio: nobody downloads these masks."""
    height, width = image.shape[:2]
    scale = min(1.0, (pixels / (height * width)) ** 0.5)
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def read_question(upload: str | None, truth: str | None, prompt: str, answer: str, limits: Limits) -> Question:
    """What a visitor put into the tab; every mistake is a `UserError` with a sentence."""
    image = _shrunk(read_upload(upload, limits), limits.analysis_pixels)
    prompt = check_prompt(prompt, limits)
    answer = (answer or "").strip() or f"It is {SEG}."
    targets = answer.count(SEG)
    if not 1 <= targets <= MOST_TARGETS:
        raise UserError(f"The answer has {targets} {SEG}; from 1 to {MOST_TARGETS} are shown.")
    if not truth:
        return Question(image, prompt, answer, None)
    mask = _shrunk(read_upload(truth, limits), limits.analysis_pixels).max(axis=2) > 127
    if mask.shape != image.shape[:2]:
        raise UserError(
            f"The ground truth has {mask.shape[1]} × {mask.shape[0]} pixels, "
            f"the image {image.shape[1]} × {image.shape[0]}."
        )
    if targets > 1:
        raise UserError("A ground truth is one mask: please give an answer with one [SEG].")
    return Question(image, prompt, answer, mask[None].astype(np.uint8))


def question_of(item: EvaluationItem, expression: int) -> Question:
    """Expression `expression` of an evaluation item, with its given answer and its true masks."""
    if not 0 <= expression < len(item.expressions):
        raise UserError(f"The expressions of this image are numbered 0 to {len(item.expressions) - 1}.")
    words = worded(item)
    answer = words.answers[expression]
    masks = item.masks[expression][None] if item.target_masks is None else item.target_masks[expression]
    if SEG not in answer:
        raise UserError(f"The target is not in the image (the answer is {answer!r}), so there is no mask to show.")
    return Question(
        item.image, words.prompts[expression].strip(), answer, np.asarray(masks)[: answer.count(SEG)], item.ignore
    )


def open_item(split: str, index: int, dataset_dir: Path) -> EvaluationItem:
    """Entry `index` of an evaluation split; raises `UserError` if there is none."""
    items = evaluation_set(split.strip(), dataset_dir)
    if not 0 <= index < len(items):
        raise UserError(f"The images of {split} are numbered 0 to {len(items) - 1}.")
    return items[index]


def show_layers(model: GroundingModel, processor: GroundingProcessor, question: Question) -> str:
    """The grid of layers as HTML; for READ its points."""
    batch = _batch(processor, question).to(model.device)
    if model.system.uses_points:
        found = point_analysis(model, batch)
        colours = choose_colours(question.image, [one.mask.cpu().numpy() for one in found])
        return "".join(_points_card(question, one, number, colours) for number, one in enumerate(found))
    analysis = layer_analysis(model, batch)
    chosen_masks = [masks[layer].cpu().numpy() for masks, layer in zip(analysis.masks[0], analysis.greedy.tolist())]
    colours = choose_colours(question.image, chosen_masks)
    sections = []
    for target in range(len(analysis.iou)):
        chosen = int(analysis.greedy[target])
        cards = [
            _layer_card(
                question.image,
                similarity.float().cpu().numpy(),
                mask.cpu().numpy(),
                layer=layer,
                colour=colours[target],
                probability=float(analysis.probabilities[target, layer]),
                iou=None if question.truth is None else float(analysis.iou[target, layer]),
                chosen=layer == chosen,
            )
            for layer, (similarity, mask) in enumerate(
                zip(analysis.maps[0][target], analysis.masks[0][target], strict=True)
            )
        ]
        sections.append(f"<p>{markup.badge(target, colours)}</p>" + f'<div class="layers">{"".join(cards)}</div>')
    return "".join(sections)


def _batch(processor: GroundingProcessor, question: Question) -> Batch:
    height, width = question.image.shape[:2]
    masks = question.truth
    if masks is None:
        masks = np.zeros((question.answer.count(SEG), height, width), np.uint8)
    turns = (Turn(question.prompt, question.answer),)
    sample = Sample(Path("image"), question.image, [turns], masks, question.ignore, "dashboard", "layers")
    return Collator(processor, packed=True, max_length=None, check_masks=False)([sample])


def _layer_card(
    image: np.ndarray,
    similarity: np.ndarray,
    mask: np.ndarray,
    *,
    layer: int,
    colour: Colour,
    probability: float,
    iou: float | None,
    chosen: bool,
) -> str:
    small, (similarity, mask) = _fitted(image, similarity, mask)
    images = _inline(heat_map(small, similarity), "similarity") + _inline(
        overlay(small, [mask > 0.5], [colour]), "mask"
    )
    words = f"layer {layer} · p {probability:.2f}" + ("" if iou is None else f" · IoU {percent(iou)}")
    bar = f'<div class="chance"><div style="width: {100 * probability:.1f}%"></div></div>'
    return _figure(images, bar, words, "layer chosen" if chosen else "layer")


def _points_card(question: Question, target: TargetPoints, number: int, colours: Sequence[Colour]) -> str:
    mask = target.mask.cpu().numpy()
    small, (similarity, shown) = _fitted(question.image, target.similarity.float().cpu().numpy(), mask)
    scale = small.shape[1] / mask.shape[1]
    drawn = overlay(small, [shown > 0.5], [colours[number]])
    for (x, y), label in zip(target.points.tolist(), target.labels.tolist(), strict=True):
        if label >= 0:
            place = (round(x * scale), round(y * scale))
            cv2.circle(drawn, place, 4, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(drawn, place, 3, INSIDE if label else OUTSIDE, -1, cv2.LINE_AA)
    inside, outside = (int((target.labels == kind).sum()) for kind in (1, 0))
    words = f"last layer · {inside} points inside (green), {outside} outside (red)"
    if question.truth is not None:
        words += f" · IoU {percent(mask_iou(mask, question.truth[number], question.ignore))}"
    images = _inline(heat_map(small, similarity), "similarity") + _inline(drawn, "mask and points")
    return f"<p>{markup.badge(number, colours)}</p>" + _figure(images, "", words, "layer")


def _figure(images: str, bar: str, words: str, kind: str) -> str:
    return f'<figure class="{kind}"><div class="pair">{images}</div>{bar}<figcaption>{words}</figcaption></figure>'


def _fitted(image: np.ndarray, *planes: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The image and its planes [H, W] with the longer side `CARD_SIDE`."""
    scale = CARD_SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=way), [cv2.resize(plane.astype(np.float32), size) for plane in planes]


def _inline(image: np.ndarray, description: str) -> str:
    coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return f'<img alt="{description}" src="data:image/jpeg;base64,{base64.b64encode(coded).decode()}">'


COLUMNS = ("layer", "IoU", "loss", "probability")


@dataclass
class LayerTable:
    """Means over a split's targets.

    iou, loss, probability: a value per layer, as in `evaluation.layer_analysis.LayerScores`; greedy: the IoU with the
    layer that the policy finds likeliest; oracle: with each target's best layer.
    """

    split: str
    targets: int
    iou: list[float]
    loss: list[float]
    probability: list[float]
    greedy: float
    oracle: float

    def rows(self) -> list[dict[str, float]]:
        """A row per layer with the fields `COLUMNS`."""
        columns = zip(range(len(self.iou)), self.iou, self.loss, self.probability, strict=True)
        return [dict(zip(COLUMNS, values, strict=True)) for values in columns]

    def write_csv(self, path: Path) -> Path:
        """Writes the rows to `path` and returns it."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows())
        return path


def measure_split(
    model: GroundingModel,
    processor: GroundingProcessor,
    split: str,
    dataset_dir: Path,
    *,
    limit: int,
    progress: Callable[[int, int], None],
) -> LayerTable:
    """Every layer's means on a split's first `limit` images; progress(done, total) counts images."""
    split = split.strip()
    items = evaluation_set(split, dataset_dir)
    found = analyse_split(model, processor, items, batch_size=4, limit=limit, progress=progress)
    targets = len(found.iou)
    if not targets:
        raise UserError(f"{split}: none of these images has a target.")
    return LayerTable(
        split=split,
        targets=targets,
        iou=found.iou.mean(0).tolist(),
        loss=found.loss.mean(0).tolist(),
        probability=found.probabilities.mean(0).tolist(),
        greedy=found.mean_iou(found.greedy),
        oracle=found.mean_iou(found.oracle),
    )


def summary(table: LayerTable) -> str:
    """The main numbers of a split as HTML."""
    best = max(range(len(table.iou)), key=table.iou.__getitem__)
    least = min(range(len(table.loss)), key=table.loss.__getitem__)
    values = (
        ("IoU, last layer", percent(table.iou[-1])),
        (f"IoU, best layer for all ({best})", percent(table.iou[best])),
        ("IoU, the policy's choice", percent(table.greedy)),
        ("IoU, best layer of each target", percent(table.oracle)),
        (f"lowest loss (layer {least})", f"{table.loss[least]:.3f}"),
    )
    words = (
        f"Means over {table.targets} targets of {table.split}. Loss: the training loss of the masks from that layer, "
        "weighted BCE and Dice of the mask and, if the checkpoint trains it, of the similarity map."
    )
    return markup.numbers(values) + markup.note(words)
