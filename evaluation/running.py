"""Evaluating a model on a split: images are shared among processes, counted, kept on disk and gathered.

items ─▶ batches ─▶ predict ─▶ count ─▶ ImageResult per image ─▶ Outcome, the same on every process
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils.data import DataLoader

from checkpoints.processing import GroundingProcessor
from evaluation.batches import Batches, DigestedItems, Part, Work
from evaluation.predicting import count, predict, prediction_lines
from evaluation.progress import Progress, RunningScores
from evaluation.questions import Protocol
from evaluation.records import ImageResult, PartialFile, PartialResults
from groundscore.annotations.bad_entries import STRICT, Tolerance
from groundscore.errors import UserError, message_of
from groundscore.exchange.jsonl import masks_of
from groundscore.scoring.counts import Row, SplitCounts
from groundscore.splits import EvaluationItem, LeftOut, evaluation_set, too_many, unnumbered_entries
from model.grounding import GroundingModel
from utils.distributed import World
from utils.free_memory import is_out_of_memory, release_memory

NO_MEMORY = "out of memory even with one image and one expression at a time; --precision bf16 takes half of fp32"

logger = logging.getLogger(__name__)


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
class Counted:
    """What was counted of one part of an image, and what is kept of it; see `ImageResult`."""

    rows: list[Row]
    silent: int
    layers: list[int]
    lines: list[dict]


# What counts a batch that is on the model's device, one result for each of its parts.
Measure = Callable[[GroundingModel, Work, Protocol, Callable[[list[int]], str]], list[Counted]]


@dataclass(kw_only=True)
class Outcome(SplitCounts):
    """What was counted on one split under one protocol.

    images: how many were scored. silent: expressions whose generated answer named no target.
    layers: how many masks were prompted from each hidden state.
    predictions: one object per expression, where they were asked for. resumed: images that an earlier call had done.
    """

    spec: str
    protocol: Protocol
    images: int
    silent: int
    layers: dict[int, int]
    seconds: float
    predictions: list[dict] = field(default_factory=list)
    resumed: int = 0


def evaluate(
    model: GroundingModel,
    processor: GroundingProcessor,
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
    measure: Measure | None = None,
) -> Outcome:
    """Counts `model` on the split `spec` below `dataset_dir`.

    items: the split, where the caller has opened it already. tolerance: which entries may be left out.
    keep_predictions: masks come back from the device too. partial: where finished images are kept, and found again.
    measure: counts in another way; the outcome's predictions are then the lines that it keeps.
    Under torch.distributed every process takes its share of the images and all return the same outcome.
    Raises `UserError`, on all processes, where more than `tolerance` permits cannot be scored.
    """
    start = time.perf_counter()
    items = evaluation_set(spec, dataset_dir, tolerance) if items is None else items
    total = len(items) if protocol.limit is None else min(protocol.limit, len(items))
    if total == 0:
        raise UserError(f"{spec}: the split below {dataset_dir} contains no images")
    world = World.joined(model.device)
    done = {}
    if partial is not None:
        done = _finished(partial, DigestedItems(items, tolerance, Path(dataset_dir)), total, effort.workers, world)
    left = [number for number in range(total) if number not in done]
    batches = Batches(
        items,
        left[world.rank :: world.size],
        processor,
        protocol,
        root=Path(dataset_dir),
        tolerance=tolerance,
        images=effort.images,
        expressions=effort.expressions,
        context=model.config.context_length,
    )
    scores = RunningScores(done.values(), len(batches.numbers), progress)
    counting = measure or _masks_of_the_model(spec, keep_predictions)
    share = _Share(spec, model, processor, counting, scores, tolerance.most(total))
    was_training = model.training
    model.eval()
    try:
        error = share.run(batches, effort, partial, world)
    finally:
        model.train(was_training)
    finished, left_out, errors = zip(*world.gather((share.finished, share.left_out, error)), strict=True)
    for message in filter(None, errors):
        raise UserError(message)
    left_out = [one for of_rank in left_out for one in of_rank]
    if len(left_out) > tolerance.most(total):
        raise UserError(too_many(left_out))
    results = [*done.values(), *(result for of_rank in finished for result in of_rank)]
    results.sort(key=lambda result: result.item)
    assert sorted(one.item for one in [*results, *left_out]) == list(range(total))
    predictions = [one for result in results for one in result.predictions]
    return Outcome(
        spec=spec,
        protocol=protocol,
        rows=[row for result in results for row in result.rows],
        masks=[] if measure else [masks_of(line) for line in predictions],
        images=len(results),
        silent=sum(result.silent for result in results),
        layers=dict(sorted(Counter(layer for result in results for layer in result.layers).items())),
        seconds=time.perf_counter() - start,
        predictions=predictions,
        resumed=len(done),
        left_out=[*unnumbered_entries(items), *sorted(left_out, key=lambda one: one.item)],
        repaired=[one for result in results for one in result.repaired],
    )


def _masks_of_the_model(spec: str, keep: bool) -> Measure:
    """Counts the masks that the model draws by the protocol's layer; keep: as lines for `--save_predictions`, too."""

    def measure(
        model: GroundingModel, work: Work, protocol: Protocol, decode: Callable[[list[int]], str]
    ) -> list[Counted]:
        predicted = predict(model, work, protocol, decode)
        return [
            Counted(rows, one.silent, layers, prediction_lines(spec, part, one, rows, protocol.answer) if keep else [])
            for part, one, (rows, layers) in zip(work.parts, predicted, count(work.parts, predicted), strict=True)
        ]

    return measure


