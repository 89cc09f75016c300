"""Counting a split, image by image: what `eval.py`, the command and a model's author add predictions to.

    scorer = groundscore.load("refcoco|unc|testA", root="dataset").scorer("testA.scores.jsonl")
    for item in scorer.remaining():
        scorer.add(item, masks, present=None)
    print(scorer.report())

A scorer holds the counts of every expression, no mask. With a file it appends each image as it is added, so that a
killed program goes on where it was; several processes write files of their own, which one scorer merges.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundscore.errors import UserError
from groundscore.rle import Rle, area, encode, union
from groundscore.scoring import UNITS
from groundscore.scoring.counts import (
    ExpressionCounts,
    QuestionCounts,
    Row,
    SplitCounts,
    counted_pixels,
    expression_counts,
    question_counts,
)
from groundscore.scoring.masks import parts_of, to_rle
from groundscore.scoring.metrics import kind_of
from groundscore.scoring.report import Report, versions_of
from groundscore.scoring.score_file import CountedImage, OpenScoreFile, header_of, read_score_file, write_score_file
from groundscore.splits import EvaluationItem, OpenSplit

PREDICTED = "predicted"  # the protocol of predictions that do not say how the model was asked
PACKAGES = ("numpy", "scipy", "pycocotools")
SHOWN = 5  # missing expressions that an error names


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What was predicted for one expression.

    masks: in any form of `masks.py`, or a function that reads them; their union counts, for a question of MUSE each is
    one. present: whether the model accepts the expression; None: it does where a mask has a pixel. answer: what it
    wrote, if that is known. where: what is named in errors.
    counts: intersection and union where these are known instead of masks, ignored pixels as part of the target.
    protocol: what the model was asked for ("given", "generated"), if that is known.
    """

    where: str
    masks: Any
    present: bool | None = None
    answer: str | None = None
    counts: tuple[int, int] | None = None
    protocol: str | None = None

    def read_masks(self) -> Any:
        """Returns the masks."""
        return self.masks() if callable(self.masks) else self.masks


