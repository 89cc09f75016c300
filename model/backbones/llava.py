"""LLaVA: CLIP and the projector turn an image into tokens, LLaMA reads them with the text, all hidden states are kept.

Legend: I images, R rows, T tokens, P image tokens, D width of the LLM, V width of CLIP, L layers of the LLM.
"""

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlamaModel

from dataloaders.batching.batch import PADDING_BRANCH, PREFIX_BRANCH
from groundscore.errors import UserError
from model.backbones.key_value_cache import RowCache, WrittenCache
from model.pixels import normalize_cropped, normalize_padded, picture_cells

ATTENTIONS = ("sdpa", "flash_attention_2")  # others of transformers add a mask to the scores, ours says who may look


def build_projector(kind: str, in_width: int, out_width: int) -> nn.Module:
    """LLaVA's projector from CLIP to LLaMA: "linear", "mlpNx_gelu" (N linear layers) or "identity".

    Raises `UserError` for another kind.
    """
    if kind == "identity":
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(in_width, out_width)
    depth = re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind)
    if depth is None:
        raise UserError(f'mm_projector_type "{kind}": known are linear, mlp2x_gelu (with any number) and identity')
    layers: list[nn.Module] = [nn.Linear(in_width, out_width)]
    for _ in range(int(depth[1]) - 1):
        layers += [nn.GELU(), nn.Linear(out_width, out_width)]
    return nn.Sequential(*layers)


def separate_projector(in_width: int, hidden_width: int, out_width: int) -> nn.Sequential:
    """PixelLM's two-layer projector, whose hidden layer may be wider."""
    return nn.Sequential(nn.Linear(in_width, hidden_width), nn.GELU(), nn.Linear(hidden_width, out_width))


def clip_states(tower: CLIPVisionModel, pixels: Tensor, depths: list[int], visible: Tensor | None) -> list[Tensor]:
    """Patch states of CLIP after the given numbers of layers, no layer run that is not needed.

    pixels [I, 3, C, C] normalised; depths: layers to have passed, negative ones as indices into the L+1 hidden states;
    visible: bool [I, patches], False for patches that no token may attend to, or None.
    Returns a tensor [I, patches, V] for each depth.
    """
    layers = tower.encoder.layers
    wanted = [depth if depth >= 0 else len(layers) + 1 + depth for depth in depths]
    mask = None
    if visible is not None:
        allowed = F.pad(visible, (1, 0), value=True)[:, None, None, :]  # the class token is always seen
        mask = torch.zeros(allowed.shape, dtype=pixels.dtype, device=pixels.device)
        mask = mask.masked_fill(~allowed, torch.finfo(pixels.dtype).min)
        mask = mask.expand(-1, -1, allowed.shape[-1], -1)
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    kept = {0: hidden}
    for depth, layer in enumerate(layers[: max(wanted)], start=1):
        hidden = layer(hidden, mask)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if depth in wanted:
            kept[depth] = hidden
    return [kept[depth][:, 1:] for depth in wanted]


class ImageTokens:
    """The LLM's view of the images of a batch.

    tokens [I, P, D]: projected CLIP states.
    visible: bool [I, P], False where the square that CLIP saw is padding, or None when everything is picture.
    clip_states: the CLIP states [I, patches, V] asked for, for systems that decode from them.
    """

    def __init__(self, tokens: Tensor, visible: Tensor | None, clip_states: list[Tensor]):
        self.tokens = tokens
        self.visible = visible
        self.clip_states = clip_states


