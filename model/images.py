"""Images on their way into an encoder: uint8 arrays are resized on the host, and normalised on the device.

Constants and sizes go into device operations as numbers: a tensor made of them would be copied, and the device waited
for.

Legend: n images of one shape, H W original size, S side of a square, h w rows and columns of a grid.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dataloaders.batching.batch import Geometry
from groundscore.annotations.images import check_image

SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


# --- on the host -----------------------------------------------------------------------------------------------------


def round_half_up(value: float) -> int:
    """The nearest whole number to one that is not negative, the upper of two (Python's `round` takes the even one)."""
    return int(value + 0.5)


def fitted_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) after scaling the longest side to `side`, rounded half up, at least one pixel."""
    scale = side / max(height, width)
    return max(1, round_half_up(height * scale)), max(1, round_half_up(width * scale))


def fit_and_pad(rgb: np.ndarray, side: int, grid: tuple[int, int], tokens: int = 0) -> tuple[Tensor, Geometry]:
    """The whole image in the top left of a square: bilinear to the longest side, zeros at the right and the bottom.

    rgb uint8 [H, W, 3] → uint8 [3, S, S]; grid, tokens: of the square, see `Geometry`.
    """
    check_image(rgb)
    size, longest = fitted_size(rgb.shape[0], rgb.shape[1], side), max(rgb.shape[:2])
    square = torch.zeros(3, side, side, dtype=torch.uint8)
    square[:, : size[0], : size[1]] = resized(rgb, size, Image.Resampling.BILINEAR)
    return square, Geometry(size, (0, 0, longest, longest), True, grid, tokens)


def fill_and_crop(rgb: np.ndarray, side: int, grid: tuple[int, int], tokens: int = 0) -> tuple[Tensor, Geometry]:
    """The image's centre square: bicubic to the shortest side, the pixels of transformers' `CLIPImageProcessorPil`.

    rgb uint8 [H, W, 3] → uint8 [3, S, S]; grid, tokens: of the square, see `Geometry`.
    """
    check_image(rgb)
    height, width = rgb.shape[:2]
    if width <= height:
        size = int(side * height / width), side
    else:
        size = side, int(side * width / height)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    pixels = resized(rgb, size, Image.Resampling.BICUBIC)[:, top : top + side, left : left + side].contiguous()
    return pixels, Geometry((side, side), centre_window((height, width)), False, grid, tokens)


def stretch(rgb: np.ndarray, side: int, grid: tuple[int, int]) -> tuple[Tensor, Geometry]:
    """The whole image as a square, whatever its proportions, bilinear.

    rgb uint8 [H, W, 3] → uint8 [3, S, S]; grid: of the square, see `Geometry`.
    """
    check_image(rgb)
    pixels = resized(rgb, (side, side), Image.Resampling.BILINEAR).contiguous()
    return pixels, Geometry((side, side), (0, 0, *rgb.shape[:2]), False, grid)


def centre_window(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the largest square in the centre of an image of (height, width)."""
    side = min(size)
    return (size[0] - side) // 2, (size[1] - side) // 2, side, side


def resized(rgb: np.ndarray, size: tuple[int, int], resampling: Image.Resampling) -> Tensor:
    """uint8 [H, W, 3] → uint8 [3, height, width] of `size`."""
    image = Image.fromarray(rgb).resize((size[1], size[0]), resampling)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


# --- on the device ---------------------------------------------------------------------------------------------------


def normalize_padded(images: Tensor, sizes: list[tuple[int, int]], dtype: torch.dtype) -> Tensor:
    """SAM's normalisation of images that fill the top left corner of a square.

    images [n, 3, S, S]: uint8 in 0..255, or floating point and normalised already (then only cast).
    sizes: (height, width) of the part of each that shows the image; the rest becomes zero after normalising.
    """
    if images.is_floating_point():
        return images.to(dtype)
    pixels = standardize(images.float(), SAM_MEAN, SAM_STD)
    return (pixels * image_area(sizes, images.shape[-1], images.device).unsqueeze(1)).to(dtype)


def normalize_cropped(images: Tensor, dtype: torch.dtype) -> Tensor:
    """CLIP's normalisation of centre-cropped images [n, 3, S, S], uint8 or normalised already."""
    return normalize_stretched(images, CLIP_MEAN, CLIP_STD, dtype)


