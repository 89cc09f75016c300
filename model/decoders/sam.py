"""SAM, the transformers port, and what its successors have of it: images are encoded once, all masks of a batch are
decoded together.

Two of its classes are replaced by ours, with the parameters that they have: the encoder's attention
(`rowwise_attention.py`) and the mask decoder (`targets.py`).

Legend: I images, S targets, m targets of one group, K prompt tokens, k points, C prompt width, G side of the embedding
grid, M = 4 G side of a mask prompt, H W size of an original image.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel, SamConfig, SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder

from dataloaders.batching.batch import Geometry, ImageGroup, ImagePreparation
from model.decoders.base import LOWER_RIGHT, NEITHER, UPPER_LEFT, DecodedTargets, MaskDecoder
from model.decoders.published import SAM
from model.decoders.rowwise_attention import use_rowwise_attention
from model.decoders.targets import TargetDecoder, use_mask_decoder
from model.images import fit_and_pad, fitted_size, normalize_padded, twice_bilinear_line


@dataclass(frozen=True)
class SamPreparation:
    """An image as SAM takes it: the longest side fills a square of `side` pixels; patch: pixels of an embedding."""

    side: int
    patch: int = 16

    def __call__(self, rgb: np.ndarray) -> tuple[Tensor, Geometry]:
        """uint8 [H, W, 3] → uint8 [3, side, side], and where it lies."""
        return fit_and_pad(rgb, self.side, (self.side // self.patch,) * 2)


class SamDecoder(MaskDecoder):
    """SAM: image encoder, prompt encoder and mask decoder; its successors override what differs."""

    encoder_name = "SAM"
    parts = {"encoder": ("sam.vision_encoder",), "prompt": ("sam.prompt_encoder",), "decoder": ("sam.mask_decoder",)}
    config_class = SamConfig
    takes_points = True
    box_tokens: ClassVar[tuple[int, ...]] = (UPPER_LEFT, LOWER_RIGHT)  # kinds of the tokens of a box
    published = SAM

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.sam = self.build(copy.deepcopy(config.sam_config))

    @classmethod
    def build(cls, config: PreTrainedConfig) -> PreTrainedModel:
        """The model of transformers whose names and parameters the decoder has, with our classes in it."""
        sam = SamModel(config)
        use_rowwise_attention(sam.vision_encoder)
        use_mask_decoder(sam, SamTargets)
        return sam

    @classmethod
    def depths(cls, config: PreTrainedConfig) -> dict[str, int]:
        return {"sam.vision_encoder.layers": config.sam_config.vision_config.num_hidden_layers, **head_depths(config)}

    @classmethod
    def preparation(cls, config: PreTrainedConfig) -> ImagePreparation:
        prompt = config.sam_config.prompt_encoder_config
        return SamPreparation(prompt.image_size, prompt.patch_size)

    # --- images

    @property
    def encoder(self) -> nn.Module:
        return self.sam.vision_encoder

    def encoder_settings(self) -> dict[str, Any]:
        return {"encoder": self.config_class.model_type, "config": self.sam.config.vision_config.to_diff_dict()}

    def encode(self, images: ImageGroup) -> list[Tensor]:
        """Features of the images, the embeddings [I, C, G, G] first; no graph is kept while the encoder is frozen."""
        parameters = list(self.encoder.parameters())
        pixels = self.normalized(images, parameters[0].dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(each.requires_grad for each in parameters)):
            return self.features(pixels)

    def normalized(self, images: ImageGroup, dtype: torch.dtype) -> Tensor:
        """The pixels [I, 3, side, side] as the encoder takes them."""
        return normalize_padded(images.pixels, images.sizes, dtype)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """What the encoder gives for normalised pixels, the embeddings [I, C, G, G] first."""
        return [self.encoder(pixels).last_hidden_state]

    @property
    def grid(self) -> int:
        """G."""
        prompt = self.sam.config.prompt_encoder_config
        return prompt.image_size // prompt.patch_size

    def positions(self) -> Tensor:
        """SAM's positional encoding [1, C, G, G] of its embedding grid."""
        return grid_positions(self.sam.shared_image_embedding, (self.grid, self.grid))

    # --- prompts

    @property
    def prompt_side(self) -> int:
        """M, side of the square that a mask prompt (and a low-resolution mask) fills: four times the grid's."""
        return 4 * self.grid

    def mask_prompts(self, maps: Sequence[Tensor]) -> Tensor:
        """[S, 1, M, M] of maps [m, H, W]: longest side M, antialiased, zero-padded right and bottom."""
        return torch.cat([mask_prompt(each, self.prompt_side) for each in maps])

    def embed_masks(self, masks: Tensor | None) -> Tensor:
        """Dense prompts [S, C, G, G] of mask prompts [S, 1, M, M]; for None that of "no mask given", [1, C, 1, 1]."""
        encoder = self.sam.prompt_encoder
        return no_mask(encoder) if masks is None else encoder.mask_embed(masks.to(encoder.no_mask_embed.weight.dtype))

    def embed_points(
        self,
        points: Sequence[Tensor],
        labels: Sequence[Tensor],
        geometries: Sequence[Geometry],
        sizes: Sequence[tuple[int, int]],
        boxes: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Prompt tokens [m, K, C]: of the points, and then of `box_tokens`, or else one that is `NEITHER`, as SAM has
        it.

        All groups are embedded together: the modules are called once, whatever the batch holds (ZeRO 3).
        """
        encoder = self.sam.prompt_encoder
        last = (NEITHER,) if boxes is None else self.box_tokens
        framed, kinds = [], []
        for index, (each, geometry, size) in enumerate(zip(points, geometries, sizes, strict=True)):
            if boxes is not None:
                each = torch.cat([each, boxes[index].unflatten(1, (2, 2))], dim=1)
            x, y = each.unbind(-1)
            located = torch.stack([x * (geometry.size[1] / size[1]), y * (geometry.size[0] / size[0])], dim=-1)
            label = labels[index]
            framed.append(F.pad(located, (0, 0, 0, label.shape[1] + len(last) - located.shape[1])))
            for kind in last:  # a tensor made of them would be copied to the device, which is waited for
                label = F.pad(label, (0, 1), value=kind)
            kinds.append(label)
        shapes = [each.shape for each in kinds]
        locations = torch.cat([each.flatten(0, 1) for each in framed])  # [Σ m K, 2]
        kinds = torch.cat([each.flatten() for each in kinds])
        tokens = encoder.shared_embedding((locations + 0.5) / encoder.input_image_size)  # of pixel centres
        tokens = tokens.masked_fill((kinds == NEITHER).unsqueeze(1), 0.0)
        of_kinds = self.kinds_of_points(2 if boxes is None else 4)
        tokens = (tokens + of_kinds[kinds - NEITHER]).split([m * k for m, k in shapes])
        return [each.unflatten(0, shape) for each, shape in zip(tokens, shapes, strict=True)]

    def kinds_of_points(self, count: int) -> Tensor:
        """[1 + count, C]: what is added to the tokens of points that are `NEITHER`, and to those of the first `count`
        of `OUTSIDE`, `INSIDE`, `UPPER_LEFT` and `LOWER_RIGHT`."""
        encoder = self.sam.prompt_encoder
        return torch.cat([only_row(each) for each in (encoder.not_a_point_embed, *encoder.point_embed[:count])])

    # --- masks

    def decode(
        self, features: list[Tensor], image: Tensor, sparse: Tensor | list[Tensor], dense: Tensor | None
    ) -> DecodedTargets:
        """[S, M, M], one tensor; see `TargetDecoder`."""
        groups = sparse if isinstance(sparse, list) else [sparse]
        positions, dense = self.positions().to(features[0].dtype), self.embed_masks(dense)
        masks, *scores = self.sam.mask_decoder(features, positions, image, dense, *groups)
        return DecodedTargets([masks], scores[0] if scores else None)

    def upscale(self, logits: Tensor, geometry: Geometry, size: tuple[int, int]) -> Tensor:
        if len(logits) == 0:
            return logits.new_zeros((0, *size), dtype=torch.float32)
        side = self.sam.config.prompt_encoder_config.image_size
        if torch.is_grad_enabled():
            lines = zip(logits.shape[1:], (side, side), geometry.size, size, strict=True)
            rows, columns = (twice_bilinear_line(*each, logits.device) for each in lines)
            return rows @ logits.float() @ columns.T
        masks = F.interpolate(logits.unsqueeze(1).float(), (side, side), mode="bilinear", align_corners=False)
        masks = masks[..., : geometry.size[0], : geometry.size[1]]
        return F.interpolate(masks, size, mode="bilinear", align_corners=False).squeeze(1)

    def compiled_parts(self) -> dict[str, nn.Module]:
        return {"sam.vision_encoder": self.encoder}


def mask_prompt(maps: Tensor, side: int) -> Tensor:
    """Mask prompts [m, 1, M, M] of maps [m, H, W]: longest side M, antialiased, zero-padded right and bottom."""
    height, width = fitted_size(*maps.shape[-2:], side)
    if maps.shape[0] == 0:
        return maps.new_zeros((0, 1, side, side))
    prompt = F.interpolate(maps.unsqueeze(1), (height, width), mode="bilinear", align_corners=False, antialias=True)
    return F.pad(prompt, (0, side - width, 0, side - height))


def grid_positions(embedding: nn.Module, grid: tuple[int, int]) -> Tensor:
    """Random-frequency positional encoding [1, C, rows, columns] of the cells' centres."""
    device = embedding.positional_embedding.device
    y, x = ((torch.arange(cells, device=device, dtype=torch.float32) + 0.5) / cells for cells in grid)
    y, x = torch.meshgrid(y, x, indexing="ij")
    return embedding(torch.stack([x, y], dim=-1)).permute(2, 0, 1).unsqueeze(0)


def no_mask(encoder: nn.Module) -> Tensor:
    """The dense prompt [1, C, 1, 1] that stands for "no mask given"."""
    return only_row(encoder.no_mask_embed)[:, :, None, None]


def only_row(embedding: nn.Embedding) -> Tensor:
    """[1, C], asked for by calling the module: ZeRO 3 has its weight there only then."""
    return embedding(torch.zeros(1, dtype=torch.int64, device=embedding.weight.device))


def head_depths(config: PreTrainedConfig) -> dict[str, int]:
    """`MaskDecoder.depths` of the two-way transformer."""
    return {"sam.mask_decoder.transformer.layers": config.sam_config.mask_decoder_config.num_hidden_layers}


# --- the mask decoder ------------------------------------------------------------------------------------------------


class SamTargets(TargetDecoder, SamMaskDecoder):
    """SAM's first mask, the one for a prompt that is not ambiguous."""

    def decoded(
        self, features: list[Tensor], positions: Tensor, image: Tensor, dense: Tensor, sparse: Tensor
    ) -> tuple[Tensor]:
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        states, upscaled = self.transformed(own, features[0][image], positions, dense, sparse)
        upscaled = self.activation(self.upscale_layer_norm(self.upscale_conv1(upscaled)))
        upscaled = self.upscale_conv2(upscaled)  # [S, C / 8, M, M], the largest tensor: it is kept, its activation not
        weights = self.output_hypernetworks_mlps[0](states[:, 1])
        if torch.is_grad_enabled():
            return (checkpoint(self._masks, weights, upscaled, use_reentrant=False, preserve_rng_state=False),)
        return (self._masks(weights, upscaled),)

    def _masks(self, weights: Tensor, upscaled: Tensor) -> Tensor:
        return torch.einsum("sc,schw->shw", weights, self.activation(upscaled))
