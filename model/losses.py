"""The loss terms. All work on float32 logits and return one value per token or mask, so that the caller may weigh them.

Legend: K labelled tokens, V vocabulary, m masks of one image, n masks of one size, H W pixels.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

DICE_SCALE = 1000.0
EPSILON = 1e-6
LOGIT_CHUNK = 1024  # labelled tokens; 1024 × 32000 logits in float32 are 131 MB


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


def token_losses(head: Callable[[Tensor], Tensor], states: Tensor, labels: Tensor, chunk: int = LOGIT_CHUNK) -> Tensor:
    """Cross entropy of the states [K, D] that predict the token ids [K], for every token, [K].

    head: from states to logits [K, V]. More than `chunk` logits of V are never kept: they are made again for the
    gradient, chunk by chunk.
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
