"""What the backbones share that see an image as tiles (`tiles.py`): one encoder for all squares, a projector, an LLM.

Legend: n images of one group, t squares of an image, m squares of all images, p² encoder tokens of a square, c of them
after the projector, V width of the encoder, D of the LLM, S side of a square.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from dataloaders.batching.batch import ImageGroup
from dataloaders.batching.bpe_tokenization import BpeTokenizer
from groundscore.errors import UserError
from model.backbones.base import BaseValue, ties_embeddings
from model.backbones.language_model import WholeModelBackbone, class_of_transformers
from model.backbones.tiles import Tiling, check_map_geometry, in_one_call, tiles_summary
from model.images import CLIP_MEAN, CLIP_STD, standardize
from utils.settings import Rule, number, one_of, whole


def _channels(lowest: float) -> Rule:
    """The rule of a statistic of the three colours, each at least `lowest`."""
    holds = number(lowest, 1000).holds

    def are_three(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) == 3 and all(map(holds, value))

    return Rule(f"three numbers from {lowest}", are_three)


TOKEN = whole(0, 10**7)
ACTIVATION = one_of("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu")


class TiledBackbone(WholeModelBackbone):
    """`vision_tower`, `multi_modal_projector`, `language_model` and head of a model of transformers.

    A member says how an image is cut, which of the encoder's states are read, and how they become the LLM's tokens.
    """

    parts = {"encoder": ("vision_tower",), "projector": ("multi_modal_projector",), **WholeModelBackbone.parts}
    text_types = ("qwen2", "qwen3", "llama")
    names = (  # those of the published checkpoints, which transformers 5 still writes; then its own
        ("language_model.model", "language_model"),
        ("language_model.lm_head", "lm_head"),
        ("multi_modal_projector", "multi_modal_projector"),
        ("model.language_model", "language_model"),
        ("model.multi_modal_projector", "multi_modal_projector"),
    )
    # What an image processor may say beside: pixels are prepared in this way alone.
    base_values = {
        "image_mean": BaseValue(_channels(-1000), CLIP_MEAN),
        "image_std": BaseValue(_channels(1e-3), CLIP_STD),
        "size": BaseValue(Rule("sides in pixels, or null", lambda value: value is None or isinstance(value, dict))),
        "resample": BaseValue(one_of(3), 3),  # bicubic
        "rescale_factor": BaseValue(number(0.99 / 255, 1.01 / 255), 1 / 255),
        "do_resize": BaseValue(one_of(True), True),
        "do_rescale": BaseValue(one_of(True), True),
        "do_normalize": BaseValue(one_of(True), True),
    }
    tokenizer = BpeTokenizer
    settings = ("max_pixels",)

    def adopt(self, model: nn.Module) -> None:
        self.vision_tower = model.vision_tower
        self.multi_modal_projector = model.multi_modal_projector
        self.language_model = model.language_model

    # --- the base

    @classmethod
    def config_of_base(cls, config: PreTrainedConfig) -> PreTrainedConfig:
        """The configuration of the whole model in transformers."""
        fields = {name: value for name, value in config.base_values.items() if name not in TiledBackbone.base_values}
        parts = {name: copy.deepcopy(getattr(config, name)) for name in ("text_config", "vision_config")}
        tied = ties_embeddings(config)
        return class_of_transformers(cls.config_class)(**parts, **copy.deepcopy(fields), tie_word_embeddings=tied)

    @classmethod
    def image_settings_of_base(cls, config: PreTrainedConfig) -> dict[str, Any]:
        """What `preprocessor_config.json` of a base says."""
        side = cls.tiling(config).side
        kept = {name: copy.deepcopy(config.base_values[name]) for name in TiledBackbone.base_values}
        return kept | {"size": {"height": side, "width": side}}

    def normalized(self, pixels: Tensor) -> Tensor:
        """Squares [..., 3, S, S] as the encoder takes them; uint8, or normalised already."""
        if pixels.is_floating_point():
            return pixels
        kept = self.config.base_values
        squares = standardize(pixels.flatten(0, -4).float() / 255.0, kept["image_mean"], kept["image_std"])
        return squares.view(pixels.shape)

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        check_map_geometry(config)
        tiling, size = cls.tiling(config), config.base_values["size"]
        square = {"height": tiling.side, "width": tiling.side}
        if tiling.cells < 1:
            raise UserError(f"vision_config: image_size {tiling.side} has no room for a cell of {tiling.cell} pixels")
        if size is not None and {**size} not in (square, {"shortest_edge": tiling.side}):
            raise UserError(
                f"the image processor's size is {size}, the image encoder's image_size {tiling.side}; the "
                "preprocessor_config.json is that of another model, copy the right one"
            )
        if config.max_pixels is not None and config.max_pixels < tiling.side**2:
            raise UserError(f"--max_pixels {config.max_pixels}: a single tile has {tiling.side**2} pixels")
        if "sliding_attention" in (getattr(config.text_config, "layer_types", None) or ()):
            raise UserError("text_config: use_sliding_window is not supported; set it to false")

    @classmethod
    def image_summary(cls, config: PreTrainedConfig) -> str:
        return tiles_summary(cls.tiling(config).side)

    # --- images

    @classmethod
    def tiling(cls, config: PreTrainedConfig) -> Tiling:
        """The squares of its encoder and their cells."""
        raise NotImplementedError

    def states(self, squares: Tensor) -> Tensor:
        """The encoder's states [m, p², V] of normalised squares [m, 3, S, S] that the projector reads."""
        raise NotImplementedError

    def tokens(self, states: Tensor) -> Tensor:
        """The projector's tokens [m, c, D] of squares, from the encoder's states [m, p², V]."""
        return self.multi_modal_projector(states)

    def arranged(self, squares: list[Tensor], groups: list[ImageGroup]) -> list[Tensor]:
        """The LLM's tokens [n, tokens, D] of each group's images, from those of their squares, [n, t, c, D] each."""
        raise NotImplementedError

    @property
    def encoder(self) -> nn.Module:
        return self.vision_tower

    def encoder_settings(self) -> dict[str, Any]:
        return {
            "encoder": self.config.backbone,
            "config": self.vision_tower.config.to_diff_dict(),
            "preparation": repr(self.preparation(self.config)),
            **{name: self.config.base_values[name] for name in ("image_mean", "image_std", "vision_feature_layer")},
        }

    def encode(self, group: ImageGroup) -> list[Tensor]:
        return self.encode_groups([group])[0]

    def encode_groups(self, groups: list[ImageGroup]) -> list[list[Tensor]]:
        """The states of each group's squares, [n, t, p², V] alone; no graph is kept while the encoder is frozen."""
        parameters = list(self.vision_tower.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in parameters)):
            states = in_one_call(
                lambda squares: self.states(self.normalized(squares).to(parameters[0].dtype)),
                [group.pixels for group in groups],
            )
        return [[of_group] for of_group in states]

    def project(self, features: list[Tensor], group: ImageGroup) -> tuple[Tensor, Tensor | None]:
        return self.project_groups([features], [group])[0]

    def project_groups(
        self, features: list[list[Tensor]], groups: list[ImageGroup]
    ) -> list[tuple[Tensor, Tensor | None]]:
        squares = in_one_call(self.tokens, [states for (states,) in features])
        return [(of_group, None) for of_group in self.arranged(squares, groups)]


def passed_layers(index: Any, depth: int) -> int:
    """The number of layers that an index into the hidden states of an encoder (embeddings first) stands for.

    `UserError` for a state that an encoder of so many layers does not have.
    """
    if type(index) is not int or not -depth - 1 <= index <= depth:
        raise UserError(f"vision_feature_layer {index}: the image encoder has {depth} layers")
    return index if index >= 0 else depth + 1 + index