class _Share:
    """This process's share of a split: batches are counted, images finished one by one.

    measure: counts a batch. most: how many items may be left out.
    """

    def __init__(
        self,
        spec: str,
        model: GroundingModel,
        processor: GroundingProcessor,
        measure: Measure,
        scores: RunningScores,
        most: int,
    ):
        self.spec, self.model, self.decode, self.measure, self.scores = spec, model, processor.decode, measure, scores
        self.most = most
        self.finished: list[ImageResult] = []
        self.left_out: list[LeftOut] = []
        self._waiting: dict[int, ImageResult] = {}  # images some parts of which are counted
        self._halved = False  # memory did not suffice for whole batches

    def run(self, batches: Batches, effort: Effort, partial: PartialResults | None, world: World) -> str | None:
        """Counts all batches; returns what stopped it, if anything did."""
        with partial.open(world.rank, world.size) if partial else contextlib.nullcontext() as file:
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
                        "%s: out of memory with %d images and %d expressions at a time; continuing with half as many, "
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
            counted = self.measure(self.model, work.to(device), batches.protocol, self.decode)
            new = []
            for part, one in zip(work.parts, counted, strict=True):
                new += self._finish(part, one)
            if file:
                file.add(new)
            self.finished += new
            self.scores.add(new)
        assert not self._waiting

    def _leave_out(self, item: LeftOut) -> None:
        self.left_out.append(item)
        self.scores.total -= 1
        if len(self.left_out) > self.most:
            raise UserError(too_many(self.left_out))

    def _finish(self, part: Part, counted: Counted) -> list[ImageResult]:
        """The image's result once all its parts are counted, else nothing."""
        if part.number not in self._waiting:
            repaired = [{"item": part.number, "image": part.image, **one.to_dict()} for one in part.repairs]
            self._waiting[part.number] = ImageResult(part.number, [], data=part.data, repaired=repaired)
        result = self._waiting[part.number]
        result.rows += counted.rows
        result.silent += counted.silent
        result.layers += counted.layers
        result.predictions += counted.lines
        return [self._waiting.pop(part.number)] if len(result.rows) == part.total else []


def _finished(
    partial: PartialResults, items: DigestedItems, total: int, workers: int, world: World
) -> dict[int, ImageResult]:
    """What earlier calls have finished of the first `total` images, if these are what they were.

    Files are read by one process before any writes; all processes share reading the images.
    """
    shared = world.broadcast(partial.read() if world.is_main else None)
    done = {number: result for number, result in shared.items() if number < total}
    numbers = sorted(done)[world.rank :: world.size]
    loader = DataLoader(items, batch_size=None, sampler=numbers, num_workers=workers if numbers else 0)
    changed = world.gather([number for number, data in loader if done[number].data != data])
    for number in (number for of_rank in changed for number in of_rank):
        del done[number]
    if world.is_main and any(changed):
        logger.warning(
            "%d images or their annotations changed since they were counted; these are counted again",
            sum(map(len, changed)),
        )
    return done
