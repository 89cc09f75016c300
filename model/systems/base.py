"""What a system decides: its modules, how `[SEG]` states become prompts of the mask decoder, and its own losses.

A seventh system is one file with a subclass of `System` and one line in `systems/__init__.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dataloaders.batching.batch import Batch
from model.config import GroundingConfig
from model.decoders import sam
from model.policy import PolicySample
from model.states import TargetStates

if TYPE_CHECKING:
    from model.grounding import GroundingModel


@dataclass
class Prompt:
    """What the mask decoder is told about each of S targets.

    text [S, K, C]: projected states, always present.
    sparse: all prompt tokens in the decoder's order (the text among them): [S, K', C], or a list of such tensors for
        consecutive targets where the number of tokens differs.
    dense [S, 1, M, M]: mask prompts, or None for "no mask given".
    layers int64 [S]: the hidden state that the similarity map was taken from.
    maps: for each group of targets the similarity maps [m, H, W] in [0, 1], or None.
    policy: the policy's sample, where one acted.
    points: for each group of targets that has any, the points [m, K, 2] (x, y) in pixels of the original image and
        their labels [m, K], or None for systems without.
    """

    text: Tensor
    sparse: Tensor | list[Tensor]
    dense: Tensor | None
    layers: Tensor
    maps: list[Tensor] | None = None
    policy: PolicySample | None = None
    points: list[tuple[Tensor, Tensor]] | None = None


@dataclass
class OwnLosses:
    """What a system adds to the losses.

    mask_bce, mask_dice [S]: added to each target's mask losses. policy: scalar or None. statistics: for the log.
    """

    mask_bce: Tensor
    mask_dice: Tensor
    policy: Tensor | None
    statistics: dict[str, Tensor]


class System:
    """Base of the systems. `layer` is "sample", "greedy", "mixture", "last" or an index into the hidden states."""

    uses_policy = False
    uses_sam = True

    def __init__(self, config: GroundingConfig):
        self.config = config

    def modules(self) -> dict[str, nn.Module]:
        """The modules that this system adds to the skeleton, by attribute name."""
        return {}

    def clip_depths(self) -> tuple[int, ...]:
        """The CLIP hidden states that `decode` reads, beside the one that the LLM sees."""
        return ()

    def default_layer(self) -> str:
        """The layer rule outside training where the caller asks for none."""
        return "last"

    def prompt(
        self,
        model: GroundingModel,
        states: TargetStates,
        batch: Batch,
        layer: str | int,
        layer_choice: Tensor | None = None,
    ) -> Prompt:
        """Prompts for all targets; `layer_choice` int64 [S] replaces the policy's sampling."""
        raise NotImplementedError

    def decode(self, model: GroundingModel, batch: Batch, states: TargetStates, prompt: Prompt) -> list[Tensor]:
        """Low-resolution mask logits [S, h, w] of all targets, one tensor per scale of the decoder."""
        embeddings = model.sam_embeddings(batch)
        dense = (
            sam.no_mask(model.sam.prompt_encoder) if prompt.dense is None else sam.embed_masks(model.sam, prompt.dense)
        )
        return [sam.decode(model.sam, embeddings, states.image, prompt.sparse, dense)]

    def fuse(self, model: GroundingModel, low_res: list[Tensor]) -> Tensor:
        """The logits [S, h, w] that are a target's mask, from those of `decode`."""
        return low_res[-1]

    def at_original_size(self, batch: Batch, image: int, logits: Tensor) -> Tensor:
        """Mask logits float32 [m, H, W] of targets of an image, or of images of its size, from fused ones [m, h, w]."""
        side = batch.sam_images.shape[-1]
        return sam.upscale_masks(logits, side, batch.sam_sizes[image], batch.original_sizes[image])

    def upscale(self, model: GroundingModel, batch: Batch, states: TargetStates, low_res: list[Tensor]) -> list[Tensor]:
        """Mask logits float32 [m, H, W] at original size, for each group of targets."""
        groups = self.fuse(model, low_res).split(states.counts)
        return [self.at_original_size(batch, *group) for group in zip(states.groups, groups, strict=True)]

    def own_losses(
        self, model: GroundingModel, prompt: Prompt, states: TargetStates, batch: Batch, present: bool
    ) -> OwnLosses | None:
        """Losses beyond cross entropy and mask losses, or None. `present` is False where targets are stand-ins."""
        return None
