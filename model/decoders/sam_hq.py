"""SAM-HQ (Ke et al., NeurIPS 2023): SAM with one token more, whose mask reads finer features.

The finer features join the embeddings, the image encoder's states after its first layer of global attention, and the
features that the mask is read from; the mask is the sum of SAM's and the token's own. Everything else is SAM's.

Legend: I images, S targets, C prompt width, G side of the embedding grid, W width of the image encoder, M = 4 G.
"""

import torch
from torch import Tensor
from transformers import PreTrainedConfig, SamHQConfig, SamHQModel
from transformers.models.sam_hq.modeling_sam_hq import SamHQMaskDecoder

from model.decoders.published import SAM_HQ
from model.decoders.rowwise_attention import use_rowwise_attention
from model.decoders.sam import SamDecoder
from model.decoders.targets import TargetDecoder, use_mask_decoder


class SamHqDecoder(SamDecoder):
    """SAM-HQ's encoder, prompts and decoder."""

    encoder_name = "SAM-HQ"
    config_class = SamHQConfig
    published = SAM_HQ

    @classmethod
    def build(cls, config: PreTrainedConfig) -> SamHQModel:
        sam = SamHQModel(config)
        use_rowwise_attention(sam.vision_encoder)
        use_mask_decoder(sam, HqTargets)
        return sam

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Embeddings [I, C, G, G] and early states [I, G, G, W]."""
        encoded = self.encoder(pixels)
        return [encoded.last_hidden_state, encoded.intermediate_embeddings[0]]


class HqTargets(TargetDecoder, SamHQMaskDecoder):
    """The mask of SAM's first token and the one of SAM-HQ's own, summed."""

    def prepared(self, features: list[Tensor]) -> list[Tensor]:
        """Embeddings, and finer features [I, C / 8, M, M]."""
        embeddings, early = features
        fine = self.encoder_conv2(self.activation(self.encoder_norm(self.encoder_conv1(embeddings))))
        early = self.compress_vit_conv1(early.permute(0, 3, 1, 2).contiguous())
        return [embeddings, fine + self.compress_vit_conv2(self.activation(self.compress_vit_norm(early)))]

    def decoded(
        self, features: list[Tensor], positions: Tensor, image: Tensor, dense: Tensor, sparse: Tensor
    ) -> tuple[Tensor]:
        embeddings, fine = features
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.hq_token.weight])
        states, upscaled = self.transformed(own, embeddings[image], positions, dense, sparse)
        upscaled = self.activation(self.upscale_layer_norm(self.upscale_conv1(upscaled)))
        upscaled = self.activation(self.upscale_conv2(upscaled))  # [S, C / 8, M, M]
        finer = self.mask_conv2(self.activation(self.mask_norm(self.mask_conv1(upscaled)))) + fine[image]
        weights = self.output_hypernetworks_mlps[0](states[:, 1]), self.hq_mask_mlp(states[:, len(own) - 1])
        masks = (torch.einsum("sc,schw->shw", *pair) for pair in zip(weights, (upscaled, finer), strict=True))
        return (sum(masks),)
