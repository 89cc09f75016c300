"""Label Studio's own JSON export: polygons in percent of the image, and brush strokes in its own run lengths.

Of a task the first annotation that was not cancelled counts. Boxes, ellipses and key points are no masks and refused.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from groundscore.annotations.json_files import require, require_list
from groundscore.annotations.segmentations import decode_segmentation
from groundscore.errors import UserError, shown
from groundscore.exchange.regions import RegionImage, ToolFormat, ToolOptions, find_image, image_size, region
from groundscore.reading import read_json

_REMEDY = "export it again as JSON (not JSON_MIN)"
_KINDS = {"polygonlabels": "polygonlabels", "polygon": "labels", "brushlabels": "brushlabels", "brush": "labels"}
_SIDE_RESULTS = ("choices", "textarea", "labels", "rating", "relation")  # about the image, or about a region


def read(path: Path, options: ToolOptions) -> Iterator[RegionImage]:
    """Yields the images of an exported file, or of the only one in a folder."""
    file = path if path.is_file() else _file(path)
    for number, task in enumerate(read_json(file, list, remedy=_REMEDY)):
        where = f"{file}: task {number}"
        results = _results(task, where)
        data = require(task, "data", where, remedy=_REMEDY)
        name = next((value for value in data.values() if isinstance(value, str) and _image_name(value)), None)
        if name is None:
            raise UserError(f"{where}: 'data' names no image, it has {shown(data)}")
        folders = [options.images] if options.images else [file.parent, file.parent / "images"]
        image = find_image(folders, _image_name(name), where)
        size = image_size(image, where)
        texts = _texts(results)
        regions = []
        for index, result in enumerate(results):
            kind = result.get("type")
            if kind in _SIDE_RESULTS:
                continue
            about = f"{where}, result {index}"
            if kind not in _KINDS:
                raise UserError(f"{about} is of type {shown(kind)}, which has no mask; use polygons or the brush")
            value = require(result, "value", about, remedy=_REMEDY)
            labels = value.get(_KINDS[kind]) or []
            if not labels or not isinstance(labels[0], str):
                raise UserError(f"{about} has no label")
            stated = (result.get("original_height"), result.get("original_width"))
            if stated != size and None not in stated:
                raise UserError(f"{about} is for {stated} (height, width), {image} has {size}; save the image upright")
            mask = _polygon(value, size, about) if kind.startswith("polygon") else _brush(value, size, about)
            if not mask.any():
                raise UserError(f"{about} encloses no pixel of the image; delete it")
            regions.append(region(labels[0], mask, texts.get(result.get("id"), ())))
        yield RegionImage(image, image.name, size, tuple(regions), None, where)


def _results(task: Any, where: str) -> list[dict]:
    annotations = [one for one in require_list(task, "annotations", where, remedy=_REMEDY) if isinstance(one, dict)]
    annotations = [one for one in annotations if not one.get("was_cancelled")]
    if not annotations:
        return []
    return [one for one in require_list(annotations[0], "result", where, remedy=_REMEDY) if isinstance(one, dict)]


def _texts(results: list[dict]) -> dict[Any, list[str]]:
    """Returns the texts that were written about regions, by their ids."""
    texts: dict[Any, list[str]] = {}
    for result in results:
        if result.get("type") == "textarea" and isinstance(result.get("value"), dict):
            written = result["value"].get("text")
            written = [written] if isinstance(written, str) else written or []
            texts.setdefault(result.get("id"), []).extend(text for text in written if isinstance(text, str))
    return texts


def _image_name(value: str) -> str:
    """Returns the path of an image that a task names: a file, an address, or "?d=" of local storage; "" for none."""
    parts = urlsplit(value)
    path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    name = path.rpartition("/")[2]
    return name if "." in name else ""


def _polygon(value: dict, size: tuple[int, int], where: str) -> np.ndarray:
    points = require_list(value, "points", where, remedy=_REMEDY)
    try:
        corners = np.array(points, dtype=np.float64).reshape(-1, 2) / 100 * (size[1], size[0])
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: 'points' are pairs of numbers, not {shown(points)}") from error
    return decode_segmentation([corners.ravel().tolist()], *size, where)


def _brush(value: dict, size: tuple[int, int], where: str) -> np.ndarray:
    """The alpha channel of RGBA values in bits: their number (32), bits of a value - 1 (5), four lengths of counts - 1
    (4 each); then groups of 1 bit (a run of one value?), 2 bits (which of the four), a count - 1, one value or all."""
    data = require_list(value, "rle", where, remedy=_REMEDY)
    total = size[0] * size[1] * 4
    try:
        bits = np.unpackbits(np.array(data, dtype=np.uint8))
    except (OverflowError, ValueError, TypeError) as error:
        raise UserError(f"{where}: 'rle' is a list of bytes") from error
    at = 0

    def number(length: int) -> int:
        nonlocal at
        at += length
        if at > len(bits):
            raise UserError(f"{where}: 'rle' ends too early; {_REMEDY}")
        return int("".join(map(str, bits[at - length : at].tolist())), 2)

    if number(32) != total:
        raise UserError(f"{where}: 'rle' is not of an image of {size} (height, width)")
    width = number(5) + 1
    lengths = [number(4) + 1 for _ in range(4)]
    values, filled = np.zeros(total, np.uint32), 0
    while filled < total:
        is_run = number(1)
        count = number(lengths[number(2)]) + 1
        if filled + count > total:
            raise UserError(f"{where}: 'rle' has more values than the image; {_REMEDY}")
        if is_run:
            values[filled : filled + count] = number(width)
        else:
            for index in range(count):
                values[filled + index] = number(width)
        filled += count
    return (values.reshape(*size, 4)[:, :, 3] != 0).astype(np.uint8)


def _file(path: Path) -> Path:
    found = [file for file in sorted(path.glob("*.json")) if _is_export(file)]
    if len(found) != 1:
        raise UserError(f"{path} should have one JSON file exported by Label Studio, it has {len(found)}")
    return found[0]


def _is_export(file: Path) -> bool:
    with file.open("rb") as stream:
        start = stream.read(4096)
    return start.lstrip()[:1] == b"[" and b'"annotations"' in start and b'"data"' in file.read_bytes()


def _recognises(path: Path) -> bool:
    files = (
        [path] if path.suffix == ".json" and path.is_file() else sorted(path.glob("*.json")) if path.is_dir() else []
    )
    return any(map(_is_export, files))


LABEL_STUDIO = ToolFormat("label_studio", "Label Studio's JSON export", _recognises, read)
