"""Configurations of mask decoders: from a `config.json`, checked, and from the shapes of their tensors.

`GroundingConfig.sam_config` is of the class that the mask decoder declares; what may stand in it is here, by its
`model_type`. A plugin's decoder checks its own.
"""

from collections.abc import Collection, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from checkpoints.config_checks import (
    ACTIVATION,
    EPSILON,
    FLAG,
    HEADS,
    IMAGE_ENCODER_RULES,
    ROPE,
    SHARE,
    SIDE,
    SPREAD,
    WIDTH,
    built,
    check_multiple,
    check_values,
    dictionary,
    list_of,
    optional,
)
from checkpoints.files import CONFIG_FILE, read_config
from checkpoints.names import Layout
from groundscore.errors import UserError, shown
from model.decoders import DECODERS
from model.decoders.base import MaskDecoder
from model.decoders.published import Shapes
from utils.settings import Rule, number, one_of, whole

STRIDE = 4  # pixels of a patch of a Hiera, and so of the finest features
_DEPTHS, _WIDTHS, _HEADS = list_of(whole(1, 1000), 16), list_of(WIDTH, 16), list_of(HEADS, 16)
_SQUARE = Rule(
    "a side in pixels, or two that are equal",
    lambda value: SIDE.holds(value) or (list_of(SIDE, 2).holds(value) and len(value) == 2 and value[0] == value[1]),
)
_PROMPT_RULES = {
    "hidden_size": WIDTH,
    "image_size": SIDE,
    "patch_size": whole(1, 2**10),
    "mask_input_channels": whole(4, 2**12),
    "num_point_embeddings": whole(2, 64),
    "hidden_act": ACTIVATION,
    "layer_norm_eps": EPSILON,
}
_DECODER_RULES = {
    "hidden_size": WIDTH,
    "hidden_act": ACTIVATION,
    "mlp_dim": whole(1, 2**20),
    "num_hidden_layers": whole(1, 64),
    "num_attention_heads": HEADS,
    "attention_downsample_rate": whole(1, 64),
    "num_multimask_outputs": whole(1, 64),
    "iou_head_depth": whole(1, 64),
    "iou_head_hidden_dim": WIDTH,
}
_SAM_RULES = {
    "vision_config": IMAGE_ENCODER_RULES
    | {
        "output_channels": WIDTH,
        "qkv_bias": FLAG,
        "mlp_ratio": number(0, 100),
        "use_abs_pos": one_of(True),
        "use_rel_pos": one_of(True),
        "window_size": whole(0, 2**10),
        "global_attn_indexes": list_of(whole(0, 1000), 1000),
        "num_pos_feats": WIDTH,
        "mlp_dim": optional(whole(1, 2**20)),
    },
    "prompt_encoder_config": _PROMPT_RULES | {"image_embedding_size": whole(1, 2**12)},
    "mask_decoder_config": _DECODER_RULES | {"layer_norm_eps": EPSILON},
}
# Of the encoders whose features have several resolutions, SAM 2's and SAM 3's.
_PYRAMID_RULES = {
    "fpn_hidden_size": WIDTH,
    "backbone_feature_sizes": list_of(list_of(whole(1, 2**12), 2), 3),
    "hidden_act": ACTIVATION,
    "layer_norm_eps": EPSILON,
    "initializer_range": SPREAD,
}
_PYRAMID_PROMPT_RULES = _PROMPT_RULES | {"scale": number(0, 1e3)}
_PYRAMID_DECODER_RULES = _DECODER_RULES | {
    "dynamic_multimask_via_stability": FLAG,
    "dynamic_multimask_stability_delta": number(0, 100),
    "dynamic_multimask_stability_thresh": SHARE,
}
RULES: dict[str, dict[str, Any]] = {
    "sam": _SAM_RULES,
    "sam_hq": _SAM_RULES | {"mask_decoder_config": _SAM_RULES["mask_decoder_config"] | {"vit_dim": WIDTH}},
    "sam2": {
        "vision_config": _PYRAMID_RULES
        | {
            "backbone_config": {
                "model_type": one_of("sam2_hiera_det_model"),
                "hidden_size": WIDTH,
                "num_attention_heads": HEADS,
                "num_channels": one_of(3),
                "image_size": _SQUARE,
                "patch_kernel_size": list_of(whole(1, 64), 2),
                "patch_stride": list_of(one_of(STRIDE), 2),
                "patch_padding": list_of(whole(0, 64), 2),
                "query_stride": list_of(one_of(2), 2),
                "window_positional_embedding_background_size": list_of(whole(1, 2**10), 2),
                "num_query_pool_stages": whole(0, 15),
                "blocks_per_stage": _DEPTHS,
                "embed_dim_per_stage": _WIDTHS,
                "num_attention_heads_per_stage": _HEADS,
                "window_size_per_stage": list_of(whole(1, 2**10), 16),
                "global_attention_blocks": list_of(whole(0, 1000), 1000),
                "mlp_ratio": number(0, 100),
                "hidden_act": ACTIVATION,
                "layer_norm_eps": EPSILON,
                "initializer_range": SPREAD,
            },
            "backbone_channel_list": _WIDTHS,
            "fpn_kernel_size": one_of(1),
            "fpn_stride": one_of(1),
            "fpn_padding": one_of(0),
            "fpn_top_down_levels": list_of(whole(0, 15), 16),
            "num_feature_levels": one_of(3),
        },
        "prompt_encoder_config": _PYRAMID_PROMPT_RULES,
        "mask_decoder_config": _PYRAMID_DECODER_RULES,
    },
    "sam3_tracker": {
        "vision_config": _PYRAMID_RULES
        | {
            "backbone_config": IMAGE_ENCODER_RULES
            | {
                "model_type": one_of("sam3_vit_model"),
                "intermediate_size": whole(1, 2**20),
                "window_size": whole(1, 2**10),
                "global_attn_indexes": list_of(whole(0, 1000), 1000),
                "layer_scale_init_value": optional(number(0, 100)),
                "pretrain_image_size": SIDE,
                "hidden_dropout": SHARE,
                "rope_parameters": optional(ROPE),
            },
            "scale_factors": list_of(one_of(4.0, 2.0, 1.0), 3),
        },
        "prompt_encoder_config": _PYRAMID_PROMPT_RULES,
        "mask_decoder_config": _PYRAMID_DECODER_RULES,
    },
}


