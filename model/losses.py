"""The loss terms. All work on float32 logits and return one value per mask, so that the caller may weigh them.

Legend: K labelled tokens, V vocabulary, m masks of one image, H W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

DICE_SCALE = 1000.0
EPSILON = 1e-6
LOGIT_CHUNK = 1024  # labelled tokens; 1024 × 32000 logits in float32 are 131 MB


def token_losses(head: nn.Module, states: Tensor, labels: Tensor, chunk: int = LOGIT_CHUNK) -> Tensor:
    """Cross entropy of the states [K, D] that predict the token ids [K], for every token, [K].

    head: from states to logits [K, V]. More than `chunk` logits of V are never kept: they are made again for the
    gradient, chunk by chunk.
    """

    def losses(states: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(head(states).float(), labels, reduction="none")

    if len(labels) <= chunk or not torch.is_grad_enabled():
        return losses(states, labels)
    pieces = zip(states.split(chunk), labels.split(chunk), strict=True)
    return torch.cat([checkpoint(losses, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces])


def mask_bce(logits: Tensor, masks: Tensor, ignore: Tensor | None) -> Tensor:
    """Per-mask mean over pixels of the binary cross entropy, [m]. masks [m, H, W]; ignore bool [H, W] or None."""
    loss = F.binary_cross_entropy_with_logits(logits, masks.to(logits.dtype), reduction="none")
    if ignore is None:
        return loss.mean(dim=(1, 2))
    counted = (~ignore).to(loss.dtype)
    return (loss * counted).sum(dim=(1, 2)) / counted.sum().clamp(min=1)


def mask_dice(logits: Tensor, masks: Tensor, ignore: Tensor | None) -> Tensor:
    """Per-mask Dice loss, [m]: 1 - (2 Σpt + ε) / (Σp + Σt + ε), the sums scaled by 1/1000 (LISA's form)."""
    probabilities = logits.sigmoid()
    targets = masks.to(logits.dtype)
    if ignore is not None:
        counted = (~ignore).to(logits.dtype)
        probabilities, targets = probabilities * counted, targets * counted
    overlap = (probabilities * targets).sum(dim=(1, 2)) / DICE_SCALE
    total = (probabilities.sum(dim=(1, 2)) + targets.sum(dim=(1, 2))) / DICE_SCALE
    return 1 - (2 * overlap + EPSILON) / (total + EPSILON)


def map_losses(maps: Tensor, targets: Tensor, ignore: Tensor | None) -> tuple[Tensor, Tensor]:
    """Supervision of the similarity maps of one image: (BCE [m], Dice [m]).

    maps [m, H, W] in [0, 1], used as logits; targets [m, H, W], Gaussian-blurred masks. Both losses weigh the positive
    side by the ratio of soft negatives to soft positives over all masks of the image (UGround's automatic weight).
    """
    counted = torch.ones_like(targets) if ignore is None else (~ignore).to(targets.dtype).expand_as(targets)
    positive = (targets * counted).sum()
    weight = (counted.sum() - positive) / positive.clamp(min=EPSILON)
    bce = F.binary_cross_entropy_with_logits(maps, targets, pos_weight=weight, reduction="none")
    bce = (bce * counted).sum(dim=(1, 2)) / counted.sum(dim=(1, 2)).clamp(min=1)
    probabilities = maps.sigmoid() * counted
    weighted = targets * counted * weight
    overlap = (probabilities * weighted).sum(dim=(1, 2))
    total = probabilities.sum(dim=(1, 2)) + weighted.sum(dim=(1, 2))
    return bce, 1 - (2 * overlap + EPSILON) / (total + EPSILON)
