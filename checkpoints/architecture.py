"""Configurations from what is on disk: the `config.json` of others, and the shapes of their tensors.

Legend of shapes: D width of the LLM, V width of CLIP, W width of SAM's image encoder, C width of its decoder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from checkpoints.config_checks import LLAMA_RULES, build_clip, build_llama, check_values
from checkpoints.files import CONFIG_FILE, read_config
from checkpoints.own_configs import own_rules
from groundscore.errors import UserError, shown
from model.decoders.published import count_modules
from model.systems import SYSTEMS

Shapes = Mapping[str, tuple[int, ...]]

LLAMA_FIELDS = tuple(LLAMA_RULES)
# Original PixelLM fixes these in code, so its configurations do not name them.
PIXELLM_ORIGINAL = {
    "pad_train_clip_images": True,
    "resize_vision_tower": True,
    "resize_vision_tower_size": 448,
    "llm_image_grid": 16,
}
# READ's own code likewise: CLIP's centre crop, and points by the size of the LLM (its comments and README).
READ_ORIGINAL = {"map_geometry": "fit", "read_point_space": "pixel"}
READ_POINTS_7B = {"read_num_points": 30, "read_t_pos": 0.8, "read_t_neg": 0.2, "read_down_sample": 2}
READ_POINTS_13B = {"read_num_points": 60, "read_t_pos": 0.6, "read_t_neg": 0.2, "read_down_sample": 1}
LAYERS_13B = 40
# The classes of models that published configurations name, in lower case: the reference's, and GSVA's own.
PUBLISHED_CLASSES = {f"{system}ForCausalLM".lower(): system for system in SYSTEMS} | {"lisagsvaforcausallm": "GSVA"}


def llama_config(config: Mapping[str, Any], source: Path) -> LlamaConfig:
    """The LLM of an original LLaVA's `config.json`, or of the `text_config` of a llava-hf one."""
    kind = config.get("model_type", "llama")
    if kind not in ("llama", "llava", "llava_llama"):
        raise UserError(f"{source}: the language model is of type {shown(kind)}, only LLaMA is supported")
    return build_llama(config, str(source / CONFIG_FILE))


