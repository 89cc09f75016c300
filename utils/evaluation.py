"""Scoring a model on a split, with exact counts on any number of processes.

Two protocols, and every report says which one it used:
- "given": the reference's. The answer with its `[SEG]` is forced on the model, for referring expressions all of an
  image in one question; only masks are scored.
- "generated": what a user gets. One prompt per expression, greedy decoding, and the union of all masks of the answer
  is the prediction; an answer without `[SEG]` predicts nothing.

    evaluation_set ─▶ images ─▶ batches ─▶ model.segment | model.generate ─▶ pixel counts ─▶ metrics
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dataloaders.batch import Batch
from dataloaders.collate import Collator
from dataloaders.evaluation import EvaluationItem, evaluation_set
from dataloaders.sample import Sample, Turn
from utils.chat_session import ChatSession, LayerChoice
from utils.contact_sheet import SheetRow
from utils.errors import UserError
from utils.metrics import intersection_and_union, iou, mask_metrics

PROTOCOLS = ("given", "generated")


@dataclass
class EvaluationReport:
    """The numbers of one split under one protocol.

    answer: the protocol; layer: the layer choice, "checkpoint" for the checkpoint's own.
    gIoU, cIoU, precision ("P@0.5" …): None where there was nothing to score.
    images, expressions: how many were scored; empty_targets: expressions whose target has no pixel.
    silent: expressions whose answer had no `[SEG]`.
    layers: how many masks were prompted from each hidden state.
    """

    split: str
    answer: str
    layer: str
    gIoU: float | None
    cIoU: float | None
    precision: dict[str, float | None]
    images: int
    expressions: int
    empty_targets: int
    silent: int
    layers: dict[int, int]
    seconds: float

    def to_dict(self) -> dict:
        """All of it as JSON can hold it; precisions stand beside gIoU and cIoU."""
        values = asdict(self)
        values["layers"] = {str(layer): count for layer, count in sorted(self.layers.items())}
        return values | values.pop("precision")


Progress = Callable[[int, int, float | None], None]


def evaluate(
    model,
    processor,
    spec: str,
    dataset_dir: str | Path,
    *,
    answer: str = "generated",
    layer: LayerChoice = None,
    batch_size: int = 8,
    max_new_tokens: int = 128,
    limit: int | None = None,
    workers: int = 0,
    items: Sequence[EvaluationItem] | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Score `model` on the split `spec` below `dataset_dir`.

    batch_size: prompts ("generated") or images ("given") at a time. limit: score the first so many images only.
    workers: processes that read images ahead. items: the split, where the caller has opened it already.
    progress: called after every batch with images done, images in all (of this process) and the gIoU so far.
    Under torch.distributed every process takes its share of the images and all return the same report.
    """
    if answer not in PROTOCOLS:
        raise ValueError(f"answer {answer!r}: expected one of {', '.join(PROTOCOLS)}")
    start = time.perf_counter()
    items = evaluation_set(spec, dataset_dir) if items is None else items
    total = len(items) if limit is None else min(limit, len(items))
    if total == 0:
        raise UserError(f"{spec}: the split below {dataset_dir} holds no images")

    rank, world = _place()
    mine = range(rank, total, world)
    batches = _Batches(items, mine, processor, answer=answer, batch_size=batch_size)
    tally = _Tally()
    was_training = model.training
    model.eval()
    try:
        for work in DataLoader(batches, batch_size=None, num_workers=workers):
            if answer == "given":
                _score_given(model, work, tally, layer=layer)
            else:
                _score_generated(model, work, tally, layer=layer, max_new_tokens=max_new_tokens)
            if progress:
                progress(len({row[0] for row in tally.rows}), len(mine), tally.metrics()["gIoU"].value())
    finally:
        model.train(was_training)

    tally = _gather(tally)
    values = {name: metric.value() for name, metric in tally.metrics().items()}
    return EvaluationReport(
        split=spec,
        answer=answer,
        layer="checkpoint" if layer is None else str(layer),
        gIoU=values.pop("gIoU"),
        cIoU=values.pop("cIoU"),
        precision=values,
        images=len({row[0] for row in tally.rows}),
        expressions=len(tally.rows),
        empty_targets=sum(target == 0 for *_, target in tally.rows),
        silent=tally.silent,
        layers=dict(sorted(tally.layers.items())),
        seconds=time.perf_counter() - start,
    )