def encode_images(
    tower: CLIPVisionModel, images: Tensor, sizes: list[tuple[int, int]], *, padded: bool, depths: list[int]
) -> list[Tensor]:
    """Run CLIP once per image: its patch states [I, patches, V] at the given depths (see `clip_states`).

    images [I, 3, C, C]: uint8 or normalised; sizes: (height, width) of the picture inside the square.
    padded: the square holds the whole image with padding (masked in attention, SAM's statistics) instead of a crop.
    """
    dtype = tower.embeddings.patch_embedding.weight.dtype
    side = images.shape[-1]
    with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in tower.parameters())):
        if padded:
            pixels = normalize_padded(images, sizes, dtype)
            seen = picture_cells(sizes, side, side // tower.config.patch_size, images.device)
        else:
            pixels = normalize_cropped(images, dtype)
            seen = None
        return clip_states(tower, pixels, depths, seen)


def image_tokens(
    projector: nn.Module, states: list[Tensor], sizes: list[tuple[int, int]], *, side: int, padded: bool, grid: int
) -> ImageTokens:
    """Project CLIP's patch states to the LLM's width.

    states: from `encode_images`, the first of them is what the LLM sees; sizes: as there; side: of CLIP's square.
    grid: LLM tokens along a side; the states are resampled where CLIP's own grid differs.
    """
    features = states[0]
    patches = round(features.shape[1] ** 0.5)
    if patches != grid:
        square = features.float().transpose(1, 2).unflatten(2, (patches, patches))
        square = F.interpolate(square, (grid, grid), mode="bilinear", align_corners=False)
        features = square.flatten(2).transpose(1, 2).to(features.dtype)
    visible = picture_cells(sizes, side, grid, features.device) if padded else None
    return ImageTokens(projector(features), visible, states)


def row_embeddings(embed_tokens: nn.Embedding, input_ids: Tensor, image_places: Tensor, image_tokens: Tensor) -> Tensor:
    """Text embeddings with the image tokens put in their places.

    input_ids [R, T] (negative at image places), image_places [R, P] indices into T, image_tokens [R, P, D].
    Returns [R, T, D].
    """
    embeddings = embed_tokens(input_ids.clamp(min=0))
    places = image_places.unsqueeze(-1).expand(-1, -1, embeddings.shape[-1])
    return embeddings.scatter(1, places, image_tokens.to(embeddings.dtype))


def row_attention(branches: Tensor, image_places: Tensor, visible: Tensor | None) -> Tensor:
    """Who sees whom in a row of packed conversations.

    branches [R, T] (see `Batch`), image_places [R, P], visible: bool [R, P] or None.
    Returns bool [R, 1, T, T]: a token sees itself and earlier tokens of the prefix or of its own branch; nobody sees
    padding or the padded part of an image, except that padding sees itself, so that no softmax is empty.
    """
    length = branches.shape[1]
    seen = branches != PADDING_BRANCH
    if visible is not None:
        seen = seen.scatter(1, image_places, visible)
    causal = torch.ones(length, length, dtype=torch.bool, device=branches.device).tril()
    same = (branches[:, None, :] == PREFIX_BRANCH) | (branches[:, None, :] == branches[:, :, None])
    allowed = causal & same & seen[:, None, :]
    padding = torch.diag_embed(branches == PADDING_BRANCH)
    return (allowed | padding).unsqueeze(1)


def flash_attention_rows(branches: Tensor, visible: Tensor | None, *, packed: bool) -> Tensor:
    """What flash-attn takes for a mask: bool [R, T], False for padding; causal order is its own.

    packed: whether a row has several branches. Raises `UserError` for rows that flash-attn cannot express: packed
    conversations, and images with a padded part.
    """
    if visible is not None or packed:
        raise UserError(
            "flash-attn supports neither packed rows nor padded CLIP images; pass --attn_implementation sdpa, or "
            "--plain_rows without --pad_train_clip_images"
        )
    return branches != PADDING_BRANCH


def unroll(
    language_model: LlamaModel,
    embeddings: Tensor,
    attention: Tensor | None,
    position_ids: Tensor,
    cache: RowCache | WrittenCache | None = None,
    **context: Any,
) -> tuple[Tensor, ...]:
    """The L+1 hidden states [R, T, D] of LLaMA: embeddings, every layer, the last one after the final norm.

    Each is the tensor that the next layer reads, and not a copy beside it, as hooks on the model's output would make
    of them (ZeRO 3): gradients of chosen states are added on their way through (`states.py`).
    cache: takes the keys and values of every layer. context: what the attention in use needs besides.
    """
    positions = language_model.rotary_emb(embeddings, position_ids=position_ids)
    states = [embeddings]
    for layer in language_model.layers:
        # Without names: the cache's is `past_key_values` in older versions of transformers and `cache` in newer ones.
        output = layer(states[-1], attention, position_ids, cache, position_embeddings=positions, **context)
        states.append(output[0] if isinstance(output, tuple) else output)
    return *states[:-1], language_model.norm(states[-1])
