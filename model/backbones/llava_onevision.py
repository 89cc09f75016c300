"""LLaVA-OneVision: SigLIP sees the whole image and the tiles of a canvas, a projector makes tokens of both.

Each row of the image's grid ends in a learned token, which is no cell. Bases are those of transformers'
`LlavaOnevisionForConditionalGeneration`; videos are not read.

Legend: n images of one group, t squares of an image, p² patches of a square, V width of SigLIP, D width of the LLM.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from dataloaders.batching.batch import ImageGroup
from groundscore.errors import UserError
from model.backbones.base import BaseValue
from model.backbones.tiled import ACTIVATION, TOKEN, TiledBackbone, passed_layers
from model.backbones.tiles import AnyresPreparation, LineBreak, Tiling, checked_canvases
from utils.settings import Rule, one_of

ASPECT = "anyres_max_"  # and a number of tiles
SIDES = range(384, 2304 + 1, 384)
CANVASES = [[height, width] for height in SIDES for width in SIDES]  # of a base that names none (transformers)


def most_tiles(aspect: Any) -> int | None:
    """The number in "anyres_max_9", or None for anything else."""
    number = aspect.removeprefix(ASPECT) if isinstance(aspect, str) and aspect.startswith(ASPECT) else ""
    return int(number) if number.isdecimal() and len(number) < 4 and int(number) else None


def listed(layers: Any) -> list[Any]:
    """One index into the encoder's hidden states, or several, as a list."""
    return list(layers) if isinstance(layers, list | tuple) else [layers]


class LlavaOnevisionBackbone(TiledBackbone):
    """LLaVA-OneVision (https://arxiv.org/abs/2408.03326)."""

    encoder_name = "SigLIP"
    base_types = ("llava_onevision",)
    vision_types = ("siglip_vision_model",)
    model_class, config_class = "LlavaOnevisionModel", "LlavaOnevisionConfig"
    parts = {**TiledBackbone.parts, "projector": ("multi_modal_projector", "image_newline")}
    stacks = {"language_model.layers": "text_config", "vision_tower.encoder.layers": "vision_config"}
    names = (
        *TiledBackbone.names,
        ("image_newline", "image_newline.weight"),
        ("vision_tower.vision_model", "vision_tower"),
        ("model.image_newline", "image_newline.weight"),
        ("model.vision_tower.vision_model", "vision_tower"),
        ("model.vision_tower", "vision_tower"),
    )
    base_values = {
        **TiledBackbone.base_values,
        "image_grid_pinpoints": BaseValue(Rule("a list of sizes", lambda v: isinstance(v, list) and v), CANVASES),
        "vision_aspect_ratio": BaseValue(Rule(f"{ASPECT}N", lambda v: most_tiles(v) is not None), ASPECT + "9"),
        "vision_feature_layer": BaseValue(Rule("an index, or a list of them", lambda v: len(listed(v)) > 0), -1),
        "vision_feature_select_strategy": BaseValue(one_of("full"), "full"),
        "projector_hidden_act": BaseValue(ACTIVATION, "gelu"),
        "multimodal_projector_bias": BaseValue(one_of(True, False), True),
        "image_token_index": BaseValue(TOKEN, 151646),
        "video_token_index": BaseValue(TOKEN, 151647),
    }
    conv_types = ("llava_onevision",)

    def adopt(self, model: nn.Module) -> None:
        super().adopt(model)
        self.image_newline = LineBreak(model.image_newline)

    # --- the base

    @classmethod
    def image_settings_of_base(cls, config: PreTrainedConfig) -> dict[str, Any]:
        canvases = [list(canvas) for canvas in cls.preparation(config).canvases]
        settings = {"image_processor_type": "LlavaOnevisionImageProcessor", "image_grid_pinpoints": canvases}
        return super().image_settings_of_base(config) | settings

    def inputs_of_base(self, group: ImageGroup, is_image: Tensor) -> dict[str, Tensor]:
        sizes = torch.tensor([geometry.window[2:] for geometry in group.geometries])
        return {"pixel_values": self.normalized(group.pixels), "image_sizes": sizes}

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        super().check(config)
        cls.preparation(config)
        for layer in listed(config.base_values["vision_feature_layer"]):
            passed_layers(layer, config.vision_config.num_hidden_layers)

    # --- images

    @classmethod
    def tiling(cls, config: PreTrainedConfig) -> Tiling:
        return Tiling(config.vision_config.image_size, config.vision_config.patch_size)

    @classmethod
    def preparation(cls, config: PreTrainedConfig) -> AnyresPreparation:
        tiling, kept, most = cls.tiling(config), config.base_values, config.max_pixels
        canvases = checked_canvases(kept["image_grid_pinpoints"], tiling.side)
        allowed = tuple(canvas for canvas in canvases if most is None or canvas[0] * canvas[1] <= most)
        if not allowed:
            raise UserError(f"--max_pixels {most}: every canvas of image_grid_pinpoints has more pixels")
        return AnyresPreparation(tiling, allowed, most_tiles(kept["vision_aspect_ratio"]))

    def states(self, squares: Tensor) -> Tensor:
        tower, layers = self.vision_tower, self.vision_tower.encoder.layers
        wanted = [
            passed_layers(index, len(layers)) for index in listed(self.config.base_values["vision_feature_layer"])
        ]
        passed = [tower.embeddings(squares)]
        for layer in layers[: max(wanted)]:
            passed.append(layer(passed[-1], None))
        return torch.cat([passed[depth] for depth in wanted], dim=-1)

    def arranged(self, squares: list[Tensor], groups: list[ImageGroup]) -> list[Tensor]:
        return self.preparation(self.config).pack(squares, groups, self.image_newline)
