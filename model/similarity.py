"""The similarity of a `[SEG]` state to the image tokens: scores of the cells of the grid, and a map on the image.

Legend: S targets, m targets of one image, P cells of the largest grid of a batch (an image with fewer repeats its first
cell, which changes neither minimum nor maximum), h w rows and columns of an image's own grid, H W original size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dataloaders.batching.batch import Geometry
from model.images import bilinear_line, fitted_size, round_half_up, spread_cells, twice_bilinear_line

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
    cells = scores[:, : geometry.cells].unflatten(1, geometry.grid)  # [m, h, w]
    if geometry.row_centres is not None:
        return spread_cells(cells, geometry, size)
    top, left, height, width = geometry.window
    if not geometry.padded:
        rows, columns = (bilinear_line(*each, cells.device) for each in zip(geometry.grid, (height, width)))
        return F.pad(rows @ cells @ columns.T, (left, size[1] - width - left, top, size[0] - height - top))
    # Through a square of the reference's, of which the image's part is resized again.
    square = fitted_size(height, width, REFERENCE_SIDE)
    parts = (max(1, round_half_up(side * (REFERENCE_SIDE / max(height, width)))) for side in size)
    lines = zip(geometry.grid, square, parts, size, strict=True)
    rows, columns = (twice_bilinear_line(*each, cells.device) for each in lines)
    return rows @ cells @ columns.T