def sample_rows(session: ChatSession, spec: str, items: Sequence[EvaluationItem], count: int) -> list[SheetRow]:
    """`count` expressions, spread evenly over the split, answered by the model and laid out for a contact sheet."""
    rows = []
    count = min(count, len(items))
    for number in range(count):
        item = items[(2 * number + 1) * len(items) // (2 * count)]
        which = number % len(item.prompts)
        reply = session.ask(item.image, (), item.prompts[which])
        truth = torch.from_numpy(item.masks[which] != 0)
        ignore = None if item.ignore is None else torch.from_numpy(item.ignore)
        prediction = torch.from_numpy(reply.masks).any(0)
        intersection, union, _ = intersection_and_union(prediction[None], truth[None], ignore).flatten().tolist()
        rows.append(
            SheetRow(
                image=item.image,
                masks=reply.masks,
                question=item.prompts[which].strip(),
                answer=reply.text,
                truth=truth.numpy(),
                ignore=item.ignore,
                similarity=None if reply.maps is None or not len(reply.maps) else reply.maps[0],
                layer=reply.layers[0] if reply.layers else None,
                label=spec,
                iou=iou(intersection, union),
            )
        )
    return rows


# --- images -> batches -----------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """Some expressions of one image: E numbers of expressions, their masks bool [E, H, W], and what to ignore."""

    item: int
    expressions: list[int]
    truth: torch.Tensor
    ignore: torch.Tensor | None


@dataclass
class _Work:
    """A batch for the model and, for each of its images, what it is to be compared with."""

    batch: Batch
    parts: list[_Part]


class _Batches(IterableDataset):
    """Batches of the images `indices` of a split; with several workers each takes a share of them."""

    def __init__(self, items, indices: range, processor, *, answer: str, batch_size: int):
        self.items, self.indices, self.batch_size = items, indices, batch_size
        self.given = answer == "given"
        side = "right" if self.given else "left"
        # Every expression counts: none is dropped for its length, none refused for a mask that training would not take.
        self.collate = Collator(processor, packed=self.given, padding_side=side, max_length=None, check_masks=False)

    def __iter__(self) -> Iterator[_Work]:
        worker = get_worker_info()
        indices = self.indices if worker is None else self.indices[worker.id :: worker.num_workers]
        samples, parts, rows = [], [], 0
        for index in indices:
            item = self.items[index]
            for expressions in [range(len(item.prompts))] if self.given else self._chunks(len(item.prompts), rows):
                part = _part(item, index, list(expressions))
                samples.append(_given_sample(item) if self.given else _prompt_sample(item, part.expressions))
                parts.append(part)
                rows += 1 if self.given else len(part.expressions)
                if rows >= self.batch_size:
                    yield _Work(self.collate(samples), parts)
                    samples, parts, rows = [], [], 0
        if samples:
            yield _Work(self.collate(samples), parts)

    def _chunks(self, expressions: int, rows: int) -> Iterator[range]:
        """Cut the expressions of an image where a batch that already has `rows` rows is full."""
        start = 0
        while start < expressions:
            end = min(expressions, start + self.batch_size - rows)
            yield range(start, end)
            start, rows = end, 0


def _part(item: EvaluationItem, index: int, expressions: list[int]) -> _Part:
    ignore = None if item.ignore is None else torch.from_numpy(item.ignore)
    return _Part(index, expressions, torch.from_numpy(item.masks[expressions] != 0), ignore)


def _prompt_sample(item: EvaluationItem, expressions: list[int]) -> Sample:
    conversations = [(Turn(item.prompts[number], None),) for number in expressions]
    return _sample(item, conversations, np.zeros((0, *item.image.shape[:2]), np.uint8))


def _given_sample(item: EvaluationItem) -> Sample:
    return _sample(item, [(Turn(item.joint_prompt, item.joint_answer),)], item.masks)


def _sample(item: EvaluationItem, conversations: list[tuple[Turn, ...]], masks: np.ndarray) -> Sample:
    return Sample(item.image_path, item.image, conversations, masks, item.ignore, "evaluation", item.dataset)


# --- batches -> pixel counts -----------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What one process has counted.

    rows: (image, expression, intersection, union, target area) of every expression.
    """

    rows: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    silent: int = 0
    layers: Counter = field(default_factory=Counter)

    def metrics(self):
        metrics = mask_metrics()
        if self.rows:
            _, _, intersections, unions, targets = zip(*self.rows, strict=True)
            for metric in metrics.values():
                metric.update(intersections, unions, targets)
        return metrics


def _score_given(model, work: _Work, tally: _Tally, *, layer: LayerChoice) -> None:
    batch = work.batch.to(model.device)
    predictions, logits = [], []
    for result, is_seg in zip(model.segment(batch, layer=layer), batch.target_is_seg, strict=True):
        prediction = result.mask_logits.new_zeros((len(is_seg), *result.mask_logits.shape[1:]), dtype=torch.bool)
        prediction[torch.tensor(is_seg, device=prediction.device)] = result.mask_logits > 0  # a [REJ] predicts nothing
        predictions.append(prediction)
        logits.append(result.mask_logits)
        tally.layers.update(int(number) for number in result.layers)
        tally.silent += is_seg.count(False)
    _count(work.parts, predictions, logits, tally)


def _score_generated(model, work: _Work, tally: _Tally, *, layer: LayerChoice, max_new_tokens: int) -> None:
    batch = work.batch.to(model.device)
    answers = iter(model.generate(batch, max_new_tokens=max_new_tokens, layer=layer))
    predictions, logits = [], []
    for part in work.parts:
        masks = []
        for _ in part.expressions:
            answer = next(answers)
            answer_logits = answer.mask_logits.to(model.device)
            masks.append((answer_logits > 0).any(0))
            logits.append(answer_logits)
            tally.layers.update(int(number) for number in answer.layers)
            tally.silent += len(answer.seg_indices) == 0
        predictions.append(torch.stack(masks))
    assert next(answers, None) is None
    _count(work.parts, predictions, logits, tally)


def _count(parts: list[_Part], predictions: list[torch.Tensor], logits: list[torch.Tensor], tally: _Tally) -> None:
    """Compare on the device; the only transfer back is one small tensor per batch."""
    counts = []
    for part, prediction in zip(parts, predictions, strict=True):
        truth = part.truth.to(prediction.device, non_blocking=True)
        ignore = None if part.ignore is None else part.ignore.to(prediction.device, non_blocking=True)
        counts.append(intersection_and_union(prediction, truth, ignore))
    broken = torch.stack([(~one.isfinite()).sum() for one in logits]).sum()
    *numbers, broken = torch.cat([*(one.flatten() for one in counts), broken[None]]).tolist()
    if broken:
        raise UserError(f"{broken} pixels of the mask logits are not finite; try --precision fp32")
    start = 0
    for part in parts:
        size = len(part.expressions)
        triples = zip(*(numbers[start + row * size : start + (row + 1) * size] for row in range(3)), strict=True)
        start += 3 * size
        for expression, triple in zip(part.expressions, triples, strict=True):
            tally.rows.append((part.item, expression, *triple))


# --- processes -------------------------------------------------------------------------------------------------------


def _place() -> tuple[int, int]:
    """This process's number, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _gather(tally: _Tally) -> _Tally:
    """The tallies of all processes as one, ordered as in the split: sums come out the same on any number of them."""
    tallies = [tally]
    _, world = _place()
    if world > 1:
        tallies = [None] * world
        torch.distributed.all_gather_object(tallies, tally)
    rows = sorted(row for one in tallies for row in one.rows)
    return _Tally(rows, sum(one.silent for one in tallies), sum((one.layers for one in tallies), Counter()))