def normalize_stretched(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """Normalised images [n, 3, S, S] without padding, uint8 or normalised already; mean, std: of pixels in [0, 1]."""
    if images.is_floating_point():
        return images.to(dtype)
    return standardize(images.float() / 255.0, mean, std).to(dtype)


def standardize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Every channel of [n, 3, S, S] less its mean, over its deviation."""
    channels = zip(images.unbind(1), mean, std, strict=True)
    return torch.stack([(channel - center) / spread for channel, center, spread in channels], dim=1)


def image_area(sizes: list[tuple[int, int]], side: int, device: torch.device) -> Tensor:
    """bool [n, S, S], True where a square shows the image and not padding."""
    line = torch.arange(side, device=device)
    return torch.stack([(line < height)[:, None] & (line < width)[None, :] for height, width in sizes])


def image_cells(sizes: list[tuple[int, int]], side: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """bool [n, h · w], True where the top left pixel of a cell of the square is image (nearest resampling)."""
    rows, columns = (torch.arange(cells, device=device) * side // cells for cells in grid)
    return image_area(sizes, side, device)[:, rows][:, :, columns].flatten(1)


# --- grids on images -------------------------------------------------------------------------------------------------


def bilinear_line(cells: int, pixels: int, device: torch.device) -> Tensor:
    """float32 [pixels, cells]: the weights of a line's cells in each pixel after bilinear resizing, those of
    `F.interpolate(mode="bilinear", align_corners=False)`. A product with it has the cheaper gradient."""
    centres = torch.arange(0.5, pixels, device=device, dtype=torch.float32)
    centres = centres.mul_(cells / pixels).sub_(0.5).clamp_(0, cells - 1)
    distance = centres.unsqueeze(1) - torch.arange(cells, device=device, dtype=torch.float32)
    return distance.abs_().neg_().add_(1).clamp_(min=0)


def twice_bilinear_line(cells: int, between: int, kept: int, pixels: int, device: torch.device) -> Tensor:
    """float32 [pixels, cells]: a line resized to `between` pixels, the first `kept` of which are resized again."""
    return bilinear_line(kept, pixels, device) @ bilinear_line(cells, between, device)[:kept]


def spread_cells(values: Tensor, geometry: Geometry, size: tuple[int, int]) -> Tensor:
    """[m, H, W]: values [m, a, b] of equal parts of a grid on its image, bilinear between the centres of these parts.

    geometry: with centres of its cells; a, b: rows and columns of the grid, or any other numbers of parts of it.
    Beyond the outermost centres the image has their values.
    """
    rows, columns = spreading_lines(geometry, values.shape[1:], size)
    return rows.to(values.dtype) @ values @ columns.T.to(values.dtype)


def spreading_lines(geometry: Geometry, parts: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """float32 [H, a] and [W, b]: the weights of `spread_cells` for a, b = `parts`."""
    centres = zip((geometry.row_centres, geometry.column_centres), parts, size, strict=True)
    rows, columns = (_line_weights(part_centres(of_cells, number), length) for of_cells, number, length in centres)
    return rows, columns


def part_centres(centres: Tensor, parts: int) -> Tensor:
    """Centres [parts] of so many equal parts of a line of cells whose own centres [n] are given."""
    cells = len(centres)
    if parts == cells:
        return centres
    along = (torch.arange(parts, device=centres.device) + 0.5) * (cells / parts)
    return centres_at(centres, along)


def centres_at(centres: Tensor, along: Tensor) -> Tensor:
    """Pixels that lie so many cells along a line of cells, whose centres [n] lie at 0.5, 1.5, … cells.

    Beyond the outermost centres the line goes on as between the last two; a single cell has no extent.
    """
    if len(centres) == 1:
        return centres.expand_as(along)
    before = (along - 0.5).floor().long().clamp(0, len(centres) - 2)
    return torch.lerp(centres[before], centres[before + 1], along - 0.5 - before)


def _line_weights(centres: Tensor, length: int) -> Tensor:
    """float32 [length, n]: by how much each of n points on a line of pixels counts for each pixel."""
    pixels = (torch.arange(length, device=centres.device) + 0.5).unsqueeze(1)  # [length, 1]
    if len(centres) == 1:
        return torch.ones_like(pixels)
    share = (pixels - centres[:-1]) / centres.diff()  # [length, n - 1], of the way from a point to the next
    share = share.clamp(0, 1)
    return F.pad(share, (1, 0), value=1.0) - F.pad(share, (0, 1), value=0.0)
