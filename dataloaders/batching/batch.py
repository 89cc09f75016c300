"""The tensors of one micro-batch, as `collate.py` makes them and the model reads them.

Legend: I images, n images of one group, R rows, T tokens of a row (image tokens included), N image tokens of all
images, M image tokens of all rows, P most cells of an image's grid, S `[SEG]` targets, J `[REJ]` targets, c tokens per
target, K labelled tokens, H W pixels of an original image.

A row holds the conversations about one image: their common prefix once, then a branch per conversation.
A token sees the prefix and the earlier tokens of its own branch; positions restart after the prefix.
In the plain layout every conversation is a row of its own with a single branch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

PADDING_BRANCH = -1
PREFIX_BRANCH = 0


@dataclass(frozen=True)
class Geometry:
    """Where the prepared pixels of an image lie: on the original image, and on the grid of its tokens.

    size: (height, width) of the prepared pixels that show the image; what is right of them and below is padding.
    window: (top, left, height, width) of what the prepared pixels cover, in pixels of the original image.
    padded: the window is the image and padding right of it and below; otherwise it lies on the image.
    grid: (rows, columns) of the cells that the pixels are encoded to.
    tokens: image tokens that the LLM reads, of which the first rows · columns are the cells in raster order unless
        `cell_tokens` says otherwise; 0 for the images of a mask decoder.
    tiles: (rows, columns) of the squares that the pixels are cut into, for an encoder of tiles.
    cell_tokens: int64 [rows · columns], which of the tokens each cell is, in raster order; None for the first ones.
    row_centres, column_centres: float32 [rows] and [columns], where the centres of the cells lie, in pixels of the
        original image; None where the cells fill the window evenly.
    axes: of the position ids of its tokens: 1 where they are numbered like text, 3 for the multimodal rotary positions
        of Qwen-VL: time, row, column.
    """

    size: tuple[int, int]
    window: tuple[int, int, int, int]
    padded: bool
    grid: tuple[int, int]
    tokens: int = 0
    tiles: tuple[int, int] = (1, 1)
    cell_tokens: Tensor | None = None
    row_centres: Tensor | None = None
    column_centres: Tensor | None = None
    axes: int = 1

    @property
    def cells(self) -> int:
        """How many cells the grid has."""
        return self.grid[0] * self.grid[1]

    @property
    def is_tiled(self) -> bool:
        """Whether the pixels were cut into tiles, which are chosen by the size of the image."""
        return self.tiles != (1, 1) or self.cell_tokens is not None

    def token_positions(self, start: int) -> tuple[Tensor, int]:
        """Position ids int64 [axes, tokens] of its tokens, the first at `start`, and the position that follows them.

        With three axes the first token is at (start, start, start) and the others as many rows and columns further;
        text goes on after the largest (Qwen2-VL, https://arxiv.org/abs/2409.12191, section 2.1).
        """
        if self.axes == 1:
            return torch.arange(start, start + self.tokens).unsqueeze(0), start + self.tokens
        rows, columns = torch.meshgrid(*map(torch.arange, self.grid), indexing="ij")
        cells = torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1)
        return cells + start, start + max(self.grid)

    def on_full_image(self, size: tuple[int, int], full: tuple[int, int]) -> "Geometry":
        """The same on the full image, of which an image of `size` was decoded smaller; both (H, W).

        Raises ValueError for tiles, which are chosen by the size of the image.
        """
        if self.is_tiled:
            raise ValueError("tiles are chosen by the size of the full image")
        down, right = (long / short for long, short in zip(full, size, strict=True))
        window = tuple(round(side * by) for side, by in zip(self.window, (down, right, down, right), strict=True))
        return replace(
            self,
            window=(0, 0, max(full), max(full)) if self.padded else window,
            row_centres=None if self.row_centres is None else self.row_centres * down,
            column_centres=None if self.column_centres is None else self.column_centres * right,
        )

    def as_padded(self, size: tuple[int, int]) -> "Geometry":
        """The same where the pixels are taken for those of an image of `size`, (H, W), padded to a square."""
        window = (0, 0, max(size), max(size))
        return replace(self, window=window, padded=True, row_centres=None, column_centres=None)


# From an image uint8 [H, W, 3] to what an encoder takes, a tensor of any shape, and its geometry.
ImagePreparation = Callable[[np.ndarray], tuple[Tensor, Geometry]]


@dataclass
class ImageGroup:
    """Images of a batch that are encoded together, since their pixels and their grids have one shape.

    images: which they are; pixels uint8 [n, …] (or floating point, normalised already); geometries: of each.
    """

    images: list[int]
    pixels: Tensor
    geometries: list[Geometry]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of every image's grid."""
        return self.geometries[0].grid

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the part of each image's pixels that is no padding."""
        return [geometry.size for geometry in self.geometries]

    def only(self, members: Sequence[int]) -> "ImageGroup":
        """The group of some of the images, by their index in this one."""
        if len(members) == len(self.images):
            return self
        rows = torch.tensor(members, device=self.pixels.device)
        return ImageGroup([self.images[i] for i in members], self.pixels[rows], [self.geometries[i] for i in members])


@dataclass
class PreparedImages:
    """All images of a batch as one encoder takes them. geometries: of every image, in order."""

    groups: list[ImageGroup]
    geometries: list[Geometry]

    @classmethod
    def of(cls, prepared: Sequence[tuple[Tensor, Geometry]]) -> "PreparedImages":
        """The pixels and geometries of all images, grouped."""
        members: dict[tuple, list[int]] = {}
        for image, (pixels, geometry) in enumerate(prepared):
            members.setdefault((pixels.shape, geometry.grid, geometry.tokens), []).append(image)
        groups = [
            ImageGroup(images, torch.stack([prepared[i][0] for i in images]), [prepared[i][1] for i in images])
            for images in members.values()
        ]
        return cls(groups, [geometry for _, geometry in prepared])

    def to(self, device: torch.device | str) -> "PreparedImages":
        """A copy whose tensors are on `device`."""
        return _with_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))

    @property
    def first_tokens(self) -> list[int]:
        """Index of every image's first token among the N tokens of all images, which are ordered by group."""
        first, start = [0] * len(self.geometries), 0
        for group in self.groups:
            for image, geometry in zip(group.images, group.geometries, strict=True):
                first[image] = start
                start += geometry.tokens
        return first


