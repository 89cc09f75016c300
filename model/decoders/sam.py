"""SAM, the transformers port: images are encoded once, all masks of a batch are decoded together.

Two of its classes are replaced by ours, with the parameters that they have: the encoder's attention, whose bias of
relative positions is one number for every pair of positions (of a 64 × 64 grid a gigabyte for 16 heads in float32) and
is made here for some rows of queries at a time and without waiting for the device; and the mask decoder, which is
called once for the targets of a batch, however long their prompts are, because ZeRO 3 fetches weights call by call on
all processes together.

Legend: I images, S targets, m targets of one group, K prompt tokens, k points, C prompt width, G side of the embedding
grid, M = 4 G side of a mask prompt, B images or windows, N heads, h w grid of a window, r rows of queries, c width of a
head, H W size of an original image.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, SamModel
from transformers.models.sam.modeling_sam import (
    SamMaskDecoder,
    SamPromptEncoder,
    SamVisionEncoder,
    SamVisionSdpaAttention,
)

from dataloaders.batching.batch import Geometry, ImageGroup
from model.decoders.base import NEITHER, MaskDecoder
from model.images import fit_and_pad, fitted_size, normalize_padded

# The original's two-way transformer has PyTorch's default; transformers' configuration defaults to 1e-6, which moves
# logits by some 1e-3. Whoever builds a SamConfig for published weights sets it.
DECODER_LAYER_NORM_EPS = 1e-5
QUERIES_AT_ONCE = 512


@dataclass(frozen=True)
class SamPreparation:
    """An image as SAM takes it: the longest side fills a square of `side` pixels; patch: pixels of an embedding."""

    side: int
    patch: int = 16

    def __call__(self, rgb: np.ndarray) -> tuple[Tensor, Geometry]:
        """uint8 [H, W, 3] → uint8 [3, side, side], and where it lies."""
        return fit_and_pad(rgb, self.side, (self.side // self.patch,) * 2)


class SamDecoder(MaskDecoder):
    """SAM: image encoder, prompt encoder and mask decoder."""

    encoder_name = "SAM"
    parts = {"encoder": ("sam.vision_encoder",), "prompt": ("sam.prompt_encoder",), "decoder": ("sam.mask_decoder",)}

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.sam = SamModel(copy.deepcopy(config.sam_config))
        use_rowwise_attention(self.sam.vision_encoder)
        use_target_decoder(self.sam)

    @classmethod
    def preparation(cls, config: PreTrainedConfig) -> SamPreparation:
        vision = config.sam_config.vision_config
        return SamPreparation(vision.image_size, vision.patch_size)

    # --- images

    @property
    def encoder(self) -> SamVisionEncoder:
        return self.sam.vision_encoder

    def encoder_settings(self) -> dict[str, Any]:
        return {"encoder": "sam", "config": self.sam.config.vision_config.to_diff_dict()}

    def encode(self, images: ImageGroup) -> list[Tensor]:
        """Image embeddings, one tensor [I, C, G, G]; no graph is kept while the encoder is frozen."""
        encoder = self.encoder
        pixels = normalize_padded(images.pixels, images.sizes, encoder.patch_embed.projection.weight.dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in encoder.parameters())):
            return [encoder(pixels).last_hidden_state]

    def positions(self) -> Tensor:
        """SAM's positional encoding [1, C, G, G] of its embedding grid."""
        grid = self.sam.config.prompt_encoder_config.image_embedding_size
        return grid_positions(self.sam.shared_image_embedding, (grid, grid))

    # --- prompts

    @property
    def prompt_side(self) -> int:
        """M, side of the square that a mask prompt (and a low-resolution mask) fills: four times the grid's."""
        return 4 * self.sam.config.prompt_encoder_config.image_embedding_size

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
    ) -> list[Tensor]:
        """Prompt tokens [m, k+1, C]; a token that is `NEITHER` is added last, as SAM has it.

        All groups are embedded together: the modules are called once, whatever the batch holds (ZeRO 3).
        """
        encoder = self.sam.prompt_encoder
        framed = []
        for each, geometry, size in zip(points, geometries, sizes, strict=True):
            x, y = each.unbind(-1)
            framed.append(torch.stack([x * (geometry.size[1] / size[1]), y * (geometry.size[0] / size[0])], dim=-1))
        shapes = [(len(each), each.shape[1] + 1) for each in framed]
        locations = torch.cat([F.pad(each, (0, 0, 0, 1)).flatten(0, 1) for each in framed])  # [Σ m (k+1), 2]
        kinds = torch.cat([F.pad(each, (0, 1), value=NEITHER).flatten() for each in labels])
        tokens = encoder.shared_embedding((locations + 0.5) / encoder.input_image_size)  # of pixel centres
        tokens = tokens.masked_fill((kinds == NEITHER).unsqueeze(1), 0.0)
        of_kinds = torch.cat([_only_row(one) for one in (encoder.not_a_point_embed, *encoder.point_embed[:2])])
        tokens = (tokens + of_kinds[kinds - NEITHER]).split([m * k for m, k in shapes])
        return [each.unflatten(0, shape) for each, shape in zip(tokens, shapes, strict=True)]

    # --- masks

    def decode(
        self, features: list[Tensor], image: Tensor, sparse: Tensor | list[Tensor], dense: Tensor | None
    ) -> list[Tensor]:
        """[S, M, M], one tensor; see `TargetDecoder`."""
        (embeddings,) = features
        groups = sparse if isinstance(sparse, list) else [sparse]
        positions, dense = self.positions().to(embeddings.dtype), self.embed_masks(dense)
        return [self.sam.mask_decoder(embeddings, positions, image, dense, *groups)]

    def upscale(self, logits: Tensor, geometry: Geometry, size: tuple[int, int]) -> Tensor:
        if len(logits) == 0:
            return logits.new_zeros((0, *size), dtype=torch.float32)
        side = self.sam.config.vision_config.image_size
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


