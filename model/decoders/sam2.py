"""SAM 2.1 (Ravi et al., 2024) on single images: features of three resolutions, and a score of there being an object.

What differs from SAM: an image is stretched to a square, and so are mask prompts and masks; the encoder's finer
features join the decoder's upscaling; what stands for "no memory of earlier frames" is added to the embeddings; and a
token of its own scores whether there is an object at all. The mask is always that of the first token.

Legend: I images, S targets, C prompt width, G side of the embedding grid, M = 4 G side of a mask prompt, H W size of an
original image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, Sam2Config, Sam2Model
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

from dataloaders.batching.batch import Geometry, ImageGroup, ImagePreparation
from model.decoders.base import NEITHER, DecodedTargets
from model.decoders.published import SAM2
from model.decoders.sam import SamDecoder, head_depths, only_row
from model.decoders.targets import TargetDecoder, use_mask_decoder
from model.images import IMAGENET_MEAN, IMAGENET_STD, normalize_stretched, stretch


@dataclass(frozen=True)
class StretchedPreparation:
    """An image that fills a square of `side` pixels, whatever its proportions; patch: pixels of an embedding."""

    side: int
    patch: int

    def __call__(self, rgb: np.ndarray) -> tuple[Tensor, Geometry]:
        """uint8 [H, W, 3] → uint8 [3, side, side], and where it lies."""
        return stretch(rgb, self.side, (self.side // self.patch,) * 2)


class Sam2Decoder(SamDecoder):
    """SAM 2's image encoder, prompt encoder and mask decoder, without its memory."""

    encoder_name = "SAM 2"
    # The embedding of "no memory" completes the encoder's embeddings, and is trained or frozen with it.
    parts = SamDecoder.parts | {"encoder": ("sam.vision_encoder", "sam.no_memory_embedding")}
    config_class = Sam2Config
    box_tokens = (*SamDecoder.box_tokens, NEITHER)
    published = SAM2
    pixel_mean, pixel_std = IMAGENET_MEAN, IMAGENET_STD

    @classmethod
    def build(cls, config: PreTrainedConfig) -> PreTrainedModel:
        sam = Sam2(config)
        use_mask_decoder(sam, Sam2Targets)
        return sam

    @classmethod
    def depths(cls, config: PreTrainedConfig) -> dict[str, int]:
        blocks = sum(config.sam_config.vision_config.backbone_config.blocks_per_stage)
        return {"sam.vision_encoder.backbone.blocks": blocks, **head_depths(config)}

    @classmethod
    def preparation(cls, config: PreTrainedConfig) -> ImagePreparation:
        prompt = config.sam_config.prompt_encoder_config
        return StretchedPreparation(prompt.image_size, prompt.patch_size)

    # --- images

    def normalized(self, images: ImageGroup, dtype: torch.dtype) -> Tensor:
        return normalize_stretched(images.pixels, self.pixel_mean, self.pixel_std, dtype)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Three tensors [I, C, side, side], their sides G, 4 G and 2 G."""
        finest, finer, embeddings = self.encoder(pixels).fpn_hidden_states
        return [embeddings, finest, finer]

    # --- prompts

    def mask_prompts(self, maps: Sequence[Tensor]) -> Tensor:
        """[S, 1, M, M] of maps [m, H, W], stretched, antialiased."""
        side = (self.prompt_side, self.prompt_side)
        stretched = [
            F.interpolate(each.unsqueeze(1), side, mode="bilinear", align_corners=False, antialias=True)
            if len(each)
            else each.new_zeros((0, 1, *side))
            for each in maps
        ]
        return torch.cat(stretched)

    def kinds_of_points(self, count: int) -> Tensor:
        encoder = self.sam.prompt_encoder
        kinds = torch.arange(count, device=encoder.point_embed.weight.device)
        return torch.cat([only_row(encoder.not_a_point_embed), encoder.point_embed(kinds)])

    # --- masks

    def decode(
        self, features: list[Tensor], image: Tensor, sparse: Tensor | list[Tensor], dense: Tensor | None
    ) -> DecodedTargets:
        """[S, M, M], one tensor, and object scores."""
        embeddings, *finer = features
        return super().decode([self.sam(embeddings), *finer], image, sparse, dense)

    def upscale(self, logits: Tensor, geometry: Geometry, size: tuple[int, int]) -> Tensor:
        if len(logits) == 0:
            return logits.new_zeros((0, *size), dtype=torch.float32)
        return F.interpolate(logits.unsqueeze(1).float(), size, mode="bilinear", align_corners=False).squeeze(1)


class WithoutMemory:
    """What makes a SAM 2 of transformers, which is the next base, one whose call adds its only own parameter; ZeRO 3
    has that here only while the model is called."""

    no_memory_embedding: Tensor  # [1, 1, C]

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings [I, C, G, G] of images that no frame was before."""
        return embeddings + self.no_memory_embedding.view(1, -1, 1, 1)


class Sam2(WithoutMemory, Sam2Model):
    """The parts of a SAM 2."""


class FinerTargets(TargetDecoder):
    """What makes SAM 2's and SAM 3's mask decoder of transformers, which is the next base, one over targets."""

    def prepared(self, features: list[Tensor]) -> list[Tensor]:
        """Embeddings, and the finer features [I, C / 8, 4 G, 4 G] and [I, C / 4, 2 G, 2 G]."""
        embeddings, finest, finer = features
        return [embeddings, self.conv_s0(finest), self.conv_s1(finer)]

    def decoded(
        self, features: list[Tensor], positions: Tensor, image: Tensor, dense: Tensor, sparse: Tensor
    ) -> tuple[Tensor, Tensor]:
        embeddings, finest, finer = features
        own = torch.cat([self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight])
        states, upscaled = self.transformed(own, embeddings[image], positions, dense, sparse)
        upscaled = self.activation(self.upscale_layer_norm(self.upscale_conv1(upscaled) + finer[image]))
        upscaled = self.activation(self.upscale_conv2(upscaled) + finest[image])  # [S, C / 8, M, M]
        masks = torch.einsum("sc,schw->shw", self.output_hypernetworks_mlps[0](states[:, 2]), upscaled)
        return masks, self.pred_obj_score_head(states[:, 0]).squeeze(1)


class Sam2Targets(FinerTargets, Sam2MaskDecoder):
    """SAM 2's."""
