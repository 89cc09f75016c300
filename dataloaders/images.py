"""Reading pictures: one way for all data sets, for evaluation and for the demos."""

import os
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dataloaders.repairs import BadEntry
from utils.errors import UserError

MAX_PIXELS = 256 * 1024 * 1024
MAX_ASPECT = 100  # the short side fills the CLIP square, so a sliver would grow without bound


def read_image(path: str | Path, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """The picture as uint8 RGB [H, W, 3], upright as its EXIF orientation says.

    size: (height, width) of the frame that the annotations are drawn in, where they tell it. A picture that has this
        size only without its EXIF rotation is left unrotated, since that is what was annotated; any other size is an
        error.
    """
    path = Path(path)
    image = _open(path)
    if size is not None and size != (image.height, image.width):
        raw = _open(path, upright=False)
        if size != (raw.height, raw.width):
            raise BadEntry(
                f"{path} is {image.height} high and {image.width} wide, but its annotations are for "
                f"{size[0]} × {size[1]}. Image and annotation file do not belong together; fetch both anew.",
                file=str(path),
            )
        image = raw
    return np.asarray(_to_rgb(image))


def coco_number(file_name: str) -> int:
    """The number in a COCO file name, by which a picture is known under all its names; -1 where there is none."""
    match = re.search(r"(\d+)\.\w+$", file_name)
    return int(match[1]) if match and len(match[1]) < 18 else -1


def list_stems(folder: Path, suffix: str) -> np.ndarray:
    """The names without suffix of a folder's files, sorted; an error where there are none."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise UserError(f"{folder} is missing; see dataloaders/README.md for where files go") from error
    stems = sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix))
    if not stems:
        raise UserError(f"{folder}/*{suffix}: nothing there; see dataloaders/README.md for where files go")
    return np.array(stems)


def check_image(rgb: np.ndarray, source: str = "the image") -> None:
    """Refuse an array that is not a picture of usable shape: uint8 RGB, not empty, not a sliver."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise UserError(f"{source} should be uint8 RGB [H, W, 3], it is {rgb.dtype} {list(rgb.shape)}")
    check_size(rgb.shape[0], rgb.shape[1], source)


def check_size(height: int, width: int, source: str) -> None:
    """Refuse dimensions that no picture of ours has, before memory is taken for them."""
    if height < 1 or width < 1:
        raise UserError(f"{source} is empty ({height} × {width} pixels)")
    if height * width > MAX_PIXELS:
        raise UserError(f"{source} has {height} × {width} pixels, more than {MAX_PIXELS}; make it smaller first")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UserError(f"{source} is a strip of {height} × {width} pixels; crop it to less than {MAX_ASPECT} : 1")


def _open(path: Path, *, upright: bool = True) -> Image.Image:
    """Open, check and decode; every way in which a file can be bad becomes a `BadEntry` that names it."""
    try:
        with Image.open(path) as image:
            check_size(image.height, image.width, str(path))
            image.load()
            return ImageOps.exif_transpose(image) if upright else image.copy()
    except FileNotFoundError as error:
        raise BadEntry(
            f"image {path} is missing; see dataloaders/README.md for where images go", file=str(path)
        ) from error
    except IsADirectoryError as error:
        raise BadEntry(f"{path} is a folder, not an image", file=str(path)) from error
    except UnidentifiedImageError as error:
        raise BadEntry(f"{path} is not an image that Pillow can read; fetch it anew", file=str(path)) from error
    except Image.DecompressionBombError as error:
        raise BadEntry(f"{path} is too large: {error}", file=str(path)) from error
    except UserError as error:
        raise BadEntry(str(error), file=str(path)) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadEntry(f"image {path} is damaged ({error}); fetch it anew", file=str(path)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB with 8 bits; 16-bit greys are scaled, where Pillow's own conversion would clip them."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray((np.minimum(values, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")
