"""From uint8 pictures to the normalised tensors that SAM and CLIP read, on whatever device they are.

Constants and sizes go into the operations as numbers: a tensor made of them would be copied, and the device waited for.
"""

import torch
from torch import Tensor

SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalize_padded(images: Tensor, sizes: list[tuple[int, int]], dtype: torch.dtype) -> Tensor:
    """SAM's normalisation of pictures that fill the top left corner of a square.

    images [I, 3, S, S]: uint8 in 0..255, or floating point and normalised already (then only cast).
    sizes: (height, width) of the part of each that is picture; the rest becomes zero after normalising.
    """
    if images.is_floating_point():
        return images.to(dtype)
    pixels = _standardize(images.float(), SAM_MEAN, SAM_STD)
    return (pixels * picture_area(sizes, images.shape[-1], images.device).unsqueeze(1)).to(dtype)


def normalize_cropped(images: Tensor, dtype: torch.dtype) -> Tensor:
    """CLIP's normalisation of centre-cropped pictures [I, 3, C, C], uint8 or normalised already."""
    if images.is_floating_point():
        return images.to(dtype)
    return _standardize(images.float() / 255.0, CLIP_MEAN, CLIP_STD).to(dtype)


def _standardize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Every channel of [I, 3, H, W] less its mean, over its deviation."""
    channels = zip(images.unbind(1), mean, std, strict=True)
    return torch.stack([(channel - center) / spread for channel, center, spread in channels], dim=1)


def picture_area(sizes: list[tuple[int, int]], side: int, device: torch.device) -> Tensor:
    """bool [I, side, side], True where a square holds picture and not padding."""
    line = torch.arange(side, device=device)
    return torch.stack([(line < height)[:, None] & (line < width)[None, :] for height, width in sizes])


def picture_cells(sizes: list[tuple[int, int]], side: int, grid: int, device: torch.device) -> Tensor:
    """bool [I, grid · grid], True where the top left pixel of a cell of the square is picture (nearest resampling)."""
    corners = torch.arange(grid, device=device) * side // grid
    area = picture_area(sizes, side, device)
    return area[:, corners][:, :, corners].flatten(1)
