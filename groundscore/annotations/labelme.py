"""ReasonSeg's annotation files: regions drawn with LabelMe, and the sentences that mean them."""

import base64
import binascii
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from groundscore.annotations.bad_entries import BadEntry, note_repair
from groundscore.annotations.image_files import check_size, open_image
from groundscore.annotations.json_files import (
    are_numbers,
    check_boolean,
    check_text,
    require,
    require_boolean,
    require_integer,
    require_list,
    require_text,
)
from groundscore.annotations.segmentations import check_amount, cut_off_far, note_crop, refuse_fractions
from groundscore.errors import UserError, shown
from groundscore.reading import read_json
from groundscore.targets import refuse_targets

_IGNORED = 255
_REMEDY = "annotate the image again in LabelMe, or download the official file"
_WITHOUT_AREA = ("point", "points", "line", "linestrip")


@dataclass(frozen=True)
class Shape:
    """What is drawn on an image: a polygon, or a mask.

    points: corners of the polygon, float64 [N, 2]; of a mask its upper left and lower right pixel.
    mask: bool [height, width] of the box, None for a polygon.
    """

    label: str
    points: np.ndarray
    mask: np.ndarray | None = None

    @property
    def is_ignored(self) -> bool:
        """Whether what it covers does not count."""
        return "ignore" in self.label.lower()


@dataclass(frozen=True)
class ReasonAnnotation:
    """sentences: all of them mean the same region.
    is_sentence: they are whole questions, not short phrases.
    path: the file it came from.
    size: (height, width) of the image that was annotated, None where the file does not tell.
    false_premise: a question about what the image does not show, and the answer in words (SESAME's version of the
        data has them), or None.
    """

    sentences: tuple[str, ...]
    is_sentence: bool
    shapes: tuple[Shape, ...]
    path: Path
    size: tuple[int, int] | None = None
    false_premise: tuple[str, bool, str] | None = None


def read_annotation(path: Path) -> ReasonAnnotation:
    """Read one JSON file; shapes that only flag the image are left out."""
    record = read_json(path, dict, windows_1252=True)  # a few of the official files are
    where = str(path)
    text = require(record, "text", where)
    sentences = [text] if isinstance(text, str) else text
    if not isinstance(sentences, list) or not sentences:
        raise UserError(
            f"{where}: 'text' should be a list of at least one sentence, it is {shown(text, 80)}; {_REMEDY}"
        )
    for number, sentence in enumerate(sentences):
        refuse_targets(check_text(sentence, f"{where}: sentence {number} of 'text'", remedy=_REMEDY), where)
    listed = require_list(record, "shapes", where)
    check_amount(len(listed), 0, where)
    shapes = [read_shape(shape, path, f"{where}: shape {number}") for number, shape in enumerate(listed)]
    return ReasonAnnotation(
        sentences=tuple(sentences),
        is_sentence=require_boolean(record, "is_sentence", where),
        shapes=tuple(shape for shape in shapes if shape is not None),
        path=path,
        size=_stated_size(record, where),
        false_premise=_false_premise(record.get("false_premise_QA"), where),
    )


def _stated_size(record: dict, where: str) -> tuple[int, int] | None:
    keys = ("imageHeight", "imageWidth")
    if all(record.get(key) is None for key in keys):
        return None
    height, width = (require_integer(record, key, where, remedy=_REMEDY) for key in keys)
    check_size(height, width, f"{where}: the image that was annotated")
    return height, width


def _false_premise(value: Any, where: str) -> tuple[str, bool, str] | None:
    """The first of a list of [question, whether it is a sentence, answer]."""
    if value is None or value == []:
        return None
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, list) or len(item) != 3:
            raise UserError(
                f"{where}: 'false_premise_QA' must be [question, is_sentence, answer], not {shown(item)}; {_REMEDY}"
            )
        refuse_targets(check_text(item[0], f"{where}: a question of 'false_premise_QA'", remedy=_REMEDY), where)
        check_boolean(item[1], f"{where}: is_sentence in 'false_premise_QA'", remedy=_REMEDY)
        check_text(item[2], f"{where}: an answer of 'false_premise_QA'", remedy=_REMEDY, empty=True)
    return tuple(value[0])


def read_shape(record: Any, path: Path, where: str) -> Shape | None:
    """Returns a shape as LabelMe writes it, or None where it only flags the image. path: its file, for errors."""
    label = require_text(record, "label", where, remedy=_REMEDY)
    if label.lower() == "flag":
        return None
    kind = record.get("shape_type")
    kind = "polygon" if kind is None else check_text(kind, f"{where}: 'shape_type'", remedy=_REMEDY)
    points = _points(require(record, "points", where, remedy=_REMEDY), where)
    if kind == "polygon":
        return Shape(label, points)
    if kind in _WITHOUT_AREA:
        raise BadEntry.at(where, f"shape_type {kind!r} has no area; draw a polygon, or label it 'flag'")
    if kind not in ("rectangle", "circle", "mask"):
        raise UserError(f"{where}: unknown shape_type {shown(kind)}; draw it as polygon, rectangle, circle or mask")
    if kind == "rectangle" and len(points) == 4:  # LabelMe of today writes all corners
        return Shape(label, points)
    if len(points) != 2:
        raise UserError(f"{where}: shape_type {kind!r} has two points, this one has {len(points)}; {_REMEDY}")
    if kind == "rectangle":
        return Shape(label, points[[[0, 0], [1, 0], [1, 1], [0, 1]], [0, 1]])
    if kind == "circle":
        return Shape(label, _circle(*points))
    return Shape(label, *_read_mask(record, points, path, where))