class Scorer:
    """Counts predictions for the expressions of a benchmark, each once.

    file: where to append what is added; what it has already is counted. None: nothing is kept on disk until `save`.
    threshold: above which the values of a floating-point mask belong to it, 0.0 for logits and 0.5 for probabilities.
    keep_masks: keep the masks, too, as RLE in memory, for a gallery.
    """

    def __init__(
        self,
        benchmark: OpenSplit,
        file: str | Path | None = None,
        *,
        threshold: float | None = None,
        keep_masks: bool = False,
    ):
        self.benchmark = benchmark
        self.threshold = threshold
        self._masks: dict[int, list[list[Rle]]] | None = {} if keep_masks else None
        self._several = kind_of(benchmark.spec) == "muse"
        self._protocols: set[str] = set()
        self._images: dict[int, CountedImage] = {}
        self._file: OpenScoreFile | None = None
        if file is not None:
            self._file = OpenScoreFile(Path(file), benchmark)
            self._images = {image.rows[0].item: image for image in self._file.images}

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file; the counts stay."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        """How many images are counted."""
        return len(self._images)

    @property
    def protocol(self) -> str:
        """How the model was asked, as all predictions say; "predicted" where they do not, or differ."""
        return next(iter(self._protocols)) if len(self._protocols) == 1 else PREDICTED

    def __contains__(self, item: EvaluationItem) -> bool:
        """Whether an item is counted."""
        return item.number in self._images

    def remaining(self, numbers: Iterable[int] | None = None) -> Iterator[EvaluationItem]:
        """Yields the items that are not counted yet; numbers: of these only, such as one process's share."""
        numbers = range(len(self.benchmark)) if numbers is None else numbers
        return self.benchmark.items_at(number for number in numbers if number not in self._images)

    # --- adding -------------------------------------------------------------------------------------------------------

    def add(
        self,
        item: EvaluationItem,
        masks: Sequence[Any],
        present: Sequence[bool | None] | None = None,
        answers: Sequence[str | None] | None = None,
    ) -> list[Row]:
        """Counts the predictions for all expressions of an item; returns the counts of each.

        masks: one for each of its expressions, None for no mask, in any form that `groundscore.scoring.masks` lists;
        for a question of MUSE the list of its masks. present: whether the model accepts each expression; by default it
        does where its mask has a pixel. answers: what the model wrote, for metrics of words.
        Raises `UserError` where the item is counted already, or for predictions that are not those of its expressions.
        """
        count = len(item.expressions)
        if count == 1 and (isinstance(masks, dict | str | os.PathLike) or getattr(masks, "ndim", 3) == 2):
            masks = [masks]
        present, answers = ([None] * count if values is None else list(values) for values in (present, answers))
        for name, values in (("masks", masks), ("present", present), ("answers", answers)):
            if len(values) != count:
                raise UserError(
                    f"{self._name(item)} has {count} expressions, but {len(values)} {name} are given: one for each"
                )
        return self.add_answered(
            item,
            [
                Answered(
                    where=f"{self._name(item)}, expression {number}",
                    masks=mask,
                    present=None if there is None else bool(there),
                    answer=answer,
                )
                for number, (mask, there, answer) in enumerate(zip(masks, present, answers, strict=True))
            ],
        )

    def add_answered(self, item: EvaluationItem, answered: Sequence[Answered]) -> list[Row]:
        """Counts what was predicted for all expressions of an item, in their order; returns its rows."""
        if item in self:
            raise UserError(f"{self._name(item)} is counted already; each image is added once")
        self._check_own(item)
        self._protocols |= {one.protocol or PREDICTED for one in answered}
        masks = [self._read(item, one) for one in answered]
        counted = counted_pixels(item.ignore)
        rows = [self._count(item, number, one, masks[number], counted) for number, one in enumerate(answered)]
        image = item.path_below(self.benchmark.root)
        repaired = [{"item": item.number, "image": image, **one.to_dict()} for one in item.repairs]
        self._keep(CountedImage(rows, repaired))
        if self._masks is not None:
            self._masks[item.number] = masks
        return rows

    def row(self, item: EvaluationItem, expression: int, answered: Answered) -> Row:
        """Returns the counts of one expression of an item, without keeping them."""
        return self._count(item, expression, answered, self._read(item, answered), counted_pixels(item.ignore))

    def _read(self, item: EvaluationItem, one: Answered) -> list[Rle]:
        return self._read_question(item, one) if self._several else self._read_expression(item, one)

    def _count(self, item: EvaluationItem, number: int, one: Answered, masks: list[Rle], counted: Rle | None) -> Row:
        count = self._question if self._several else self._expression
        return count(item, number, one, masks, counted)

    def _read_expression(self, item: EvaluationItem, one: Answered) -> list[Rle]:
        return [to_rle(one.read_masks(), item.size, one.where, self.threshold)]

    def _read_question(self, item: EvaluationItem, one: Answered) -> list[Rle]:
        if one.counts is not None:
            raise UserError(f"{one.where} has counts of pixels; {self.benchmark.spec} needs masks")
        parts = [] if one.present is False else parts_of(one.read_masks())
        return [to_rle(mask, item.size, f"{one.where}, mask {n}", self.threshold) for n, mask in enumerate(parts)]

    def _expression(
        self, item: EvaluationItem, number: int, one: Answered, masks: list[Rle], counted: Rle | None
    ) -> ExpressionCounts:
        target = union(item.targets[number], item.size)
        pixels = expression_counts(masks[0], target, counted) if one.counts is None else _given(one, target, item)
        ref = item.ref_ids[number]
        return ExpressionCounts(
            item.number,
            item.path_below(self.benchmark.root),
            number,
            ref if ref >= 0 else None,
            item.exists[number],
            (pixels[2] if one.counts else area(masks[0])) > 0 if one.present is None else one.present,
            *pixels,
            one.answer,
            item.objects[number],
        )

    def _question(
        self, item: EvaluationItem, number: int, one: Answered, masks: list[Rle], counted: Rle | None
    ) -> QuestionCounts:
        counts = question_counts(masks, item.targets[number], counted)
        return QuestionCounts(item.number, item.path_below(self.benchmark.root), *counts, number, one.answer)

    def _name(self, item: EvaluationItem) -> str:
        return f"{self.benchmark.spec}: {item.path_below(self.benchmark.root)} (item {item.number})"

    def _check_own(self, item: EvaluationItem) -> None:
        """Raises `UserError` for an item of another benchmark."""
        if item.number < len(self.benchmark) and self.benchmark.path_of(item.number) == item.image_path:
            return
        raise UserError(f"{self._name(item)} is not an item of this benchmark; it is from {item.dataset}|{item.split}")

    def _keep(self, image: CountedImage) -> None:
        self._images[image.rows[0].item] = image
        if self._file is not None:
            self._file.add(image)

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes everything that is counted, whole or not at all; `Scorer(benchmark, path)` and `merge` read it."""
        write_score_file(Path(path), self.benchmark, self._ordered())

    def merge(self, *others: "Scorer | str | Path") -> None:
        """Adds what other scorers of the same benchmark, or files of theirs, have counted.

        Raises `UserError` for another benchmark, and for an image that both have counted.
        """
        for other in others:
            if isinstance(other, Scorer):
                if header_of(other.benchmark) != header_of(self.benchmark):
                    raise UserError(
                        f"a scorer of {other.benchmark.spec} cannot be merged into one of {self.benchmark.spec}"
                    )
                images, protocols = list(other._images.values()), other._protocols
            else:
                images, protocols = read_score_file(Path(other), self.benchmark)[0], set()
            twice = sorted(image.rows[0].item for image in images if image.rows[0].item in self._images)
            if twice:
                row = self._images[twice[0]].rows[0]
                raise UserError(
                    f"{self.benchmark.spec}: {row.image} (item {row.item}) is counted in both"
                    f"{'' if isinstance(other, Scorer) else f', here and in {other}'}; {len(twice)} images are"
                )
            for image in images:
                self._keep(image)
            self._protocols |= protocols

    def _ordered(self) -> list[CountedImage]:
        return [self._images[number] for number in sorted(self._images)]

    # --- results ------------------------------------------------------------------------------------------------------

    def counts(self) -> SplitCounts:
        """Returns the counts of the whole benchmark.

        Raises `UserError`, which names some, where expressions are not counted; images that cannot be used are left out
        as far as the benchmark permits.
        """
        missing = [number for number in range(len(self.benchmark)) if number not in self._images]
        unread, left_out = self.benchmark.unusable(missing)
        if unread:
            names = [f"{item.path_below(self.benchmark.root)} expression {n}"
                     for item in unread[:SHOWN] for n in range(len(item.expressions))]  # fmt: skip
            raise UserError(
                f"{self.benchmark.spec}: {len(unread)} of {len(self.benchmark)} images are not counted: "
                f"{', '.join(names[:SHOWN])}{' and more' if len(names) > SHOWN or len(unread) > SHOWN else ''}"
            )
        ordered = self._ordered()
        return SplitCounts(
            rows=[row for image in ordered for row in image.rows],
            masks=[masks for image in ordered for masks in (self._masks or {}).get(image.rows[0].item, ())],
            left_out=left_out,
            repaired=[one for image in ordered for one in image.repaired],
        )

    def report(
        self,
        *,
        gres_reference: bool = False,
        unit: str = UNITS[0],
        bootstrap: int = 1000,
        selected_on: str | None = None,
        answer: str | None = None,
        **about: Any,
    ) -> Report:
        """Returns the scores with their intervals, the protocol and the exact counts; `print` shows them as a table.

        gres_reference: count gRefCOCO and RefZOM as the reference does. unit: what has the weight of one: "expression",
        "ref" or "object". bootstrap: resamples, 0 for no intervals. answer: "given" where the number of targets was
        forced on the model, "generated" where it wrote the answer; by default what the predictions say.
        selected_on: the splits, joined by "||", by whose scores the model or a setting was chosen, if that is known.
        about: anything else that the report shall say, such as predictions={"file": "mine.jsonl"}.
        """
        return report_of({self.benchmark.spec: self}, gres_reference=gres_reference, unit=unit, bootstrap=bootstrap,
                         selected_on=selected_on, answer=answer, **about)  # fmt: skip


def report_of(
    scorers: Mapping[str, Scorer],
    *,
    gres_reference: bool = False,
    unit: str = UNITS[0],
    bootstrap: int = 1000,
    selected_on: str | None = None,
    answer: str | None = None,
    **about: Any,
) -> Report:
    """Returns one report of several splits, by their specs; the arguments are those of `Scorer.report`."""
    protocol = {"answer": answer or PREDICTED, "expressions": None}
    benchmarks = [scorer.benchmark for scorer in scorers.values()]
    header = {
        "protocol": protocol | {"gres_reference": gres_reference, "limit": benchmarks[0].limit},
        "dataset_dir": str(benchmarks[0].root),
        "versions": versions_of(PACKAGES),
    }
    report = Report(
        header | about, gres_reference=gres_reference, bootstrap=bootstrap, selected_on=selected_on, unit=unit
    )
    for spec, scorer in scorers.items():
        report.add(spec, protocol | {"answer": answer or scorer.protocol}, scorer.counts())
    return report


def _given(one: Answered, target: Rle, item: EvaluationItem) -> tuple[int, int, int, int]:
    """Intersection, union, predicted area and target area of what was counted elsewhere."""
    overlap, together = one.counts
    wanted = area(target if item.ignore is None else union([target, encode(item.ignore)], item.size))
    if not overlap <= wanted <= together:
        raise UserError(
            f"{one.where}: an intersection of {overlap} and a union of {together} pixels do not fit a target of "
            f"{wanted}: they were counted against another ground truth"
        )
    return overlap, together, together + overlap - wanted, wanted
