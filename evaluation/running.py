"""Evaluating a model on a split: images are shared among processes, counted, kept on disk and gathered.

items ─▶ batches ─▶ predict ─▶ count ─▶ ImageResult per image ─▶ Outcome, the same on every process
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from evaluation.batches import Batches, DigestedItems, Part
from evaluation.counting import Counted, count
from evaluation.partial import ImageResult, PartialFile, PartialResults
from evaluation.predicting import predict
from evaluation.predictions import predictions_of
from evaluation.protocol import Protocol
from groundscore.annotations.repairs import STRICT, Tolerance
from groundscore.errors import UserError, message_of
from groundscore.scoring.counts import Row, iou, scored_pairs
from groundscore.splits import EvaluationItem, LeftOut, evaluation_set, too_many, unnumbered_entries
from utils.free_memory import is_out_of_memory, release_memory

NO_MEMORY = "out of memory even with one image and one expression at a time; --precision bf16 takes half of fp32"

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, float | None, float | None], None]


@dataclass(frozen=True)
class Effort:
    """How an evaluation is run, which changes none of its numbers.

    images, expressions: at a time, at most; an image with more expressions is taken in parts.
    workers: processes that read images ahead; prepare: called in each of them with its number.
    """

    images: int = 8
    expressions: int = 64
    workers: int = 0
    prepare: Callable[[int], None] | None = None


@dataclass
class Outcome:
    """What was counted on one split.

    rows: `ExpressionCounts`, or `QuestionCounts` for MUSE, ordered as in the split.
    images: how many were scored. left_out: those that were not, since they cannot be used; repaired: what was mended in
    those that were, each once. silent: expressions whose generated answer named no target.
    layers: how many masks were prompted from each hidden state.
    predictions: one object per expression, where they were asked for. resumed: images that an earlier call had done.
    """

    spec: str
    protocol: Protocol
    rows: list[Row]
    images: int
    silent: int
    layers: dict[int, int]
    seconds: float
    predictions: list[dict] = field(default_factory=list)
    resumed: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    repaired: list[dict] = field(default_factory=list)


def evaluate(
    model,
    processor,
    spec: str,
    dataset_dir: str | Path,
    protocol: Protocol,
    *,
    items: Sequence[EvaluationItem] | None = None,
    effort: Effort = Effort(),
    tolerance: Tolerance = STRICT,
    keep_predictions: bool = False,
    partial: PartialResults | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Count `model` on the split `spec` below `dataset_dir`.

    items: the split, where the caller has opened it already. tolerance: which entries may be left out.
    keep_predictions: masks come back from the device too. partial: where finished images are kept, and found again.
    progress: see `ProgressBar`.
    Under torch.distributed every process takes its share of the images and all return the same outcome.
    Raises `UserError`, on all processes, where more than `tolerance` permits cannot be scored.
    """
    start = time.perf_counter()
    items = evaluation_set(spec, dataset_dir, tolerance) if items is None else items
    total = len(items) if protocol.limit is None else min(protocol.limit, len(items))
    if total == 0:
        raise UserError(f"{spec}: the split below {dataset_dir} holds no images")
    rank, world = place()
    done = _read_once(partial, DigestedItems(items, tolerance, Path(dataset_dir)), total, effort.workers)
    left = [number for number in range(total) if number not in done]
    batches = Batches(
        items,
        left[rank::world],
        processor,
        protocol,
        root=Path(dataset_dir),
        tolerance=tolerance,
        images=effort.images,
        expressions=effort.expressions,
        context=model.config.text_config.max_position_embeddings,
    )
    running = _Running(done.values(), batches, progress)
    counting = _Counting(spec, model, processor.decode, keep_predictions, running, tolerance.most(total))
    was_training = model.training
    model.eval()
    try:
        error = counting.run(batches, effort, partial)
    finally:
        model.train(was_training)
    finished, left_out = _gather(counting.finished, counting.left_out, error)
    if len(left_out) > tolerance.most(total):
        raise UserError(too_many(left_out))
    results = sorted([*done.values(), *finished], key=lambda result: result.item)
    assert sorted(one.item for one in [*results, *left_out]) == list(range(total))
    return Outcome(
        spec=spec,
        protocol=protocol,
        rows=[row for result in results for row in result.rows],
        images=len(results),
        silent=sum(result.silent for result in results),
        layers=dict(sorted(Counter(layer for result in results for layer in result.layers).items())),
        seconds=time.perf_counter() - start,
        predictions=[one for result in results for one in result.predictions],
        resumed=len(done),
        left_out=[*unnumbered_entries(items), *sorted(left_out, key=lambda one: one.item)],
        repaired=[one for result in results for one in result.repaired],
    )


