"""Images as tiles: squares of the encoder's size that are cut from the enlarged image, beside a view of the whole.

Two rules are in use. LLaVA 1.6 and LLaVA-OneVision ("anyres") fit the image into the best of given canvases and pad it,
and leave the cells of padding out again after the encoder; InternVL stretches it to the grid of tiles whose proportions
are nearest. The tokens of the view of the whole are no cells of the image's grid: they show the same again, coarsely.

Legend: S side of a tile in pixels, p cells along a side of a tile, t tiles, h w rows and columns of the image's grid,
D width, n images of one group.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.image_processing_utils import select_best_resolution

from dataloaders.batching.batch import Geometry, ImageGroup
from groundscore.annotations.images import check_image
from groundscore.errors import UserError, shown
from model.images import resized

SHRINK_ABOVE = 1.1  # times more cells along a side than allowed: fewer are left as they are (LLaVA-OneVision)


@dataclass(frozen=True)
class Tiling:
    """side, cell: of a tile and of a cell in pixels; a tile has as many whole cells along a side as fit into it."""

    side: int
    cell: int

    @property
    def cells(self) -> int:
        """p."""
        return self.side // self.cell

    def centres(self, tiles: int) -> np.ndarray:
        """float64 [tiles · p]: the centres of the cells along a line of tiles, in pixels."""
        starts = np.arange(tiles)[:, None] * self.side
        return (starts + (np.arange(self.cells) + 0.5) * self.cell).ravel()

    def cut(self, canvas: Tensor) -> Tensor:
        """uint8 [3, rows · S, columns · S] → [rows · columns, 3, S, S] in raster order."""
        lines = canvas.unflatten(2, (-1, self.side)).unflatten(1, (-1, self.side))  # [3, rows, S, columns, S]
        return lines.permute(1, 3, 0, 2, 4).flatten(0, 1)

    def whole(self, rgb: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] → [1, 3, S, S]: the whole image, stretched to a square."""
        return resized(rgb, (self.side, self.side), Image.Resampling.BICUBIC).unsqueeze(0)


