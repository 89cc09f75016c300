"""Files of predictions, and their counts against the ground truth: no model is needed.

A file holds a JSON object a line for every expression, masks as COCO RLE. `docs/evaluation.md` describes the format.

{"split": "refcoco|unc|val", "image": "refer_seg/…/x.jpg", "expression": 2, "present": true,
 "mask": {"size": [480, 640], "counts": "…"}}
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from groundscore.annotations.bad_entries import STRICT, Tolerance
from groundscore.annotations.json_files import require, require_integer, require_text
from groundscore.annotations.segmentations import decode_segmentation
from groundscore.errors import UserError, shown
from groundscore.reading import parse_json, read_lines
from groundscore.scoring.counts import (
    ExpressionCounts,
    QuestionCounts,
    Row,
    SplitCounts,
    expression_counts,
    question_counts,
)
from groundscore.scoring.metrics import kind_of
from groundscore.splits import EvaluationItem, LeftOut, evaluation_set, read_item, too_many, unnumbered_entries
from groundscore.writing import write_lines

SHOWN = 5  # missing predictions that an error names
_REMEDY = "docs/evaluation.md lists the keys"

Key = tuple[str | int, int]  # entry and expression of a prediction
Progress = Callable[[str, int, int], None]


# --- masks ------------------------------------------------------------------------------------------------------------


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A mask [H, W], pixels that are not 0, as RLE `{"size": [H, W], "counts": text}`."""
    encoded = coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(length) for length in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def decode_mask(rle: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """RLE, compressed or not, as uint8 [H, W] in {0, 1}.

    size: (H, W) that the mask must have; where: file and line, for errors.
    """
    if not isinstance(rle, dict):
        raise UserError(f"{where}: a mask is a COCO RLE {{'size': …, 'counts': …}}, not {shown(rle)}")
    return decode_segmentation(rle, *size, where)


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """A line of the file.

    where: the file and the line's number, for errors.
    entry: the item that it belongs to, by the path of its image, or by its index in its file where that is given.
    masks: COCO RLE as they were read; none for an expression that has no mask.
    """

    where: str
    entry: str | int
    image: str | None
    expression: int
    present: bool
    masks: tuple[Any, ...]
    answer: str | None

    @property
    def key(self) -> Key:
        """What no other prediction of the split has."""
        return self.entry, self.expression


def read_predictions(path: Path, wanted: Set[str]) -> tuple[dict[str, dict[Key, Prediction]], dict[str, str]]:
    """The predictions of the wanted splits, by split, entry and expression; and where each other split first occurs.

    Each line of a wanted split is checked for its form; masks are decoded when they are counted. Of other lines only
    the split is read. Raises `UserError` naming file and line.
    """
    splits: dict[str, dict[Key, Prediction]] = {}
    others: dict[str, str] = {}
    for number, text in read_lines(path, missing="it is to hold predictions"):
        where = f"{path}, line {number}"
        content = parse_json(text, where, remedy=_REMEDY)
        split = require_text(content, "split", where, remedy=_REMEDY)
        if split not in wanted:
            others.setdefault(split, where)
            continue
        prediction = _read_prediction(content, split, where)
        before = splits.setdefault(split, {}).setdefault(prediction.key, prediction)
        if before is not prediction:
            raise UserError(
                f"{where} has the same expression as {before.where.rpartition(', ')[2]}: {split}, "
                f"{prediction.entry}, expression {prediction.expression}"
            )
    if not splits and not others:
        raise UserError(f"{path} contains no prediction")
    return splits, others


def write_predictions(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Writes objects in the form of this file, whole or not at all."""
    write_lines(path, (json.dumps(line) + "\n" for line in lines))


def masks_of(line: dict[str, Any]) -> list[Any]:
    """The masks of a line that we wrote, as RLE."""
    if "masks" in line:
        return line["masks"]
    return [] if line["mask"] is None else [line["mask"]]


def _read_prediction(content: dict[str, Any], split: str, where: str) -> Prediction:
    several = kind_of(split) == "muse"
    by_index = several or split.startswith("custom")
    index = _index(content, "index", where) if by_index and content.get("index") is not None else None
    image = None
    if index is None or "image" in content:
        image = PurePosixPath(require_text(content, "image", where, remedy=_REMEDY)).as_posix()
    present = content.get("present", True) if several else require(content, "present", where, remedy=_REMEDY)
    if not isinstance(present, bool):
        raise UserError(f"{where}: 'present' is true or false, not {shown(present)}")
    masks = require(content, "masks" if several else "mask", where, remedy=_REMEDY)
    if several and not isinstance(masks, list):
        raise UserError(f"{where}: 'masks' should be a list of masks, it is {shown(masks)}")
    answer = content.get("answer")
    if not isinstance(answer, str | None):
        raise UserError(f"{where}: 'answer' should be text, it is {shown(answer)}")
    return Prediction(
        where=where,
        entry=image if index is None else index,
        image=image,
        expression=_index(content, "expression", where),
        present=present,
        masks=tuple(masks) if several else () if masks is None else (masks,),
        answer=answer,
    )


def _index(content: dict, key: str, where: str) -> int:
    value = require_integer(content, key, where, remedy=_REMEDY)
    if value < 0:
        raise UserError(f"{where}: {key!r} should be a number from 0, it is {shown(content[key])}")
    return value


# --- counting ---------------------------------------------------------------------------------------------------------


def count_predictions(
    path: str | Path,
    dataset_dir: str | Path,
    sets: Mapping[str, Sequence[EvaluationItem]],
    *,
    limit: int | None = None,
    tolerance: Tolerance = STRICT,
    progress: Progress | None = None,
) -> dict[str, SplitCounts]:
    """Counts saved predictions of every split of `sets`, by spec; `metrics.score_split` makes scores of the rows.

    limit: read the first so many images of each split only. tolerance: which entries may be left out.
    progress: called with split, images done and in all; first before any is done.
    Lines of other splits must belong to splits that exist, and are not read further.
    Raises `UserError` naming file and line where a prediction is malformed, missing, repeated or about nothing, or
    where its mask has not the size of its image.
    """
    path, root = Path(path), Path(dataset_dir)
    saved, others = read_predictions(path, set(sets))
    for split, where in others.items():
        try:
            evaluation_set(split, root)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
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
) -> SplitCounts:
    unnumbered = unnumbered_entries(items)
    counts = SplitCounts(left_out=list(unnumbered))
    total = len(items) if limit is None else min(limit, len(items))
    left_out = 0
    if progress:
        progress(matching.spec, 0, total)
    for number in range(total):
        item = read_item(items, number, tolerance, matching.root)
        if isinstance(item, LeftOut):
            counts.left_out.append(item)
            left_out += 1
            if left_out > tolerance.most(total):
                raise UserError(too_many(counts.left_out))
            matching.leave_out(item)
            continue
        image = item.path_below(matching.root)
        counts.repaired += [{"item": number, "image": image, **one.to_dict()} for one in item.repairs]
        predictions = matching.take(item, image)
        if not matching.missing:  # else only what else is missing is of interest
            count = _question_rows if kind_of(matching.spec) == "muse" else _expression_rows
            counts.rows += count(number, image, item, predictions)
            counts.masks += [prediction.masks for prediction in predictions]
        if progress:
            progress(matching.spec, number + 1, total)
    if total == len(items) and not unnumbered:  # else lines about what was not read cannot be told from mistakes
        matching.check_left()
    matching.check_missing()
    return counts


class _Matching:
    """Takes predictions out of `left` as their expressions come by; what remains belongs to none."""

    def __init__(self, path: Path, spec: str, root: Path, predictions: dict[Key, Prediction]):
        self.path, self.spec, self.root, self.left = path, spec, root, dict(predictions)
        self.seen: dict[str, int] = {}  # expressions of every image that has come by
        self.missing: list[str] = []

    def take(self, item: EvaluationItem, image: str) -> list[Prediction]:
        """The predictions of an item's expressions in order; `missing` collects those that have none."""
        first_time = image not in self.seen
        self.seen[image] = self.seen.get(image, 0) + len(item.expressions)
        predictions = []
        for expression in range(len(item.expressions)):
            found = self._take(item, image, expression, first_time)
            if found is None:
                self.missing.append(f"{image} expression {expression}")
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


def _expression_rows(number: int, image: str, item: EvaluationItem, predictions: list[Prediction]) -> list[Row]:
    size = item.image.shape[:2]
    masks = np.zeros((len(predictions), *size), np.uint8)
    for mask, prediction in zip(masks, predictions, strict=True):
        for rle in prediction.masks:
            mask |= decode_mask(rle, size, prediction.where)
    counts = zip(*expression_counts(masks, item.masks, item.ignore), strict=True)
    return [
        ExpressionCounts(
            number, image, one.expression, ref if ref >= 0 else None, exists, one.present, *pixels, one.answer
        )
        for one, ref, exists, pixels in zip(predictions, item.ref_ids, item.exists, counts, strict=True)
    ]


def _question_rows(number: int, image: str, item: EvaluationItem, predictions: list[Prediction]) -> list[Row]:
    size = item.image.shape[:2]
    rows: list[Row] = []
    for one in predictions:
        masks = np.zeros((len(one.masks) if one.present else 0, *size), np.uint8)
        for index in range(len(masks)):
            masks[index] = decode_mask(one.masks[index], size, f"{one.where}, mask {index}")
        counts = question_counts(masks, item.target_masks[one.expression], item.ignore)
        rows.append(QuestionCounts(number, image, *counts, one.expression, one.answer))
    return rows
