"""`GroundingConfig` from values on disk, each checked: a field of ours has the rule that its setting declares."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from checkpoints.config_checks import (
    FLAG,
    TOKEN_ID,
    build_part,
    check_multiple,
    check_values,
    dictionary,
    list_of,
    optional,
)
from checkpoints.sam_configs import build_sam
from groundscore.errors import UserError, shown
from model.backbones import BACKBONES, backbone_named, backbone_of
from model.config import GroundingConfig
from model.decoders import DECODERS
from model.settings import model_settings
from model.systems import SYSTEMS
from utils.plugins import check_plugins
from utils.settings import Rule, number, one_of, whole


def _is_module(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 200 and all(part.isidentifier() for part in value.split("."))


_TEXT = Rule("a text of at most 1000 characters", lambda value: isinstance(value, str) and len(value) <= 1000)
_PARTS = ("text_config", "vision_config", "sam_config")
# Ranges of our own fields that are no settings of training (`model/settings.py` declares those).
_OWN_RANGES = {
    "plugin": optional(Rule("the name of a module", _is_module)),
    "mm_projector_type": Rule(
        "linear, identity or mlpNx_gelu with N below 100",
        lambda value: isinstance(value, str) and re.fullmatch(r"linear|identity|mlp[1-9]\d?x_gelu", value) is not None,
    ),
    "mm_vision_select_layer": whole(-1000, 1000),
    "seg_token_ids": list_of(TOKEN_ID, 4096),
    "rej_token_ids": list_of(TOKEN_ID, 4096),
    "im_start_id": optional(TOKEN_ID),
    "im_end_id": optional(TOKEN_ID),
    "mm_projector_hidden_dim": whole(1, 64),
    "mm_projector_out_dim": whole(1, 2),
}


def own_rules() -> dict[str, Rule]:
    """The rules of `GroundingConfig`'s own fields: as above, or as the setting declares it."""
    by_type = {bool: FLAG, int: whole(-(2**31), 2**31), float: number(-1e9, 1e9), str: _TEXT}
    rules = {"system": one_of(*SYSTEMS), "backbone": one_of(*BACKBONES), "mask_decoder": one_of(*DECODERS)}
    rules |= _OWN_RANGES
    for name, setting in model_settings().items():
        rule = one_of(*setting.choices) if setting.choices else setting.check or by_type[setting.kind]
        rules[name] = optional(rule) if setting.default is None else rule
    return rules


def build_grounding(values: Mapping[str, Any], source: str) -> GroundingConfig:
    """A `GroundingConfig` of checked fields. text_config, vision_config, sam_config: configurations, or left out."""
    parts = {name: values[name] for name in _PARTS if name in values}
    fields = check_values(own_rules(), values, source)
    kept = {name: value.rule for name, value in backbone_named(fields.get("backbone", "llava")).base_values.items()}
    base_values = check_values(kept, dictionary(values.get("base_values") or {}, f"{source}: base_values"), source)
    config = GroundingConfig(**fields, **parts, base_values=base_values)
    if "vision_config" not in parts or config.backbone != "llava":
        backbone_of(config).check(config)
        return config  # CLIP comes from elsewhere, or there is none
    depth = config.vision_config.num_hidden_layers
    if not -depth - 1 <= config.mm_vision_select_layer <= depth:
        raise UserError(
            f"{source}: mm_vision_select_layer {config.mm_vision_select_layer} is none of CLIP's {depth} layers"
        )
    if config.resize_vision_tower:
        patch = config.vision_config.patch_size
        check_multiple(config.resize_vision_tower_size, patch, "resize_vision_tower_size", source)
    return config


def own_config(values: Mapping[str, Any], source: Path) -> GroundingConfig:
    """The configuration of a `config.json` that this program wrote."""
    check_plugins(filter(_is_module, [values.get("plugin")]), str(source))
    known = {*GroundingConfig.own_fields(), *PreTrainedConfig().to_dict(), *_OF_TRANSFORMERS}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"{source}: unknown key {shown(unknown[0])}; is it of a newer version of this program?")
    check_values({"backbone": one_of(*BACKBONES)}, values, str(source))
    backbone = backbone_named(values.get("backbone", "llava"))
    where = {name: f"{source}: {name}" for name in _PARTS}
    text, vision, sam = (dictionary(values.get(name), where[name]) for name in _PARTS)
    check_values({"mask_decoder": one_of(*DECODERS)}, values, str(source))
    decoder = DECODERS[values.get("mask_decoder", "sam")]
    if sam.get("model_type", decoder.config_class.model_type) != decoder.config_class.model_type:
        raise UserError(
            f"{where['sam_config']} is of type {shown(sam['model_type'])}, not {decoder.config_class.model_type}"
        )
    parts = {
        "text_config": build_part(text, backbone.text_types, where["text_config"]),
        "vision_config": build_part(vision, backbone.vision_types, where["vision_config"]),
        "sam_config": build_sam(decoder, sam, where["sam_config"]),
    }
    return build_grounding({**values, **parts}, str(source))


# What versions of transformers write beside our own fields.
_OF_TRANSFORMERS = (
    "_name_or_path",
    "architectures",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
)
