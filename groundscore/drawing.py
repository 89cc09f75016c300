"""Drawing masks and similarity maps over images; `colours.py` says in which colours.

All functions take and return uint8 RGB arrays [H, W, 3]; masks are boolean [n, H, W], maps are [H, W] in [0, 1].
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from groundscore.colours import BLACK, WHITE, Colour, choose_colours, text_on
from groundscore.targets import SEG

SMALLEST_NUMBERED = 96  # longer side of an image, in pixels


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
    colours: Iterable[Colour] | None = None,
    *,
    alpha: float = 0.5,
    dim: float = 0.0,
    contour: int | None = None,
    numbers: Sequence[int] = (),
) -> np.ndarray:
    """Returns the image with every mask in its colour, outlined in white on black.

    The colour is mixed with the image's own pixels, so that no mask hides what it covers; where masks overlap, their
    colours alternate in stripes. colours: by default chosen for the image (`choose_colours`). `dim` fades what lies
    outside all masks to a dark grey. `contour` is the width of the white line in pixels, by default 1/400 of the longer
    side; 0 for none. numbers: of the masks, each drawn at a point inside it; none where there is no room for them.

    Raises ValueError for a mask of another size.
    """
    masks = [np.asarray(mask, dtype=bool) for mask in masks]
    for mask in masks:
        if mask.shape != image.shape[:2]:
            raise ValueError(f"a mask of {mask.shape} does not fit an image of {image.shape[:2]}")
    palette = choose_colours(image, masks) if colours is None else list(colours)
    palette = [palette[number % len(palette)] for number in range(len(masks))]
    if contour is None:
        contour = max(1, round(max(image.shape[:2]) / 400))
    drawn = image.copy()
    if dim and any(mask.any() for mask in masks):
        outside = ~np.logical_or.reduce(masks)
        dark_grey = 0.6 * cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
        drawn[outside] = np.rint((1 - dim) * image + dim * dark_grey).astype(np.uint8)[outside]
    for shown, colour in zip(_striped(masks), palette, strict=True):
        drawn[shown] = _mixed(image[shown], colour, alpha)
    if contour:
        _draw_outlines(drawn, masks, contour)
    if len(numbers) and max(image.shape[:2]) >= SMALLEST_NUMBERED:
        drawn = _with_numbers(drawn, masks, palette, numbers)
    return drawn


def _mixed(pixels: np.ndarray, colour: Colour, alpha: float) -> np.ndarray:
    """Pixels [k, 3] mixed with a colour, of which they get the share `alpha`."""
    levels = np.arange(256, dtype=np.float32)
    tables = [np.rint((1 - alpha) * levels + alpha * value).astype(np.uint8) for value in colour]
    return np.stack([table[pixels[:, channel]] for channel, table in enumerate(tables)], axis=1)


def _striped(masks: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields where each mask's colour shows: all of it, but of pixels that k masks cover every k-th stripe only."""
    if not masks:
        return
    covered = np.zeros(masks[0].shape, np.uint8)
    for mask in masks:
        covered += mask
    if covered.max() <= 1:
        yield from masks
        return
    width = max(2, round(max(covered.shape) / 90))
    rows, columns = (np.arange(length, dtype=np.int32) for length in covered.shape)
    turn = ((rows[:, None] + columns) // width % np.maximum(covered, 1)).astype(np.uint8)  # whose stripe this is
    before = np.zeros_like(covered)
    for mask in masks:
        yield mask & (turn == before)
        before += mask


def _draw_outlines(drawn: np.ndarray, masks: Sequence[np.ndarray], width: int) -> None:
    """Draws outlines that show on any image: white, with a black edge on either side."""
    outlines = []
    for mask in masks:
        outlines += cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
    for colour, thickness in ((BLACK, width + 2 * max(1, round(width * 0.6))), (WHITE, width)):
        cv2.drawContours(drawn, outlines, -1, colour, thickness, cv2.LINE_AA)


# --- numbers ----------------------------------------------------------------------------------------------------------


def label_points(masks: Sequence[np.ndarray], apart: float = 0.0) -> list[tuple[int, int] | None]:
    """Returns for every mask (bool [H, W]) a point (x, y) inside it, far from its edges; None for an empty one.

    Where it can be it lies in no other mask, and `apart` pixels from the points before.
    """
    covered = sum((mask.astype(np.uint8) for mask in masks), start=np.uint8(0))
    points: list[tuple[int, int] | None] = []
    for mask in masks:
        taken = [point for point in points if point is not None]
        choices = (lambda m=mask: m & (covered == 1), lambda m=mask: m)
        found = None
        for choice in choices:
            found = _deepest(choice(), taken, apart)
            if found is not None:
                break
        points.append(found if found is not None else _deepest(mask, (), 0))
    return points


def _deepest(mask: np.ndarray, taken: Sequence[tuple[int, int]], apart: float) -> tuple[int, int] | None:
    """The point (x, y) of a mask that is farthest from its edge, `apart` from those that are taken, or None."""
    box = cv2.boundingRect(mask.astype(np.uint8))
    left, top, width, height = box
    if not width:
        return None
    step = max(1, max(width, height) // 400)  # pixels of the mask itself, however coarse
    inside = mask[top : top + height : step, left : left + width : step]
    if not inside.any():
        step, inside = 1, mask[top : top + height, left : left + width]
    depth = cv2.distanceTransform(np.pad(inside.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.ogrid[top : top + height : step, left : left + width : step]
    for other_x, other_y in taken:
        depth = np.where((x - other_x) ** 2 + (y - other_y) ** 2 >= apart**2, depth, 0)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return (left + int(column) * step, top + int(row) * step) if depth[row, column] > 0 else None


def _with_numbers(
    drawn: np.ndarray, masks: Sequence[np.ndarray], palette: Sequence[Colour], numbers: Sequence[int]
) -> np.ndarray:
    """Draws each number on a badge of its mask's colour, which readers tell from the image by its two edges."""
    size = max(11, round(max(drawn.shape[:2]) / 34))
    sheet = Image.fromarray(drawn)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    for point, colour, number in zip(label_points(masks, 1.7 * size), palette, numbers, strict=True):
        if point is None:
            continue
        half = max(0.72 * size, pen.textlength(str(number), font) / 2 + 0.35 * size)
        # Near the image's edge the badge moves in, so that all of it is seen.
        x, y = (
            min(max(value, reach + 2), max(length - reach - 3, length / 2))
            for value, reach, length in zip(point, (half, 0.72 * size), sheet.size, strict=True)
        )
        ink, edge = text_on(colour), max(1, round(size / 12))
        for grown, fill in ((2 * edge, BLACK if ink == WHITE else WHITE), (edge, ink), (0, colour)):
            box = (x - half - grown, y - 0.72 * size - grown, x + half + grown, y + 0.72 * size + grown)
            pen.rounded_rectangle(box, 0.72 * size + grown, fill)
        pen.text((x, y), str(number), ink, font, anchor="mm")
    return np.asarray(sheet)


def cut_out(image: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Returns what the masks cover as uint8 RGBA [H, W, 4], black and transparent elsewhere."""
    alpha = np.zeros(image.shape[:2], np.uint8)
    for mask in masks:
        alpha[np.asarray(mask) != 0] = 255
    return np.dstack([np.where(alpha[..., None] > 0, image, 0), alpha])


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
    (red, green, blue), ink = colour, 30 if text_on(colour) == BLACK else 97
    return f"\x1b[1;{ink};48;2;{red};{green};{blue}m{text}\x1b[0m"