def no_mask(encoder: SamPromptEncoder) -> Tensor:
    """The dense prompt [1, C, 1, 1] that stands for "no mask given"."""
    return _only_row(encoder.no_mask_embed)[:, :, None, None]


def _only_row(embedding: nn.Embedding) -> Tensor:
    """[1, C], asked for by calling the module: ZeRO 3 has its weight there only then."""
    return embedding(torch.zeros(1, dtype=torch.int64, device=embedding.weight.device))


# --- the mask decoder ------------------------------------------------------------------------------------------------


class TargetDecoder(SamMaskDecoder):
    """transformers' class, whose parameters it has, over targets instead of images."""

    def forward(self, embeddings: Tensor, positions: Tensor, image: Tensor, dense: Tensor, *sparse: Tensor) -> Tensor:
        """Low-resolution mask logits [S, M, M].

        embeddings [I, C, G, G]; positions [1, C, G, G]; image int64 [S], the image of each target; dense broadcastable
        to [S, C, G, G]; sparse: prompts [m, K, C] of consecutive targets, decoded together where K is equal.
        """
        if len(sparse) == 1:
            return self._decode(embeddings, positions, image, dense, *sparse)
        by_length: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for end, each in zip(accumulate(map(len, sparse)), sparse, strict=True):
            which = torch.arange(end - len(each), end, device=image.device)
            by_length.setdefault(each.shape[1], []).append((which, each))
        order, masks = [], []
        for group in by_length.values():
            which = torch.cat([index for index, _ in group])
            prompts = torch.cat([prompt for _, prompt in group])
            order.append(which)
            own = dense if len(dense) == 1 else dense[which]
            masks.append(self._decode(embeddings, positions, image[which], own, prompts))
        return torch.cat(masks)[torch.cat(order).argsort()]

    def _decode(self, embeddings: Tensor, positions: Tensor, image: Tensor, dense: Tensor, sparse: Tensor) -> Tensor:
        masks, _ = super().forward(
            image_embeddings=embeddings[image],
            image_positional_embeddings=positions.expand(len(image), -1, -1, -1),
            sparse_prompt_embeddings=sparse.unsqueeze(1),
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return masks[:, 0, 0]


def use_target_decoder(sam: SamModel) -> None:
    """Give `sam` this decoder, with the parameters that it has."""
    with torch.device("meta"):
        decoder = TargetDecoder(sam.mask_decoder.config)
    decoder.load_state_dict(sam.mask_decoder.state_dict(), assign=True)
    sam.mask_decoder = decoder


# --- the encoder's attention -----------------------------------------------------------------------------------------


class RowwiseAttention(SamVisionSdpaAttention):
    """Attention with decomposed relative positions (Li et al., MViTv2, equation 4), some rows of queries at a time."""

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, None]:
        """[B, h, w, N · c] -> the same shape, and None for the weights, which are never made."""
        batch, height, width, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, height * width, 3, self.num_attention_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, N, h · w, c] each
        if not self.use_rel_pos:
            attended = F.scaled_dot_product_attention(query, key, value)
        else:
            attended = self._attend(query.unflatten(2, (height, width)), key, value)
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, -1)), None

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [B, N, h, w, c]; key, value [B, N, h · w, c]; gives [B, N, h · w, c]."""
        height, width = query.shape[2:4]
        by_row, by_column = relative_positions(self.rel_pos_h, height), relative_positions(self.rel_pos_w, width)
        rows = max(1, QUERIES_AT_ONCE // width)
        attended = []
        for some, positions in zip(query.split(rows, dim=2), by_row.split(rows), strict=True):
            vertical = torch.einsum("bnhwc,hkc->bnhwk", some, positions).flatten(2, 3)
            horizontal = torch.einsum("bnhwc,wkc->bnhwk", some, by_column).flatten(2, 3)
            bias = (vertical.unsqueeze(-1) + horizontal.unsqueeze(-2)).flatten(3)  # [B, N, r · w, h · w]
            attended.append(F.scaled_dot_product_attention(some.flatten(2, 3), key, value, attn_mask=bias))
        return torch.cat(attended, dim=2)


def relative_positions(table: Tensor, side: int) -> Tensor:
    """[side, side, c]: the embedding of every query's distance to every key, from a table [2 · length - 1, c], which is
    resampled where it was made for another length."""
    if len(table) != 2 * side - 1:
        table = F.interpolate(table.T.unsqueeze(0), size=2 * side - 1, mode="linear").squeeze(0).T
    line = torch.arange(side, device=table.device)
    return table[line[:, None] - line[None, :] + side - 1]


def use_rowwise_attention(encoder: SamVisionEncoder) -> None:
    """Give every layer this attention, with the parameters that it has."""
    for layer in encoder.layers:
        with torch.device("meta"):
            attention = RowwiseAttention(encoder.config, layer.window_size)
        attention.load_state_dict(layer.attn.state_dict(), assign=True)
        layer.attn = attention
