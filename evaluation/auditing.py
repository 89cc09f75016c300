"""What an audit does: every layer's masks counted, the files and the page written, some expressions drawn.

Legend: S targets of a batch, L+1 layers, H W size of an image.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from checkpoints.processing import GroundingProcessor
from dataloaders.batching.collate import Collator
from evaluation.audit_page import Case, LayerImages, audit_page
from evaluation.batches import Work
from evaluation.commands import describe_checkpoint, effort_of, selected_on
from evaluation.layer_analysis import (
    decoder_maps,
    layer_analysis,
    masks_of_prompts,
    policy_probabilities,
    sample_of,
    target_states,
)
from evaluation.predicting import Reading, count, read
from evaluation.progress import ScoreBar
from evaluation.questions import ANSWERS, EXPLAIN, Protocol
from evaluation.records import PartialResults, fingerprint, weights_hash
from evaluation.report_files import Task
from evaluation.running import Counted, evaluate
from groundscore.errors import UserError
from groundscore.scoring import percent
from groundscore.scoring.counts import Row, mask_iou, row_iou
from groundscore.scoring.layer_rows import DECODER, IMAGE_TOKENS, LayerRow, read_layer_rows
from groundscore.scoring.layers import summarise_rows
from groundscore.scoring.report import Report
from groundscore.splits import EvaluationItem
from groundscore.terminal import fitted, terminal_width
from groundscore.writing import write_lines
from inference.model_flags import load_flagged_model
from model.grounding import GroundingModel
from model.systems.base import Prompt
from utils.distributed import World


def audit(task: Task, world: World) -> int:
    """Counts all splits, and writes the page and the files beside it."""
    flags = task.flags
    model, processor = load_flagged_model(flags, int(os.environ.get("LOCAL_RANK", flags.local_rank)))
    rates = flags.redraw_rates if model.system.uses_policy else ()
    weights = weights_hash(model) if world.is_main else None
    flags.selected_on = flags.selected_on or selected_on(flags.version)
    report = task.new_report(checkpoint=describe_checkpoint(flags, model, weights))
    rows, partials = [], []
    for spec, items in task.sets.items():
        for answer in ANSWERS if flags.answer == "both" else [flags.answer]:
            protocol = Protocol(answer, flags.expressions, None, flags.max_new_tokens, flags.limit)
            root = str(Path(flags.dataset_dir).resolve())
            asked = protocol.to_dict() | {"limit": None}
            own = fingerprint("audit", weights, asked, spec, len(items), root, rates, flags.seed)
            partial = PartialResults(
                task.files.report.parent / ".partial", world.broadcast(own), key=fingerprint("audit", spec, answer)[:8]
            )
            try:
                outcome = evaluate(
                    model,
                    processor,
                    spec,
                    flags.dataset_dir,
                    protocol,
                    items=items,
                    effort=effort_of(flags, model),
                    tolerance=task.tolerance,
                    partial=partial,
                    progress=ScoreBar(f"{spec} {answer}") if world.is_main else None,
                    measure=LayerMeasure(spec, rates, flags.seed),
                )
            except UserError as error:
                if len(task.sets) == 1:
                    raise
                report.add_failure(spec, protocol.to_dict(), str(error))
                continue  # what was finished stays
            partials.append(partial)
            if world.is_main:
                layers = {str(layer): times for layer, times in outcome.layers.items()}
                beside = {"silent": outcome.silent, "layers": layers, "seconds": round(outcome.seconds, 3)}
                report.add(spec, protocol.to_dict(), outcome, **beside)
                rows += [line["row"] for line in outcome.predictions]
    if world.is_main:
        _write(task, report, rows, model, processor, report.table(EXPLAIN))
        for partial in partials:
            partial.remove()
    return int(report.failed)


def _write(
    task: Task,
    report: Report,
    rows: list[str],
    model: GroundingModel,
    processor: GroundingProcessor,
    table: str,
) -> None:
    """Writes rows, numbers and page, the page's numbers from the rows as they are on disk."""
    flags, files = task.flags, task.files
    path = layer_rows_path(files.report)
    write_lines(path, rows)
    summaries = summarise_rows(path, bootstrap=flags.bootstrap, seed=flags.seed)
    report.header["audit"] = summaries
    report.write(files, table)
    drawn = {spec: draw_cases(model, processor, task.sets[spec], path, spec, flags.cases) for spec in summaries}
    page = audit_page(str(flags.version), report.to_dict(), drawn, rows=path, selected_on=flags.selected_on)
    write_lines(files.gallery, page)
    print(fitted(table, terminal_width()))
    for name, one in (("page", files.gallery), ("numbers", files.report), ("rows", path)):
        print(f"{name}: {one}")


def layer_rows_path(report: Path) -> Path:
    """The file of an audit's rows, beside its numbers."""
    return report.with_suffix(".layers.jsonl")


# --- counting -----------------------------------------------------------------------------------------------------


