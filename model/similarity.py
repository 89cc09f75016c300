"""The similarity of a `[SEG]` state to the image tokens: scores of the cells of the grid, and a map on the image.

Legend: S targets, m targets of one image, P cells of the largest grid of a batch (an image with fewer repeats its first
cell, which changes neither minimum nor maximum), h w rows and columns of an image's own grid, H W original size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dataloaders.batching.batch import Geometry
from model.images import bilinear_line, fitted_size, round_half_up, spreading_lines, twice_bilinear_line

REFERENCE_SIDE = 336  # the square through which the reference implementation resamples, whatever the CLIP size


def similarity_scores(states: Tensor, image_tokens: Tensor) -> Tensor:
    """Dot products, min-max normalised per target to [0, 1]; a constant map becomes 0.

    states [S, D], image_tokens [S, P, D] -> float32 [S, P].
    """
    return normalize_scores(similarities(states, image_tokens))


def similarities(states: Tensor, image_tokens: Tensor) -> Tensor:
    """Dot products of states [S, D] with image tokens [S, P, D], computed in float32 -> [S, P].

    They differ little beside their size: rounded to bfloat16, the 576 of a map have some 20 values.
    """
    return torch.einsum("sd,spd->sp", states.float(), image_tokens.float())


def normalize_scores(scores: Tensor) -> Tensor:
    """Min-max to [0, 1] per target, [S, P] -> float32 [S, P]; a constant map becomes 0."""
    scores = scores.float()
    low = scores.amin(dim=1, keepdim=True)
    span = scores.amax(dim=1, keepdim=True) - low
    return (scores - low) / torch.where(span > 0, span, torch.ones_like(span))


def map_on_image(scores: Tensor, geometry: Geometry, size: tuple[int, int]) -> Tensor:
    """The map [m, H, W] of scores [m, P] on an image of `size`; 0 where the pixels that were encoded do not reach."""
    return map_along(scores, geometry, map_lines(geometry, size, scores.device))


def map_along(scores: Tensor, geometry: Geometry, lines: tuple[Tensor, Tensor]) -> Tensor:
    """`map_on_image` with its `map_lines`, which need not be made for every map of an image."""
    rows, columns = lines
    return rows @ scores[:, : geometry.cells].unflatten(1, geometry.grid) @ columns.T


def map_lines(geometry: Geometry, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """float32 [H, h] and [W, w]: how much the rows and columns of the grid count in those of an image of `size`."""
    if geometry.row_centres is not None:
        return spreading_lines(geometry, geometry.grid, size)
    *first, height, width = geometry.window
    if not geometry.padded:
        lines = []
        for cells, start, pixels, length in zip(geometry.grid, first, (height, width), size, strict=True):
            lines.append(F.pad(bilinear_line(cells, pixels, device), (0, 0, start, length - pixels - start)))
        return lines[0], lines[1]
    # Through a square of the reference's, of which the image's part is resized again.
    square = fitted_size(height, width, REFERENCE_SIDE)
    parts = (max(1, round_half_up(side * (REFERENCE_SIDE / max(height, width)))) for side in size)
    rows, columns = (
        twice_bilinear_line(*each, device) for each in zip(geometry.grid, square, parts, size, strict=True)
    )
    return rows, columns
