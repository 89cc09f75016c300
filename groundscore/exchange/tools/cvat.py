"""CVAT's own XML, "CVAT for images 1.1": masks and polygons of every image. Boxes, points and lines are refused."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from groundscore.annotations.segmentations import decode_segmentation
from groundscore.errors import UserError, shown
from groundscore.exchange.regions import RegionImage, ToolFormat, ToolOptions, find_image, image_size, region
from groundscore.reading import read_bytes

_IGNORED = ("tag",)  # is about the whole image


def read(path: Path, options: ToolOptions) -> Iterator[RegionImage]:
    """Yields the images of `annotations.xml`."""
    file = path if path.is_file() else path / "annotations.xml"
    content = read_bytes(file, missing="CVAT exports it with the images")
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise UserError(f"{file} declares entities, which no export of CVAT does")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise UserError(f"{file} is not XML ({error}); export it again") from error
    if root.find("track") is not None:
        raise UserError(f'{file} is of a video; export it as "CVAT for images" or COCO')
    for element in root.iter("image"):
        name = element.get("name", "")
        where = f"{file}: image {name!r}"
        folders = (
            [options.images]
            if options.images
            else [file.parent, file.parent / "images", file.parent / "images/default"]
        )
        image = find_image(folders, name, where)
        size = image_size(image, where, (_whole(element, "height", where), _whole(element, "width", where)))
        regions = []
        for number, shape in enumerate(one for one in element if one.tag not in _IGNORED):
            about = f"{where}, shape {number}"
            if shape.tag == "polygon":
                mask = _polygon(shape, size, about)
            elif shape.tag == "mask":
                mask = _mask(shape, size, about)
            else:
                raise UserError(f"{about} is a {shape.tag}, which has no mask; draw a polygon or a mask")
            label = shape.get("label", "")
            if not label or not mask.any():
                raise UserError(f"{about} has no {'pixel in the image' if label else 'label'}")
            regions.append(region(label, mask))
        yield RegionImage(image, name, size, tuple(regions), None, where)


def _whole(element: ElementTree.Element, key: str, where: str) -> int:
    text = element.get(key, "")
    if not text.strip().isdigit():
        raise UserError(f"{where}: {key!r} should be a whole number, it is {shown(text)}")
    return int(text)


def _polygon(shape: ElementTree.Element, size: tuple[int, int], where: str) -> np.ndarray:
    try:
        points = [float(value) for pair in shape.get("points", "").split(";") for value in pair.split(",")]
    except ValueError as error:
        raise UserError(f"{where}: 'points' should be x,y;x,y;…") from error
    return decode_segmentation([points], *size, where)


def _mask(shape: ElementTree.Element, size: tuple[int, int], where: str) -> np.ndarray:
    """Run lengths of a box, row by row, first those of the background."""
    left, top, width, height = (_whole(shape, key, where) for key in ("left", "top", "width", "height"))
    try:
        runs = [int(value) for value in shape.get("rle", "").split(",")]
    except ValueError as error:
        raise UserError(f"{where}: 'rle' should be whole numbers joined by commas") from error
    if min(runs) < 0 or sum(runs) != width * height or left + width > size[1] or top + height > size[0]:
        raise UserError(
            f"{where}: 'rle' has {sum(runs)} pixels, its box {width} × {height} at {left}, {top}; export it again"
        )
    mask = np.zeros(size, np.uint8)
    box = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
    mask[top : top + height, left : left + width] = box
    return mask


def _recognises(path: Path) -> bool:
    file = path / "annotations.xml" if path.is_dir() else path
    return file.suffix == ".xml" and file.is_file()


CVAT = ToolFormat("cvat", "CVAT for images 1.1 (annotations.xml); its COCO export is coco", _recognises, read)
