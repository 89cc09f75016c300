"""Reading images: one way for all data sets, for evaluation and for the demos."""

import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from groundscore.annotations.bad_entries import BadEntry
from groundscore.annotations.image_files import SIZE, WHERE, check_size, is_turned, open_image, upright, usual_top
from groundscore.errors import UserError
from groundscore.names import require_some
from groundscore.reading import MISSING

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")


def read_image(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    pixels: int | None = None,
    content: bytes | None = None,
    missing: str = WHERE,
) -> np.ndarray:
    """Returns the image as uint8 RGB [H, W, 3], upright as its EXIF orientation says, on white where it is transparent.

    size: (height, width) of the frame that the annotations are drawn in, where they tell it. An image that has this
        size only without its EXIF rotation is left unrotated, since that is what was annotated; any other size is an
        error.
    pixels, content, missing: how many it may have, its bytes if `path` is only a name, and what to say when there is no
        such file; see `open_image`.
    """
    path = Path(path)
    return _in_frame(open_image(path, pixels=pixels, content=content, missing=missing), path, size)[0]


def read_reduced(
    path: Path, *, size: tuple[int, int] | None = None, least: int = 0
) -> tuple[np.ndarray, tuple[int, int]]:
    """As `read_image`, but a JPEG may be decoded smaller, a half, a quarter or an eighth of its size.

    least: pixels that its longer side keeps; 0 decodes all at their full size.
    Returns the pixels uint8 [h, w, 3], and the size (height, width) of the full image, which is that of its masks.
    """
    return _in_frame(open_image(path, least=least or None), path, size)


def _in_frame(raw: Image.Image, path: Path, size: tuple[int, int] | None) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels of an opened image, upright or as they are stored, by which has the `size` of its annotations; and the
    size that the image has at its full size."""
    stored = raw.info[SIZE]
    full = stored[::-1] if is_turned(raw, path) else stored
    if size is None or size == full:
        return np.asarray(_to_rgb(upright(raw, path), path)), full
    _check_frame(path, size, stored, full)
    return np.asarray(_to_rgb(raw, path)), stored


def check_image_file(path: Path, *, size: tuple[int, int]) -> None:
    """Raises where `read_image` would, in half the time: a JPEG is decoded at an eighth of its size."""
    image = open_image(path, least=1)
    stored = image.info[SIZE]
    _check_frame(path, size, stored, stored[::-1] if is_turned(image, path) else stored)


def _check_frame(path: Path, size: tuple[int, int], stored: tuple[int, int], upright: tuple[int, int]) -> None:
    """Raises `BadEntry` where an image has the size of its annotations neither as stored nor upright."""
    if size not in (stored, upright):
        raise BadEntry(
            f"{path} is {upright[0]} high and {upright[1]} wide, but its annotations are for "
            f"{size[0]} × {size[1]}. Image and annotation file do not match; download both again.",
            file=str(path),
        )


def coco_number(file_name: str) -> int:
    """Returns the number in a COCO file name, by which an image is known under all its names; -1 for none."""
    match = re.search(r"(\d+)\.\w+$", file_name)
    return int(match[1]) if match and len(match[1]) < 18 else -1


def list_stems(folder: Path, suffix: str) -> np.ndarray:
    """Returns the names without suffix of a folder's files, sorted; raises `UserError` where there are none."""
    stems = sorted(name.removesuffix(suffix) for name in list_names(folder) if name.endswith(suffix))
    require_some(stems, f"{folder}/*{suffix}")
    return np.array(stems)


def list_images(folder: Path) -> dict[str, str]:
    """Returns the names of a folder's image files by their stems, sorted."""
    images: dict[str, str] = {}
    for name in sorted(list_names(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in SUFFIXES:
            if stem in images:
                raise UserError(f"{folder} has two images {images[stem]} and {name} of one name; remove one of them")
            images[stem] = name
    return images


def list_names(folder: Path) -> list[str]:
    """Returns the names in a folder without those that begin with a dot, as other programs leave (macOS ._x.jpg)."""
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} is missing; {MISSING}") from error


def check_image(rgb: np.ndarray, source: str = "the image") -> None:
    """Raises `UserError` for an array that is no image of usable shape: uint8 RGB, not empty, not a sliver."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise UserError(f"{source} should be uint8 RGB [H, W, 3], it is {rgb.dtype} {list(rgb.shape)}")
    check_size(rgb.shape[0], rgb.shape[1], source)


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Returns 8-bit RGB by the real range of the values, and on white."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_to_bytes(np.asarray(image), path))
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def _to_bytes(grey: np.ndarray, path: Path) -> np.ndarray:
    """Returns greys of more than 8 bits as uint8 [H, W].

    Their range is that of the smallest usual depth that holds them all (0 to 1 for fractions), or from the lowest to
    the highest where no depth does.
    """
    values = grey.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise BadEntry(f"{path} contains pixels that are not finite numbers", file=str(path))
    if low < 0 or high >= 2**16:
        floor, top = low, high
    elif high <= 1 and grey.dtype.kind == "f":
        floor, top = 0.0, 1.0
    else:
        floor, top = 0.0, usual_top(high)
    return np.rint((values - floor) * (255 / max(top - floor, 1e-30))).astype(np.uint8)
