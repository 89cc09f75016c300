"""The losses of all masks of a batch: images of one size are taken together, and of large ones nothing is kept for the
gradient but what goes in.

Legend: m masks of one image, n masks of all images of one size, S masks of a batch, H W pixels.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model.losses import in_pieces, map_weights, mask_bce, mask_dice, weighted_map_losses
from model.similarity import gaussian_target

PIXEL_CHUNK = 2**23  # pixels of masks; a float32 tensor of them has 34 MB, and a loss makes about ten
KEPT_PIXELS = 2**20  # of so few, keeping what the gradient needs (27 MB) costs less than making it again


@dataclass
class SizedMasks:
    """The true masks of all images of one size.

    images: which they are; counts: masks of each. masks [n, H, W]; ignore bool [n, H, W], or None.
    """

    images: list[int]
    counts: list[int]
    masks: Tensor
    ignore: Tensor | None

    @property
    def at_once(self) -> int:
        """How many masks a loss should take at a time."""
        return max(1, PIXEL_CHUNK // self.masks[0].numel())

    def losses(self, function: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        """`function(*inputs)`, [..., n], of inputs [n, …] (or None); of many pixels, in pieces."""
        if self.masks.numel() <= KEPT_PIXELS:
            return function(*inputs)
        return in_pieces(function, *inputs, size=self.at_once)

    def stack(self, of_images: Sequence[Tensor]) -> Tensor:
        """[n, …] from the [m, …] of every image of the batch."""
        return _stack([of_images[image] for image in self.images])


def stack_by_size(masks: Sequence[Tensor], ignore: Sequence[Tensor | None]) -> list[SizedMasks]:
    """The masks [m, H, W] of a batch with their ignored pixels, bool [H, W] or None, stacked where sizes agree.

    Images without masks are left out; those with ignored pixels are kept apart from those without.
    """
    images = defaultdict(list)
    for image, (each, left_out) in enumerate(zip(masks, ignore, strict=True)):
        if len(each):
            images[each.shape[1:], left_out is None].append(image)
    groups = []
    for (_, none_ignored), members in images.items():
        left_out = None if none_ignored else _stack([ignore[image].expand(masks[image].shape) for image in members])
        stacked = _stack([masks[image] for image in members])
        groups.append(SizedMasks(members, [len(masks[image]) for image in members], stacked, left_out))
    return groups


def _stack(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)  # without a copy where there is nothing to put together


def in_image_order(groups: Sequence[SizedMasks], losses: Sequence[Tensor]) -> Tensor:
    """The losses [..., n] of all groups as [..., S], ordered by image."""
    of_image = {}
    for group, values in zip(groups, losses, strict=True):
        of_image |= zip(group.images, values.split(group.counts, dim=-1), strict=True)
    return torch.cat([of_image[image] for image in sorted(of_image)], dim=-1)


def losses_of_masks(
    at_original_size: Callable[[int, Tensor], Tensor],
    logits: Sequence[Tensor],
    masks: Sequence[Tensor],
    ignore: Sequence[Tensor | None],
) -> Tensor:
    """BCE and Dice of every mask, [2, S]; see `mask_bce` and `mask_dice`.

    logits: of each image [m, h, w]; at_original_size(image, logits): the same as [m, H, W], for any image of that size.
    masks, ignore: the true masks [m, H, W] of each image, and its ignored pixels, bool [H, W] or None.
    """

    def losses(image: int, logits: Tensor, masks: Tensor, ignore: Tensor | None) -> Tensor:
        logits = at_original_size(image, logits)
        return torch.stack([mask_bce(logits, masks, ignore), mask_dice(logits, masks, ignore)])

    groups = stack_by_size(masks, ignore)
    found = []
    for each in groups:
        found.append(each.losses(partial(losses, each.images[0]), each.stack(logits), each.masks, each.ignore))
    return in_image_order(groups, found)


@dataclass
class MapTargets(SizedMasks):
    """What the similarity maps of all images of one size should be: `masks` are blurred; weights [n]: of the positive
    side."""

    weights: Tensor


def map_targets(masks: Sequence[Tensor], ignore: Sequence[Tensor | None]) -> list[MapTargets]:
    """The blurred masks of a batch, each made once; see `losses_of_masks` for the arguments."""
    targets = []
    for group in stack_by_size(masks, ignore):
        blurred = _stack([gaussian_target(piece) for piece in group.masks.split(group.at_once)])
        weights = map_weights(blurred, group.ignore, group.counts)
        targets.append(MapTargets(group.images, group.counts, blurred, group.ignore, weights))
    return targets


def losses_of_maps(maps: Sequence[Tensor], targets: Sequence[MapTargets]) -> Tensor:
    """BCE and Dice, [2, S], of the similarity maps [m, H, W] of each image; see `weighted_map_losses`."""
    found = []
    for each in targets:
        found.append(each.losses(weighted_map_losses, each.stack(maps), each.masks, each.ignore, each.weights))
    return in_image_order(targets, found)
