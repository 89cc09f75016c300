"""READ's similarity as points: where a `[SEG]` state resembles the image most and least becomes point prompts.

Legend: m targets of one image, P cells (see `similarity.py`), h w rows and columns of the cells that lie on the image,
K points.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dataloaders.batching.batch import Geometry
from model.decoders.base import INSIDE, NEITHER, OUTSIDE
from model.images import centres_at, part_centres, round_half_up
from model.similarity import map_on_image, normalize_scores

REACH = 5  # exp(-5²) is below float32's precision beside 1


@dataclass(frozen=True)
class PointRule:
    """How points are chosen: at most `count`, positive from `positive` up, negative up to `negative`.

    down_sample: the similarity grid is made coarser by this factor first.
    space: where a point is refined, on the "grid" (the reference implementation) or in "pixel"s of the image (READ's
        own code, with which its published weights were trained).
    """

    count: int = 60
    positive: float = 0.8
    negative: float = 0.2
    down_sample: int = 1
    space: str = "grid"


def points_on_image(
    similarity: Tensor, geometry: Geometry, size: tuple[int, int], rule: PointRule
) -> tuple[Tensor, Tensor]:
    """Points in pixels of the original image, and their labels.

    similarity [m, P]: raw dot products with the image tokens; geometry: of their image; size: its (height, width).
    Returns points float32 [m, K, 2] (x, y) and labels int64 [m, K] (1 inside, 0 outside, -1 neither), the positives
    first by falling similarity, then the negatives by rising similarity, then the rest in raster order.
    """
    cells = similarity[:, : geometry.cells].float().unflatten(1, (1, *geometry.grid))  # [m, 1, rows, columns]
    rows, columns = (max(1, side // rule.down_sample) for side in geometry.grid)
    if (rows, columns) != geometry.grid:
        cells = F.interpolate(cells, (rows, columns), mode="bilinear", align_corners=False)
    low, high = cells.amin(dim=(2, 3), keepdim=True), cells.amax(dim=(2, 3), keepdim=True)
    values = ((cells - low) / (high - low + 1e-6)).squeeze(1)
    top, left, height, width = geometry.window
    if geometry.padded:  # leave out the cells of padding
        rows, columns = (
            max(1, round_half_up(size[0] * (rows / height))),
            max(1, round_half_up(size[1] * (columns / width))),
        )
        height, width = size
        values = values[:, :rows, :columns]  # [m, h, w]
    indices, labels = select_points(values.flatten(1), rule)

    def on_image(cells: Tensor) -> Tensor:
        x, y = cells.unbind(-1)
        if geometry.row_centres is not None:
            lines = (part_centres(geometry.column_centres, columns), part_centres(geometry.row_centres, rows))
            return torch.stack([centres_at(lines[0], x), centres_at(lines[1], y)], dim=-1)
        return torch.stack([x * (width / columns) + left, y * (height / rows) + top], dim=-1)

    if rule.space == "grid":
        return on_image(refine_points(values, indices)), labels
    centres = on_image(torch.stack([indices % columns, indices // columns], dim=-1) + 0.5)
    return refine_in_pixels(map_on_image(normalize_scores(similarity), geometry, size), centres), labels


def select_points(values: Tensor, rule: PointRule) -> tuple[Tensor, Tensor]:
    """Indices [m, K] into the cells and labels [m, K] of the points; values [m, h · w] in [0, 1]."""
    cells = values.shape[1]
    raster = torch.arange(cells, device=values.device, dtype=values.dtype) / cells
    positive, negative = values >= rule.positive, values <= rule.negative
    key = torch.where(positive, 1 - values, torch.where(negative, 10 + values, 20 + raster))
    indices = key.argsort(dim=1, stable=True)[:, : rule.count]
    kinds = torch.where(positive, INSIDE, torch.where(negative, OUTSIDE, NEITHER))
    return indices, kinds.gather(1, indices)


def refine_points(values: Tensor, indices: Tensor) -> Tensor:
    """Discrete to continuous: each point moves to a weighted mean of cells near it, which keeps it differentiable.

    values [m, h, w]; indices [m, K]. The weight of a cell is exp(-distance²) times the softmax of the values (READ).
    Returns float32 [m, K, 2] (x, y) in cells.
    """
    rows, columns = values.shape[1:]
    line_y = torch.arange(rows, device=values.device, dtype=torch.float32)
    line_x = torch.arange(columns, device=values.device, dtype=torch.float32)
    y, x = torch.meshgrid(line_y, line_x, indexing="ij")
    cells = torch.stack([x, y], dim=-1).flatten(0, 1)
    start_x = (indices % columns + 0.5).clamp(max=columns - 1)
    start_y = (indices // columns + 0.5).clamp(max=rows - 1)
    start = torch.stack([start_x, start_y], dim=-1)
    distance = (start.unsqueeze(2) - cells).square().sum(dim=-1)
    weights = (-distance).exp() * values.flatten(1).softmax(dim=1).unsqueeze(1)
    weights = weights / (weights.sum(dim=2, keepdim=True) + 1e-8)
    return weights @ cells


def refine_in_pixels(maps: Tensor, points: Tensor) -> Tensor:
    """Points [m, K, 2] (x, y) moved to the weighted mean of the pixels near them, which keeps them differentiable.

    maps [m, H, W] in [0, 1]; points in pixels, truncated to whole ones first. The weight of a pixel is exp(-distance²)
    times the softmax of the map (READ); the softmax's sum cancels, and pixels beyond `REACH` weigh less than float32
    can tell. Returns float32 [m, K, 2].
    """
    height, width = maps.shape[1:]
    line = torch.arange(-REACH, REACH + 1, device=maps.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    window = torch.stack([x, y], dim=-1).flatten(0, 1)  # [N, 2]
    start_x, start_y = points.long().unbind(-1)
    start = torch.stack([start_x.clamp(max=width - 1), start_y.clamp(max=height - 1)], dim=-1)
    pixels = start.unsqueeze(2) + window  # [m, K, N, 2]
    x, y = pixels.unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    values = maps.flatten(1).gather(1, index.flatten(1)).view_as(index)
    weights = (values - window.square().sum(dim=-1)).exp() * inside
    weights = weights / weights.sum(dim=2, keepdim=True)
    return (weights.unsqueeze(-1) * pixels).sum(dim=2)
