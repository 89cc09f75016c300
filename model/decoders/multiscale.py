"""PixelLM's light-weight decoder: masks from the backbone's features at several scales, each refining the one before.

Legend: I images, S targets, m targets of one group, D width of the backbone's features, C width, h w rows and columns
of a scale's features (of the first scale those of the backbone), Λ scales, H W size of an original image.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import (
    SamFeedForward,
    SamLayerNorm,
    SamPositionalEmbedding,
    SamPromptEncoder,
    SamTwoWayTransformer,
)

from dataloaders.batching.batch import Geometry
from model.decoders.base import DecodedTargets, MaskDecoder
from model.decoders.published import DECODER_LAYER_NORM_EPS
from model.decoders.sam import grid_positions, no_mask
from model.decoders.targets import two_way
from model.images import spread_cells

MASK_TOKENS = 4
FUSED_SIDE = 128  # masks of all scales are fused at this side, whatever their own (a constant of the reference)
OUTSIDE_LOGIT = -20.0  # of pixels that the backbone did not see


class MultiScaleDecoder(MaskDecoder):
    """Masks from as many feature maps of the backbone as there are scales, prompted by one token per scale."""

    parts = {
        "neck": ("image_feature_neck",),
        "prompt": ("prompt_encoder",),
        "decoder": ("mask_decoder",),
        "fusion": ("fusion",),
    }

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        width, scales = config.out_dim, config.image_feature_scale_num
        self.fusion = SegFusion(config.seg_token_num, scales, fuses_scales=True)
        self.prompt_encoder = position_encoder(width, config.clip_image_size, config.vision_config.patch_size)
        self.image_feature_neck = FeatureNeck(config.clip_feature_width, width)
        self.mask_decoder = ScaleTransformers(width, scales)

    @classmethod
    def scales(cls, config: PreTrainedConfig) -> int:
        return config.image_feature_scale_num

    @classmethod
    def preparation(cls, config: PreTrainedConfig) -> None:
        return None

    def encode(self, images: list[Tensor]) -> list[Tensor]:
        """Λ tensors [I, C, h, w] from as many maps [I, D, h, w]."""
        return [self.image_feature_neck(each) for each in images]

    def decode(self, features: list[Tensor], image: Tensor, sparse: Tensor, dense: None) -> DecodedTargets:
        """Λ tensors [S, 2 h, 2 w]; see `ScaleTransformers`."""
        positions = grid_positions(self.prompt_encoder.shared_embedding, tuple(features[0].shape[-2:]))
        masks = self.mask_decoder(features, image, sparse, positions, no_mask(self.prompt_encoder))
        return DecodedTargets(list(masks))

    def fuse(self, low_res: list[Tensor]) -> Tensor:
        """The weighed sum [S, 128, 128] of all scales."""
        side = (FUSED_SIDE, FUSED_SIDE)
        scales = [F.interpolate(each.unsqueeze(1), side, mode="bilinear", align_corners=False) for each in low_res]
        return self.fusion("scale", torch.stack(scales, dim=-1)).squeeze(1)

    def upscale(self, logits: Tensor, geometry: Geometry, size: tuple[int, int]) -> Tensor:
        """[m, H, W]; outside the backbone's window nothing is predicted."""
        masks = logits.float().unsqueeze(1)
        if len(masks) == 0:
            return masks.new_zeros((0, *size))
        if geometry.row_centres is not None:
            return spread_cells(masks.squeeze(1), geometry, size)
        if geometry.padded:
            side = max(geometry.size)
            masks = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
            masks = masks[..., : geometry.size[0], : geometry.size[1]]
            return F.interpolate(masks, size, mode="bilinear", align_corners=False).squeeze(1)
        top, left, height, width = geometry.window
        masks = F.interpolate(masks, (height, width), mode="bilinear", align_corners=False).squeeze(1)
        return F.pad(masks, (left, size[1] - width - left, top, size[0] - height - top), value=OUTSIDE_LOGIT)


class SegFusion(nn.Module):
    """Sums of the tokens of a scale and, where masks of several scales are fused, of the scales, by weights.

    The weights do not require gradients by themselves. As in the reference the token weights start at
    1/(tokens · scales), so a "mean" of tokens is scaled by 1/scales, and a single token is taken as it is.
    """

    def __init__(self, tokens: int, scales: int, *, fuses_scales: bool):
        super().__init__()
        start = 1.0 if tokens == 1 else 1.0 / (tokens * scales)
        self.token_weights = nn.Parameter(torch.full((tokens,), start), requires_grad=False)
        if fuses_scales:
            self.scale_weights = nn.Parameter(torch.full((scales,), 1.0 / scales), requires_grad=False)

    def forward(self, which: str, parts: Tensor) -> Tensor:
        """Returns the weighted sum over the last axis of `parts`, which are of kind "token" or "scale"."""
        return parts @ getattr(self, f"{which}_weights").to(parts.dtype)


