"""SAM, the transformers port: encode images once, decode all masks of a batch together.

Legend: I images, S targets, K prompt tokens, C prompt width, G side of the embedding grid, M = 4 G mask-prompt side.
"""

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SamModel

from .pixels import normalize_padded

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
    parameter = next(sam.vision_encoder.parameters())
    pixels = normalize_padded(images, sizes, parameter.dtype)
    with torch.set_grad_enabled(torch.is_grad_enabled() and parameter.requires_grad):
        return sam.vision_encoder(pixels).last_hidden_state


def image_positions(sam: SamModel) -> Tensor:
    """SAM's positional encoding [1, C, G, G] of its embedding grid."""
    grid = sam.config.prompt_encoder_config.image_embedding_size
    embedding = sam.shared_image_embedding
    line = (torch.arange(grid, device=embedding.positional_embedding.device, dtype=torch.float32) + 0.5) / grid
    y, x = torch.meshgrid(line, line, indexing="ij")
    return embedding(torch.stack([x, y], dim=-1)).permute(2, 0, 1).unsqueeze(0)


def embed_points(sam: SamModel, points: Tensor, labels: Tensor) -> Tensor:
    """Prompt tokens [S, K+1, C] of points [S, K, 2] (x, y in pixels of SAM's square), a padding point added last.

    labels [S, K]: 1 inside, 0 outside, -1 neither (carries no place).
    """
    encoder = sam.prompt_encoder
    dtype = encoder.no_mask_embed.weight.dtype
    return encoder._embed_points(points.to(dtype).unsqueeze(1), labels.to(dtype).unsqueeze(1), pad=True).squeeze(1)


def embed_masks(sam: SamModel, masks: Tensor) -> Tensor:
    """Dense prompts [S, C, G, G] of mask prompts [S, 1, M, M]."""
    return sam.prompt_encoder.mask_embed(masks.to(sam.prompt_encoder.no_mask_embed.weight.dtype))


def no_mask(sam: SamModel) -> Tensor:
    """The dense prompt [1, C, 1, 1] that stands for "no mask given"."""
    return sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)


def decode(sam: SamModel, embeddings: Tensor, image: Tensor, sparse: Tensor | list[Tensor], dense: Tensor) -> Tensor:
    """Low-resolution mask logits [S, M, M] of all targets at once.

    embeddings [I, C, G, G]; image int64 [S], the image of each target; sparse [S, K, C], or a list of tensors for
    consecutive targets, decoded together where K is equal; dense broadcastable to [S, C, G, G].
    """
    if isinstance(sparse, list):
        return _decode_by_length(sam, embeddings, image, sparse, dense)
    masks, _ = sam.mask_decoder(
        image_embeddings=embeddings[image],
        image_positional_embeddings=image_positions(sam).to(embeddings.dtype).expand(image.shape[0], -1, -1, -1),
        sparse_prompt_embeddings=sparse.unsqueeze(1),
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return masks[:, 0, 0]


def _decode_by_length(sam: SamModel, embeddings: Tensor, image: Tensor, sparse: list[Tensor], dense: Tensor) -> Tensor:
    """`decode` for prompts of different lengths: one call for each length."""
    by_length: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for end, each in zip(accumulate(map(len, sparse)), sparse, strict=True):
        places = torch.arange(end - len(each), end, device=image.device)
        by_length.setdefault(each.shape[1], []).append((places, each))
    order, masks = [], []
    for group in by_length.values():
        places = torch.cat([place for place, _ in group])
        prompts = torch.cat([prompt for _, prompt in group])
        order.append(places)
        masks.append(decode(sam, embeddings, image[places], prompts, dense if dense.shape[0] == 1 else dense[places]))
    return torch.cat(masks)[torch.cat(order).argsort()]


def upscale_masks(
    low_res: Tensor, side: int, resized: tuple[int, int], original: tuple[int, int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Logits [m, h, w] at SAM's mask resolution -> float32 [m, H, W] at the size of the original image.

    side: SAM's input side; resized: (height, width) of the picture inside it.
    """
    if low_res.shape[0] == 0:
        return low_res.new_zeros((0, *original), dtype=dtype)
    masks = F.interpolate(low_res.unsqueeze(1).to(dtype), (side, side), mode="bilinear", align_corners=False)
    masks = masks[..., : resized[0], : resized[1]]
    return F.interpolate(masks, original, mode="bilinear", align_corners=False).squeeze(1)