class _Rows:
    """The rows of every part of a batch with some masks. rows: of each part; silent: see `predicting.Predicted`."""

    def __init__(self, work: Work, reading: Reading, logits: list[Tensor] | None):
        predicted = reading.predicted(logits)
        self.rows: list[list[Row]] = [rows for rows, _ in count(work.parts, predicted)]
        self.silent = [one.silent for one in predicted]


@dataclass
class _Candidates:
    """What was counted of a batch; probabilities, chosen, points (by side): of all its targets. See `LayerRow`."""

    layers: list[_Rows]
    greedy: _Rows | None
    redraws: dict[float, list[_Rows]]
    probabilities: list[list[float]]
    chosen: list[int]
    points: dict[str, list[list[int]]]


@dataclass(frozen=True)
class LayerMeasure:
    """Counts the masks of every layer, of the policy's choice, and of redraws of the last layer; see `running.Measure`.

    rates: of dropout on the `[SEG]` states, L redraws each. Dropout, because its strength means the same in every LLM,
    whatever the width and the size of its states, and because it disturbs all that a layer's choice changes: the
    similarity map and, in mode 3, the text prompt. The image tokens stay. seed: of the redraws, which depend on it and
    on the item alone.
    """

    spec: str
    rates: tuple[float, ...]
    seed: int

    @torch.no_grad()
    def __call__(
        self, model: GroundingModel, work: Work, protocol: Protocol, decode: Callable[[list[int]], str]
    ) -> list[Counted]:
        """Rows of the checkpoint's own choice, and lines with the rows of every candidate."""
        reading = read(model, work, protocol, decode)
        candidates = self._candidates(model, work, reading)
        takes_last = model.system.default_layer() == "last"
        return [
            self._counted(work, reading, number, protocol.answer, candidates, takes_last)
            for number in range(len(work.parts))
        ]

    def _candidates(self, model: GroundingModel, work: Work, reading: Reading) -> _Candidates:
        """The rows with each layer's masks, with each target's mask at its likeliest layer, and with each redraw."""
        states, batch, depth = reading.states, work.batch, _depth(model)
        has_policy = model.system.uses_policy and model.config.mode != 1
        if states is None:
            same = _Rows(work, reading, None)
            redraws = {rate: [same] * (depth - 1) for rate in self.rates}
            return _Candidates([same] * depth, same if has_policy else None, redraws, [], [], {})
        features = model.decoder_features(batch, states.images)
        probabilities = policy_probabilities(model, states) if has_policy else None
        likeliest = states.at_every_target(depth - 1) if probabilities is None else probabilities.argmax(dim=1)
        prompts = (
            model.system.prompt(model, states, batch, rule) for rule in (range(depth) if depth > 1 else ["last"])
        )
        layers, merged, highest = [], [], {IMAGE_TOKENS: [], DECODER: []}
        for layer, (prompt, logits) in enumerate(masks_of_prompts(model, batch, states, features, prompts)):
            layers.append(_Rows(work, reading, logits))
            theirs = decoder_maps(model, batch, states, features, layer if depth > 1 else states.last_layer)
            for side, maps in ((IMAGE_TOKENS, prompt.maps), (DECODER, theirs)):
                highest[side] += [] if maps is None else [torch.cat([each.flatten(1).argmax(1) for each in maps])]
            mine = [(own == layer)[:, None, None] for own in likeliest.split(states.counts)]
            merged = [torch.where(*each) for each in zip(mine, logits, merged or logits, strict=True)]
        redrawn = self._redraws(model, work, reading)
        rows = (_Rows(work, reading, logits) for _, logits in masks_of_prompts(model, batch, states, features, redrawn))
        redraws = {rate: [next(rows) for _ in range(depth - 1)] for rate in self.rates}
        points = {side: _hits(work, reading, torch.stack(each, 1)) for side, each in highest.items() if each}
        if probabilities is None:
            return _Candidates(layers, None, redraws, [], [], points)
        rounded = [[round(one, 6) for one in of_target] for of_target in probabilities.tolist()]
        return _Candidates(layers, _Rows(work, reading, merged), redraws, rounded, likeliest.tolist(), points)

    def _redraws(self, model: GroundingModel, work: Work, reading: Reading) -> Iterator[Prompt]:
        """The prompts of the last layer with dropout on the states of all targets."""
        states = reading.states
        generators = [
            torch.Generator().manual_seed(_seed_of(self.seed, part.number, part.questions.expressions[0]))
            for part in work.parts
        ]
        last, width = states.last_layer, states.unrolled[-1].shape[-1]
        for rate in self.rates:
            for _ in range(last):
                uniform = torch.stack([torch.rand(width, generator=generators[part]) for part, _ in reading.owner])
                yield model.system.prompt(model, states.redrawn(rate, uniform.to(model.device)), work.batch, last)

    def _counted(
        self,
        work: Work,
        reading: Reading,
        number: int,
        answer: str,
        candidates: _Candidates,
        takes_last: bool,
    ) -> Counted:
        """The rows of the part of this number, and a line for each of its expressions."""
        greedy = candidates.greedy
        own = candidates.layers[-1] if takes_last or greedy is None else greedy
        lines = []
        for expression, kinds in enumerate(work.parts[number].kinds):
            found = work.parts[number].truth_of(expression).any()
            targets = [n for n, owner in enumerate(reading.owner) if owner == (number, expression)]
            row = LayerRow(
                split=self.spec,
                answer=answer,
                kinds=kinds,
                layers=[one.rows[number][expression] for one in candidates.layers],
                greedy=None if greedy is None else greedy.rows[number][expression],
                redraws={
                    str(rate): [one.rows[number][expression] for one in some]
                    for rate, some in candidates.redraws.items()
                },
                probabilities=[candidates.probabilities[n] for n in targets] if greedy else [],
                chosen=[candidates.chosen[n] for n in targets] if greedy else [],
                points={side: [hits[n] for n in targets] for side, hits in candidates.points.items()} if found else {},
            )
            lines.append({"row": row.to_line()})
        mine = [n for n, (part, _) in enumerate(reading.owner) if part == number]
        layers = [candidates.chosen[n] if own is greedy else len(candidates.layers) - 1 for n in mine]
        return Counted(own.rows[number], own.silent[number], layers, lines)


