"""What a system is: the part of the model between hidden states and the mask decoder, declared in one file.

A system answers four questions, in this order: which tokens, which hidden states, how it prompts the decoder, what it
adds to the loss. `docs/adding_a_system.md` adds a seventh. A system's file imports nothing heavy at its top, so that
its settings are known to `--help` at once; its methods import what they compute with.

Legend: S targets, m targets of one group, n tokens per target, K prompt tokens, C prompt width, M side of a mask
prompt, L+1 hidden states, H W original size of an image, h w size of low-resolution masks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from dataloaders.batching.batch import Batch
    from model.policy import PolicySample
    from model.states import TargetStates


@dataclass
class Prompt:
    """What the mask decoder is told about each of S targets.

    text [S, K, C]: projected states, always present.
    sparse: all prompt tokens in the decoder's order (the text among them): [S, K', C], or a list of such tensors for
        consecutive targets where the number of tokens differs.
    layers int64 [S]: the hidden state that the similarity map was taken from.
    dense [S, 1, M, M]: mask prompts, or None for "no mask given".
    maps: for each group of targets the similarity maps [m, H, W] in [0, 1], or None.
    policy: the policy's sample, where one acted.
    points: for each group of targets that has any, the points [m, K, 2] (x, y) in pixels of the original image and
        their labels [m, K], or None for systems without.
    """

    text: Tensor
    sparse: Tensor | list[Tensor]
    layers: Tensor
    dense: Tensor | None = None
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
    policy: Tensor | None = None
    statistics: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class NoSettings:
    """The settings of a system that has none of its own."""


class System:
    """Base of the systems.

    Which tokens: `seg_token_num` × `image_feature_scale_num` (settings that all systems have) stand for a target in an
    answer, `[SEG]`, or `[REJ]` where there is no such target. The other three questions are answered by methods.

    settings: a dataclass of `utils.settings.option` fields, which become flags of `train_ds.py`; the `stored` ones are
        fields of the model's configuration, too, and the `inference` ones flags of the other programs.
    frozen: names of its modules that stay as they were initialised, unless `--unfreeze` names them.
    when_new: values of settings for a model whose modules of this system are newly initialised, where these differ from
        the defaults, which are those of a stored configuration that does not name the setting.
    uses_policy: whether a policy chooses the hidden state; the model then has a module `policy`.
    uses_sam: whether the model has a SAM.
    uses_points: whether `Prompt.points` is set.
    """

    settings: ClassVar[type] = NoSettings
    frozen: ClassVar[tuple[str, ...]] = ()
    when_new: ClassVar[Mapping[str, Any]] = {}
    uses_policy = False
    uses_sam = True
    uses_points = False

    def __init__(self, config: PreTrainedConfig):
        """config: the model's `GroundingConfig`."""
        self.config = config

    def check(self) -> None:
        """Raises `UserError` where the values of its settings exclude each other or do not fit the model."""

    @classmethod
    def complete(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Returns the settings that a user gave and those that they imply; `UserError` for a contradiction."""
        return given

    # --- which hidden states ------------------------------------------------------------------------------------------

    def default_layer(self) -> str:
        """Returns the layer rule outside training where the caller asks for none: "last" or "greedy"."""
        return "last"

    def clip_depths(self) -> tuple[int, ...]:
        """Returns the indices of the CLIP states that `decode` reads, beside the one that the LLM sees."""
        return ()

    # --- how it prompts the decoder -----------------------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        """Builds the modules that this system adds to the model, by attribute name.

        A base model has none of them: they start as built, and are saved under these names.
        """
        return {}

    def trained(self, flags: Any) -> Collection[str]:
        """Returns those of its `frozen` modules that the settings of a training ask to train, beside `--unfreeze`."""
        return ()

    def prompt(
        self,
        model: PreTrainedModel,
        states: TargetStates,
        batch: Batch,
        layer: str | int,
        layer_choice: Tensor | None = None,
    ) -> Prompt:
        """Returns the prompts of all targets.

        model: the `GroundingModel` that the system is part of. layer: "sample", "greedy", "mixture", "last" or an
        index into the hidden states. layer_choice int64 [S] replaces the policy's sampling.
        """
        raise NotImplementedError

    def similarity_maps(self, scores: Tensor, states: TargetStates, batch: Batch) -> list[Tensor]:
        """Returns scores [S, P] in [0, 1] of the image tokens as maps on the image, [m, H, W] for each group."""
        from model.similarity import map_on_cropped_image, map_on_padded_image

        on_image = map_on_cropped_image if self.sees_center_only else map_on_padded_image
        groups = zip(scores.split(states.counts), states.groups, strict=True)
        return [on_image(group, batch.original_sizes[image]) for group, image in groups]

    @property
    def sees_center_only(self) -> bool:
        """Whether similarity maps cover the image's centre square, which is all that CLIP sees, or the whole image."""
        return self.config.map_geometry == "fit" and not self.config.pad_train_clip_images

    def decode(self, model: PreTrainedModel, batch: Batch, states: TargetStates, prompt: Prompt) -> list[Tensor]:
        """Returns low-resolution mask logits [S, h, w] of all targets, one tensor per scale of the decoder."""
        from model.decoders import sam

        embeddings = model.sam_embeddings(batch)
        if prompt.dense is None:
            dense = sam.no_mask(model.sam.prompt_encoder)
        else:
            dense = sam.embed_masks(model.sam, prompt.dense)
        return [sam.decode(model.sam, embeddings, states.image, prompt.sparse, dense)]

    def fuse(self, model: PreTrainedModel, low_res: list[Tensor]) -> Tensor:
        """Returns the logits [S, h, w] that are a target's mask, from those of `decode`."""
        return low_res[-1]

    def at_original_size(self, batch: Batch, image: int, logits: Tensor) -> Tensor:
        """Mask logits float32 [m, H, W] of targets of an image, or of images of its size, from fused ones [m, h, w]."""
        from model.decoders import sam

        side = batch.sam_images.shape[-1]
        return sam.upscale_masks(logits, side, batch.sam_sizes[image], batch.original_sizes[image])

    def upscale(
        self, model: PreTrainedModel, batch: Batch, states: TargetStates, low_res: list[Tensor]
    ) -> list[Tensor]:
        """Returns mask logits float32 [m, H, W] at original size, for each group of targets."""
        groups = self.fuse(model, low_res).split(states.counts)
        return [self.at_original_size(batch, *group) for group in zip(states.groups, groups, strict=True)]

    # --- what it adds to the loss -------------------------------------------------------------------------------------

    def own_losses(
        self, model: PreTrainedModel, prompt: Prompt, states: TargetStates, batch: Batch, present: bool
    ) -> OwnLosses | None:
        """Returns losses beyond cross entropy and mask losses, or None.

        present: False where the batch has no target and the one in `states` is a stand-in.
        """
        return None
