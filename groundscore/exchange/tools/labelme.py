"""LabelMe: a JSON file beside every image, or with the image in it.

A label is a region's name, `description` an expression that means it; shapes of one `group_id` and label are one
region.
Files with `text` (ReasonSeg's form) have one region, which all their sentences mean. Rectangles, circles and masks are
read, points and lines have no area and are refused, unless they are labelled `flag`.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from groundscore.annotations.image_files import open_image, upright
from groundscore.annotations.images import SUFFIXES, list_names
from groundscore.annotations.json_files import require, require_list
from groundscore.annotations.labelme import draw_regions, draw_shape, read_annotation, read_shape
from groundscore.errors import UserError
from groundscore.exchange.regions import (
    NewImages,
    Region,
    RegionImage,
    ToolFormat,
    ToolOptions,
    find_image,
    image_size,
    region,
)
from groundscore.reading import read_json
from groundscore.rle import decode, encode
from groundscore.writing import write_json

_VERSION = "5.5.0"  # of LabelMe, whose form is written


def read(path: Path, options: ToolOptions) -> Iterator[RegionImage]:
    """Yields the images of a folder of LabelMe files, or of one file."""
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path.parent).parts)]
    if not files:
        raise UserError(f"{path} has no .json file of LabelMe")
    for file in files:
        record = read_json(file, dict, windows_1252=True, remedy="save it again in LabelMe")
        if "shapes" not in record:
            raise UserError(f"{file} has no 'shapes'; it is no file of LabelMe")
        yield _read(file, record, options, path if path.is_dir() else path.parent)


def _read(file: Path, record: dict[str, Any], options: ToolOptions, root: Path) -> RegionImage:
    image, name, size = _image(file, record, options)
    relative = (file.parent.relative_to(root) / name).as_posix()
    if "text" in record:
        annotation = read_annotation(file)
        target, ignore = draw_regions(annotation, *size)
        found = (region("target", target, annotation.sentences),)
        return RegionImage(image, relative, size, found, None if ignore is None else encode(ignore), str(file))
    regions: dict[Any, Region] = {}
    ignored = np.zeros(size, np.uint8)
    for number, shape in enumerate(require_list(record, "shapes", str(file))):
        where = f"{file}: shape {number}"
        read_one = read_shape(shape, file, where)
        if read_one is None:
            continue
        mask = draw_shape(read_one, *size, where)
        if not mask.any():
            raise UserError(f"{where}, {read_one.label!r}, has no pixel in the image; delete it in LabelMe")
        if read_one.is_ignored:
            ignored |= mask
            continue
        group = shape.get("group_id")
        key = number if group is None else (read_one.label, str(group))
        text = shape.get("description")
        texts = (text.strip(),) if isinstance(text, str) and text.strip() else ()
        if key in regions:
            before = regions[key]
            mask |= before.pixels
            texts = tuple(dict.fromkeys((*before.texts, *texts)))
        regions[key] = region(read_one.label, mask, texts)
    return RegionImage(
        image, relative, size, tuple(regions.values()), encode(ignored) if ignored.any() else None, str(file)
    )


def _image(file: Path, record: dict[str, Any], options: ToolOptions) -> tuple[Path | bytes, str, tuple[int, int]]:
    """Returns the image, its name, and its size."""
    height, width = record.get("imageHeight"), record.get("imageWidth")
    stated = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    named = record.get("imagePath")
    if isinstance(record.get("imageData"), str):
        try:
            content = base64.b64decode(record["imageData"], validate=True)
            opened = open_image(file, content=content)
        except (binascii.Error, UserError) as error:
            raise UserError(f"{file}: 'imageData' is no image in base64 ({error})") from error
        image = upright(opened, file)
        suffix = f".{(opened.format or 'png').lower()}".replace("jpeg", "jpg")
        name = Path(str(named).replace("\\", "/")).name if named else f"{file.stem}{suffix}"
        return content, name, (image.height, image.width)
    names = [
        name
        for name in list_names(file.parent)
        if Path(name).stem == file.stem and Path(name).suffix.lower() in SUFFIXES
    ]
    wanted = (
        named if isinstance(named, str) and named else names[0] if names else require(record, "imagePath", str(file))
    )
    folders = [options.images] if options.images else [file.parent]
    path = find_image(folders, wanted, str(file)) if not names or options.images else file.with_name(names[0])
    return path, path.name, image_size(path, str(file), stated)


# --- writing ----------------------------------------------------------------------------------------------------------


def write(images: Iterable[RegionImage], out: Path) -> None:
    """Write a folder of images with a JSON file beside each."""
    new = NewImages(out)
    for image in images:
        name = new.add(image)
        write_labelme(image, (out / name).with_suffix(".json"), Path(name).name)


def write_labelme(image: RegionImage, path: Path, image_path: str) -> None:
    """Write the JSON file of an image. image_path: of the image, from its folder on."""
    shapes = [_shape(one.label, decode(one.mask), one.texts[0] if one.texts else "") for one in image.regions]
    if image.ignore is not None:
        shapes.append(_shape("ignore", decode(image.ignore), ""))
    height, width = image.size
    write_json(
        path,
        {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image_path,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        },
        ensure_ascii=False,
    )


def _shape(label: str, mask: np.ndarray, text: str) -> dict[str, Any]:
    """A polygon where it draws exactly this mask, else a mask."""
    shape = {"label": label, "group_id": None, "description": text, "flags": {}}
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if len(contours) == 1 and len(contours[0]) >= 3:
        drawn = np.zeros_like(mask)
        cv2.polylines(drawn, contours, True, 1, 1)
        cv2.fillPoly(drawn, contours, 1)
        if np.array_equal(drawn, mask):
            return {**shape, "points": contours[0][:, 0].astype(float).tolist(), "shape_type": "polygon", "mask": None}
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = (int(edge) for edge in (rows[0], rows[-1], columns[0], columns[-1]))
    png = BytesIO()
    Image.fromarray(mask[top : bottom + 1, left : right + 1] * np.uint8(255)).save(png, "PNG")
    return {
        **shape,
        "points": [[float(left), float(top)], [float(right), float(bottom)]],
        "shape_type": "mask",
        "mask": base64.b64encode(png.getvalue()).decode("ascii"),
    }


def _recognises(path: Path) -> bool:
    files = [path] if path.suffix == ".json" else sorted(path.rglob("*.json"))[:1] if path.is_dir() else []
    return any('"shapes"' in file.read_text(encoding="utf-8", errors="replace")[:100_000] for file in files)


LABELME = ToolFormat("labelme", "LabelMe: a JSON file beside every image", _recognises, read, write)