def position_encoder(width: int, side: int, patch: int) -> SamPromptEncoder:
    """Builds SAM's prompt encoder for images of `side` pixels, of which the decoder uses positions and "no mask"."""
    return SamPromptEncoder(
        SamConfig(
            vision_config=SamVisionConfig(num_pos_feats=width // 2, scale=1.0),
            prompt_encoder_config=SamPromptEncoderConfig(hidden_size=width, image_size=side, patch_size=patch),
        )
    )


class FeatureNeck(nn.Sequential):
    """The backbone's features [I, D, h, w] -> decoder features [I, C, h, w]."""

    def __init__(self, in_width: int, width: int):
        super().__init__(
            nn.Conv2d(in_width, width, kernel_size=1, bias=False),
            SamLayerNorm(width, data_format="channels_first"),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            SamLayerNorm(width, data_format="channels_first"),
        )


class ScaleTransformers(nn.Module):
    """Λ two-way transformers over features at h w, 2 h 2 w, …; the mask of a scale gates the features of the next."""

    def __init__(self, width: int, scales: int):
        super().__init__()
        config = SamMaskDecoderConfig(hidden_size=width, layer_norm_eps=DECODER_LAYER_NORM_EPS)
        config._attn_implementation = "sdpa"
        first = SamTwoWayTransformer(config)
        self.transformer = nn.ModuleList([first, *(copy.deepcopy(first) for _ in range(scales - 1))])
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, width)
        self.level_embed = nn.Embedding(scales, width)
        self.upsample_2x = _upsampler(width, width)
        self.output_upscaling = _upsampler(width, width // 8)
        self.pe1 = SamPositionalEmbedding(SamVisionConfig(num_pos_feats=width // 2, scale=1.0))
        self.output_hypernetworks_mlps = nn.ModuleList(
            SamFeedForward(width, width, width // 8, 3) for _ in range(MASK_TOKENS)
        )
        self.iou_prediction_head = SamFeedForward(width, width, MASK_TOKENS, 3)

    def forward(
        self, features: list[Tensor], image: Tensor, prompts: Tensor, first_positions: Tensor, no_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """Mask logits [S, 2 h, 2 w] of every scale.

        features: Λ tensors [I, C, h, w]; image: int64 [S], the image of each target; prompts [S, Λ, C], one token per
        scale; first_positions [1, C, h, w], the positional encoding of the first scale; no_mask [1, C, 1, 1], the
        dense prompt.
        """
        masks: list[Tensor] = []
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        for level, transformer in enumerate(self.transformer):
            tokens = torch.cat([output_tokens.expand(len(prompts), -1, -1), prompts[:, level : level + 1]], dim=1)
            tokens = tokens + self.level_embed.weight[level]
            if level == 0:
                source, positions = features[0][image], first_positions
            else:
                source = self.upsample_2x(features[level])[image]  # once per image, however many targets it has
                positions = grid_positions(self.pe1, tuple(source.shape[-2:]))
                gate = masks[-1].unsqueeze(1)
                if gate.shape[-2:] != source.shape[-2:]:
                    gate = F.interpolate(gate, source.shape[-2:], mode="bilinear", align_corners=False)
                source = (gate.sigmoid() + 1) * source
            masks.append(self._masks(transformer, tokens, source + no_mask, positions.to(source.dtype)))
        return tuple(masks)

    def _masks(self, transformer: nn.Module, tokens: Tensor, source: Tensor, positions: Tensor) -> Tensor:
        """[S, 2 h, 2 w] from tokens [S, N, C] and features [S, C, h, w]."""
        cells = source.flatten(2).transpose(1, 2)
        tokens, cells = two_way(transformer, tokens, cells, positions.flatten(2).transpose(1, 2).squeeze(0))
        features = self.output_upscaling(cells.transpose(1, 2).unflatten(2, source.shape[-2:]))
        weights = self.output_hypernetworks_mlps[0](tokens[:, 1])
        return torch.einsum("sc,schw->shw", weights, features)


def _upsampler(width: int, out_width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(width, out_width, kernel_size=2, stride=2),
        SamLayerNorm(out_width, data_format="channels_first"),
        nn.GELU(),
    )