# --- anyres ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnyresPreparation:
    """An image as LLaVA 1.6 and LLaVA-OneVision see it: the whole, then the tiles of the best canvas.

    canvases: (height, width) of each, whole tiles; most_tiles: how many tiles' worth of cells are kept at most, or None
    for all. The pixels are those of transformers' `LlavaNextImageProcessorPil` and `LlavaOnevisionImageProcessorPil`.
    """

    tiling: Tiling
    canvases: tuple[tuple[int, int], ...]
    most_tiles: int | None = None

    def __call__(self, rgb: np.ndarray) -> tuple[Tensor, Geometry]:
        """uint8 [H, W, 3] → uint8 [1 + t, 3, S, S], and where it lies."""
        check_image(rgb)
        size = rgb.shape[:2]
        canvas = select_best_resolution(size, self.canvases)
        tiles = (0, 0) if canvas is None else (canvas[0] // self.tiling.side, canvas[1] // self.tiling.side)
        if canvas is None or min(self.grid(tiles, size)) < 1:
            raise UserError(f"an image of {size[1]} x {size[0]} pixels is too thin to be cut into tiles; crop it")
        scale = min(canvas[0] / size[0], canvas[1] / size[1])
        fitted = tuple(min(math.ceil(length * scale), most) for length, most in zip(size, canvas))
        start = tuple((most - length) // 2 for length, most in zip(fitted, canvas))
        kept, grid = self.kept_cells(tiles, size), self.grid(tiles, size)
        pixels = torch.zeros(3, *canvas, dtype=torch.uint8)
        pixels[:, start[0] : start[0] + fitted[0], start[1] : start[1] + fitted[1]] = resized(
            rgb, fitted, Image.Resampling.BICUBIC
        )
        base = self.tiling.cells**2
        rows = torch.arange(grid[0]).unsqueeze(1) * (grid[1] + 1)  # every row ends in a token for the line break
        row_centres, column_centres = (
            torch.from_numpy(((line - begin) * (length / held)).astype(np.float32))
            for line, begin, length, held in zip(self._centres(tiles, kept, grid), start, size, fitted)
        )
        return torch.cat([self.tiling.whole(rgb), self.tiling.cut(pixels)]), Geometry(
            size=fitted,
            window=(0, 0, *size),
            padded=False,
            grid=grid,
            tokens=base + grid[0] * (grid[1] + 1),
            tiles=tiles,
            cell_tokens=base + (rows + torch.arange(grid[1])).flatten(),
            row_centres=row_centres,
            column_centres=column_centres,
        )

    def kept_cells(self, tiles: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and the columns of the canvas's cells that show an image of `size`, (H, W); padding is left out.

        As many are cut on either side as fit into the padding there, counted in whole cells of the image's own length
        (LLaVA 1.6): up to half a cell of the image may be lost at either end, and as much of padding may stay.
        """
        rows, columns = (count * self.tiling.cells for count in tiles)
        height, width = size
        if width / height > columns / rows:
            cut = (rows - int(round(height * (columns / width), 7))) // 2
            return slice(cut, rows - cut), slice(0, columns)
        cut = (columns - int(round(width * (rows / height), 7))) // 2
        return slice(0, rows), slice(cut, columns - cut)

    def grid(self, tiles: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the cells that the LLM reads of an image of `size`: the kept ones, or fewer of them resampled."""
        rows, columns = (each.stop - each.start for each in self.kept_cells(tiles, size))
        if self.most_tiles is None:
            return rows, columns
        ratio = math.sqrt(rows * columns / (self.most_tiles * self.tiling.cells**2))
        return (int(rows // ratio), int(columns // ratio)) if ratio > SHRINK_ABOVE else (rows, columns)

    def _centres(self, tiles: tuple[int, int], kept: tuple[slice, slice], grid: tuple[int, int]) -> list[np.ndarray]:
        """The centres of the grid's rows and of its columns, in pixels of the canvas."""
        lines = []
        for count, of_kept, cells in zip(tiles, kept, grid):
            centres = self.tiling.centres(count)[of_kept]
            along = (np.arange(cells) + 0.5) * (len(centres) / cells) - 0.5
            lines.append(np.interp(along, np.arange(len(centres)), centres))
        return lines

    def pack(
        self, squares: list[Tensor], groups: list[ImageGroup], with_break: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """The LLM's tokens [n, tokens, D] of each group's images: those of the whole, then the grid with line breaks.

        squares [n, 1 + t, p², D]: the tokens of each group's squares; with_break: called once, see `LineBreak`.
        """
        grids = [
            torch.stack([self._grid_of(*image) for image in zip(of_group, group.geometries, strict=True)])
            for of_group, group in zip(squares, groups, strict=True)
        ]  # [n, h, w, D] each
        cells = [grid.flatten(0, 2) for grid in grids]
        *cells, end = with_break(torch.cat(cells)).split([*map(len, cells), 1])
        ended = [
            torch.cat([each.view_as(grid), end.expand(*grid.shape[:2], 1, -1)], dim=2)
            for each, grid in zip(cells, grids, strict=True)
        ]
        return [torch.cat([whole[:, 0], grid.flatten(1, 2)], dim=1) for whole, grid in zip(squares, ended, strict=True)]

    def _grid_of(self, tokens: Tensor, geometry: Geometry) -> Tensor:
        """The grid [h, w, D] of an image, from the tokens [1 + t, p², D] of its squares."""
        cells, (rows, columns) = self.tiling.cells, geometry.tiles
        canvas = tokens[1:].unflatten(1, (cells, cells)).unflatten(0, (rows, columns))  # [rows, columns, p, p, D]
        canvas = canvas.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # [rows · p, columns · p, D]
        of_rows, of_columns = self.kept_cells(geometry.tiles, geometry.window[2:])
        grid = canvas[of_rows, of_columns]
        if grid.shape[:2] != geometry.grid:
            channels = grid.permute(2, 0, 1).unsqueeze(0)  # [1, D, rows, columns]
            grid = F.interpolate(channels, geometry.grid, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        return grid


class LineBreak(nn.Module):
    """The learned token that ends every row of an image's grid.

    It is a module of its own, called once with one tensor: ZeRO 3 fetches and counts weights by the calls of modules.
    """

    def __init__(self, weight: nn.Parameter):
        """weight [D]."""
        super().__init__()
        self.weight = weight

    def forward(self, cells: Tensor) -> Tensor:
        """The cells [N, D] of all images → [N + 1, D], the token behind them."""
        return torch.cat([cells, self.weight.to(cells.dtype).unsqueeze(0)])


def in_one_call(run: Callable[[Tensor], Tensor], groups: list[Tensor]) -> list[Tensor]:
    """[n, t, …] of each group: what `run` makes of the squares [m, …] of all groups, [n, t, …] each.

    ZeRO 3 fetches weights call by call, on all processes together, and these may hold other numbers of groups.
    """
    squares = [each.flatten(0, 1) for each in groups]
    made = run(torch.cat(squares)).split([len(each) for each in squares])
    return [each.unflatten(0, group.shape[:2]) for each, group in zip(made, groups, strict=True)]


def tiles_summary(side: int) -> str:
    """How images are seen, in a few words for the card of a model."""
    return f"the whole image and tiles of it, {side} pixels each"


def check_map_geometry(config: PreTrainedConfig) -> None:
    """Raises `UserError` for maps that are placed as on a padded square."""
    if config.map_geometry == "reference":
        raise UserError("--map_geometry reference: an image in tiles is no padded square; use fit")


def checked_canvases(canvases: Sequence[Sequence[int]], side: int) -> tuple[tuple[int, int], ...]:
    """The canvases as `AnyresPreparation` takes them; `UserError` for one that is not of whole tiles."""
    for canvas in canvases:
        is_pair = isinstance(canvas, list | tuple) and len(canvas) == 2
        if not is_pair or any(type(length) is not int or length < side or length % side for length in canvas):
            raise UserError(
                f"image_grid_pinpoints: {shown(canvas)} should be two multiples of {side}, the image encoder's side"
            )
    return tuple((height, width) for height, width in canvases)


# --- InternVL --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StretchedTiles:
    """An image as InternVL sees it: at least `fewest` and at most `most` tiles, and the whole where they are several.

    The pixels are those of transformers' `GotOcr2ImageProcessorPil`, which is InternVL's.
    """

    tiling: Tiling
    fewest: int
    most: int

    def __call__(self, rgb: np.ndarray) -> tuple[Tensor, Geometry]:
        """uint8 [H, W, 3] → uint8 [t + 1, 3, S, S], or [1, 3, S, S] for a single tile, and where it lies."""
        check_image(rgb)
        size, side, cells = rgb.shape[:2], self.tiling.side, self.tiling.cells
        tiles = self.arrangement(size)
        canvas = (tiles[0] * side, tiles[1] * side)
        squares = [self.tiling.cut(resized(rgb, canvas, Image.Resampling.BICUBIC))]
        if tiles != (1, 1):
            squares.append(self.tiling.whole(rgb))
        pixels = torch.cat(squares)
        order = torch.arange(math.prod(tiles) * cells**2).view(*tiles, cells, cells)  # of the tiles' tokens
        row_centres, column_centres = (
            torch.from_numpy((self.tiling.centres(count) * (length / held)).astype(np.float32))
            for count, length, held in zip(tiles, size, canvas)
        )
        return pixels, Geometry(
            size=canvas,
            window=(0, 0, *size),
            padded=False,
            grid=(tiles[0] * cells, tiles[1] * cells),
            tokens=len(pixels) * cells**2,
            tiles=tiles,
            cell_tokens=order.transpose(1, 2).flatten(),
            row_centres=row_centres,
            column_centres=column_centres,
        )

    def arrangement(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of the tiles of an image of `size`, (H, W): those whose proportions are nearest to its own.

        Of several that are equally near it is the last one, in ascending order of their number, that does not take more
        than twice the pixels of the image (InternVL).
        """
        height, width = size
        sides = range(1, self.most + 1)
        possible = [(rows, columns) for columns in sides for rows in sides if self._allows(rows * columns)]
        best, distance = (1, 1), math.inf
        for rows, columns in sorted(possible, key=math.prod):
            off = abs(width / height - columns / rows)
            is_larger_of_equals = off == distance and height * width > 0.5 * self.tiling.side**2 * rows * columns
            if off < distance or is_larger_of_equals:
                best, distance = (rows, columns), off
        return best

    def _allows(self, tiles: int) -> bool:
        return self.fewest <= tiles <= self.most
