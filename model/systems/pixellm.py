"""PixelLM (Ren et al., CVPR 2024): a code book of tokens per target and a light-weight decoder on CLIP features.

Tokens: `seg_token_num` × `image_feature_scale_num` per target. States: the last; the tokens of a scale are fused by
weights. Prompt: one token per scale. With `vision_tower_for_mask` the masks come from CLIP features at several
scales, without it from SAM. Own losses: none.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.systems.base import Prompt, System
from utils.settings import FIXED, option

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from dataloaders.batching.batch import Batch
    from model.decoders.base import MaskDecoder
    from model.states import TargetStates


@dataclass
class PixelLMSettings:
    """Where masks come from, and whether the fusion of tokens and scales is trained."""

    vision_tower_for_mask: bool = option(
        False, "model", "decode masks from CLIP's features (PixelLM)", on_resume=FIXED, stored=True
    )
    train_fusion: bool = option(
        False,
        "trainable part",
        "train PixelLM's weights of tokens and scales",
        names=("train_fusion",),
        on_resume=FIXED,
    )


class PixelLM(System):
    """Fused token states prompt a decoder of its own, or SAM."""

    settings = PixelLMSettings

    frozen = ("image_feature_neck", "fusion")  # the neck is newly initialised and frozen in the reference, too

    @property
    def decodes_from_clip(self) -> bool:
        """Whether masks come from CLIP features, not from SAM."""
        return self.config.vision_tower_for_mask

    def decoder(self) -> type[MaskDecoder]:
        """Returns PixelLM's own decoder, or the one that the configuration names."""
        from model.decoders.multiscale import MultiScaleDecoder

        return MultiScaleDecoder if self.decodes_from_clip else super().decoder()

    def modules(self) -> dict[str, nn.Module]:
        """Builds the fusion weights, which the decoder of its own has already."""
        from model.decoders.multiscale import SegFusion

        config = self.config
        if self.decodes_from_clip:
            return {}
        return {"fusion": SegFusion(config.seg_token_num, config.image_feature_scale_num, fuses_scales=False)}

    def trained(self, flags: Any) -> Collection[str]:
        """Returns the fusion weights where `--train_fusion` is given; the reference keeps them constant."""
        return ("fusion",) if flags.train_fusion else ()

    def prompt(
        self,
        model: PreTrainedModel,
        states: TargetStates,
        batch: Batch,
        layer: str | int,
        layer_choice: Tensor | None = None,
    ) -> Prompt:
        """Returns one token per target and scale; `layer` does not matter."""
        embeddings = model.text_hidden_fcs(states.last)  # [S, n, C]
        codes = embeddings.unflatten(1, (self.config.image_feature_scale_num, self.config.seg_token_num))
        text = model.fusion("token", codes.transpose(2, 3))  # [S, scales, C]
        return Prompt(text=text, sparse=text, layers=states.at_every_target(states.last_layer))
