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
    from model.states import TargetStates

FUSED_SIDE = 128  # masks of all scales are fused at this side, whatever their own (a constant of the reference)
OUTSIDE_LOGIT = -20.0


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

    @property
    def uses_sam(self) -> bool:
        """Whether the model has a SAM, which it needs for masks only."""
        return not self.decodes_from_clip

    def clip_depths(self) -> tuple[int, ...]:
        """Returns the index of a CLIP state per scale: 2 and 11 from the end for a deep tower (the reference), earlier
        ones as far as there are layers."""
        if not self.decodes_from_clip:
            return ()
        last = self.config.vision_config.num_hidden_layers - 1
        return tuple(max(1, last - 9 * scale) for scale in range(self.config.image_feature_scale_num))

    def modules(self) -> dict[str, nn.Module]:
        """Builds the fusion weights and, for masks from CLIP, the neck, prompt encoder and mask decoder."""
        from model.decoders.multiscale import FeatureNeck, MultiScaleDecoder, SegFusion, position_encoder

        config = self.config
        scales = config.image_feature_scale_num
        modules: dict[str, nn.Module] = {
            "fusion": SegFusion(config.seg_token_num, scales, fuses_scales=self.decodes_from_clip)
        }
        if self.decodes_from_clip:
            patch = config.vision_config.patch_size
            modules["prompt_encoder"] = position_encoder(config.out_dim, config.clip_image_size, patch)
            modules["image_feature_neck"] = FeatureNeck(config.clip_feature_width, config.out_dim)
            modules["mask_decoder"] = MultiScaleDecoder(config.out_dim, scales)
        return modules

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

    def decode(self, model: PreTrainedModel, batch: Batch, states: TargetStates, prompt: Prompt) -> list[Tensor]:
        """Returns mask logits [S, h, w] of every scale."""
        if not self.decodes_from_clip:
            return super().decode(model, batch, states, prompt)
        import torch

        from model.decoders.sam import no_mask

        projector = model.out_mm_projector if self.config.separate_mm_projector else model.mm_projector
        grid = round(states.images.clip_states[1].shape[1] ** 0.5)
        features = []
        for clip_states in states.images.clip_states[1:]:
            square = projector(clip_states).transpose(1, 2).unflatten(2, (grid, grid))
            features.append(model.image_feature_neck(square))  # [I, C, G, G]
        line = (torch.arange(grid, device=states.image.device, dtype=torch.float32) + 0.5) / grid
        y, x = torch.meshgrid(line, line, indexing="ij")
        positions = model.prompt_encoder.shared_embedding(torch.stack([x, y], dim=-1)).permute(2, 0, 1).unsqueeze(0)
        empty = no_mask(model.prompt_encoder)
        return list(model.mask_decoder(features, states.image, prompt.text, positions, empty))

    def fuse(self, model: PreTrainedModel, low_res: list[Tensor]) -> Tensor:
        """Returns the weighted sum [S, 128, 128] of the logits of all scales."""
        if not self.decodes_from_clip:
            return super().fuse(model, low_res)
        import torch
        import torch.nn.functional as F

        side = (FUSED_SIDE, FUSED_SIDE)
        scales = [F.interpolate(each.unsqueeze(1), side, mode="bilinear", align_corners=False) for each in low_res]
        return model.fusion("scale", torch.stack(scales, dim=-1)).squeeze(1)

    def at_original_size(self, batch: Batch, image: int, logits: Tensor) -> Tensor:
        """Returns logits [m, H, W] from those over CLIP's square; outside a centre crop nothing is predicted."""
        if not self.decodes_from_clip:
            return super().at_original_size(batch, image, logits)
        import torch.nn.functional as F

        masks, clip_size, size = logits.float().unsqueeze(1), batch.clip_sizes[image], batch.original_sizes[image]
        if len(masks) == 0:
            return masks.new_zeros((0, *size))
        if self.config.pad_train_clip_images:
            side = max(clip_size)
            masks = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
            masks = masks[..., : clip_size[0], : clip_size[1]]
            return F.interpolate(masks, size, mode="bilinear", align_corners=False).squeeze(1)
        side = min(size)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        masks = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False).squeeze(1)
        padding = (left, size[1] - side - left, top, size[0] - side - top)
        return F.pad(masks, padding, value=OUTSIDE_LOGIT)
