"""The losses: of single tokens, masks and similarity maps, and of all masks of a batch together.

All work on float32 logits and return one value per token or mask, so that the caller may weigh them. Images of one size
are taken together; of many pixels or logits nothing is kept for the gradient but what goes in.

Legend: K labelled tokens, D width, V vocabulary, m masks of one image, n masks of all images of one size, S masks of a
batch, H W pixels of an image, h w size of low-resolution logits.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

DICE_SCALE = 1000.0
EPSILON = 1e-6
LOGIT_CHUNK = 1024  # labelled tokens; 1024 × 32000 logits in float32 are 131 MB
PIXEL_CHUNK = 2**23  # pixels of masks; a float32 tensor of them has 34 MB, and a loss makes about ten
BLUR_PIECE = 64  # pixels that are blurred by one product; more make more work, fewer small products
KEPT_PIXELS = 2**20  # of so few, keeping what the gradient needs (27 MB) costs less than making it again


# --- tokens -----------------------------------------------------------------------------------------------------------


def token_losses(head: Callable[[Tensor], Tensor], states: Tensor, labels: Tensor, chunk: int = LOGIT_CHUNK) -> Tensor:
    """Cross entropy of the states [K, D] that predict the token ids [K], for every token, [K].

    head: from states to logits [K, V]. More than `chunk` logits of V are never kept: they are computed again
    for the gradient, chunk by chunk.
    """

    def losses(states: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(head(states).float(), labels, reduction="none")

    if len(labels) <= chunk:
        return losses(states, labels)
    return in_pieces(losses, states, labels, size=chunk)


class TokenHead(nn.Linear):
    """The LLM's head: from states [K, D] to logits [K, V]; with labels to their losses, in one call however many there
    are, since ZeRO 3 fetches weights call by call, on all processes together."""

    def forward(self, states: Tensor, labels: Tensor | None = None) -> Tensor:
        """[K, V], or with labels int64 [K] the losses [K] of `token_losses`."""
        return super().forward(states) if labels is None else token_losses(super().forward, states, labels)


# --- masks and maps ---------------------------------------------------------------------------------------------------


def mask_bce(logits: Tensor, masks: Tensor, ignore: Tensor | None) -> Tensor:
    """Per-mask mean over pixels of the binary cross entropy, [n]. masks [n, H, W]; ignore bool [H, W], [n, H, W] or
    None."""
    return _mean(F.binary_cross_entropy_with_logits(logits, masks.to(logits.dtype), reduction="none"), ignore)


def mask_dice(logits: Tensor, masks: Tensor, ignore: Tensor | None) -> Tensor:
    """Per-mask Dice loss, [n]: 1 - (2 Σpt + ε) / (Σp + Σt + ε), the sums scaled by 1/1000 (LISA's form)."""
    probabilities, targets = _counted(logits.sigmoid(), ignore), _counted(masks.to(logits.dtype), ignore)
    overlap = (probabilities * targets).sum(dim=(1, 2)) / DICE_SCALE
    total = (probabilities.sum(dim=(1, 2)) + targets.sum(dim=(1, 2))) / DICE_SCALE
    return 1 - (2 * overlap + EPSILON) / (total + EPSILON)


def map_losses(maps: Tensor, targets: Tensor, ignore: Tensor | None) -> tuple[Tensor, Tensor]:
    """Supervision of the similarity maps of one image: (BCE [m], Dice [m]); see `weighted_map_losses`."""
    weights = map_weights(targets, ignore, [len(targets)])
    bce, dice = weighted_map_losses(maps, targets, ignore, weights)
    return bce, dice


def map_weights(targets: Tensor, ignore: Tensor | None, counts: Sequence[int]) -> Tensor:
    """The weight [n] of the positive side in each map's losses: the ratio of soft negatives to soft positives over all
    masks of its image (UGround's automatic weight).

    targets [n, H, W]: Gaussian-blurred masks; counts: how many of the n each image has.
    """
    positive = _counted(targets, ignore).sum(dim=(1, 2))
    counted = positive.new_full(positive.shape, targets[0].numel()) if ignore is None else _pixels(targets, ignore)
    weights = []
    for inside, pixels in zip(positive.split(counts), counted.split(counts), strict=True):
        weight = (pixels.sum() - inside.sum()) / inside.sum().clamp(min=EPSILON)
        weights.append(weight.expand(len(inside)))
    return torch.cat(weights)


def weighted_map_losses(maps: Tensor, targets: Tensor, ignore: Tensor | None, weights: Tensor) -> Tensor:
    """BCE and Dice of similarity maps, [2, n].

    maps [n, H, W] in [0, 1], used as logits; targets [n, H, W]: Gaussian-blurred masks; weights [n]: of the positive
    side, from `map_weights`.
    """
    each = weights.view(-1, 1, 1)
    bce = _mean(F.binary_cross_entropy_with_logits(maps, targets, pos_weight=each, reduction="none"), ignore)
    probabilities, targets = _counted(maps.sigmoid(), ignore), _counted(targets, ignore)
    overlap = (probabilities * targets).sum(dim=(1, 2)) * weights
    total = probabilities.sum(dim=(1, 2)) + targets.sum(dim=(1, 2)) * weights
    return torch.stack([bce, 1 - (2 * overlap + EPSILON) / (total + EPSILON)])


def gaussian_target(masks: Tensor, kernel: int = 31, sigma: float = 7.0) -> Tensor:
    """Soft targets of similarity maps: masks blurred by a Gaussian (reflected borders), each divided by its maximum.

    masks bool or float [m, H, W] -> float32 [m, H, W]. The kernel shrinks to the largest odd size that the image has.
    """
    size = min(kernel, *masks.shape[-2:])
    size -= 1 - size % 2
    line = torch.arange(size, device=masks.device, dtype=torch.float32) - (size - 1) / 2
    weights = torch.exp(-(line**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    blurred = _blur_lines(_blur_lines(masks.float(), weights).mT, weights).mT
    peak = blurred.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    return blurred / peak


def _blur_lines(values: Tensor, weights: Tensor) -> Tensor:
    """Values [m, H, W] with their rows blurred by `weights` [w], a row going on reflected.

    Pieces of rows times a matrix: on a CPU several times as fast as a convolution with one channel.
    """
    length, pad = values.shape[-1], len(weights) // 2
    pieces = -(-length // BLUR_PIECE)
    size = -(-length // pieces)
    padded = F.pad(F.pad(values, (pad, pad), mode="reflect"), (0, pieces * size - length))
    taps = torch.arange(len(weights), device=weights.device)
    pixels = torch.arange(size, device=weights.device).unsqueeze(1)
    matrix = weights.new_zeros(size, size + 2 * pad).scatter_(1, pixels + taps, weights.expand(size, -1))
    blurred = padded.unfold(-1, size + 2 * pad, size).flatten(0, 2) @ matrix.T  # [m · H · pieces, size]
    return blurred.view(*values.shape[:-1], -1)[..., :length]


def _counted(values: Tensor, ignore: Tensor | None) -> Tensor:
    """[n, H, W], zero where pixels are ignored."""
    return values if ignore is None else values.masked_fill(ignore, 0)


def _pixels(values: Tensor, ignore: Tensor) -> Tensor:
    """How many pixels count in each mask, [n]."""
    return (~ignore).expand_as(values).sum(dim=(1, 2)).to(values.dtype)


def _mean(values: Tensor, ignore: Tensor | None) -> Tensor:
    """The means [n] of [n, H, W] over the pixels that count; 0 where none does."""
    if ignore is None:
        return values.mean(dim=(1, 2))
    return _counted(values, ignore).sum(dim=(1, 2)) / _pixels(values, ignore).clamp(min=1)


# --- a batch ----------------------------------------------------------------------------------------------------------


def in_pieces(losses: Callable[..., Tensor], *inputs: Tensor | None, size: int) -> Tensor:
    """`losses(*inputs)`, [..., n], for at most `size` of the n rows of the inputs [n, …] (or None) at a time.

    What a piece needs for its gradient is made again then and not kept.
    """
    if torch.is_grad_enabled():
        plain = losses

        def losses(*piece):
            return checkpoint(plain, *piece, use_reentrant=False, preserve_rng_state=False)

    rows = len(inputs[0])
    pieces = [
        losses(*(None if each is None else each[start : start + size] for each in inputs))
        for start in range(0, rows, size)
    ]
    return torch.cat(pieces, dim=-1)


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
