"""LLaVA 1.5 and 1.6: CLIP and a projector turn an image into tokens, LLaMA reads them with the text.

Both see one square of an image, as in the reference; with `anyres` 1.6 sees tiles of it besides (`tiles.py`).

Legend: n images of one group, I images, P image tokens of an image, p patches of CLIP, d depths of CLIP that are read,
R rows, T tokens, D width of the LLM, V width of CLIP, L layers of the LLM, C width of a mask decoder's features.
"""

import copy
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlamaModel, PreTrainedConfig

from dataloaders.batching.batch import Geometry, ImageGroup
from groundscore.errors import UserError
from model.backbones.base import BaseValue, EncodedImages
from model.backbones.language_model import LanguageModelBackbone
from model.backbones.lean_layers import keep_less
from model.backbones.tiles import (
    AnyresPreparation,
    LineBreak,
    Tiling,
    check_map_geometry,
    checked_canvases,
    in_one_call,
    tiles_summary,
)
from model.images import fill_and_crop, fit_and_pad, image_cells, normalize_cropped, normalize_padded
from model.losses import TokenHead
from utils.settings import Rule

ANYRES_TILES = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # rows and columns of LLaVA 1.6's canvases


def _is_list_or_none(value: Any) -> bool:
    return value is None or isinstance(value, list)


@dataclass(frozen=True)
class LlavaPreparation:
    """An image as CLIP takes it: its centre square, or the whole image padded, as the model was trained.

    side: of CLIP's square in pixels; grid: rows and columns of the LLM's image tokens.
    """

    side: int
    grid: tuple[int, int]
    padded: bool = False

    def __call__(self, rgb: np.ndarray) -> tuple[Tensor, Geometry]:
        """uint8 [H, W, 3] → uint8 [3, side, side], and where it lies."""
        prepare = fit_and_pad if self.padded else fill_and_crop
        return prepare(rgb, self.side, self.grid, self.grid[0] * self.grid[1])


