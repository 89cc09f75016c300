"""YOLO segmentation: a text file per image, a line per object: its class and the corners of one polygon, as fractions.

    data.yaml                   names: [cat, dog]  or  {0: cat, 1: dog}
    images/train/photo.jpg      also flat, images/photo.jpg
    labels/train/photo.txt      0 0.25 0.125 0.5 0.125 0.5 0.75

A polygon has neither holes nor parts: what is written walks to them and back on one line, which fills nothing.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import yaml

from groundscore.annotations.images import SUFFIXES
from groundscore.annotations.segmentations import decode_segmentation
from groundscore.errors import UserError, shown
from groundscore.exchange.regions import (
    NewImages,
    Region,
    RegionImage,
    ToolFormat,
    ToolOptions,
    image_size,
    one_ring,
    outlines,
    region,
)
from groundscore.reading import read_bytes, read_lines
from groundscore.writing import make_directory, write_text


def read(path: Path, options: ToolOptions) -> Iterator[RegionImage]:
    """Yields the images of a folder with `data.yaml`, `images` and `labels`."""
    root = path if path.is_dir() else path.parent
    names = _names(path if path.is_file() else _yaml(root))
    images = options.images or root / "images"
    files = sorted(
        file for file in images.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise UserError(f"{images} has no images; --images DIR says where they are")
    for image in files:
        below = image.relative_to(images)
        labels = root / "labels" / below.with_suffix(".txt")
        size = image_size(image, str(labels))
        regions = [] if not labels.is_file() or not labels.stat().st_size else _read(labels, size, names)
        yield RegionImage(image, below.as_posix(), size, tuple(regions), None, str(labels))


def _read(file: Path, size: tuple[int, int], names: dict[int, str]) -> Iterator[Region]:
    height, width = size
    for number, line in read_lines(file, missing="it holds the objects of an image"):
        where = f"{file}: line {number}"
        try:
            values = [float(value) for value in line.split()]
        except ValueError as error:
            raise UserError(f"{where} has more than numbers: {shown(line)}") from error
        if len(values) == 5:
            raise UserError(
                f"{where} is a box, not a polygon: a mask is needed (YOLO's segmentation has 3 corners or more)"
            )
        if len(values) < 7 or len(values) % 2 == 0 or not all(0 <= value <= 1 for value in values[1:]):
            raise UserError(f"{where} should be a class and the corners of a polygon, as fractions of the image")
        label = names.get(int(values[0]))
        if label is None or values[0] != int(values[0]):
            raise UserError(f"{where}: class {values[0]:g} has no name in data.yaml")
        corners = np.array(values[1:]).reshape(-1, 2) * (width, height)
        mask = decode_segmentation([corners.ravel().tolist()], height, width, where)
        if not mask.any():
            raise UserError(f"{where} encloses no pixel of the image; delete it")
        yield region(label, mask)


def _yaml(root: Path) -> Path:
    found = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    if len(found) != 1:
        raise UserError(f"{root} should have one .yaml file with the names of the classes, it has {len(found)}")
    return found[0]


def _names(file: Path) -> dict[int, str]:
    try:
        content = yaml.safe_load(read_bytes(file, megabytes=16))
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    names = content.get("names") if isinstance(content, dict) else None
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not all(isinstance(key, int) for key in names):
        raise UserError(f"{file} has no 'names', the names of the classes")
    return {key: str(name) for key, name in names.items()}


def write(images: Iterable[RegionImage], out: Path) -> None:
    """Write `data.yaml`, `images/` and `labels/`; pixels to ignore have no place in this form and are an error."""
    new, classes = NewImages(out / "images"), {}
    make_directory(out / "labels")
    for image in images:
        if image.ignore is not None:
            raise UserError(
                f"{image.where or image.name} has pixels to ignore, for which YOLO has no place; write coco"
            )
        lines = []
        for one in image.regions:
            number = classes.setdefault(one.label, len(classes))
            parts = outlines(one.pixels)
            if not parts:
                raise UserError(f"{image.where or image.name}: the mask of {one.label!r} is empty")
            corners = one_ring(parts) / (image.size[1], image.size[0])
            lines.append(f"{number} {' '.join(f'{value:.9g}' for value in corners.ravel())}\n")
        file = (out / "labels" / new.add(image)).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, "".join(lines))
    content = {
        "path": ".",
        "train": "images",
        "val": "images",
        "names": {number: name for name, number in classes.items()},
    }
    write_text(out / "data.yaml", yaml.safe_dump(content, allow_unicode=True, sort_keys=False))


def _recognises(path: Path) -> bool:
    return path.is_dir() and (path / "labels").is_dir() and any(path.glob("*.y*ml"))


YOLO = ToolFormat("yolo", "YOLO segmentation: data.yaml, images/ and labels/", _recognises, read, write)
