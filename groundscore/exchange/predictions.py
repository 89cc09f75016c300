"""Predictions in files, whatever their format: what a format is, and which prediction belongs to which expression."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from groundscore.errors import UserError
from groundscore.scoring.scorer import Answered
from groundscore.splits import EvaluationItem, LeftOut, OpenSplit

SHOWN = 5  # missing predictions that an error names

Key = tuple[str | int, int]  # entry and expression of a prediction


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction(Answered):
    """What a file says about one expression.

    where: the file and the line's number, for errors.
    entry: the item that it belongs to, by the path of its image below the data root, or by its index in its file where
        that is given (`EvaluationItem.index`). image: that path, where it is given. expression: its index in the item.
    masks: may be a function that reads them, so that a file's masks are not in memory all at once.
    """

    entry: str | int
    image: str | None
    expression: int

    @property
    def key(self) -> Key:
        """What no other prediction of the split has."""
        return self.entry, self.expression


Predictions = dict[str, dict[Key, Prediction]]  # by split, entry and expression


@dataclass(frozen=True)
class PredictionFormat:
    """A format of prediction files, registered in `groundscore.exchange.FORMATS`.

    name: for `--format`. help: what has this form, for help pages and docs.
    recognises: whether a file or folder looks like it, from its name or its beginning.
    read: the predictions in it for some splits, by their specs; and the kind of the ids in it, one of
        `addresses.KINDS`, or None where it is to be found out. Raises `UserError` naming file and line, key or index
        for what is malformed or twice there, or belongs to no expression; which are missing is found later.
    """

    name: str
    help: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Mapping[str, OpenSplit], str | None], Predictions]


def add_prediction(predictions: Predictions, split: str, prediction: Prediction) -> None:
    """Adds a prediction; raises `UserError` for a second one of its expression."""
    before = predictions.setdefault(split, {}).setdefault(prediction.key, prediction)
    if before is not prediction:
        raise UserError(
            f"{prediction.where} has the same expression as {before.where.rpartition(', ')[2]}: {split}, "
            f"{prediction.entry}, expression {prediction.expression}"
        )


class Matching:
    """Takes predictions out of `left` as their expressions come by; what remains belongs to none."""

    def __init__(self, path: Path, split: OpenSplit, predictions: dict[Key, Prediction]):
        self.path, self.spec, self.root, self.left = path, split.spec, split.root, predictions
        self.seen: dict[str, int] = {}  # expressions of every image that has come by
        self.missing: list[str] = []

    def take(self, item: EvaluationItem) -> list[Prediction]:
        """The predictions of an item's expressions in order; `missing` collects those that have none."""
        image = item.path_below(self.root)
        first_time = image not in self.seen
        self.seen[image] = self.seen.get(image, 0) + len(item.expressions)
        predictions = []
        for expression in range(len(item.expressions)):
            found = self._take(item, image, expression, first_time)
            if found is None:
                self.missing.append(f"{image} expression {expression} (id {item.expression_ids[expression]})")
            else:
                predictions.append(found)
        return predictions

    def _take(self, item: EvaluationItem, image: str, expression: int, first_time: bool) -> Prediction | None:
        by_index = self.left.pop((item.index, expression), None)
        if by_index is not None:
            if by_index.image not in (None, image):
                raise UserError(
                    f"{by_index.where}: entry {item.index} of {self.spec} is about {image}, not {by_index.image}"
                )
            return by_index
        by_image = self.left.pop((image, expression), None)
        if by_image is None and not first_time and item.index is not None:
            raise UserError(
                f"{self.path}: {image} occurs more than once in {self.spec}; its predictions need 'index', the "
                f"position of the entry in its file ({item.index} is missing)"
            )
        return by_image

    def leave_out(self, item: LeftOut) -> None:
        """Forgets the predictions about an item that is not scored."""
        by_index = any(entry == item.index for entry, _ in self.left)
        entry = item.index if by_index else item.image
        self.left = {key: one for key, one in self.left.items() if key[0] != entry}

    def check_missing(self) -> None:
        """Raises `UserError` for expressions without a prediction."""
        if self.missing:
            more = f" and {len(self.missing) - SHOWN} more" if len(self.missing) > SHOWN else ""
            raise UserError(
                f"{self.path}: {len(self.missing)} of {sum(self.seen.values())} expressions of {self.spec} have no "
                f"prediction: {', '.join(self.missing[:SHOWN])}{more}"
            )

    def check_left(self) -> None:
        """Raises `UserError` for a prediction that belongs to no expression."""
        for prediction in self.left.values():
            image = prediction.image
            if isinstance(prediction.entry, int):
                about = f"entry {prediction.entry}, expression {prediction.expression}"
            elif image in self.seen:
                about = f"expression {prediction.expression} of {image}, which has {self.seen[image]} (the first is 0)"
            else:
                about = f"image {image!r}"
            raise UserError(f"{prediction.where}: {self.spec} has no {about}")
