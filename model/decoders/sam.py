"""SAM, the transformers port: encode images once, decode all masks of a batch together.

Legend: I images, S targets, K prompt tokens, C prompt width, G side of the embedding grid, M = 4 G mask-prompt side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamPromptEncoder

from model.pixels import normalize_padded
from model.points import NEITHER

# The original's two-way transformer has PyTorch's default; transformers' configuration defaults to 1e-6, which moves
# logits by some 1e-3. Whoever builds a SamConfig for published weights sets it.
DECODER_LAYER_NORM_EPS = 1e-5


def mask_prompt_side(sam: SamModel) -> int:
    """Side of the square that a mask prompt (and a low-resolution mask) fills: four times the embedding grid."""
    return 4 * sam.config.prompt_encoder_config.image_embedding_size


def encode_images(sam: SamModel, images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Image embeddings [I, C, G, G]; no graph is kept while the encoder is frozen.

    images [I, 3, S, S]: uint8 or normalised; sizes: (height, width) of the picture inside each square.
    """
    encoder = sam.vision_encoder
    pixels = normalize_padded(images, sizes, encoder.patch_embed.projection.weight.dtype)
    with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in encoder.parameters())):
        return encoder(pixels).last_hidden_state


def image_positions(sam: SamModel) -> Tensor:
    """SAM's positional encoding [1, C, G, G] of its embedding grid."""
    grid = sam.config.prompt_encoder_config.image_embedding_size
    embedding = sam.shared_image_embedding
    line = (torch.arange(grid, device=embedding.positional_embedding.device, dtype=torch.float32) + 0.5) / grid
    y, x = torch.meshgrid(line, line, indexing="ij")
    return embedding(torch.stack([x, y], dim=-1)).permute(2, 0, 1).unsqueeze(0)


def embed_points(sam: SamModel, points: list[Tensor], labels: list[Tensor]) -> list[Tensor]:
    """Prompt tokens [m, K+1, C] of the points [m, K, 2] (x, y in pixels of SAM's square) of each group of targets.

    labels [m, K]: 1 inside, 0 outside, -1 neither (carries no place). A token that is neither is added last, as SAM has
    it. All groups are embedded together: the modules are called once, whatever the batch holds (ZeRO 3).
    """
    encoder = sam.prompt_encoder
    shapes = [(len(each), each.shape[1] + 1) for each in points]
    places = torch.cat([F.pad(each, (0, 0, 0, 1)).flatten(0, 1) for each in points])
    kinds = torch.cat([F.pad(each, (0, 1), value=NEITHER).flatten() for each in labels])
    tokens = encoder.shared_embedding((places + 0.5) / encoder.input_image_size)  # of pixel centres
    tokens = tokens.masked_fill((kinds == NEITHER).unsqueeze(1), 0.0)
    of_kinds = torch.cat([_only_row(one) for one in (encoder.not_a_point_embed, *encoder.point_embed[:2])])
    tokens = tokens + of_kinds[kinds - NEITHER]
    return [
        each.unflatten(0, shape) for each, shape in zip(tokens.split([m * k for m, k in shapes]), shapes, strict=True)
    ]


def embed_masks(sam: SamModel, masks: Tensor) -> Tensor:
    """Dense prompts [S, C, G, G] of mask prompts [S, 1, M, M]."""
    return sam.prompt_encoder.mask_embed(masks.to(sam.prompt_encoder.no_mask_embed.weight.dtype))


def no_mask(encoder: SamPromptEncoder) -> Tensor:
    """The dense prompt [1, C, 1, 1] that stands for "no mask given"."""
    return _only_row(encoder.no_mask_embed)[:, :, None, None]


def _only_row(embedding: nn.Embedding) -> Tensor:
    """[1, C], asked for by calling the module: ZeRO 3 has its weight there only then."""
    return embedding(torch.zeros(1, dtype=torch.int64, device=embedding.weight.device))


def decode(sam: SamModel, embeddings: Tensor, image: Tensor, sparse: Tensor | list[Tensor], dense: Tensor) -> Tensor:
    """Low-resolution mask logits [S, M, M] of all targets at once; see `TargetDecoder`.

    sparse: [S, K, C], or a list of such tensors for consecutive targets.
    """
    groups = sparse if isinstance(sparse, list) else [sparse]
    return sam.mask_decoder(embeddings, image_positions(sam).to(embeddings.dtype), image, dense, *groups)


def upscale_masks(low_res: Tensor, side: int, resized: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Logits [m, h, w] at SAM's mask resolution -> float32 [m, H, W] at the size of the original image.

    side: SAM's input side; resized: (height, width) of the picture inside it.
    """
    if low_res.shape[0] == 0:
        return low_res.new_zeros((0, *original), dtype=torch.float32)
    masks = F.interpolate(low_res.unsqueeze(1).float(), (side, side), mode="bilinear", align_corners=False)
    masks = masks[..., : resized[0], : resized[1]]
    return F.interpolate(masks, original, mode="bilinear", align_corners=False).squeeze(1)
