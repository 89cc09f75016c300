"""Images through the encoders, or past them where their features are cached; see `model/feature_cache.py`.

Legend: I images, C channels of SAM's embeddings, G side of their grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dataloaders.batching.batch import Batch
from model.backbones.llava import ImageTokens, encode_images, image_tokens
from model.decoders import sam
from model.feature_cache import EncoderFeatures, FeatureCache

if TYPE_CHECKING:
    from model.grounding import GroundingModel

CLIP, SAM = "CLIP", "SAM"


def image_tokens_of(model: GroundingModel, batch: Batch) -> ImageTokens:
    """CLIP, unless its states are cached, and the projector, once per image of the batch."""
    config = model.config
    padded = config.pad_train_clip_images

    def encode(images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        states = encode_images(model.vision_tower, images, sizes, padded=padded, depths=_clip_depths(model))
        return torch.stack(states, dim=1)

    like = model.vision_tower.embeddings.patch_embedding.weight
    states = _features(model.feature_caches.get(CLIP), batch, batch.clip_images, batch.clip_sizes, like, encode)
    side = batch.clip_images.shape[-1]
    return image_tokens(
        model.mm_projector,
        list(states.unbind(1)),
        batch.clip_sizes,
        side=side,
        padded=padded,
        grid=config.image_grid,
    )


def sam_embeddings(model: GroundingModel, batch: Batch) -> Tensor:
    """SAM's image embeddings [I, C, G, G], from the encoder or from the cache."""

    def encode(images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        return sam.encode_images(model.sam, images, sizes)

    like = next(model.sam.vision_encoder.parameters())
    return _features(model.feature_caches.get(SAM), batch, batch.sam_images, batch.sam_sizes, like, encode)


def caches_of_frozen_encoders(model: GroundingModel, cache: FeatureCache) -> dict[str, EncoderFeatures]:
    """The places in `cache` of the encoders that are frozen now, by name."""
    caches = {}
    if not any(parameter.requires_grad for parameter in model.vision_tower.parameters()):
        settings = {
            "encoder": "clip",
            "config": model.vision_tower.config.to_diff_dict(),
            "depths": _clip_depths(model),
            "padded": model.config.pad_train_clip_images,
        }
        caches[CLIP] = cache.of(model.vision_tower, settings)
    if model.system.uses_sam and not any(p.requires_grad for p in model.sam.vision_encoder.parameters()):
        settings = {"encoder": "sam", "config": model.sam.config.vision_config.to_diff_dict()}
        caches[SAM] = cache.of(model.sam.vision_encoder, settings)
    return caches


def _clip_depths(model: GroundingModel) -> list[int]:
    """The CLIP states that are read: the LLM's first, then those of the mask decoder."""
    return [model.config.mm_vision_select_layer, *model.system.clip_depths()]


def _features(
    cache: EncoderFeatures | None,
    batch: Batch,
    images: Tensor,
    sizes: list[tuple[int, int]],
    like: Tensor,
    encode: Callable[[Tensor, list[tuple[int, int]]], Tensor],
) -> Tensor:
    """`encode(images, sizes)`, by way of the cache where there is one and the batch says which images these are."""
    if cache is None or batch.image_keys is None:
        return encode(images, sizes)
    return cache.get(batch.image_keys, like, lambda places: encode(images[places], [sizes[i] for i in places]))
