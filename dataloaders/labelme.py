"""ReasonSeg's annotation files: polygons drawn with LabelMe, and the sentences that mean them."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dataloaders.json_files import read_json, require
from utils.errors import UserError

_IGNORED = 255


@dataclass(frozen=True)
class ReasonAnnotation:
    """sentences: all of them mean the same region.
    is_sentence: they are whole questions, not short phrases.
    shapes: (label, points int32 [N, 2]) of every polygon.
    path: the file it came from.
    """

    sentences: tuple[str, ...]
    is_sentence: bool
    shapes: tuple[tuple[str, np.ndarray], ...]
    path: Path


def read_annotation(path: Path) -> ReasonAnnotation:
    """Read one JSON file; shapes that only flag the picture are left out."""
    record = read_json(path, dict)
    text = require(record, "text", str(path))
    sentences = [text] if isinstance(text, str) else text
    if not isinstance(sentences, list) or not sentences or not all(isinstance(s, str) for s in sentences):
        raise UserError(f"{path}: 'text' should be a list of at least one sentence, it is {text!r:.80}")
    shapes = []
    for index, shape in enumerate(require(record, "shapes", str(path))):
        where = f"{path}: shape {index}"
        label = str(require(shape, "label", where))
        if label.lower() != "flag":
            shapes.append((label, _points(require(shape, "points", where), where)))
    return ReasonAnnotation(tuple(sentences), bool(require(record, "is_sentence", str(path))), tuple(shapes), path)


def draw_regions(annotation: ReasonAnnotation, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The target uint8 [H, W] in {0, 1}, and the pixels that do not count, bool [H, W], or None where all do.

    Larger shapes are painted first, so that a smaller one lying on them stays visible.
    """
    painted = []
    for label, points in annotation.shapes:
        value = _IGNORED if "ignore" in label.lower() else 1
        area = np.zeros((height, width), np.uint8)
        _paint(area, points, 1)
        painted.append((int(area.sum()), points, value))
    painted.sort(key=lambda shape: -shape[0])
    regions = np.zeros((height, width), np.uint8)
    for _, points, value in painted:
        _paint(regions, points, value)
    ignore = regions == _IGNORED
    return (regions == 1).astype(np.uint8), ignore if ignore.any() else None


def _points(values, where: str) -> np.ndarray:
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: points are pairs of numbers, not {values!r:.60}") from error
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
        raise UserError(f"{where}: points are a list of pairs of finite numbers, not {values!r:.60}")
    return np.trunc(points).astype(np.int32)


def _paint(canvas: np.ndarray, points: np.ndarray, value: int) -> None:
    """The polygon and its outline, one pixel wide."""
    cv2.polylines(canvas, [points], True, value, 1)
    cv2.fillPoly(canvas, [points], value)
