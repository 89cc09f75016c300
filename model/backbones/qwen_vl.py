"""What Qwen2.5-VL and Qwen3-VL share: images of any size as grids of merged patches, rotary positions in three axes.

An image is stretched to whole cells of merged patches, as many as its pixels allow, and keeps its proportions. The
image encoder reads the patches of all images of one shape together. The LLM's tokens are the cells in raster order;
their position ids are time, row and column, and text goes on after the largest of them (`Geometry.token_positions`).

Legend: n images of one group, H W pixels of a prepared image, p side of a patch, m patches along a side of a cell,
h w rows and columns of cells, D width of the LLM.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedConfig

from dataloaders.batching.batch import Geometry, ImageGroup
from dataloaders.batching.bpe_tokenization import BpeTokenizer
from groundscore.annotations.images import check_image
from groundscore.errors import UserError
from model.backbones.base import BaseValue, Rows, ties_embeddings
from model.backbones.language_model import WholeModelBackbone, class_of_transformers
from model.images import resized, standardize
from utils.settings import Rule, number, whole


@dataclass(frozen=True)
class CellPreparation:
    """An image as Qwen-VL takes it: stretched to whole cells, its proportions kept as well as these allow.

    cell: side of a cell in pixels; min_pixels, max_pixels: how many the stretched image may have. The pixels are those
    of transformers' `Qwen2VLImageProcessorPil`.
    """

    cell: int
    min_pixels: int
    max_pixels: int

    def __call__(self, rgb: np.ndarray) -> tuple[Tensor, Geometry]:
        """uint8 [H', W', 3] → uint8 [3, H, W], and where it lies."""
        check_image(rgb)
        height, width = rgb.shape[:2]
        size = self.size_of(height, width)
        grid = size[0] // self.cell, size[1] // self.cell
        geometry = Geometry(size, (0, 0, height, width), False, grid, grid[0] * grid[1], axes=3)
        return resized(rgb, size, Image.Resampling.BICUBIC), geometry

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the stretched image: the nearest whole cells, or the most or fewest that the limits allow."""
        cell = self.cell
        rows, columns = round(height / cell), round(width / cell)
        if rows * columns * cell**2 > self.max_pixels:
            scale = math.sqrt(height * width / self.max_pixels)
            rows, columns = (max(1, math.floor(side / scale / cell)) for side in (height, width))
        elif rows * columns * cell**2 < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (height * width))
            rows, columns = (math.ceil(side * scale / cell) for side in (height, width))
        return rows * cell, columns * cell


def _channels(least: float) -> Rule:
    """Three numbers, one for each channel."""
    one = number(least, 10)
    return Rule(
        f"three numbers from {least:g}",
        lambda value: isinstance(value, list | tuple) and len(value) == 3 and all(map(one.holds, value)),
    )


_PIXELS, _TOKEN = whole(1, 2**28), whole(0, 10**7)


