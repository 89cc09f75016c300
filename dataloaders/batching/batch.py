"""The tensors of one micro-batch, as `collate.py` makes them and the model reads them.

Legend: I images, R rows, T tokens (image tokens included), P image tokens per image, S `[SEG]` targets,
J `[REJ]` targets, n tokens per target, K labelled tokens, H W pixels of an original image.

A row holds the conversations about one image: their common prefix once, then a branch per conversation.
A token sees the prefix and the earlier tokens of its own branch; positions restart after the prefix.
In the plain layout every conversation is a row of its own with a single branch.
"""

from dataclasses import dataclass, fields, replace
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

PADDING_BRANCH = -1
PREFIX_BRANCH = 0


@dataclass
class Batch:
    """One micro-batch.

    input_ids [R, T] int64: token ids; the P places of the image hold `IMAGE_TOKEN_INDEX` (-200), padding the pad id.
    branches [R, T] int64: 0 for the prefix, 1, 2, … for the branch of a token, -1 for padding.
    position_ids [R, T] int64: rotary positions; after the prefix they restart for every branch.
    image_index [R] int64: which image a row is about.
    image_start [R] int64: index in the row of the first of the P image tokens.
    label_positions [K] int64: flat indices into R·T of the positions that predict a labelled token.
    label_ids [K] int64: the token that each of them should predict.
    seg_positions [S, n] int64: flat indices into R·T of the positions that predict the tokens of each `[SEG]` target,
        ordered by image, conversation and place in the answer.
    seg_image [S] int64: the image of each.
    rej_positions [J, n] int64, rej_image [J] int64: the same for `[REJ]`.
    target_is_seg: for every image the kinds of its targets in the order in which they are written, True for `[SEG]`.
    sam_images uint8 [I, 3, S, S]: resized, zero-padded right and bottom (or float32, normalised already).
    sam_sizes: (height, width) of the resized part of each.
    clip_images uint8 [I, 3, C, C]: resized and centre-cropped or padded (or float32, normalised already).
    clip_sizes: (height, width) of the part that is image.
    original_sizes: (height, width) of each image before any resizing.
    masks: for every image bool [m, H, W], the masks of its `[SEG]` targets in order.
    ignore: for every image bool [H, W] or None, pixels that do not count.
    sources: for every image "family/dataset image_path", for messages.
    image_keys: for every image the hash of its content, or None where features are not to be cached.
    packed: whether a row has several branches; found out when the batch is made, so that no device is asked later.
    """

    input_ids: Tensor
    branches: Tensor
    position_ids: Tensor
    image_index: Tensor
    image_start: Tensor
    label_positions: Tensor
    label_ids: Tensor
    seg_positions: Tensor
    seg_image: Tensor
    rej_positions: Tensor
    rej_image: Tensor
    target_is_seg: list[list[bool]]
    sam_images: Tensor
    sam_sizes: list[tuple[int, int]]
    clip_images: Tensor
    clip_sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    masks: list[Tensor]
    ignore: list[Tensor | None]
    sources: list[str]
    image_keys: list[str] | None = None
    packed: bool | None = None

    def __post_init__(self):
        if self.packed is None:
            self.packed = bool((self.branches > PREFIX_BRANCH + 1).any())

    def to(self, device: torch.device | str) -> "Batch":
        """A copy whose tensors are on `device`; transfers from pinned memory do not block."""

        def move(value):
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            if isinstance(value, list):
                return [move(item) for item in value]
            return value

        return replace(self, **{field.name: move(getattr(self, field.name)) for field in fields(self)})

    def pin_memory(self) -> "Batch":
        """A copy in pinned memory; `DataLoader` calls this."""

        def pin(value):
            if isinstance(value, Tensor):
                return value.pin_memory()
            if isinstance(value, list):
                return [pin(item) for item in value]
            return value

        return replace(self, **{field.name: pin(getattr(self, field.name)) for field in fields(self)})


def image_key(rgb: np.ndarray) -> str:
    """The hash of a image's content, uint8 [H, W, 3]."""
    digest = blake2b(repr(rgb.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()