def _circle(centre: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """Points on a circle, about one a pixel, float64 [N, 2]."""
    radius = math.dist(centre, rim)
    angles = np.linspace(0, 2 * math.pi, min(max(12, math.ceil(2 * math.pi * radius)), 10_000), endpoint=False)
    return np.rint(centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def _read_mask(record: dict, points: np.ndarray, path: Path, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The box of a mask, and the mask itself: a PNG of the box's size, in base64."""
    text = require_text(record, "mask", where, remedy=_REMEDY)
    box = np.trunc(np.sort(points, axis=0))
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise UserError(f"{where}: 'mask' should be a PNG in base64 ({error}); {_REMEDY}") from error
    mask = np.array(open_image(path, ("PNG",), content=content).convert("L")) != 0
    width, height = (box[1] - box[0] + 1).astype(int).tolist()
    if mask.shape != (height, width):
        raise UserError(
            f"{where}: its mask has {mask.shape[0]} × {mask.shape[1]} pixels, but its box {height} × {width}; {_REMEDY}"
        )
    return box, mask


def require_target(annotation: ReasonAnnotation) -> None:
    """Raise `BadEntry` where it can be told without drawing that nothing is a target."""
    if all(shape.is_ignored for shape in annotation.shapes):
        where = str(annotation.path)
        raise BadEntry(f"{where} marks no target: it has no shape but flags and regions to ignore", file=where)


def draw_regions(annotation: ReasonAnnotation, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The target uint8 [H, W] in {0, 1}, and the pixels that do not count, bool [H, W], or None where all do.

    Larger shapes are painted first, so that a smaller one lying on them stays visible. A shape without three points, or
    without a pixel in the image, is dropped. Raises `BadEntry` where no pixel of a target is left.
    """
    require_target(annotation)
    where = str(annotation.path)
    polygons = [shape.points for shape in annotation.shapes if shape.mask is None]
    refuse_fractions(polygons, height, width, where)
    painted, dropped = [], 0
    for shape in annotation.shapes:
        area = np.zeros((height, width), np.uint8)
        fitted = _fit(shape, height, width, f"{where}: shape {shown(shape.label)}")
        _paint(area, fitted, 1)
        if area.any():
            painted.append((int(area.sum()), fitted, _IGNORED if shape.is_ignored else 1))
        else:
            dropped += 1
    painted.sort(key=lambda item: -item[0])
    regions = np.zeros((height, width), np.uint8)
    for _, fitted, value in painted:
        _paint(regions, fitted, value)
    target, ignore = (regions == 1).astype(np.uint8), regions == _IGNORED
    if not target.any():
        raise BadEntry(
            f"{where} marks no target: its shapes are empty, outside the image or within regions to ignore",
            file=where,
        )
    if dropped:
        note_repair(where, f"{dropped} of {len(annotation.shapes)} shapes dropped: no three points, or no pixel inside")
    return target, ignore if ignore.any() else None


def draw_shape(shape: Shape, height: int, width: int, where: str) -> np.ndarray:
    """Returns the pixels of one shape, uint8 [height, width] in {0, 1}."""
    area = np.zeros((height, width), np.uint8)
    _paint(area, _fit(shape, height, width, where), 1)
    return area


def _fit(shape: Shape, height: int, width: int, where: str) -> Shape:
    """The shape cut to whole pixels, and a polygon also to what can be drawn of it."""
    points = np.trunc(shape.points)
    note_crop([points], height, width, where)
    if shape.mask is None:
        points = np.trunc(cut_off_far(points, height, width, where)) if len(points) >= 3 else points[:0]
        return Shape(shape.label, points.astype(np.int32))
    return Shape(shape.label, points.astype(np.int64), shape.mask)


def _paint(canvas: np.ndarray, shape: Shape, value: int) -> None:
    """A mask, or a polygon with its outline, which is one pixel wide."""
    if shape.mask is not None:
        left, top = shape.points[0].tolist()
        inside = shape.mask[max(-top, 0) :, max(-left, 0) :]
        part = canvas[max(top, 0) :, max(left, 0) :][: inside.shape[0], : inside.shape[1]]
        part[inside[: part.shape[0], : part.shape[1]]] = value
    elif len(shape.points):
        cv2.polylines(canvas, [shape.points], True, value, 1)
        cv2.fillPoly(canvas, [shape.points], value)


def _points(values: Any, where: str) -> np.ndarray:
    """Pairs of numbers as float64 [N, 2]."""
    pairs = isinstance(values, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in values)
    if not pairs or not values or not all(are_numbers(pair) for pair in values):
        raise UserError(f"{where}: points are a list of pairs of finite numbers, not {shown(values)}; {_REMEDY}")
    return np.array(values, dtype=np.float64)
