"""SAM's configuration: from a `config.json`, checked, and from the shapes of its tensors.

Legend of shapes: W width of SAM's image encoder, C width of its decoder.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from transformers import SamConfig

from checkpoints.config_checks import (
    ACTIVATION,
    EPSILON,
    FLAG,
    HEADS,
    IMAGE_ENCODER_RULES,
    SIDE,
    WIDTH,
    built,
    check_multiple,
    check_values,
    dictionary,
    list_of,
    optional,
)
from checkpoints.files import CONFIG_FILE, read_config
from groundscore.errors import UserError, shown
from model.decoders.sam import DECODER_LAYER_NORM_EPS
from utils.settings import number, one_of, whole

Shapes = Mapping[str, tuple[int, ...]]

SAM_DECODER_HEADS = 8
SAM_WINDOW = 14
SAM_RULES = {
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


def build_sam(values: Mapping[str, Any], source: str) -> SamConfig:
    """The configuration of a SAM, whose three parts agree on sizes."""
    parts = {}
    for part, rules in SAM_RULES.items():
        stored = dictionary(values.get(part, {}), f"{source}: {part}")
        parts[part] = check_values(rules, stored, f"{source}: {part}")
    config = built(SamConfig, parts, source)
    vision, prompt, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    check_multiple(vision.hidden_size, vision.num_attention_heads, "vision_config: hidden_size", source)
    check_multiple(vision.image_size, vision.patch_size, "vision_config: image_size", source)
    inner = decoder.hidden_size // decoder.attention_downsample_rate
    check_multiple(inner, decoder.num_attention_heads, "mask_decoder_config: hidden_size", source)
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


def sam_config(directory: Path) -> SamConfig:
    """The configuration of a transformers SAM directory, with the decoder's epsilon that its weights were trained
    with: transformers saves its own default."""
    config = read_config(directory)
    if config.get("model_type") != "sam":
        raise UserError(f"{directory} contains a model of type {shown(config.get('model_type'))}, not SAM")
    result = build_sam(config, str(directory / CONFIG_FILE))
    result.mask_decoder_config.layer_norm_eps = DECODER_LAYER_NORM_EPS
    return result


def sam_config_from_shapes(shapes: Shapes, source: Path) -> SamConfig:
    """The configuration of a SAM of any size, from the shapes of its tensors under our names without `sam.`.

    What leaves no trace in shapes is as in every published SAM: 8 decoder heads, epsilons, activations.
    """
    try:
        return _sam_config_from_shapes(shapes, source)
    except KeyError as error:
        raise UserError(f"{source} is not a SAM: it has no tensor {error}") from None
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{source} is not a SAM: its tensors have other shapes ({error})") from error


def _sam_config_from_shapes(shapes: Shapes, source: Path) -> SamConfig:
    _, grid, _, width = shapes["vision_encoder.pos_embed"]
    _, channels, patch, _ = shapes["vision_encoder.patch_embed.projection.weight"]
    depth = count_modules(shapes, "vision_encoder.layers")
    lengths, head_width = zip(*(shapes[f"vision_encoder.layers.{i}.attn.rel_pos_h"] for i in range(depth)), strict=True)
    is_global = [length == 2 * grid - 1 for length in lengths]
    windows = {(length + 1) // 2 for length, everywhere in zip(lengths, is_global, strict=True) if not everywhere}
    decoder_width = shapes["mask_decoder.iou_token.weight"][1]
    attention_width = shapes["mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"][0]
    values = {
        "vision_config": {
            "image_size": grid * patch,
            "patch_size": patch,
            "num_channels": channels,
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": width // head_width[0],
            "mlp_dim": shapes["vision_encoder.layers.0.mlp.lin1.weight"][0],
            "qkv_bias": "vision_encoder.layers.0.attn.qkv.bias" in shapes,
            "global_attn_indexes": [index for index, everywhere in enumerate(is_global) if everywhere],
            "window_size": windows.pop() if windows else SAM_WINDOW,
            "output_channels": shapes["vision_encoder.neck.conv1.weight"][0],
            "num_pos_feats": shapes["prompt_encoder.shared_embedding.positional_embedding"][1],
            "layer_norm_eps": 1e-6,
        },
        "prompt_encoder_config": {
            "hidden_size": shapes["prompt_encoder.no_mask_embed.weight"][1],
            "image_size": grid * patch,
            "patch_size": patch,
            "mask_input_channels": shapes["prompt_encoder.mask_embed.conv2.weight"][0],
            "image_embedding_size": grid,
            "num_point_embeddings": count_modules(shapes, "prompt_encoder.point_embed"),
        },
        "mask_decoder_config": {
            "hidden_size": decoder_width,
            "mlp_dim": shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
            "num_hidden_layers": count_modules(shapes, "mask_decoder.transformer.layers"),
            "num_attention_heads": SAM_DECODER_HEADS,
            "attention_downsample_rate": decoder_width // attention_width,
            "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
            "iou_head_hidden_dim": shapes["mask_decoder.iou_prediction_head.proj_in.weight"][0],
            "layer_norm_eps": DECODER_LAYER_NORM_EPS,
        },
    }
    return build_sam(values, str(source))


def count_modules(names: Collection[str], prefix: str) -> int:
    """How many numbered modules there are below `prefix`."""
    found = {match[1] for name in names if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))}
    if not found:
        raise KeyError(f"{prefix}.0")
    return len(found)
