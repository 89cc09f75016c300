"""Configurations that came with weights, checked before anything is built from them.

Every field that is used has a type and a range here; what is not used is not handed on, so that it can do nothing.
Whether the sizes are those of the tensors that are there is checked afterwards (`loading.py`).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig, SamConfig

from groundscore.errors import UserError, shown
from model.backbones.llava import ATTENTIONS
from model.config import GroundingConfig
from model.settings import model_settings
from model.systems import SYSTEMS
from utils.plugins import check_plugins
from utils.settings import Rule, number, one_of, whole

# What a configuration may not name, wherever it stands in it, and what to do about it.
_REFUSED = {
    "auto_map": "names code of its own, and nothing of a checkpoint is run here; remove the key",
    "trust_remote_code": "asks for code of its own, and nothing of a checkpoint is run here; remove the key",
    "custom_pipelines": "names code of its own, and nothing of a checkpoint is run here; remove the key",
    "quantization_config": "says that the weights are quantised; take those of full precision, and --load_in_4bit",
}
_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu")
_ROPE_KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_DEEPEST = 20


def refuse_foreign_parts(config: Any, source: Path, depth: int = 0) -> None:
    """Raise `UserError` for a configuration that names code, kernels or a form of weights that are not ours."""
    if isinstance(config, list | dict) and depth > _DEEPEST:
        raise UserError(f"{source} is nested more than {_DEEPEST} deep; it is not the configuration of a model")
    for value in config if isinstance(config, list) else ():
        refuse_foreign_parts(value, source, depth + 1)
    for key, value in config.items() if isinstance(config, dict) else ():
        if key in _REFUSED and value not in (None, False, {}):
            raise UserError(f"{source}: {key} {_REFUSED[key]}")
        if key in _ATTENTION_KEYS and value is not None and value not in ATTENTIONS:
            raise UserError(
                f"{source}: {key} is {shown(value)}; this program computes attention with {' or '.join(ATTENTIONS)}, "
                "remove the key"
            )
        refuse_foreign_parts(value, source, depth + 1)


# --- rules -----------------------------------------------------------------------------------------------------------


def optional(rule: Rule) -> Rule:
    return Rule(f"{rule.text}, or null", lambda value: value is None or rule.holds(value))


def list_of(rule: Rule, longest: int) -> Rule:
    def holds(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) <= longest and all(map(rule.holds, value))

    return Rule(f"a list of at most {longest}, each {rule.text}", holds)


FLAG = Rule("true or false", lambda value: type(value) is bool)
TOKEN_ID = whole(-1, 10**7)  # -1 was "none" once


def _is_end(value: Any) -> bool:
    return optional(TOKEN_ID).holds(value) or list_of(TOKEN_ID, 64).holds(value)


def _is_rope(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("rope_type", value.get("type", "default")) not in _ROPE_KINDS:
        return False
    return all(
        key in ("rope_type", "type") or isinstance(each, bool) or _is_positive(each) for key, each in value.items()
    )


def _is_positive(value: Any) -> bool:
    """Whether this is null, a positive finite number, or a short list of them."""
    if isinstance(value, list):
        return len(value) <= 1024 and all(map(_is_positive, value))
    return value is None or (type(value) in (int, float) and 1e-6 <= value <= 1e12)


ROPE = Rule(f"a dictionary of positive numbers with a rope_type of {', '.join(_ROPE_KINDS)}", _is_rope)
EPSILON, SPREAD, SHARE = number(0, 1), number(0, 10), number(0, 1)
WIDTH, DEPTH, HEADS, SIDE = whole(1, 2**17), whole(1, 1000), whole(1, 1024), whole(1, 2**13)
ACTIVATION = one_of(*_ACTIVATIONS)

LLAMA_RULES = {
    "vocab_size": whole(1, 10**7),
    "hidden_size": WIDTH,
    "intermediate_size": whole(1, 2**20),
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": optional(HEADS),
    "head_dim": optional(whole(2, 2**12)),
    "hidden_act": ACTIVATION,
    "max_position_embeddings": whole(1, 10**8),
    "initializer_range": SPREAD,
    "rms_norm_eps": EPSILON,
    "rope_theta": number(1, 1e12),
    "rope_scaling": optional(ROPE),
    "rope_parameters": optional(ROPE),
    "attention_bias": FLAG,
    "mlp_bias": FLAG,
    "bos_token_id": optional(TOKEN_ID),
    "eos_token_id": Rule("an id or a list of ids, or null", _is_end),
    "pad_token_id": optional(TOKEN_ID),
}
CLIP_RULES = {
    "hidden_size": WIDTH,
    "intermediate_size": whole(1, 2**20),
    "projection_dim": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "num_channels": one_of(3),
    "image_size": SIDE,
    "patch_size": whole(1, 2**10),
    "hidden_act": ACTIVATION,
    "layer_norm_eps": EPSILON,
    "attention_dropout": SHARE,
    "initializer_range": SPREAD,
    "initializer_factor": SPREAD,
}
SAM_RULES = {
    "vision_config": {
        "hidden_size": WIDTH,
        "output_channels": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "num_channels": one_of(3),
        "image_size": SIDE,
        "patch_size": whole(1, 2**10),
        "hidden_act": ACTIVATION,
        "layer_norm_eps": EPSILON,
        "attention_dropout": SHARE,
        "initializer_range": SPREAD,
        "qkv_bias": FLAG,
        "mlp_ratio": number(0, 100),
        "use_abs_pos": one_of(True),
        "use_rel_pos": one_of(True),
        "window_size": whole(0, 2**10),
        "global_attn_indexes": list_of(whole(0, 1000), 1000),
        "num_pos_feats": WIDTH,
        "mlp_dim": optional(whole(1, 2**20)),
    },
    "prompt_encoder_config": {
        "hidden_size": WIDTH,
        "image_size": SIDE,
        "patch_size": whole(1, 2**10),
        "image_embedding_size": whole(1, 2**12),
        "mask_input_channels": whole(4, 2**12),
        "num_point_embeddings": whole(2, 64),
        "hidden_act": ACTIVATION,
        "layer_norm_eps": EPSILON,
    },
    "mask_decoder_config": {
        "hidden_size": WIDTH,
        "hidden_act": ACTIVATION,
        "mlp_dim": whole(1, 2**20),
        "num_hidden_layers": whole(1, 64),
        "num_attention_heads": HEADS,
        "attention_downsample_rate": whole(1, 64),
        "num_multimask_outputs": whole(1, 64),
        "iou_head_depth": whole(1, 64),
        "iou_head_hidden_dim": WIDTH,
        "layer_norm_eps": EPSILON,
    },
}


def _is_module(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 200 and all(part.isidentifier() for part in value.split("."))


_KINDS = {"text_config": "llama", "vision_config": "clip_vision_model", "sam_config": "sam"}
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
    rules = {"system": one_of(*SYSTEMS), **_OWN_RANGES}
    for name, setting in model_settings().items():
        rule = one_of(*setting.choices) if setting.choices else setting.check or {bool: FLAG}[setting.kind]
        rules[name] = optional(rule) if setting.default is None else rule
    return rules


def check_values(rules: Mapping[str, Rule], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Those of `values` that have a rule, checked; `UserError` names the first that breaks its rule."""
    for name, rule in rules.items():
        if name in values and not rule.holds(values[name]):
            raise UserError(f"{source}: {name} should be {rule.text}, it is {shown(values[name])}")
    return {name: values[name] for name in rules if name in values}