def place_images(
    images: PreparedImages, starts: Sequence[int], image_of_row: Sequence[int], length: int
) -> dict[str, Tensor]:
    """The fields `image_positions`, `image_tokens` and `cell_positions` of a `Batch` whose rows have `length` tokens.

    starts: index in each row of its first image token; image_of_row: the image of each row.
    """
    first, most = images.first_tokens, max(geometry.cells for geometry in images.geometries)
    positions, tokens, cells = [], [], []
    for row, (start, image) in enumerate(zip(starts, image_of_row, strict=True)):
        geometry, begin = images.geometries[image], row * length + start
        positions.append(torch.arange(begin, begin + geometry.tokens))
        tokens.append(torch.arange(first[image], first[image] + geometry.tokens))
        own = begin + (torch.arange(geometry.cells) if geometry.cell_tokens is None else geometry.cell_tokens)
        cells.append(torch.cat([own, own[:1].expand(most - len(own))]))
    return {
        "image_positions": torch.cat(positions),
        "image_tokens": torch.cat(tokens),
        "cell_positions": torch.stack(cells),
    }


@dataclass
class Batch:
    """One micro-batch.

    input_ids [R, T] int64: token ids; image tokens are `IMAGE_TOKEN_INDEX` (-200), padding is the pad id.
    branches [R, T] int64: 0 for the prefix, 1, 2, … for the branch of a token, -1 for padding.
    position_ids [R, T] int64: rotary positions; after the prefix they restart for every branch. [3, R, T] where the
        image tokens have three (`Geometry.axes`); text then has the same number three times.
    image_index [R] int64: which image a row is about.
    image_positions [M] int64: flat indices into R·T of the image tokens of all rows.
    image_tokens [M] int64: which of the N image tokens of all images stands at each.
    cell_positions [R, P] int64: flat indices into R·T of the cells of the grid of the row's image, in raster order; a
        grid of fewer cells repeats its first.
    label_positions [K] int64: flat indices into R·T of the positions that predict a labelled token.
    label_ids [K] int64: the token that each of them should predict.
    seg_positions [S, c] int64: flat indices into R·T of the positions that predict the tokens of each `[SEG]` target,
        ordered by image, conversation and position in the answer.
    seg_image [S] int64: the image of each.
    rej_positions [J, c] int64, rej_image [J] int64: the same for `[REJ]`.
    target_is_seg: for every image the kinds of its targets in the order in which they are written, True for `[SEG]`.
    backbone_images: the images as the backbone's encoder takes them.
    decoder_images: the images as the mask decoder's encoder takes them, all of one shape; None for a decoder that
        reads the backbone's features.
    original_sizes: (height, width) of each image before any resizing.
    masks: for every image bool [m, H, W], the masks of its `[SEG]` targets in order.
    ignore: for every image bool [H, W] or None, pixels that do not count.
    sources: for every image "family/dataset image_path", for messages.
    image_keys: for every image the hash of its content, or None where features are not to be cached.
    packed: whether a row has several branches; common_prefix: how many tokens at the beginning of every row belong to
        its prefix. Both are found out when the batch is made, so that no device is asked later.
    """

    input_ids: Tensor
    branches: Tensor
    position_ids: Tensor
    image_index: Tensor
    image_positions: Tensor
    image_tokens: Tensor
    cell_positions: Tensor
    label_positions: Tensor
    label_ids: Tensor
    seg_positions: Tensor
    seg_image: Tensor
    rej_positions: Tensor
    rej_image: Tensor
    target_is_seg: list[list[bool]]
    backbone_images: PreparedImages
    decoder_images: PreparedImages | None
    original_sizes: list[tuple[int, int]]
    masks: list[Tensor]
    ignore: list[Tensor | None]
    sources: list[str]
    image_keys: list[str] | None = None
    packed: bool | None = None
    common_prefix: int | None = None

    def __post_init__(self):
        if self.packed is None:
            self.packed = bool((self.branches > PREFIX_BRANCH + 1).any())
        if self.common_prefix is None:
            self.common_prefix = int((self.branches == PREFIX_BRANCH).all(dim=0).cumprod(dim=0).sum())

    def to(self, device: torch.device | str) -> "Batch":
        """A copy whose tensors are on `device`; transfers from pinned memory do not block."""
        return self.changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """A copy in pinned memory; `DataLoader` calls this."""
        return self.changed(Tensor.pin_memory)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """A copy with `change` done to every tensor."""
        return _with_tensors(self, change)


def image_key(rgb: np.ndarray) -> str:
    """The hash of an image's content, uint8 [H, W, 3]."""
    digest = blake2b(repr(rgb.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()


def _with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of `value` with every tensor in it changed, in lists and in dataclasses too."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list):
        return [_with_tensors(item, change) for item in value]
    if is_dataclass(value):
        changed = {field.name: _with_tensors(getattr(value, field.name), change) for field in fields(value)}
        return replace(value, **changed)
    return value