def build_sam(decoder: type[MaskDecoder], values: Mapping[str, Any], source: str) -> PreTrainedConfig:
    """The configuration of a mask decoder's model, whose parts agree on sizes."""
    kind = decoder.config_class
    rules = RULES.get(kind.model_type)
    if rules is None:
        return built(kind, values, source)
    config = built(kind, _checked(rules, values, source), source)
    prompt, head = config.prompt_encoder_config, config.mask_decoder_config
    inner = head.hidden_size // head.attention_downsample_rate
    check_multiple(inner, head.num_attention_heads, "mask_decoder_config: hidden_size", source)
    check = _check_pyramid if "backbone_config" in rules["vision_config"] else _check_single_scale
    widths = (*check(config, source), prompt.hidden_size, head.hidden_size)
    if len(set(widths)) > 1:
        raise UserError(f"{source}: encoder, positions, prompts and decoder have widths {widths}, not one")
    return config


def _checked(rules: Mapping[str, Any], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Those of `values` that have a rule, or a dictionary of rules, checked."""
    inner = {name: each for name, each in rules.items() if isinstance(each, dict)}
    plain = {name: each for name, each in rules.items() if name not in inner}
    parts = {
        name: _checked(each, dictionary(values[name], f"{source}: {name}"), f"{source}: {name}")
        for name, each in inner.items()
        if name in values
    }
    return check_values(plain, values, source) | parts


def _check_single_scale(config: PreTrainedConfig, source: str) -> tuple[int, int]:
    """Checks the encoder of a SAM or SAM-HQ; its width of features and that of positions."""
    vision, prompt = config.vision_config, config.prompt_encoder_config
    check_multiple(vision.hidden_size, vision.num_attention_heads, "vision_config: hidden_size", source)
    check_multiple(vision.image_size, vision.patch_size, "vision_config: image_size", source)
    grid = vision.image_size // vision.patch_size
    found = (prompt.image_size, prompt.patch_size, prompt.image_embedding_size)
    if found != (vision.image_size, vision.patch_size, grid):
        raise UserError(
            f"{source}: prompt_encoder_config is for images of {found[0]} pixels, patches of {found[1]} and a grid of "
            f"{found[2]}, vision_config for {vision.image_size}, {vision.patch_size} and {grid}"
        )
    early = getattr(config.mask_decoder_config, "vit_dim", None)  # SAM-HQ's, from the first layer of global attention
    if early is not None and (early != vision.hidden_size or not vision.global_attn_indexes):
        raise UserError(
            f"{source}: mask_decoder_config: vit_dim {early} is not the width of a layer of global attention; the "
            f"encoder's is {vision.hidden_size}, and it has {len(vision.global_attn_indexes)} such layers"
        )
    return vision.output_channels, 2 * vision.num_pos_feats


def _check_pyramid(config: PreTrainedConfig, source: str) -> tuple[int]:
    """Checks the encoder of a SAM 2 or 3, whose features have four, two and one times the grid's side; its width."""
    vision, prompt = config.vision_config, config.prompt_encoder_config
    trunk, side, patch = vision.backbone_config, prompt.image_size, prompt.patch_size
    check_multiple(side, patch, "prompt_encoder_config: image_size", source)
    of_trunk = trunk.image_size if isinstance(trunk.image_size, int) else trunk.image_size[0]
    if of_trunk != side:
        raise UserError(f"{source}: prompt_encoder_config is for images of {side} pixels, its encoder for {of_trunk}")
    expected = [[times * (side // patch)] * 2 for times in (4, 2, 1)]
    if [list(each) for each in vision.backbone_feature_sizes] != expected:
        raise UserError(
            f"{source}: vision_config: backbone_feature_sizes should be {expected} for images of {side} pixels in "
            f"patches of {patch}, they are {shown(vision.backbone_feature_sizes)}"
        )
    if trunk.model_type == "sam3_vit_model":
        check_multiple(trunk.hidden_size, 4 * trunk.num_attention_heads, "backbone_config: hidden_size", source)
        if trunk.patch_size != patch or len(vision.scale_factors) != len(expected):
            raise UserError(
                f"{source}: the encoder's patches are of {trunk.patch_size} pixels, the prompts' of {patch}"
            )
        return (vision.fpn_hidden_size,)
    stages = len(trunk.blocks_per_stage)
    lists = (trunk.embed_dim_per_stage, trunk.num_attention_heads_per_stage, trunk.window_size_per_stage)
    if any(len(each) != stages for each in (*lists, vision.backbone_channel_list)) or stages <= len(expected):
        raise UserError(f"{source}: vision_config does not describe {stages} stages alike, of which it needs four")
    for width, heads in zip(*lists[:2], strict=True):
        check_multiple(width, heads, "backbone_config: embed_dim_per_stage", source)
    if vision.backbone_channel_list != trunk.embed_dim_per_stage[::-1]:
        raise UserError(f"{source}: backbone_channel_list {vision.backbone_channel_list} is not that of the stages")
    check_multiple(side // STRIDE, trunk.window_size_per_stage[0], "image_size / 4, the side of the patches,", source)
    pooling = list(accumulate(trunk.blocks_per_stage))[: min(trunk.num_query_pool_stages, stages - 1)]
    for stage, first in enumerate(pooling):  # its windows are those of the stage before
        check_multiple(trunk.window_size_per_stage[stage], 2, f"window_size_per_stage[{stage}]", source)
        if first in trunk.global_attention_blocks:
            raise UserError(f"{source}: global_attention_blocks has block {first}, which pools and needs windows")
    return (vision.fpn_hidden_size,)


def decoder_of_directory(directory: Path) -> tuple[str, PreTrainedConfig]:
    """The name of the mask decoder that a directory of transformers is of, and its configuration."""
    values = read_config(directory)
    kind = values.get("model_type")
    named = {
        each: (name, decoder.published)
        for name, decoder in DECODERS.items()
        if decoder.published is not None
        for each in decoder.published.model_types
    }
    if not isinstance(kind, str) or kind not in named:
        raise UserError(
            f"{directory} contains a model of type {shown(kind)}, not SAM; its type should be one of {', '.join(named)}"
        )
    name, published = named[kind]
    source, key = str(directory / CONFIG_FILE), published.model_types[kind]
    if key is not None:
        values = dictionary(values.get(key), f"{source}: {key}")
    return name, build_sam(DECODERS[name], published.adapted(dict(values)), source)


def decoder_of_file(names: Collection[str]) -> str:
    """The name of the mask decoder whose authors' file has tensors of these names; SAM's for one that nobody knows."""
    found = "sam"
    for name, decoder in DECODERS.items():
        published = decoder.published
        if published is not None and published.in_file:
            layout = Layout(published.in_file)
            if any(layout.to_ours(each) == published.mark for each in names):
                found = name  # a later decoder has what an earlier one has, and more
    return found


def config_from_shapes(decoder: type[MaskDecoder], shapes: Shapes, source: Path) -> PreTrainedConfig:
    """The configuration of a published mask decoder, from the shapes of its tensors under our names without `sam.`."""
    name = decoder.encoder_name
    try:
        values = decoder.published.values_of_shapes(shapes)
    except KeyError as error:
        raise UserError(f"{source} is not a {name}: it has no tensor {error}") from None
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{source} is not a {name}: its tensors have other shapes ({error})") from error
    return build_sam(decoder, values, str(source))
