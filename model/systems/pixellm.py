"""PixelLM (Ren et al., CVPR 2024): a code book of tokens per target and a light-weight decoder on CLIP features.

Tokens: `seg_token_num` × `image_feature_scale_num` per target. States: the last; the tokens of a scale are fused by
weights. Prompt: one token per scale. With `vision_tower_for_mask` the masks come from CLIP features at several
scales, without it from SAM. Own losses: none.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamConfig, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamPromptEncoder

from model.decoders.multiscale import FeatureNeck, MultiScaleDecoder
from model.decoders.sam import no_mask
from model.systems.base import Prompt, System

FUSED_SIDE = 128  # masks of all scales are fused at this side, whatever their own (a constant of the reference)
OUTSIDE_LOGIT = -20.0


class SegFusion(nn.Module):
    """Sums of the tokens of a scale and, where masks of several scales are fused, of the scales, by weights.

    Constant unless `--train_fusion` makes them learn. As in the reference the token weights start at
    1/(tokens · scales), so a "mean" of tokens is scaled by 1/scales, and a single token is taken as it is.
    """

    def __init__(self, tokens: int, scales: int, *, fuses_scales: bool):
        super().__init__()
        start = 1.0 if tokens == 1 else 1.0 / (tokens * scales)
        self.token_weights = nn.Parameter(torch.full((tokens,), start), requires_grad=False)
        if fuses_scales:
            self.scale_weights = nn.Parameter(torch.full((scales,), 1.0 / scales), requires_grad=False)

    def forward(self, which: str, parts: Tensor) -> Tensor:
        """The sum over the last axis of `parts`, which are "token" or "scale"."""
        return parts @ getattr(self, f"{which}_weights").to(parts.dtype)


class PixelLM(System):
    @property
    def decodes_from_clip(self):
        return self.config.vision_tower_for_mask

    @property
    def uses_sam(self):
        return not self.decodes_from_clip

    def clip_depths(self):
        """A CLIP state per scale: 2 and 11 from the end for a deep tower (the reference), earlier ones as far as there
        are layers."""
        if not self.decodes_from_clip:
            return ()
        last = self.config.vision_config.num_hidden_layers - 1
        return tuple(max(1, last - 9 * scale) for scale in range(self.config.image_feature_scale_num))

    def modules(self):
        config = self.config
        scales = config.image_feature_scale_num
        modules = {"fusion": SegFusion(config.seg_token_num, scales, fuses_scales=self.decodes_from_clip)}
        if self.decodes_from_clip:
            width, side = config.out_dim, config.clip_image_size
            settings = SamConfig(
                vision_config=SamVisionConfig(num_pos_feats=width // 2, scale=1.0),
                prompt_encoder_config=SamPromptEncoderConfig(
                    hidden_size=width, image_size=side, patch_size=config.vision_config.patch_size
                ),
            )
            modules["prompt_encoder"] = SamPromptEncoder(settings)
            modules["image_feature_neck"] = FeatureNeck(config.clip_feature_width, width)
            modules["mask_decoder"] = MultiScaleDecoder(width, scales)
        return modules

    def prompt(self, model, states, batch, layer, layer_choice=None):
        config = self.config
        embeddings = model.text_hidden_fcs(states.last)  # [S, n, C]
        codes = embeddings.unflatten(1, (config.image_feature_scale_num, config.seg_token_num))
        text = model.fusion("token", codes.transpose(2, 3))
        layers = torch.full_like(states.image, states.last_layer)
        return Prompt(text=text, sparse=text, dense=None, layers=layers)

    def decode(self, model, batch, states, prompt):
        if not self.decodes_from_clip:
            return super().decode(model, batch, states, prompt)
        projector = model.out_mm_projector if self.config.separate_mm_projector else model.mm_projector
        grid = round(states.images.clip_states[1].shape[1] ** 0.5)
        features = []
        for clip_states in states.images.clip_states[1:]:
            square = projector(clip_states).transpose(1, 2).unflatten(2, (grid, grid))
            features.append(model.image_feature_neck(square))
        line = (torch.arange(grid, device=states.image.device, dtype=torch.float32) + 0.5) / grid
        y, x = torch.meshgrid(line, line, indexing="ij")
        positions = model.prompt_encoder.shared_embedding(torch.stack([x, y], dim=-1)).permute(2, 0, 1).unsqueeze(0)
        empty = no_mask(model.prompt_encoder)
        return list(model.mask_decoder(features, states.image, prompt.text, positions, empty))

    def fuse(self, model, low_res):
        if not self.decodes_from_clip:
            return super().fuse(model, low_res)
        side = (FUSED_SIDE, FUSED_SIDE)
        scales = [F.interpolate(each.unsqueeze(1), side, mode="bilinear", align_corners=False) for each in low_res]
        return model.fusion("scale", torch.stack(scales, dim=-1)).squeeze(1)

    def at_original_size(self, batch, image, logits):
        """Logits over CLIP's square; outside a centre crop nothing is predicted."""
        if not self.decodes_from_clip:
            return super().at_original_size(batch, image, logits)
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
