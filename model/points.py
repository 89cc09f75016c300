"""READ's similarity as points: where a `[SEG]` state resembles the image most and least becomes point prompts.

Legend: m targets of one image, h · w cells of the similarity grid that lie on the image, K points.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .similarity import fit_longest

INSIDE, OUTSIDE, NEITHER = 1, 0, -1


@dataclass(frozen=True)
class PointRule:
    """How points are chosen: at most `count`, positive from `positive` up, negative up to `negative`.

    down_sample: the similarity grid is made coarser by this factor first.
    """

    count: int = 60
    positive: float = 0.8
    negative: float = 0.2
    down_sample: int = 1


def points_on_image(
    similarity: Tensor, size: tuple[int, int], rule: PointRule, *, cropped: bool
) -> tuple[Tensor, Tensor]:
    """Points in pixels of the original image, and their labels.

    similarity [m, P]: raw dot products with the image tokens; size: (height, width) of the image.
    cropped: the grid covers the image's centre square; otherwise the whole image, padded right and bottom.
    Returns points float32 [m, K, 2] (x, y) and labels int64 [m, K] (1 inside, 0 outside, -1 neither), the positives
    first by falling similarity, then the negatives by rising similarity, then the rest in raster order.
    """
    grid = round(similarity.shape[1] ** 0.5)
    cells = similarity.float().view(-1, 1, grid, grid)
    side = grid // rule.down_sample
    if side != grid:
        cells = F.interpolate(cells, (side, side), mode="bilinear", align_corners=False)
    low, high = cells.amin(dim=(2, 3), keepdim=True), cells.amax(dim=(2, 3), keepdim=True)
    values = ((cells - low) / (high - low + 1e-6)).squeeze(1)
    if cropped:
        extent, corner, rows, columns = (min(size),) * 2, [(full - min(size)) // 2 for full in size], side, side
    else:
        extent, corner = size, (0, 0)
        rows, columns = fit_longest(size, side)
        values = values[:, :rows, :columns]
    places, labels = select_points(values.flatten(1), rule)
    points = refine_points(values, places)
    x, y = points.unbind(-1)
    points = torch.stack([x * (extent[1] / columns) + corner[1], y * (extent[0] / rows) + corner[0]], dim=-1)
    return points, labels


def select_points(values: Tensor, rule: PointRule) -> tuple[Tensor, Tensor]:
    """Indices [m, K] into the cells and labels [m, K] of the points; values [m, h · w] in [0, 1]."""
    cells = values.shape[1]
    raster = torch.arange(cells, device=values.device, dtype=values.dtype) / cells
    positive, negative = values >= rule.positive, values <= rule.negative
    key = torch.where(positive, 1 - values, torch.where(negative, 10 + values, 20 + raster))
    places = key.argsort(dim=1, stable=True)[:, : rule.count]
    kinds = torch.where(positive, INSIDE, torch.where(negative, OUTSIDE, NEITHER))
    return places, kinds.gather(1, places)


def refine_points(values: Tensor, places: Tensor) -> Tensor:
    """Discrete to continuous: each point moves to a weighted mean of cells near it, which keeps it differentiable.

    values [m, h, w]; places [m, K]. The weight of a cell is exp(-distance²) times the softmax of the values (READ).
    Returns float32 [m, K, 2] (x, y) in cells.
    """
    rows, columns = values.shape[1:]
    line_y = torch.arange(rows, device=values.device, dtype=torch.float32)
    line_x = torch.arange(columns, device=values.device, dtype=torch.float32)
    y, x = torch.meshgrid(line_y, line_x, indexing="ij")
    cells = torch.stack([x, y], dim=-1).flatten(0, 1)
    start_x = (places % columns + 0.5).clamp(max=columns - 1)
    start_y = (places // columns + 0.5).clamp(max=rows - 1)
    start = torch.stack([start_x, start_y], dim=-1)
    distance = (start.unsqueeze(2) - cells).square().sum(dim=-1)
    weights = (-distance).exp() * values.flatten(1).softmax(dim=1).unsqueeze(1)
    weights = weights / (weights.sum(dim=2, keepdim=True) + 1e-8)
    return weights @ cells