def original_llava_fields(config: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Fields of `GroundingConfig` from the `config.json` of an original LLaVA or of a reference checkpoint."""
    feature = config.get("mm_vision_select_feature", "patch")
    if feature != "patch":
        raise UserError(f"{source}: mm_vision_select_feature {shown(feature)} is not supported")
    return {
        "text_config": llama_config(config, source),
        "mm_projector_type": config.get("mm_projector_type") or "linear",
        "mm_vision_select_layer": config.get("mm_vision_select_layer", -2),
        **_canvases(config, width_first=True),
    }


def is_llava_hf(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is that of a LLaVA in the layout of transformers."""
    return "text_config" in config or "projector_hidden_act" in config


def llava_hf_fields(config: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Fields of `GroundingConfig` from the `config.json` of a llava-hf directory, CLIP included."""
    if config.get("vision_feature_select_strategy", "default") != "default":
        raise UserError(f"{source}: only image tokens without the class token are supported")
    vision = _part(config, "vision_config", source) or LlavaConfig().vision_config.to_dict()
    if vision.get("model_type", "clip_vision_model") != "clip_vision_model":
        raise UserError(f"{source}: the vision tower is of type {shown(vision['model_type'])}, only CLIP is supported")
    return {
        "text_config": llama_config(_part(config, "text_config", source), source),
        "vision_config": build_clip(vision, f"{source / CONFIG_FILE}: vision_config"),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": config.get("vision_feature_layer", -2),
        **_canvases(config, width_first=False),
    }


def _canvases(config: Mapping[str, Any], *, width_first: bool) -> dict[str, Any]:
    """The field for the canvases (height, width) of a LLaVA 1.6, which are checked where they are used."""
    sizes = config.get("image_grid_pinpoints")
    if not isinstance(sizes, list):
        return {}
    turned = [size[::-1] if width_first and isinstance(size, list) else size for size in sizes]
    return {"base_values": {"image_grid_pinpoints": turned}}


def _part(config: Mapping[str, Any], name: str, source: Path) -> dict[str, Any]:
    """A configuration inside another one, empty where there is none."""
    part = config.get(name) or {}
    if not isinstance(part, dict):
        raise UserError(f"{source / CONFIG_FILE}: {name} should be a dictionary, it is {shown(part)}")
    return part


def clip_config(directory: Path) -> CLIPVisionConfig:
    """The vision side of a CLIP directory, which may hold both sides."""
    config = read_config(directory)
    kind = config.get("model_type")
    if kind == "clip":
        return build_clip(_part(config, "vision_config", directory), f"{directory / CONFIG_FILE}: vision_config")
    if kind == "clip_vision_model":
        return build_clip(config, str(directory / CONFIG_FILE))
    raise UserError(f"{directory} contains a model of type {shown(kind)}, not CLIP")


# --- checkpoints of the reference ------------------------------------------------------------------------------------


def is_reference(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one of the reference's merged checkpoints."""
    return "train_mask_decoder" in config or reference_system(config) is not None


def reference_system(config: Mapping[str, Any]) -> str | None:
    """The system that a reference configuration names by its class, or None."""
    named = config.get("architectures")
    classes = [each.lower() for each in named if isinstance(each, str)] if isinstance(named, list) else []
    return next((system for name, system in PUBLISHED_CLASSES.items() if name in classes), None)


def reference_fields(config: Mapping[str, Any], shapes: Shapes, *, directory: Path, source: Path) -> dict[str, Any]:
    """Fields of `GroundingConfig` for a reference checkpoint with tensors of these shapes (our names), but for the
    system, CLIP and SAM. What the shapes tell is not asked of the configuration.

    config: the checkpoint's, or that of the LLaVA in either layout below a consolidated file; directory: where it is.
    source: where the tensors are.
    """
    fields = llava_hf_fields(config, directory) if is_llava_hf(config) else original_llava_fields(config, directory)
    try:
        fields |= _fields_of_shapes(config, shapes, fields["text_config"].hidden_size, source)
    except (IndexError, ZeroDivisionError, KeyError) as error:
        raise UserError(f"{source} is not a grounding checkpoint: its tensors have other shapes ({error})") from error
    check_values(own_rules(), fields, str(directory / CONFIG_FILE))
    return fields


def _fields_of_shapes(config: Mapping[str, Any], shapes: Shapes, width: int, source: Path) -> dict[str, Any]:
    decodes_from_clip = "mask_decoder.level_embed.weight" in shapes
    separate = "out_mm_projector.0.weight" in shapes
    fields: dict[str, Any] = {
        "vision_tower_for_mask": decodes_from_clip,
        "separate_mm_projector": separate,
        "out_dim": _required(shapes, "text_hidden_fcs.2.weight", source)[0],
        "map_geometry": "reference",
    }
    if separate:
        fields["mm_projector_hidden_dim"] = shapes["out_mm_projector.0.weight"][0] // width
        fields["mm_projector_out_dim"] = 1 if shapes["out_mm_projector.2.weight"][0] == width else 2
    else:
        fields["mm_projector_type"] = _projector_type(shapes, source)
    if decodes_from_clip:
        fields["image_feature_scale_num"] = shapes["mask_decoder.level_embed.weight"][0]
    else:
        fields["image_feature_scale_num"] = config.get("image_feature_scale_num", 1)
    if decodes_from_clip and "resize_vision_tower" not in config:
        fields |= PIXELLM_ORIGINAL
    # "gate" is ours: only what this program exported has it.
    copied = (*PIXELLM_ORIGINAL, "mode", "gate", "baseline_beta", "eval_legacy")
    fields |= {name: config[name] for name in copied if config.get(name) is not None}
    if "policy.critic.0.weight" in shapes:
        fields |= {"baseline_type": "critic", "critic_hidden_dim": shapes["policy.critic.0.weight"][0]}
    elif config.get("baseline_type") == "none":
        fields["baseline_type"] = "none"
    return fields


def original_read_fields(layers: int) -> dict[str, Any]:
    """Fields of `GroundingConfig` of a checkpoint that READ's own code trained; `layers` of its LLM."""
    return READ_ORIGINAL | (READ_POINTS_13B if layers >= LAYERS_13B else READ_POINTS_7B)


def _projector_type(shapes: Shapes, source: Path) -> str:
    if "mm_projector.weight" in shapes:
        return "linear"
    _required(shapes, "mm_projector.0.weight", source)
    return f"mlp{count_modules(shapes, 'mm_projector')}x_gelu"


def _required(shapes: Shapes, name: str, source: Path) -> tuple[int, ...]:
    if name not in shapes:
        raise UserError(f"{source} is not a grounding checkpoint of the reference: it has no {name}")
    return shapes[name]
