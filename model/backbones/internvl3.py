"""InternVL3: InternViT sees the tiles of the stretched image and the whole; four of its patches make a token.

Bases are those of transformers' `InternVLForConditionalGeneration` (`OpenGVLab/…-hf`), InternVL 2.5 and 3.5 among them
where their LLM is a dense one; videos are not read.

Legend: n images of one group, t squares of an image, p² patches of a square, k patches of a token along a side, V width
of InternViT, D width of the LLM.
"""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from dataloaders.batching.batch import ImageGroup
from groundscore.errors import UserError
from model.backbones.base import BaseValue
from model.backbones.tiled import ACTIVATION, TOKEN, TiledBackbone, passed_layers
from model.backbones.tiles import StretchedTiles, Tiling
from utils.settings import one_of, whole

MOST_TILES = 256  # that a base may ask for


class InternVL3Backbone(TiledBackbone):
    """InternVL3 (https://arxiv.org/abs/2504.10479)."""

    encoder_name = "InternViT"
    base_types = ("internvl",)
    vision_types = ("internvl_vision",)
    model_class, config_class = "InternVLModel", "InternVLConfig"
    stacks = {"language_model.layers": "text_config", "vision_tower.encoder.layer": "vision_config"}
    names = (*TiledBackbone.names, ("vision_tower", "vision_tower"), ("model.vision_tower", "vision_tower"))
    base_values = {
        **TiledBackbone.base_values,
        "min_patches": BaseValue(whole(1, MOST_TILES), 1),
        "max_patches": BaseValue(whole(1, MOST_TILES), 12),
        "downsample_ratio": BaseValue(one_of(1, 0.5, 0.25), 0.5),
        "vision_feature_layer": BaseValue(whole(-1000, 1000), -1),
        "vision_feature_select_strategy": BaseValue(one_of("default"), "default"),
        "projector_hidden_act": BaseValue(ACTIVATION, "gelu"),
        "image_token_id": BaseValue(TOKEN, 151667),
    }
    conv_types = ("internvl3",)

    # --- the base

    @classmethod
    def image_settings_of_base(cls, config: PreTrainedConfig) -> dict[str, Any]:
        tiles = cls.preparation(config)
        settings = {"image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": True}
        settings |= {"min_patches": tiles.fewest, "max_patches": tiles.most}
        return super().image_settings_of_base(config) | settings

    def inputs_of_base(self, group: ImageGroup, is_image: Tensor) -> dict[str, Tensor]:
        return {"pixel_values": self.normalized(group.pixels).flatten(0, 1)}

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        vision, merged = config.vision_config, _merged(config)
        for name in ("image_size", "patch_size"):
            sides = getattr(vision, name)
            if len(sides) != 2 or sides[0] != sides[1]:
                raise UserError(f"vision_config: {name} should be that of a square, it is {list(sides)}")
        super().check(config)
        patches = vision.image_size[0] // vision.patch_size[0]
        if patches % merged:
            raise UserError(f"downsample_ratio: {patches} patches along a side cannot be merged by {merged}")
        passed_layers(config.base_values["vision_feature_layer"], vision.num_hidden_layers)

    # --- images

    @classmethod
    def tiling(cls, config: PreTrainedConfig) -> Tiling:
        return Tiling(config.vision_config.image_size[0], config.vision_config.patch_size[0] * _merged(config))

    @classmethod
    def preparation(cls, config: PreTrainedConfig) -> StretchedTiles:
        tiling, most = cls.tiling(config), config.base_values["max_patches"]
        if config.max_pixels is not None:
            most = min(most, config.max_pixels // tiling.side**2)
        return StretchedTiles(tiling, min(config.base_values["min_patches"], most), most)

    def states(self, squares: Tensor) -> Tensor:
        tower, wanted = self.vision_tower, self.config.base_values["vision_feature_layer"]
        states = tower.embeddings(squares)
        for layer in tower.encoder.layer[: passed_layers(wanted, len(tower.encoder.layer))]:
            states = layer(states)
        states = tower.layernorm(states) if wanted == -1 else states
        return states[:, 1:]  # without the class token

    def tokens(self, states: Tensor) -> Tensor:
        merged, cells = _merged(self.config), self.tiling(self.config).cells
        patches = states.unflatten(1, (cells, merged, cells, merged))  # [m, p/k, k, p/k, k, V]
        return self.multi_modal_projector(patches.transpose(2, 3).flatten(3, 5).flatten(1, 2))  # of [m, (p/k)², k² · V]

    def arranged(self, squares: list[Tensor], groups: list[ImageGroup]) -> list[Tensor]:
        return [of_group.flatten(1, 2) for of_group in squares]


def _merged(config: PreTrainedConfig) -> int:
    """k."""
    return round(1 / config.base_values["downsample_ratio"])