class _Counting:
    """This process's share: batches are predicted and counted, images finished one by one.

    most: how many items may be left out.
    """

    def __init__(
        self, spec: str, model, decode: Callable[[list[int]], str], keep: bool, running: "_Running", most: int
    ):
        self.spec, self.model, self.decode, self.keep, self.running = spec, model, decode, keep, running
        self.most = most
        self.finished: list[ImageResult] = []
        self.left_out: list[LeftOut] = []
        self._waiting: dict[int, list[tuple[Counted, list[dict]]]] = {}
        self._halved = False  # memory did not suffice for whole batches

    def run(self, batches: Batches, effort: Effort, partial: PartialResults | None) -> str | None:
        """Count all batches; returns what stopped it, if anything did."""
        with partial.open(*place()) if partial else contextlib.nullcontext() as file:
            while True:
                try:
                    self._count_all(batches, effort, file)
                    return None
                except UserError as error:
                    return message_of(error)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    smaller = batches.halved(done={one.item for one in [*self.finished, *self.left_out]})
                    if smaller is None:
                        return f"{NO_MEMORY} ({str(error).splitlines()[0]})"
                # Here nothing refers to the failed attempt any more, so that its memory can be used.
                self._waiting.clear()
                release_memory(self.model.device)
                if not self._halved:
                    logger.warning(
                        "%s: out of memory with %d images and %d expressions at a time; going on with half as many, "
                        "or fewer where need be",
                        self.spec,
                        batches.images,
                        batches.expressions,
                    )
                self._halved, batches = True, smaller

    def _count_all(self, batches: Batches, effort: Effort, file: PartialFile | None) -> None:
        device = self.model.device
        loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=effort.workers,
            pin_memory=device.type == "cuda",
            worker_init_fn=effort.prepare,
        )
        for work in loader:
            if isinstance(work, LeftOut):
                self._leave_out(work)
                continue
            predicted = predict(self.model, work.to(device), batches.protocol, self.decode)
            counted = count(work.parts, predicted)
            new = []
            for part, one, counts in zip(work.parts, predicted, counted, strict=True):
                kept = predictions_of(self.spec, part, one, counts.rows) if self.keep else []
                new += self._finish(part, counts, kept)
            if file:
                file.add(new)
            self.finished += new
            self.running.add(new)
        assert not self._waiting

    def _leave_out(self, item: LeftOut) -> None:
        self.left_out.append(item)
        self.running.total -= 1
        if len(self.left_out) > self.most:
            raise UserError(too_many(self.left_out))

    def _finish(self, part: Part, counted: Counted, predictions: list[dict]) -> list[ImageResult]:
        """The image's result once all its parts are counted; until then they wait."""
        parts = self._waiting.setdefault(part.number, [])
        parts.append((counted, predictions))
        if sum(len(one.rows) for one, _ in parts) < part.total:
            return []
        del self._waiting[part.number]
        return [
            ImageResult(
                item=part.number,
                rows=[row for one, _ in parts for row in one.rows],
                silent=sum(one.silent for one, _ in parts),
                layers=[layer for one, _ in parts for layer in one.layers],
                predictions=[line for _, lines in parts for line in lines],
                data=part.data,
                repaired=[{"item": part.number, "image": part.image, **one.to_dict()} for one in part.repairs],
            )
        ]


class _Running:
    """The scores so far, for the progress bar only: those of earlier calls and of this process."""

    def __init__(self, done: Iterable[ImageResult], batches: Batches, progress: Progress | None):
        self.progress = progress
        self.images = self.pairs = self.intersection = self.union = 0
        self.ious = 0.0
        for result in done:
            self._count(result)
        self.total = self.images + len(batches.numbers)
        if progress and batches.numbers:
            progress(self.images, self.total, None, None)

    def add(self, results: Iterable[ImageResult]) -> None:
        for result in results:
            self._count(result)
        if self.progress and self.pairs:
            ciou = iou(self.intersection, self.union)
            self.progress(self.images, self.total, self.ious / self.pairs, ciou)

    def _count(self, result: ImageResult) -> None:
        self.images += 1
        for intersection, union in (pair for row in result.rows for pair in scored_pairs(row)):
            self.pairs += 1
            self.ious += iou(intersection, union)
            self.intersection += intersection
            self.union += union


def place() -> tuple[int, int]:
    """This process's number, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _read_once(
    partial: PartialResults | None, items: DigestedItems, total: int, workers: int
) -> dict[int, ImageResult]:
    """What earlier calls have finished of the first `total` images, if these are what they were.

    Files are read by one process before any writes; all processes share reading the images.
    """
    if partial is None:
        return {}
    rank, world = place()
    shared = [partial.read() if rank == 0 else None]
    if world > 1:
        torch.distributed.broadcast_object_list(shared, src=0)
    done = {number: result for number, result in shared[0].items() if number < total}
    numbers = sorted(done)[rank::world]
    loader = DataLoader(items, batch_size=None, sampler=numbers, num_workers=workers if numbers else 0)
    changed = [number for number, data in loader if done[number].data != data]
    gathered = [changed]
    if world > 1:
        gathered = [None] * world
        torch.distributed.all_gather_object(gathered, changed)
    for number in (number for of_rank in gathered for number in of_rank):
        del done[number]
    if rank == 0 and len(done) < len(shared[0]) and any(gathered):
        logger.warning(
            "%d images or their annotations changed since they were counted; these are counted anew",
            sum(map(len, gathered)),
        )
    return done


def _gather(
    results: list[ImageResult], left_out: list[LeftOut], error: str | None
) -> tuple[list[ImageResult], list[LeftOut]]:
    """What all processes have finished and left out; an error of any of them is raised on all."""
    gathered = [(results, left_out, error)]
    _, world = place()
    if world > 1:
        gathered = [None] * world
        torch.distributed.all_gather_object(gathered, (results, left_out, error))
    errors = [message for _, _, message in gathered if message]
    if errors:
        raise UserError(errors[0])
    return [result for own, _, _ in gathered for result in own], [one for _, own, _ in gathered for one in own]
