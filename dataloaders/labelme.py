"""ReasonSeg's annotation files: polygons drawn with LabelMe, and the sentences that mean them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dataloaders.json_files import read_json, require, require_list
from dataloaders.repairs import BadEntry, note_repair
from dataloaders.sample import refuse_targets
from dataloaders.segmentations import check_amount, cut_off_far, note_crop, refuse_fractions
from utils.errors import UserError, shown

_IGNORED = 255


@dataclass(frozen=True)
class ReasonAnnotation:
    """sentences: all of them mean the same region.
    is_sentence: they are whole questions, not short phrases.
    shapes: (label, points float64 [N, 2]) of every polygon.
    path: the file it came from.
    false_premise: a question about what the picture does not show, and the answer in words (SESAME's version of the
        data has them), or None.
    """

    sentences: tuple[str, ...]
    is_sentence: bool
    shapes: tuple[tuple[str, np.ndarray], ...]
    path: Path
    false_premise: tuple[str, bool, str] | None = None


def read_annotation(path: Path) -> ReasonAnnotation:
    """Read one JSON file; shapes that only flag the picture are left out."""
    record = read_json(path, dict, windows_1252=True)  # a few of the official files are
    text = require(record, "text", str(path))
    sentences = [text] if isinstance(text, str) else text
    if not isinstance(sentences, list) or not sentences or not all(isinstance(s, str) for s in sentences):
        raise UserError(f"{path}: 'text' should be a list of at least one sentence, it is {shown(text, 80)}")
    for sentence in sentences:
        refuse_targets(sentence, str(path))
    shapes = []
    listed = require_list(record, "shapes", str(path))
    check_amount(len(listed), 0, str(path))
    for index, shape in enumerate(listed):
        where = f"{path}: shape {index}"
        label = str(require(shape, "label", where))
        if label.lower() != "flag":
            shapes.append((label, _points(require(shape, "points", where), where)))
    return ReasonAnnotation(
        tuple(sentences),
        bool(require(record, "is_sentence", str(path))),
        tuple(shapes),
        path,
        _false_premise(record.get("false_premise_QA"), path),
    )


def _false_premise(value: Any, path: Path) -> tuple[str, bool, str] | None:
    """The first of a list of [question, whether it is a sentence, answer]."""
    if not value:
        return None
    first = value[0] if isinstance(value, list) else value
    if not isinstance(first, list) or len(first) != 3 or not isinstance(first[0], str):
        raise UserError(f"{path}: 'false_premise_QA' should hold [question, is_sentence, answer], not {shown(first)}")
    return first[0], bool(first[1]), str(first[2])


def draw_regions(annotation: ReasonAnnotation, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The target uint8 [H, W] in {0, 1}, and the pixels that do not count, bool [H, W], or None where all do.

    Larger shapes are painted first, so that a smaller one lying on them stays visible. A shape without three points, or
    without a pixel in the image, is dropped. Raises `BadEntry` where no pixel of a target is left.
    """
    where = str(annotation.path)
    refuse_fractions([points for _, points in annotation.shapes], height, width, where)
    painted, dropped = [], 0
    for label, points in annotation.shapes:
        area = np.zeros((height, width), np.uint8)
        points = np.trunc(points)
        if len(points) >= 3:
            note_crop([points], height, width, f"{where}: shape {label!r}")
            points = np.trunc(cut_off_far(points, height, width, f"{where}: shape {label!r}")).astype(np.int32)
            _paint(area, points, 1)
        if area.any():
            painted.append((int(area.sum()), points, _IGNORED if "ignore" in label.lower() else 1))
        else:
            dropped += 1
    painted.sort(key=lambda shape: -shape[0])
    regions = np.zeros((height, width), np.uint8)
    for _, points, value in painted:
        _paint(regions, points, value)
    target, ignore = (regions == 1).astype(np.uint8), regions == _IGNORED
    if not target.any():
        raise BadEntry(
            f"{where} marks no target: its shapes are empty, flags, outside the image or within regions to ignore",
            file=where,
        )
    if dropped:
        note_repair(where, f"{dropped} of {len(annotation.shapes)} shapes dropped: no three points, or no pixel inside")
    return target, ignore if ignore.any() else None


def _points(values, where: str) -> np.ndarray:
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: points are pairs of numbers, not {shown(values)}") from error
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
        raise UserError(f"{where}: points are a list of pairs of finite numbers, not {shown(values)}")
    return points


def _paint(canvas: np.ndarray, points: np.ndarray, value: int) -> None:
    """The polygon and its outline, one pixel wide."""
    if len(points):
        cv2.polylines(canvas, [points], True, value, 1)
        cv2.fillPoly(canvas, [points], value)
