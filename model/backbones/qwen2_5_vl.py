"""Qwen2.5-VL: an image encoder whose layers look at windows of the image, but for a few, and Qwen2.5 as the LLM."""

from transformers import PreTrainedConfig

from groundscore.errors import UserError
from model.backbones.qwen_vl import QwenVLBackbone


class Qwen25VLBackbone(QwenVLBackbone):
    """Qwen2.5-VL (https://arxiv.org/abs/2502.13923). The windows are inside the image encoder of transformers."""

    base_types = ("qwen2_5_vl",)
    text_types = ("qwen2_5_vl_text",)
    vision_types = ("qwen2_5_vl_vision",)
    conv_types = ("qwen2_5_vl",)
    model_class = "Qwen2_5_VLModel"
    config_class = "Qwen2_5_VLConfig"

    @classmethod
    def check(cls, config: PreTrainedConfig) -> None:
        super().check(config)
        vision, text = config.vision_config, config.text_config
        cell = vision.patch_size * vision.spatial_merge_size
        if vision.window_size < cell:
            raise UserError(f"vision_config: window_size {vision.window_size} is less than an image token, {cell}")
        section = (text.rope_parameters or {}).get("mrope_section", (16, 24, 24))
        if 2 * sum(section) != text.hidden_size // text.num_attention_heads:
            raise UserError(f"text_config: mrope_section {list(section)} does not add up to half the width of a head")
