"""The backbones by their names. To add one: write its module and put it here, or `register` it in a plugin."""

from transformers import PreTrainedConfig

from groundscore.names import add_new, look_up
from model.backbones.base import Backbone
from model.backbones.internvl3 import InternVL3Backbone
from model.backbones.llava import LlavaBackbone
from model.backbones.llava_onevision import LlavaOnevisionBackbone
from model.backbones.qwen2_5_vl import Qwen25VLBackbone
from model.backbones.qwen3_vl import Qwen3VLBackbone

BACKBONES: dict[str, type[Backbone]] = {
    "llava": LlavaBackbone,
    "llava_onevision": LlavaOnevisionBackbone,
    "internvl3": InternVL3Backbone,
    "qwen2_5_vl": Qwen25VLBackbone,
    "qwen3_vl": Qwen3VLBackbone,
}


def register(backbone: type[Backbone]) -> type[Backbone]:
    """Adds the backbone of a plugin under the name of its class; a decorator."""
    add_new(BACKBONES, backbone.__name__, backbone, "backbone")
    return backbone


def backbone_named(name: str) -> type[Backbone]:
    """The class of the backbone of a name; `UserError` if there is none."""
    return look_up(name, BACKBONES, "backbone")


def backbone_of(config: PreTrainedConfig) -> type[Backbone]:
    """The class of the backbone that a configuration names; `UserError` if there is none of that name."""
    return backbone_named(config.backbone)


def backbone_of_base(model_type: object) -> str | None:
    """The name of the backbone whose bases have this `model_type`, or None."""
    return next((name for name, backbone in BACKBONES.items() if model_type in backbone.base_types), None)
