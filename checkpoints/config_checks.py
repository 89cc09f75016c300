"""Configurations that came with weights, checked before anything is built from them.

Every field that is used has a type and a range here; what is not used is not handed on, so that it can do nothing.
Whether the sizes are those of the tensors that are there is checked afterwards (`loading.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from groundscore.errors import UserError, shown
from model.backbones.language_model import ATTENTIONS
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
_ROPE_KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "mrope", "axial")
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
    """The rule of a value that may also be null."""
    return Rule(f"{rule.text}, or null", lambda value: value is None or rule.holds(value))


def list_of(rule: Rule, longest: int) -> Rule:
    """The rule of a list of at most `longest` values that keep `rule`."""

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


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list | tuple) else [value]
    return 1 <= len(sides) <= 2 and all(map(SIDE.holds, sides))


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
# Of the image encoders of CLIP and SAM alike.
IMAGE_ENCODER_RULES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "num_channels": one_of(3),
    "image_size": SIDE,
    "patch_size": whole(1, 2**10),
    "hidden_act": ACTIVATION,
    "layer_norm_eps": EPSILON,
    "attention_dropout": SHARE,
    "initializer_range": SPREAD,
}
CLIP_RULES = IMAGE_ENCODER_RULES | {
    "intermediate_size": whole(1, 2**20),
    "projection_dim": WIDTH,
    "initializer_factor": SPREAD,
}

# Of the LLMs and image encoders of all other backbones: what configurations of these names hold in transformers.
_INDICES = list_of(whole(0, 1000), 1000)
PART_RULES = (
    LLAMA_RULES
    | CLIP_RULES
    | {
        "tie_word_embeddings": FLAG,
        "use_sliding_window": FLAG,
        "sliding_window": optional(whole(1, 10**8)),
        "max_window_layers": whole(0, 1000),
        "layer_types": optional(list_of(one_of("full_attention", "sliding_attention"), 1000)),
        "attention_dropout": SHARE,
        "depth": DEPTH,
        "num_heads": HEADS,
        "in_channels": one_of(3),
        "spatial_merge_size": whole(1, 16),
        "temporal_patch_size": whole(1, 16),
        "tokens_per_second": number(0, 1000),
        "window_size": whole(1, 2**13),
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": _INDICES,
        "num_position_embeddings": whole(1, 2**20),
        "vision_use_head": FLAG,
        "use_qk_norm": FLAG,
        "use_mask_token": FLAG,
        "use_absolute_position_embeddings": FLAG,
        "use_mean_pooling": FLAG,
        "norm_type": one_of("layer_norm", "rms_norm"),
        "layer_scale_init_value": number(0, 100),
        "hidden_dropout_prob": SHARE,
        "projection_dropout": SHARE,
        "deepstack_visual_indexes": _INDICES,
        "patch_size": Rule("a whole number, or two", _is_size),
        "image_size": Rule("a whole number, or two", _is_size),
    }
)


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
    config = built(LlamaConfig, check_values(LLAMA_RULES, given, source), source)
    check_multiple(config.num_attention_heads, config.num_key_value_heads, "num_attention_heads", source)
    if config.head_dim is None or "head_dim" not in given:
        check_multiple(config.hidden_size, config.num_attention_heads, "hidden_size", source)
    return config


def build_clip(values: Mapping[str, Any], source: str) -> CLIPVisionConfig:
    """The configuration of the vision side of a CLIP."""
    config = built(CLIPVisionConfig, check_values(CLIP_RULES, values, source), source)
    check_multiple(config.hidden_size, config.num_attention_heads, "hidden_size", source)
    check_multiple(config.image_size, config.patch_size, "image_size", source)
    return config


def build_part(values: Mapping[str, Any], types: Sequence[str], source: str) -> PreTrainedConfig:
    """The configuration of an LLM or of an image encoder, of one of these `model_type`s of transformers; the first is
    that of values that do not name one."""
    kind = values.get("model_type", types[0])
    if kind not in types:
        raise UserError(f"{source} is of type {shown(kind)}, not {' or '.join(types)}")
    if kind == "llama":
        return build_llama(values, source)
    if kind == "clip_vision_model":
        return build_clip(values, source)
    given = {name: value for name, value in values.items() if value is not None}
    config = built(
        lambda **fields: AutoConfig.for_model(kind, **fields), check_values(PART_RULES, given, source), source
    )
    heads = config.num_heads if hasattr(config, "num_heads") else config.num_attention_heads
    check_multiple(heads, getattr(config, "num_key_value_heads", None) or heads, "num_attention_heads", source)
    if "head_dim" not in given:
        check_multiple(config.hidden_size, heads, "hidden_size", source)
    return config


def dictionary(value: Any, where: str) -> Mapping[str, Any]:
    """The value, which must be a dictionary."""
    if not isinstance(value, dict):
        raise UserError(f"{where} should be a dictionary, it is {shown(value)}")
    return value


def check_multiple(value: int, divisor: int, name: str, source: str) -> None:
    """Raise `UserError` for a value that is no multiple of `divisor`."""
    if value % divisor:
        raise UserError(f"{source}: {name} {value} is not a multiple of {divisor}")


def built(kind: Callable[..., Any], values: Mapping[str, Any], source: str) -> Any:
    """A configuration of transformers, which checks more than we do and complains in many ways."""
    try:
        return kind(**values)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source} does not describe a model that can be built ({reason[:200]})") from error
