"""Points and boxes that a user adds: SAM's own prompts, beside what a `[SEG]` state prompts or alone.

Where the state prompts by a similarity map, they are drawn into the map, too: a decoder that was trained on maps and
words follows those, and may have forgotten what points mean.

Legend: k points, S targets, H W size of the original image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dataloaders.batching.batch import Batch, PreparedImages
from model.decoders.base import INSIDE

SPREAD = 0.1  # of the longer side of the image: standard deviation of what a point changes in a map

if TYPE_CHECKING:
    from model.grounding import GroundingModel


@dataclass(frozen=True)
class SpotPrompt:
    """What a user adds to the prompt of one target, in pixels of the original image.

    points float32 [k, 2] (x, y); labels int64 [k], `INSIDE` or `OUTSIDE`; box float32 [4], (left, top, right, bottom),
    or None.
    """

    points: Tensor
    labels: Tensor
    box: Tensor | None = None


@dataclass(frozen=True)
class SpotMask:
    """One target: mask logits float32 [H, W] and, where the decoder has one, the logit of there being an object."""

    logits: Tensor
    object_score: Tensor | None = None


@torch.no_grad()
def correct_target(
    model: GroundingModel, batch: Batch, target: int, spots: SpotPrompt, layer: str | int | None
) -> SpotMask:
    """Returns the mask of a target of given answers with `spots` added to what its `[SEG]` state prompts.

    batch: answers about one image; target: index among all its `[SEG]`; layer: as in `GroundingModel.segment`.
    """
    layer = model.system.layer_rule(layer)
    images = model.encode_images(batch)
    states = model.target_states(batch, images, model.read(batch, images))
    prompt = model.system.prompt(model, states, batch, layer)
    sparse = prompt.sparse[0] if isinstance(prompt.sparse, list) else prompt.sparse
    chosen = slice(target, target + 1)
    dense = None
    if prompt.dense is not None:
        dense = model.decoder.mask_prompts([with_spots(prompt.maps[0][chosen], spots)])
    size = batch.original_sizes[0]
    tokens = _tokens(model, spots, batch.decoder_images, size)
    return _decoded(model, batch.decoder_images, size, torch.cat([tokens, sparse[chosen]], dim=1), dense)


@torch.no_grad()
def segment_spots(model: GroundingModel, image: PreparedImages, size: tuple[int, int], spots: SpotPrompt) -> SpotMask:
    """Returns the mask that `spots` alone mean, as the mask decoder has it without a language model.

    image: the one image as the mask decoder takes it; size: (H, W).
    """
    return _decoded(model, image, size, _tokens(model, spots, image, size), None)


def with_spots(maps: Tensor, spots: SpotPrompt) -> Tensor:
    """Returns similarity maps [m, H, W] in [0, 1] that rise to 1 around points inside, fall to 0 around those outside,
    and are 0 outside the box."""
    height, width = maps.shape[-2:]
    y, x = (torch.arange(length, device=maps.device, dtype=torch.float32) for length in (height, width))
    scale = 2 * (SPREAD * max(height, width)) ** 2
    for (at_x, at_y), label in zip(spots.points.tolist(), spots.labels.tolist(), strict=True):
        near = torch.outer((-((y - at_y) ** 2) / scale).exp(), (-((x - at_x) ** 2) / scale).exp()).to(maps.dtype)
        maps = torch.maximum(maps, near) if label == INSIDE else torch.minimum(maps, 1 - near)
    if spots.box is not None:
        left, top, right, bottom = spots.box.tolist()
        inside = torch.outer((y >= top - 1) & (y <= bottom), (x >= left - 1) & (x <= right))
        maps = maps * inside
    return maps


def _tokens(model: GroundingModel, spots: SpotPrompt, image: PreparedImages | None, size: tuple[int, int]) -> Tensor:
    """Prompt tokens [1, K, C]; `UserError` where the decoder takes none."""
    geometries = image.geometries if image is not None else []
    boxes = None if spots.box is None else [spots.box.unsqueeze(0)]
    points, labels = [spots.points.unsqueeze(0)], [spots.labels.unsqueeze(0)]
    return model.decoder.embed_points(points, labels, geometries, [size], boxes)[0]


def _decoded(
    model: GroundingModel, image: PreparedImages, size: tuple[int, int], sparse: Tensor, dense: Tensor | None
) -> SpotMask:
    (group,) = image.groups
    which = torch.zeros(1, dtype=torch.int64, device=sparse.device)
    decoded = model.decoder.decode(model.decoder.encode(group), which, sparse, dense)
    logits = model.decoder.upscale(model.decoder.fuse(decoded.low_res), image.geometries[0], size)
    return SpotMask(logits[0], None if decoded.object_scores is None else decoded.object_scores[0])
