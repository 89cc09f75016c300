"""Mask as prompt: the similarity of a `[SEG]` state to the image tokens, as a supervised map and as SAM's mask prompt.

Legend: S targets, m targets of one image, P = g · g image tokens, H W original size, M side of SAM's mask prompt.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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


def round_half_up(value: float) -> int:
    return int(value + 0.5)


def fit_longest(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) scaled so that the longer one becomes `side`, neither below 1."""
    scale = side / max(size)
    return max(1, round_half_up(size[0] * scale)), max(1, round_half_up(size[1] * scale))


def map_on_padded_image(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores [m, P] over a square that held the whole image and padding -> map [m, H, W]."""
    square = _square(scores, REFERENCE_SIDE)
    height, width = fit_longest(size, REFERENCE_SIDE)
    return F.interpolate(square[..., :height, :width], size, mode="bilinear", align_corners=False).squeeze(1)


def map_on_cropped_image(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores [m, P] over the image's centre square -> map [m, H, W], 0 where CLIP did not look."""
    side = min(size)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    square = _square(scores, side).squeeze(1)
    return F.pad(square, (left, size[1] - side - left, top, size[0] - side - top))


def mask_prompt(maps: Tensor, side: int) -> Tensor:
    """Maps [m, H, W] -> mask prompts [m, 1, M, M]: longest side M, antialiased, zero-padded right and bottom."""
    height, width = fit_longest(tuple(maps.shape[-2:]), side)
    if maps.shape[0] == 0:
        return maps.new_zeros((0, 1, side, side))
    prompt = F.interpolate(maps.unsqueeze(1), (height, width), mode="bilinear", align_corners=False, antialias=True)
    return F.pad(prompt, (0, side - width, 0, side - height))


def gaussian_target(masks: Tensor, kernel: int = 31, sigma: float = 7.0) -> Tensor:
    """Soft targets of similarity maps: masks blurred by a Gaussian (reflected borders), each divided by its maximum.

    masks bool or float [m, H, W] -> float32 [m, H, W]. The kernel shrinks to the largest odd size that the image has.
    """
    size = min(kernel, *masks.shape[-2:])
    size -= 1 - size % 2
    line = torch.arange(size, device=masks.device, dtype=torch.float32) - (size - 1) / 2
    weights = torch.exp(-(line**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    pad = size // 2
    blurred = F.pad(masks.float().unsqueeze(1), (pad, pad, pad, pad), mode="reflect")
    blurred = F.conv2d(blurred, weights.view(1, 1, 1, -1))
    blurred = F.conv2d(blurred, weights.view(1, 1, -1, 1)).squeeze(1)
    peak = blurred.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    return blurred / peak


def _square(scores: Tensor, side: int) -> Tensor:
    """[m, P] -> [m, 1, side, side]."""
    grid = round(scores.shape[1] ** 0.5)
    cells = scores.view(-1, 1, grid, grid)
    if cells.shape[0] == 0:
        return cells.new_zeros((0, 1, side, side))
    return F.interpolate(cells, (side, side), mode="bilinear", align_corners=False)
