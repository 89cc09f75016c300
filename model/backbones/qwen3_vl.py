"""Qwen3-VL: an image encoder that also gives what its layers see on the way (DeepStack), and Qwen3 as the LLM.

DeepStack adds the image features of some of the encoder's layers to the states of the image tokens after the LLM's
first layers. A hidden state of ours is what the next layer reads, with these features added.
"""

import math
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from groundscore.errors import UserError
from model.backbones.base import BaseValue, Rows
from model.backbones.qwen_vl import QwenVLBackbone


class Qwen3VLBackbone(QwenVLBackbone):
    """Qwen3-VL (https://arxiv.org/abs/2511.21631). Its table of position embeddings is interpolated to the grid of
    each image inside the image encoder of transformers."""

    parts = {
        **QwenVLBackbone.parts,
        "encoder": (*QwenVLBackbone.parts["encoder"], "visual.pos_embed"),
        "projector": ("visual.merger", "visual.deepstack_merger_list"),
    }
    base_types = ("qwen3_vl",)
    text_types = ("qwen3_vl_text",)
    vision_types = ("qwen3_vl_vision",)
    base_values = {
        **QwenVLBackbone.base_values,
        **{
            name: BaseValue(QwenVLBackbone.base_values[name].rule, (0.5, 0.5, 0.5))
            for name in ("image_mean", "image_std")
        },
    }
    conv_types = ("qwen3_vl",)
    model_class = "Qwen3VLModel"
    config_class = "Qwen3VLConfig"

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        super().check(config)
        vision, text = config.vision_config, config.text_config
        places = vision.num_position_embeddings
        if math.isqrt(places) ** 2 != places:
            raise UserError(f"vision_config: num_position_embeddings {places} is not that of a square")
        indices, depth = vision.deepstack_visual_indexes, vision.depth
        if any(index >= depth for index in indices) or len(set(indices)) < len(indices):
            raise UserError(
                f"vision_config: deepstack_visual_indexes {list(indices)} do not name different ones of {depth} layers"
            )
        layers = text.num_hidden_layers
        if len(indices) > layers:
            raise UserError(f"vision_config: {len(indices)} deepstack_visual_indexes, but the LLM has {layers} layers")

    def run_layer(
        self, layer: nn.Module, states: Tensor, rows: Rows, positions: tuple[Tensor, Tensor], cache: Any, **context: Any
    ) -> Tensor:
        # Qwen3-VL's layers take the rotary embeddings second; the cache has another name in every generation.
        return layer(states, positions, rows.attention, None, cache, **context)
