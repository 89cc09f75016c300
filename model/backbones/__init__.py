"""Multimodal LLMs, one file each: images and text -> hidden states of every layer. `base.py` says what each must have.

To add one: write its module and put it here, or `register` it in a plugin.
"""

from transformers import PreTrainedConfig

from groundscore.errors import UserError
from model.backbones.base import Backbone
from model.backbones.llava import LlavaBackbone

BACKBONES: dict[str, type[Backbone]] = {"llava": LlavaBackbone}


def register(backbone: type[Backbone]) -> type[Backbone]:
    """Adds the backbone of a plugin under the name of its class; a decorator."""
    if BACKBONES.setdefault(backbone.__name__, backbone) is not backbone:
        raise UserError(f"a backbone {backbone.__name__} already exists; give the class another name")
    return backbone


def backbone_of(config: PreTrainedConfig) -> type[Backbone]:
    """The class of the backbone that a configuration names; `UserError` if there is none of that name."""
    if config.backbone not in BACKBONES:
        raise UserError(f'unknown backbone "{config.backbone}"; known: {", ".join(BACKBONES)}')
    return BACKBONES[config.backbone]
