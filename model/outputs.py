"""What the model returns. Legend: S targets, m targets of one image, n targets of one answer, H W pixels."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class LossWeights:
    """Weights of the terms in the total loss (`training.md` of the reference: 1, 2, 0.5 or 4, 0.4).

    `entropy` weighs the policy's entropy bonus inside the policy loss.
    """

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    policy: float = 0.4
    entropy: float = 0.0


@dataclass
class LossParts:
    """What the weighted loss terms are means of, detached: ce [K] of every labelled token; bce, dice [S] of every
    target, the similarity terms included."""

    ce: Tensor
    bce: Tensor
    dice: Tensor


@dataclass
class GroundingOutput:
    """One training forward.

    loss: scalar, the weighted total.
    losses: scalars by name: loss, ce_loss, mask_bce_loss, mask_dice_loss, mask_loss (weighted, the similarity terms
        included) and policy_loss (unweighted) where a policy acts.
    statistics: detached tensors by name: policy/entropy, policy/reward, policy/baseline, policy/advantage (scalars)
        and policy/layers (float [L+1], how often each layer was chosen).
    loss_parts: the losses token by token and target by target.
    low_res_masks: the decoder's logits [S, h, w] per scale; pred_embeddings [S, K, C]: the text prompts.
    similarity_maps: per image [m, H, W] in [0, 1], or None.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    statistics: dict[str, Tensor] = field(default_factory=dict)
    loss_parts: LossParts | None = None
    low_res_masks: list[Tensor] | None = None
    pred_embeddings: Tensor | None = None
    similarity_maps: list[Tensor] | None = None


@dataclass
class ForcedMasks:
    """The teacher-forced result of a batch, on the device.

    mask_logits: for every image float32 [m, H, W], one per `[SEG]` of its given answers, at its original size.
    written int64 [Q]: the tokens that the model would write at the positions that were asked for.
    layers int64 [S]; similarity_maps: for every image [m, H, W] in [0, 1], or None.
    object_scores: for every image [m], or None, see `Segmentation`.
    """

    mask_logits: list[Tensor]
    written: Tensor
    layers: Tensor
    similarity_maps: list[Tensor] | None
    object_scores: list[Tensor] | None = None


@dataclass
class Segmentation:
    """The teacher-forced result for one image.

    mask_logits float32 [m, H, W]: one per `[SEG]` of the given answers, at the image's original size.
    decisions: for every target in written order, True where the model itself would have written `[SEG]`.
    layers: the hidden state that each similarity map came from (the last one for systems without a choice).
    similarity_maps: [m, H, W] in [0, 1], or None for systems without one.
    object_scores [m]: the decoder's logit of there being an object at all, or None for decoders without one.
    """

    mask_logits: Tensor
    decisions: list[bool]
    layers: list[int]
    similarity_maps: Tensor | None
    object_scores: Tensor | None = None


@dataclass
class Answer:
    """What the model wrote for one prompt, and the masks of its `[SEG]`.

    token_ids: generated ids without the end-of-sentence token.
    seg_indices, rej_indices: for every `[SEG]` and every `[REJ]` the index into `token_ids` of its first token.
    mask_logits float32 [n, H, W]; masks are `mask_logits > 0`.
    layers [n]; similarity_maps [n, H, W], None without a target and for systems that have none.
    mask_scores [n]: mean foreground probability of each mask.
    object_scores [n]: as in `Segmentation`, or None.
    """

    token_ids: list[int]
    seg_indices: list[int]
    mask_logits: Tensor
    layers: list[int]
    similarity_maps: Tensor | None
    mask_scores: list[float]
    rej_indices: list[int] = field(default_factory=list)
    object_scores: list[float] | None = None

    @property
    def masks(self) -> Tensor:
        """bool [n, H, W]."""
        return self.mask_logits > 0

    @property
    def decisions(self) -> list[bool]:
        """For every target in written order: True for `[SEG]`, False for `[REJ]`."""
        written = [(index, True) for index in self.seg_indices] + [(index, False) for index in self.rej_indices]
        return [is_seg for _, is_seg in sorted(written)]

    @property
    def presence(self) -> bool:
        """Whether something was found: a `[SEG]` was written, and its mask is not empty."""
        return bool(self.masks.any())