def _depth(model: GroundingModel) -> int:
    """L+1, the layers that a mask may come from; 1 for a system that always uses the last."""
    return model.config.num_layers if model.system.uses_policy else 1


def _hits(work: Work, reading: Reading, highest: Tensor) -> list[list[int]]:
    """Whether the pixels `highest` [S, L+1] of the maps (counted row by row) are on the truth of each target."""
    truths = [work.parts[part].truth_of(expression) for part, expression in reading.owner]
    return [truth.flatten()[pixels].long().tolist() for truth, pixels in zip(truths, highest.cpu(), strict=True)]


def _seed_of(*numbers: int) -> int:
    """A seed of 63 bits that depends on all numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


# --- cases that are drawn -----------------------------------------------------------------------------------------


def draw_cases(
    model: GroundingModel,
    processor: GroundingProcessor,
    items: Sequence[EvaluationItem],
    rows: Path,
    spec: str,
    number: int,
) -> list[Case]:
    """Expressions of a split whose best layer gains most over the last, and others spread over the split."""
    found: dict[str, dict[tuple[int, int], float]] = {}
    for row in read_layer_rows(rows):
        if row.split == spec and "positive" in row.kinds:
            gain = max(map(row_iou, row.layers)) - row_iou(row.last)
            found.setdefault(row.answer, {})[row.last.item, row.last.expression] = gain
    gains = found.get("given") or found.get("generated") or {}
    by_gain = sorted(gains, key=lambda place: (-gains[place], place))
    most = [place for place in by_gain if gains[place] > 0][: -(-number // 2)]
    others = [place for place in sorted(gains) if place not in most]
    step = max(1, len(others) // max(1, number - len(most)))
    titles = {place: f"best layer gains {percent(gains[place], '+')}" for place in most}
    titles |= dict.fromkeys(others[step // 2 :: step][: number - len(most)], "spread over the split")
    return [draw_case(model, processor, items[item], expression, title) for (item, expression), title in titles.items()]


@torch.no_grad()
def draw_case(
    model: GroundingModel, processor: GroundingProcessor, item: EvaluationItem, expression: int, title: str
) -> Case:
    """One expression of an item with the images of every layer; of the last alone where a system has no choice."""
    collate = Collator(processor, packed=True, max_length=None, check_masks=False)
    sample = sample_of(item, [expression])
    batch = collate([sample]).to(model.device)
    truth = sample.masks[0] != 0
    if model.system.uses_policy:
        analysis = layer_analysis(model, batch, both_sides=True)
        masks, maps, theirs = analysis.masks[0][0], analysis.maps[0][0], analysis.decoder_maps
        theirs = [None] * len(masks) if theirs is None else theirs[0][0]
        probabilities = analysis.probabilities[0].tolist() if model.config.mode != 1 else [None] * len(masks)
        names = [f"layer {layer}" for layer in range(len(masks))]
    else:
        states = target_states(model, batch)
        prompt = model.system.prompt(model, states, batch, "last")
        masks = model.masks(batch, states, prompt)[0][0][:1] > 0
        maps = [None] if prompt.maps is None else prompt.maps[0][:1]
        theirs = decoder_maps(model, batch, states, model.decoder_features(batch, states.images), states.last_layer)
        theirs = [None] if theirs is None else theirs[0][:1]
        probabilities, names = [None], ["last layer"]
    layers = [
        LayerImages(
            name, _array(similarity), _array(other), _array(mask), mask_iou(_array(mask), truth, item.ignore), p
        )
        for name, similarity, other, mask, p in zip(names, maps, theirs, masks, probabilities, strict=True)
    ]
    return Case(title, sample.conversations[0][0].question.strip(), item.image, truth, layers)


def _array(tensor: Tensor | None) -> np.ndarray | None:
    """A mask or a map for drawing; bfloat16 is not a type of numpy."""
    if tensor is None:
        return None
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
