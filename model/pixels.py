"""From uint8 pictures to the normalised tensors that SAM and CLIP read, on whatever device they are."""

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
    mean = torch.tensor(SAM_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(SAM_STD, device=images.device).view(1, 3, 1, 1)
    pixels = (images.float() - mean) / std
    return (pixels * picture_area(sizes, images.shape[-1], images.device).unsqueeze(1)).to(dtype)


def normalize_cropped(images: Tensor, dtype: torch.dtype) -> Tensor:
    """CLIP's normalisation of centre-cropped pictures [I, 3, C, C], uint8 or normalised already."""
    if images.is_floating_point():
        return images.to(dtype)
    mean = torch.tensor(CLIP_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(CLIP_STD, device=images.device).view(1, 3, 1, 1)
    return ((images.float() / 255.0 - mean) / std).to(dtype)


def picture_area(sizes: list[tuple[int, int]], side: int, device: torch.device) -> Tensor:
    """bool [I, side, side], True where a square holds picture and not padding."""
    extent = torch.tensor(sizes, device=device)
    line = torch.arange(side, device=device)
    inside_y = line[None, :] < extent[:, :1]
    inside_x = line[None, :] < extent[:, 1:]
    return inside_y[:, :, None] & inside_x[:, None, :]


def picture_cells(sizes: list[tuple[int, int]], side: int, grid: int, device: torch.device) -> Tensor:
    """bool [I, grid · grid], True where the top left pixel of a cell of the square is picture (nearest resampling)."""
    corners = torch.arange(grid, device=device) * side // grid
    area = picture_area(sizes, side, device)
    return area[:, corners][:, :, corners].flatten(1)
