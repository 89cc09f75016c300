"""Drawing masks and similarity maps over images, and the colours that answers and masks share.

All functions take and return uint8 RGB arrays [H, W, 3]; masks are boolean [n, H, W], maps are [H, W] in [0, 1].
"""

import re
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from PIL import Image

from groundscore.targets import SEG

Colour = tuple[int, int, int]

# Bright enough for a photo, dark enough for white text, and told apart by most colour-blind readers.
COLOURS: tuple[Colour, ...] = (
    (230, 57, 70),
    (29, 122, 220),
    (22, 160, 90),
    (240, 140, 0),
    (142, 68, 200),
    (0, 160, 175),
    (214, 51, 132),
    (130, 105, 20),
)
IGNORE_COLOUR: Colour = (150, 150, 150)


def colour_of(target: int) -> Colour:
    """The colour of the target of this index, of its mask and of its `[SEG]` alike."""
    return COLOURS[target % len(COLOURS)]


def split_targets(text: str) -> list[tuple[str, int | None]]:
    """An answer cut at its targets: pieces of text with None, and every `[SEG]` with its index from 0."""
    pieces, end = [], 0
    for number, match in enumerate(re.finditer(re.escape(SEG), text)):
        if match.start() > end:
            pieces.append((text[end : match.start()], None))
        pieces.append((match.group(), number))
        end = match.end()
    return pieces + ([(text[end:], None)] if end < len(text) else [])


def overlay(
    image: np.ndarray,
    masks: np.ndarray | Sequence[np.ndarray],
    colours: Iterable[Colour] = COLOURS,
    *,
    alpha: float = 0.5,
    dim: float = 0.0,
    contour: int | None = None,
) -> np.ndarray:
    """Returns the image with every mask in its colour, outlined in white.

    The colour is mixed with the image's own pixels (where masks overlap, the later one shows), so that no mask hides
    what it covers. `dim` fades what lies outside all masks to a dark grey. `contour` is the width of the outline in
    pixels, by default 1/300 of the longer side; 0 for none.

    Raises ValueError for a mask of another size.
    """
    palette = list(colours)
    if contour is None:
        contour = max(1, round(max(image.shape[:2]) / 300))
    masks = [np.asarray(mask, dtype=bool) for mask in masks]
    for mask in masks:
        if mask.shape != image.shape[:2]:
            raise ValueError(f"a mask of {mask.shape} does not fit an image of {image.shape[:2]}")
    drawn = image.copy()
    if dim and any(mask.any() for mask in masks):
        outside = ~np.logical_or.reduce(masks)
        dark_grey = 0.6 * cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
        drawn[outside] = np.rint((1 - dim) * image + dim * dark_grey).astype(np.uint8)[outside]
    for number, inside in enumerate(masks):
        colour = np.array(palette[number % len(palette)], dtype=np.float32)
        drawn[inside] = np.rint((1 - alpha) * image[inside] + alpha * colour).astype(np.uint8)
    if contour:
        for mask in masks:
            outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            drawn = np.ascontiguousarray(drawn)
            cv2.drawContours(drawn, outlines, -1, (255, 255, 255), contour, cv2.LINE_AA)
    return drawn


def heat_map(image: np.ndarray, similarity: np.ndarray, *, alpha: float = 0.65) -> np.ndarray:
    """Returns a similarity map over the grey image: dark where it is 0, bright yellow where it is 1."""
    if similarity.shape != image.shape[:2]:
        raise ValueError(f"a map of {similarity.shape} does not fit an image of {image.shape[:2]}")
    levels = np.rint(np.clip(np.nan_to_num(similarity), 0, 1) * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return np.rint((1 - alpha) * grey + alpha * colours.astype(np.float32)).astype(np.uint8)


def size_within(image: np.ndarray, side: int, *, enlarge: bool = True) -> tuple[int, int]:
    """(width, height) of the image [H, W, …] scaled so that its longer side is `side`, or at most that."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    scale = scale if enlarge else min(1.0, scale)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the mask [H, W], pixels that are not 0, as bool at another (width, height)."""
    image = Image.fromarray((mask != 0).astype(np.uint8) * 255)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR)) > 127


def ansi(text: str, colour: Colour) -> str:
    """Returns `text` on a background of `colour`, for a terminal."""
    red, green, blue = colour
    return f"\x1b[1;97;48;2;{red};{green};{blue}m{text}\x1b[0m"