class QwenVLBackbone(WholeModelBackbone):
    """`visual`, `language_model` and head of a Qwen-VL of transformers."""

    encoder_name = "Qwen-VL's image encoder"
    parts = {
        "encoder": ("visual.patch_embed", "visual.blocks"),
        "projector": ("visual.merger",),
        **WholeModelBackbone.parts,
    }
    stacks = {"language_model.layers": "text_config", "visual.blocks": "vision_config"}
    names = (
        ("model.language_model", "language_model"),
        ("model.visual", "visual"),
        ("lm_head", "lm_head"),
        ("visual", "visual"),  # from here on: of transformers 4
        ("model.embed_tokens", "language_model.embed_tokens"),
        ("model.layers", "language_model.layers"),
        ("model.norm", "language_model.norm"),
    )
    base_values = {
        "min_pixels": BaseValue(_PIXELS, 56 * 56),
        "max_pixels": BaseValue(_PIXELS, 28 * 28 * 1280),
        "image_mean": BaseValue(_channels(-10), (0.48145466, 0.4578275, 0.40821073)),
        "image_std": BaseValue(_channels(1e-3), (0.26862954, 0.26130258, 0.27577711)),
        "image_token_id": BaseValue(_TOKEN, 151655),
        "video_token_id": BaseValue(_TOKEN, 151656),
        "vision_start_token_id": BaseValue(_TOKEN, 151652),
        "vision_end_token_id": BaseValue(_TOKEN, 151653),
    }
    tokenizer = BpeTokenizer
    settings = ("min_pixels", "max_pixels")

    def adopt(self, model: nn.Module) -> None:
        self.visual = model.visual
        self.language_model = model.language_model

    # --- the base

    @classmethod
    def config_of_base(cls, config: PreTrainedConfig) -> PreTrainedConfig:
        """The configuration of the whole model in transformers."""
        ids = {name: value for name, value in config.base_values.items() if name.endswith("_token_id")}
        parts = {name: copy.deepcopy(getattr(config, name)) for name in ("text_config", "vision_config")}
        tied = ties_embeddings(config)
        return class_of_transformers(cls.config_class)(**parts, **ids, tie_word_embeddings=tied)

    @classmethod
    def image_settings_of_base(cls, config: PreTrainedConfig) -> dict[str, Any]:
        """What `preprocessor_config.json` of a base says."""
        vision, pixels = config.vision_config, cls.preparation(config)
        return {
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": {"shortest_edge": pixels.min_pixels, "longest_edge": pixels.max_pixels},
            "image_mean": list(config.base_values["image_mean"]),
            "image_std": list(config.base_values["image_std"]),
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.spatial_merge_size,
        }

    @classmethod
    def read_base_values(cls, config: Mapping[str, Any], images: Mapping[str, Any]) -> dict[str, Any]:
        size, vision = images.get("size"), config.get("vision_config")
        size, vision = (value if isinstance(value, dict) else {} for value in (size, vision))
        limits = {"min_pixels": size.get("shortest_edge"), "max_pixels": size.get("longest_edge")}
        limits |= {name: images[name] for name in limits if images.get(name) is not None}
        for of_images, of_encoder in (("patch_size", "patch_size"), ("merge_size", "spatial_merge_size")):
            made, read = images.get(of_images), vision.get(of_encoder)
            if made is not None and read is not None and made != read:
                raise UserError(
                    f"the image processor's {of_images} is {made}, the image encoder's {of_encoder} {read}; the "
                    "preprocessor_config.json is that of another model, copy the right one"
                )
        return super().read_base_values(config, {**images, **limits})

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        text, vision, pixels = config.text_config, config.vision_config, cls.preparation(config)
        if pixels.min_pixels > pixels.max_pixels:
            raise UserError(f"--min_pixels {pixels.min_pixels}: --max_pixels is {pixels.max_pixels}, which is less")
        if pixels.max_pixels < pixels.cell**2:
            raise UserError(
                f"--max_pixels {pixels.max_pixels}: one image token of {config.backbone} takes {pixels.cell**2}"
            )
        if vision.out_hidden_size != text.hidden_size:
            raise UserError(
                f"vision_config: out_hidden_size {vision.out_hidden_size} is not the LLM's width, {text.hidden_size}"
            )
        if getattr(text, "use_sliding_window", False):
            raise UserError("text_config: use_sliding_window is not supported; set it to false")

    # --- images

    @classmethod
    def preparation(cls, config: PreTrainedConfig) -> CellPreparation:
        vision, kept = config.vision_config, config.base_values
        limits = (getattr(config, name) or kept[name] for name in ("min_pixels", "max_pixels"))
        return CellPreparation(vision.patch_size * vision.spatial_merge_size, *limits)

    @property
    def encoder(self) -> nn.Module:
        return self.visual

    def encoder_settings(self) -> dict[str, Any]:
        kept = {name: list(self.config.base_values[name]) for name in ("image_mean", "image_std")}
        pixels = self.preparation(self.config)
        sizes = {"cell": pixels.cell, "min_pixels": pixels.min_pixels, "max_pixels": pixels.max_pixels}
        return {"encoder": self.config.backbone, "config": self.visual.config.to_diff_dict(), **kept, **sizes}

    def encode(self, group: ImageGroup) -> list[Tensor]:
        return self.encode_groups([group])[0]

    def encode_groups(self, groups: list[ImageGroup]) -> list[list[Tensor]]:
        """The LLM's image tokens [n, h · w, D] of each group, and what is injected after its first layers; no graph is
        kept while the image encoder is frozen."""
        patches = torch.cat([self.patches(group.pixels) for group in groups])
        grids = torch.cat([self.grids(group) for group in groups])
        trained = any(parameter.requires_grad for parameter in self.visual.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            output = self.visual(patches, grid_thw=grids)
        found = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        sizes = [len(group.pixels) * group.grid[0] * group.grid[1] for group in groups]
        of_groups = zip(*(each.split(sizes) for each in found), strict=True)
        return [
            [each.unflatten(0, (len(group.pixels), -1)) for each in of_group]
            for group, of_group in zip(groups, of_groups, strict=True)
        ]

    def patches(self, pixels: Tensor) -> Tensor:
        """The patches of images uint8 [n, 3, H, W] as the image encoder takes them, cell by cell: normalised,
        [n · HW/p², 3 · frames · p²], every image standing for as many equal frames of a film."""
        vision, kept = self.visual.config, self.config.base_values
        if not pixels.is_floating_point():
            pixels = standardize(pixels.float() / 255.0, kept["image_mean"], kept["image_std"])
        patch, merge = vision.patch_size, vision.spatial_merge_size
        cells = pixels.unflatten(3, (-1, merge, patch)).unflatten(2, (-1, merge, patch))  # [n, 3, h, m, p, w, m, p]
        cells = cells.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(0, 4)  # [n · h · w · m · m, 3, p, p]
        return cells.unsqueeze(2).expand(-1, -1, vision.temporal_patch_size, -1, -1).flatten(1)

    def grids(self, group: ImageGroup) -> Tensor:
        """int64 [n, 3]: frames, and rows and columns of patches, of each image."""
        merge = self.visual.config.spatial_merge_size
        grid = torch.tensor([(1, group.grid[0] * merge, group.grid[1] * merge)], device=group.pixels.device)
        return grid.expand(len(group.pixels), -1)

    def inputs_of_base(self, group: ImageGroup, is_image: Tensor) -> dict[str, Tensor]:
        kinds = {"mm_token_type_ids": is_image.int()}
        return {"pixel_values": self.patches(group.pixels), "image_grid_thw": self.grids(group), **kinds}

    def project(self, features: list[Tensor], group: ImageGroup) -> tuple[Tensor, Tensor | None]:
        return features[0], None

    def injections(self, features: list[Tensor], group: ImageGroup) -> list[Tensor]:
        return features[1:]

    # --- rows

    def run_layer(
        self, layer: nn.Module, states: Tensor, rows: Rows, positions: tuple[Tensor, Tensor], cache: Any, **context: Any
    ) -> Tensor:
        # Without names, see the base; and without position ids, which no attention but flash-attn's looks at.
        return layer(states, rows.attention, None, cache, position_embeddings=positions, **context)
