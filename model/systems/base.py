"""What a system is: the part of the model between hidden states and the mask decoder, declared in one file.

A system answers four questions, in this order: which tokens, which hidden states, how it prompts the decoder, what it
adds to the loss. `docs/adding_a_system.md` adds a seventh. A system's file imports nothing heavy at its top, so that
its settings are known to `--help` at once; its methods import what they compute with.

Legend: S targets, m targets of one group, n tokens per target, K prompt tokens, C prompt width, M side of a mask
prompt, L+1 hidden states, P cells of the largest grid, H W original size of an image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from groundscore.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from dataloaders.batching.batch import Batch, Geometry
    from model.decoders.base import MaskDecoder
    from model.policy import PolicySample
    from model.states import TargetStates

LAYER_RULES = ("last", "greedy", "mixture", "sample")  # how a layer is chosen, beside an index


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
    uses_points: whether `Prompt.points` is set.
    """

    settings: ClassVar[type] = NoSettings
    frozen: ClassVar[tuple[str, ...]] = ()
    when_new: ClassVar[Mapping[str, Any]] = {}
    uses_policy = False
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

    def layer_rule(self, layer: str | int | None) -> str | int:
        """Returns the layer rule to use outside training, one of `LAYER_RULES` or an index.

        layer: what is asked for, None for the checkpoint's own. Raises `UserError` for one that the model has not.
        """
        if layer is None:
            return self.default_layer()
        if layer in LAYER_RULES:
            if layer != "last" and not self.uses_policy:
                raise UserError(f'layer "{layer}": {self.config.system} has no policy; use "last"')
            return layer
        last = self.config.num_layers - 1
        if not str(layer).lstrip("-").isdecimal():
            raise UserError(f'layer "{layer}": use {", ".join(LAYER_RULES)} or one of 0..{last}')
        index = int(layer)
        if not 0 <= index <= last:
            raise UserError(f"layer {index} is outside 0..{last}")
        if not self.uses_policy:
            raise UserError(f"layer {index}: {self.config.system} always uses the last layer")
        return index

    # --- how it prompts the decoder -----------------------------------------------------------------------------------

    def decoder(self) -> type[MaskDecoder]:
        """Returns the class of the mask decoder: the one that the configuration names."""
        from model.decoders import decoder_of

        return decoder_of(self.config)

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

    def similarity_maps(self, scores: Tensor, states: TargetStates) -> list[Tensor]:
        """Returns scores [S, P] in [0, 1] of the cells as maps on the image, [m, H, W] for each group."""
        from model.similarity import map_along, map_lines

        geometries = self.geometries(states)
        if states.map_lines is None:  # the same for the maps of every layer
            placed = zip(geometries, states.sizes, strict=True)
            states.map_lines = [map_lines(geometry, size, scores.device) for geometry, size in placed]
        groups = zip(scores.split(states.counts), geometries, states.map_lines, strict=True)
        return [map_along(*group) for group in groups]

    def geometries(self, states: TargetStates) -> list[Geometry]:
        """Returns where the grid of each group's image is taken to lie: as it does, or padded (the reference)."""
        if self.config.map_geometry != "reference":
            return states.geometries
        return [geometry.as_padded(size) for geometry, size in zip(states.geometries, states.sizes, strict=True)]

    # --- what it adds to the loss -------------------------------------------------------------------------------------

    def own_losses(
        self, model: PreTrainedModel, prompt: Prompt, states: TargetStates, batch: Batch, present: bool
    ) -> OwnLosses | None:
        """Returns losses beyond cross entropy and mask losses, or None.

        present: False where the batch has no target and the one in `states` is a stand-in.
        """
        return None