# --- configurations --------------------------------------------------------------------------------------------------


def build_llama(values: Mapping[str, Any], source: str) -> LlamaConfig:
    """The configuration of a LLaMA; fields that are null have their default."""
    given = {name: value for name, value in values.items() if value is not None}
    config = _built(LlamaConfig, check_values(LLAMA_RULES, given, source), source)
    _check_multiple(config.num_attention_heads, config.num_key_value_heads, "num_attention_heads", source)
    if config.head_dim is None or "head_dim" not in given:
        _check_multiple(config.hidden_size, config.num_attention_heads, "hidden_size", source)
    return config


def build_clip(values: Mapping[str, Any], source: str) -> CLIPVisionConfig:
    """The configuration of the vision side of a CLIP."""
    config = _built(CLIPVisionConfig, check_values(CLIP_RULES, values, source), source)
    _check_multiple(config.hidden_size, config.num_attention_heads, "hidden_size", source)
    _check_multiple(config.image_size, config.patch_size, "image_size", source)
    return config


def build_sam(values: Mapping[str, Any], source: str) -> SamConfig:
    """The configuration of a SAM, whose three parts agree on sizes."""
    parts = {}
    for part, rules in SAM_RULES.items():
        stored = _dictionary(values.get(part, {}), f"{source}: {part}")
        parts[part] = check_values(rules, stored, f"{source}: {part}")
    config = _built(SamConfig, parts, source)
    vision, prompt, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    _check_multiple(vision.hidden_size, vision.num_attention_heads, "vision_config: hidden_size", source)
    _check_multiple(vision.image_size, vision.patch_size, "vision_config: image_size", source)
    inner = decoder.hidden_size // decoder.attention_downsample_rate
    _check_multiple(inner, decoder.num_attention_heads, "mask_decoder_config: hidden_size", source)
    grid = vision.image_size // vision.patch_size
    found = (prompt.image_size, prompt.patch_size, prompt.image_embedding_size)
    if found != (vision.image_size, vision.patch_size, grid):
        raise UserError(
            f"{source}: prompt_encoder_config is for images of {found[0]} pixels, patches of {found[1]} and a grid of "
            f"{found[2]}, vision_config for {vision.image_size}, {vision.patch_size} and {grid}"
        )
    widths = (vision.output_channels, prompt.hidden_size, decoder.hidden_size, 2 * vision.num_pos_feats)
    if len(set(widths)) > 1:
        raise UserError(f"{source}: encoder, prompts, decoder and positions have widths {widths}, not one")
    return config