class LlavaBackbone(LanguageModelBackbone):
    """CLIP, projector and LLaMA.

    scales: feature maps that a mask decoder reads; their projector is the LLM's, or one of its own where the
        configuration separates them.
    """

    encoder_name = "CLIP"
    parts = {
        "encoder": ("vision_tower",),
        "projector": ("mm_projector", "out_mm_projector", "image_newline"),
        **LanguageModelBackbone.parts,
    }
    base_types = ("llava", "llava_next", "llava_llama")
    base_values = {"image_grid_pinpoints": BaseValue(Rule("a list of sizes, or null", _is_list_or_none))}
    settings = (
        *("separate_mm_projector", "pad_train_clip_images", "anyres"),
        *("resize_vision_tower", "resize_vision_tower_size", "llm_image_grid"),
    )
    stacks = {"language_model.layers": "text_config", "vision_tower.encoder.layers": "vision_config"}

    def __init__(self, config: PreTrainedConfig, scales: int = 0):
        super().__init__(config, scales)
        vision_config = copy.deepcopy(config.vision_config)
        vision_config.image_size = config.clip_image_size
        width = config.text_config.hidden_size
        self.vision_tower = CLIPVisionModel(vision_config)
        if config.separate_mm_projector:
            hidden = width * config.mm_projector_hidden_dim
            self.mm_projector = _separate_projector(vision_config.hidden_size, hidden, width)
            self.out_mm_projector = _separate_projector(vision_config.hidden_size, hidden, config.clip_feature_width)
        else:
            self.mm_projector = build_projector(config.mm_projector_type, vision_config.hidden_size, width)
        self.language_model = LlamaModel(copy.deepcopy(config.text_config))
        keep_less(self.language_model)
        self.lm_head = TokenHead(width, config.text_config.vocab_size, bias=False)
        # CLIP states that are read: the LLM's, then the mask decoder's, as indices into its hidden states. For a deep
        # tower the latter are 2 and 11 from the end (the reference), for a shallow one as early as there are layers.
        last = config.vision_config.num_hidden_layers - 1
        self.depths = [config.mm_vision_select_layer, *(max(1, last - 9 * scale) for scale in range(scales))]
        if config.anyres:
            self.image_newline = LineBreak(nn.Parameter(torch.randn(width) / width**0.5))
        if config.anyres and scales:
            raise UserError("--anyres: PixelLM's own decoder needs one grid for all images; decode by SAM")

    @property
    def added_modules(self) -> tuple[str, ...]:
        separate = ("mm_projector", "out_mm_projector") if self.config.separate_mm_projector else ()
        return (*separate, "image_newline")

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        if not config.anyres:
            return
        for name in ("pad_train_clip_images", "resize_vision_tower", "llm_image_grid"):
            if getattr(config, name):
                raise UserError(f"--anyres: an image is shown in tiles of CLIP's own size, which excludes --{name}")
        check_map_geometry(config)
        cls.preparation(config)

    @classmethod
    def preparation(cls, config: PreTrainedConfig) -> LlavaPreparation | AnyresPreparation:
        if config.anyres:
            side = config.vision_config.image_size
            default = [(side * rows, side * columns) for rows, columns in ANYRES_TILES]
            canvases = checked_canvases(config.base_values["image_grid_pinpoints"] or default, side)
            return AnyresPreparation(Tiling(side, config.vision_config.patch_size), canvases)
        return LlavaPreparation(config.clip_image_size, (config.image_grid,) * 2, config.pad_train_clip_images)

    @classmethod
    def image_summary(cls, config: PreTrainedConfig) -> str:
        if config.anyres:
            return tiles_summary(config.clip_image_size)
        fit = "the whole image, padded" if config.pad_train_clip_images else "its centre"
        return f"{config.clip_image_size} pixels, {fit}, {config.image_grid**2} image tokens"

    # --- images

    @property
    def encoder(self) -> CLIPVisionModel:
        return self.vision_tower

    def encoder_settings(self) -> dict[str, Any]:
        return {
            "encoder": "clip",
            "config": self.vision_tower.config.to_diff_dict(),
            "depths": self.depths,
            "padded": self.config.pad_train_clip_images,
            **({"preparation": repr(self.preparation(self.config))} if self.config.anyres else {}),
        }

    def encode(self, group: ImageGroup) -> list[Tensor]:
        return self.encode_groups([group])[0]

    def encode_groups(self, groups: list[ImageGroup]) -> list[list[Tensor]]:
        """CLIP's patch states at `depths`, one tensor [n, d, p, V] of each group (all images are one group then); no
        graph is kept while CLIP is frozen.

        With `anyres` those that the LLM reads of all t squares, [n, t, p, V].
        """
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and any(p.requires_grad for p in self.vision_tower.parameters())
        ):
            if self.config.anyres:
                states = in_one_call(lambda squares: self._states(squares)[0], [group.pixels for group in groups])
                return [[of_group] for of_group in states]
            if self.config.pad_train_clip_images:
                tower = self.vision_tower
                states = (padded_clip_states(tower, each.pixels, each.sizes, self.depths) for each in groups)
            else:
                states = (self._states(each.pixels) for each in groups)
            return [[torch.stack(of_group, dim=1)] for of_group in states]

    def _states(self, squares: Tensor) -> list[Tensor]:
        """CLIP's patch states [m, p, V] at each of `depths`, of squares uint8 [m, 3, side, side]."""
        tower = self.vision_tower
        pixels = normalize_cropped(squares, tower.embeddings.patch_embedding.weight.dtype)
        return clip_states(tower, pixels, self.depths, None)

    def project_groups(
        self, features: list[list[Tensor]], groups: list[ImageGroup]
    ) -> list[tuple[Tensor, Tensor | None]]:
        if not self.config.anyres:
            return super().project_groups(features, groups)
        squares = in_one_call(self.mm_projector, [states for (states,) in features])  # [n, t, p, D]
        packed = self.preparation(self.config).pack(squares, groups, self.image_newline)
        return [(of_group, None) for of_group in packed]

    def project(self, features: list[Tensor], group: ImageGroup) -> tuple[Tensor, Tensor | None]:
        if self.config.anyres:
            return self.project_groups([features], [group])[0]
        side, grid = group.pixels.shape[-1], group.grid
        states = features[0][:, 0]  # [n, p, V]
        patches = self._patches(side)
        if patches != grid:
            maps = states.float().transpose(1, 2).unflatten(2, patches)  # [n, V, rows, columns]
            maps = F.interpolate(maps, grid, mode="bilinear", align_corners=False)
            states = maps.flatten(2).transpose(1, 2).to(states.dtype)  # [n, P, V]
        visible = None
        if self.config.pad_train_clip_images:
            visible = image_cells(group.sizes, side, grid, states.device)
        return self.mm_projector(states), visible

    def feature_maps(self, images: EncodedImages) -> list[Tensor]:
        """CLIP's states through the projector, [I, C, rows, columns] for every scale; all images have one shape."""
        projector = self.out_mm_projector if self.config.separate_mm_projector else self.mm_projector
        ((states,),) = images.features
        patches = self._patches(self.config.clip_image_size)
        return [projector(each).transpose(1, 2).unflatten(2, patches) for each in states[:, 1:].unbind(1)]

    def _patches(self, side: int) -> tuple[int, int]:
        """Rows and columns of CLIP's patches on a square of so many pixels."""
        return (side // self.vision_tower.config.patch_size,) * 2

    # --- settings

    def compiled_parts(self) -> dict[str, nn.Module]:
        layers = enumerate(self.vision_tower.encoder.layers)
        return {f"vision_tower.encoder.layers.{number}": layer for number, layer in layers}


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


def _separate_projector(in_width: int, hidden_width: int, out_width: int) -> nn.Sequential:
    """PixelLM's two-layer projector, whose hidden layer may be wider."""
    return nn.Sequential(nn.Linear(in_width, hidden_width), nn.GELU(), nn.Linear(hidden_width, out_width))


def clip_states(tower: CLIPVisionModel, pixels: Tensor, depths: list[int], visible: Tensor | None) -> list[Tensor]:
    """Patch states [n, p, V] of CLIP after each of the given numbers of layers; layers beyond the last are not run.

    pixels [n, 3, side, side] normalised; depths: layers to have passed, negative ones as indices into the hidden
    states (embeddings first); visible: bool [n, p], False for patches that no token may attend to, or None.
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


def padded_clip_states(
    tower: CLIPVisionModel, images: Tensor, sizes: list[tuple[int, int]], depths: list[int]
) -> list[Tensor]:
    """The same of images uint8 [n, 3, side, side] that are padded, and normalised with SAM's statistics.

    sizes: (height, width) of the part of each that is no padding.
    """
    side, dtype = images.shape[-1], tower.embeddings.patch_embedding.weight.dtype
    visible = image_cells(sizes, side, (side // tower.config.patch_size,) * 2, images.device)
    return clip_states(tower, normalize_padded(images, sizes, dtype), depths, visible)
