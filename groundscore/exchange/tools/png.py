"""Masks as PNG files, by name: each belongs to the image whose name it begins with.

    images/photo.jpg
    masks/photo.png             a mask without a name: --label gives it one
    masks/photo_black cat.png   the mask of "black cat"; also masks/photo/black cat.png
    masks/photo/cat.2.png       a further one of "cat"

In what is written, characters that a file name cannot have are %-escapes.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from PIL import Image

from groundscore.annotations.images import SUFFIXES
from groundscore.annotations.label_maps import read_mask
from groundscore.errors import UserError
from groundscore.exchange.regions import NewImages, RegionImage, ToolFormat, ToolOptions, image_size, region
from groundscore.rle import decode, encode

_IGNORE = "ignore"
_LOSSLESS = (".png", ".bmp", ".gif", ".tif", ".tiff")


def read(path: Path, options: ToolOptions) -> Iterator[RegionImage]:
    """Yields the images of a folder with `images` and `masks`; images without a mask are left out."""
    images, masks = options.images or path / "images", path / "masks"
    if not masks.is_dir():
        masks = path
    files = [file for file in sorted(images.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not files:
        raise UserError(f"{images} has no images; --images DIR says where they are")
    named = {file.relative_to(images).with_suffix("").as_posix(): file for file in files}
    of_image: dict[str, list[tuple[Path, str]]] = {stem: [] for stem in named}
    for mask in sorted(masks.rglob("*")):
        if not mask.is_file() or mask.suffix.lower() not in _LOSSLESS or mask.name.startswith("."):
            continue
        below = mask.relative_to(masks).with_suffix("").as_posix()
        stem = max(
            (stem for stem in named if re.match(re.escape(stem) + r"(?:$|[_/.-])", below)), key=len, default=None
        )
        if stem is None:
            raise UserError(f"{mask} belongs to no image: none in {images} has the beginning of its name")
        of_image[stem].append((mask, re.sub(r"\.\d+$", "", unquote(below[len(stem) + 1 :])) or options.label))
    for stem, file in named.items():
        if of_image[stem]:
            yield _read(file, file.relative_to(images).as_posix(), of_image[stem])


def _read(file: Path, name: str, masks: list[tuple[Path, str]]) -> RegionImage:
    size = image_size(file, str(masks[0][0]))
    regions, ignore = [], None
    for path, label in masks:
        mask = read_mask(path)
        if mask.shape != size:
            raise UserError(f"{path} is {mask.shape} (height, width), the image {size}")
        if not label:
            raise UserError(f"{path} does not say what it shows: name it {path.stem}_NAME.png, or give --label NAME")
        if not mask.any():
            raise UserError(f"{path} is empty; delete it")
        if label == _IGNORE:
            ignore = encode(mask)
        else:
            regions.append(region(label, mask))
    return RegionImage(file, name, size, tuple(regions), ignore, str(file))


def write(images: Iterable[RegionImage], out: Path) -> None:
    """Write `images/` and `masks/`, a folder for each image."""
    new = NewImages(out / "images")
    for image in images:
        folder = out / "masks" / Path(new.add(image)).with_suffix("")
        write_masks(image, folder)


def write_masks(image: RegionImage, folder: Path) -> None:
    """Write the masks of an image into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    count: dict[str, int] = {}
    masks = [(one.label, one.mask) for one in image.regions] + ([(_IGNORE, image.ignore)] if image.ignore else [])
    for label, mask in masks:
        name = quote(label, safe=" ,'()+=!&")[:150].strip(".") or "mask"
        count[name] = count.get(name, 0) + 1
        number = f".{count[name]}" if count[name] > 1 or re.search(r"\.\d+$", name) else ""
        Image.fromarray(decode(mask) * 255).save(folder / f"{name}{number}.png")


def _recognises(path: Path) -> bool:
    return path.is_dir() and (path / "masks").is_dir()


PNG = ToolFormat("png", "masks as PNG by name: images/ and masks/", _recognises, read, write)