def build_grounding(values: Mapping[str, Any], source: str) -> GroundingConfig:
    """A `GroundingConfig` of checked fields. text_config, vision_config, sam_config: configurations, or left out."""
    parts = {name: values[name] for name in _KINDS if name in values}
    config = GroundingConfig(**check_values(own_rules(), values, source), **parts)
    if "vision_config" not in parts:
        return config  # CLIP comes from elsewhere
    depth = config.vision_config.num_hidden_layers
    if not -depth - 1 <= config.mm_vision_select_layer <= depth:
        raise UserError(
            f"{source}: mm_vision_select_layer {config.mm_vision_select_layer} is none of CLIP's {depth} layers"
        )
    if config.resize_vision_tower:
        patch = config.vision_config.patch_size
        _check_multiple(config.resize_vision_tower_size, patch, "resize_vision_tower_size", source)
    return config


def own_config(values: Mapping[str, Any], source: Path) -> GroundingConfig:
    """The configuration of a `config.json` that this program wrote."""
    check_plugins(filter(_is_module, [values.get("plugin")]), str(source))
    known = {*GroundingConfig.own_fields(), *PreTrainedConfig().to_dict(), *_OF_TRANSFORMERS}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"{source}: unknown key {shown(unknown[0])}; is it of a newer version of this program?")
    built = {"text_config": build_llama, "vision_config": build_clip, "sam_config": build_sam}
    parts = {}
    for name, kind in _KINDS.items():
        where = f"{source}: {name}"
        part = _dictionary(values.get(name), where)
        if part.get("model_type", kind) != kind:
            raise UserError(f"{where} is of type {shown(part['model_type'])}, not {kind}")
        parts[name] = built[name](part, where)
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


def _dictionary(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} should be a dictionary, it is {shown(value)}")
    return value


def _check_multiple(value: int, divisor: int, name: str, source: str) -> None:
    if value % divisor:
        raise UserError(f"{source}: {name} {value} is no multiple of {divisor}")


def _built(kind: type, values: Mapping[str, Any], source: str) -> Any:
    """A configuration of transformers, which checks more than we do and complains in many ways."""
    try:
        return kind(**values)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source} does not describe a model that can be built ({reason[:200]})") from error
