"""Counting saved predictions against the truth: no model is needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.annotations.repairs import STRICT, Tolerance
from groundscore.errors import UserError
from groundscore.scoring.counts import ExpressionCounts, QuestionCounts, Row, expression_counts, question_counts
from groundscore.scoring.masks import decode_mask
from groundscore.scoring.prediction_files import Prediction, line_of, read_predictions
from groundscore.scoring.scores import kind_of
from groundscore.splits import EvaluationItem, LeftOut, evaluation_set, read_item, too_many, unnumbered_entries

SHOWN = 5  # missing predictions that an error names

Progress = Callable[[str, int, int], None]


@dataclass
class Counted:
    """A split's rows, and of each the run lengths of the masks that it was counted from.

    left_out, repaired: as in `evaluation.Outcome`.
    """

    rows: list[Row] = field(default_factory=list)
    masks: list[tuple[Any, ...]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    repaired: list[dict] = field(default_factory=list)


def score_predictions(
    path: str | Path,
    dataset_dir: str | Path,
    sets: Mapping[str, Sequence[EvaluationItem]],
    *,
    limit: int | None = None,
    tolerance: Tolerance = STRICT,
    progress: Progress | None = None,
) -> dict[str, Counted]:
    """Count saved predictions for every split of `sets`, by their specs; `scores.score_split` makes scores of the rows.

    limit: read the first so many images of each split only. tolerance: which entries may be left out.
    progress: called with split, images done and in all; first before any is done.
    Lines of other splits must belong to splits that exist, and are not read further.
    Raises `UserError` naming file and line where a prediction is malformed, missing, repeated or about nothing, or
    where its mask has not the size of its picture.
    """
    path, root = Path(path), Path(dataset_dir)
    saved, others = read_predictions(path, set(sets))
    for split, line in others.items():
        _check_exists(split, root, line_of(path, line))
    missing = [spec for spec in sets if spec not in saved]
    if missing:
        has = ", ".join([*saved, *others])
        raise UserError(f"{path} has no prediction for {', '.join(missing)}; it has some for {has}")
    return {
        spec: _count(_Matching(path, spec, root, saved[spec]), items, limit, tolerance, progress)
        for spec, items in sets.items()
    }


def _count(
    matching: "_Matching",
    items: Sequence[EvaluationItem],
    limit: int | None,
    tolerance: Tolerance,
    progress: Progress | None,
) -> Counted:
    counted = Counted(left_out=unnumbered_entries(items))
    total = len(items) if limit is None else min(limit, len(items))
    left_out = 0
    if progress:
        progress(matching.spec, 0, total)
    for number in range(total):
        item = read_item(items, number, tolerance, matching.root)
        if isinstance(item, LeftOut):
            counted.left_out.append(item)
            left_out += 1
            if left_out > tolerance.most(total):
                raise UserError(too_many(counted.left_out))
            matching.leave_out(item)
            continue
        image = item.path_below(matching.root)
        counted.repaired += [{"item": number, "image": image, **one.to_dict()} for one in item.repairs]
        predictions = matching.take(item)
        if not matching.missing:  # to be told of all that is missing, no more is counted
            counted.rows += matching.rows(number, item, predictions)
            counted.masks += [prediction.masks for prediction in predictions]
        if progress:
            progress(matching.spec, number + 1, total)
    if total == len(items) and not unnumbered_entries(items):  # whose predictions cannot be told from mistakes
        matching.check_left()
    matching.check_missing()
    return counted


class _Matching:
    """Takes predictions out of `left` as their expressions come by; what stays belongs to none."""

    def __init__(self, path: Path, spec: str, root: Path, predictions: dict[tuple[str | int, int], Prediction]):
        self.path, self.spec, self.root, self.left = path, spec, root, dict(predictions)
        self.seen: dict[str, int] = {}  # expressions of every picture that has come by
        self.expressions = 0
        self.missing: list[str] = []

    def take(self, item: EvaluationItem) -> list[Prediction]:
        """The predictions of an item's expressions in order; `missing` collects those that have none."""
        image = item.path_below(self.root)
        first_time = image not in self.seen
        self.seen[image] = self.seen.get(image, 0) + len(item.expressions)
        self.expressions += len(item.expressions)
        predictions = []
        for expression in range(len(item.expressions)):
            found = self._take(item, image, expression, first_time)
            if found is None:
                self.missing.append(f"{image} expression {expression}")
            else:
                predictions.append(found)
        return predictions

    def leave_out(self, item: LeftOut) -> None:
        """Forget the predictions about an item that is not scored."""
        by_index = any(entry == item.index for entry, _ in self.left)
        key = item.index if by_index else item.image
        self.left = {which: one for which, one in self.left.items() if which[0] != key}

    def rows(self, number: int, item: EvaluationItem, predictions: list[Prediction]) -> list[Row]:
        """Counts of an item's predictions, one for each expression."""
        image = item.path_below(self.root)
        if kind_of(self.spec) == "muse":
            return [self._question(number, image, item, prediction) for prediction in predictions]
        return self._expressions(number, image, item, predictions)

    def check_missing(self) -> None:
        if self.missing:
            more = f" and {len(self.missing) - SHOWN} more" if len(self.missing) > SHOWN else ""
            raise UserError(
                f"{self.path}: {len(self.missing)} of {self.expressions} expressions of {self.spec} have no "
                f"prediction: {', '.join(self.missing[:SHOWN])}{more}"
            )

    def check_left(self) -> None:
        for prediction in self.left.values():
            where, image = line_of(self.path, prediction.line), prediction.image
            if isinstance(prediction.entry, int):
                about = f"entry {prediction.entry}, expression {prediction.expression}"
            elif image in self.seen:
                about = f"expression {prediction.expression} of {image}, which has {self.seen[image]} (the first is 0)"
            else:
                about = f"picture {image!r}"
            raise UserError(f"{where}: {self.spec} has no {about}")

    def _take(self, item: EvaluationItem, image: str, expression: int, first_time: bool) -> Prediction | None:
        by_index = self.left.pop((item.index, expression), None)
        if by_index is not None:
            if by_index.image not in (None, image):
                raise UserError(
                    f"{line_of(self.path, by_index.line)}: entry {item.index} of {self.spec} is about {image}, not "
                    f"{by_index.image}"
                )
            return by_index
        by_image = self.left.pop((image, expression), None)
        if by_image is None and not first_time and item.index is not None:
            raise UserError(
                f"{self.path}: {image} occurs more than once in {self.spec}; its predictions need 'index', the "
                f"place of the entry in its file ({item.index} is missing)"
            )
        return by_image

    def _expressions(self, number: int, image: str, item: EvaluationItem, predictions: list[Prediction]) -> list[Row]:
        size = item.image.shape[:2]
        masks = np.zeros((len(predictions), *size), np.uint8)
        for mask, prediction in zip(masks, predictions, strict=True):
            for lengths in prediction.masks:
                mask |= decode_mask(lengths, size, line_of(self.path, prediction.line))
        counts = zip(*expression_counts(masks, item.masks, item.ignore), strict=True)
        return [
            ExpressionCounts(
                item=number,
                image=image,
                expression=prediction.expression,
                ref=ref if ref >= 0 else None,
                exists=exists,
                present=prediction.present,
                intersection=intersection,
                union=union,
                predicted_area=predicted,
                target_area=target,
                answer=prediction.answer,
            )
            for prediction, ref, exists, (intersection, union, predicted, target) in zip(
                predictions, item.ref_ids, item.exists, counts, strict=True
            )
        ]

    def _question(self, number: int, image: str, item: EvaluationItem, prediction: Prediction) -> QuestionCounts:
        size = item.image.shape[:2]
        where = line_of(self.path, prediction.line)
        masks = np.zeros((len(prediction.masks) if prediction.present else 0, *size), np.uint8)
        for place in range(len(masks)):
            masks[place] = decode_mask(prediction.masks[place], size, f"{where}, mask {place}")
        targets = item.target_masks[prediction.expression]
        intersections, predicted, target = question_counts(masks, targets, item.ignore)
        return QuestionCounts(
            item=number,
            image=image,
            expression=prediction.expression,
            intersections=intersections,
            predicted_areas=predicted,
            target_areas=target,
            answer=prediction.answer,
        )


def _check_exists(split: str, root: Path, where: str) -> None:
    try:
        evaluation_set(split, root)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
