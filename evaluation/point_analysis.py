"""Where READ puts its points, and the masks that come of them: for looking at, on the given answers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dataloaders.batching.batch import Batch
from groundscore.errors import UserError
from model.grounding import GroundingModel


@dataclass
class TargetPoints:
    """One `[SEG]`: its mask bool [H, W], its similarity map [H, W] in [0, 1], its points [K, 2] (x, y) in pixels of the
    image, and their labels [K]: 1 inside, 0 outside, -1 neither."""

    mask: Tensor
    similarity: Tensor
    points: Tensor
    labels: Tensor


@torch.no_grad()
def point_analysis(model: GroundingModel, batch: Batch) -> list[TargetPoints]:
    """The points of every `[SEG]` of the batch's given answers, in order; `batch` on the model's device."""
    images = model.encode_images(batch)
    unrolled, places = model.read(batch, images)
    states = model.target_states(batch, images, unrolled, places)
    prompt = model.system.prompt(model, states, batch, "last")
    if prompt.points is None or prompt.maps is None:
        raise UserError(f"{model.config.system} prompts its masks without points")
    masks = [logits > 0 for group in model.masks(batch, states, prompt) for logits in group]
    maps = [similarity for group in prompt.maps for similarity in group]
    points = [pair for group in prompt.points for pair in zip(*group, strict=True)]
    return [TargetPoints(mask, similarity, *pair) for mask, similarity, pair in zip(masks, maps, points, strict=True)]
