"""How mask decoders are published: the names of their tensors, and their configurations as shapes tell them.

A decoder declares one `Published`. The rules are pairs of name beginnings, theirs and ours, as `checkpoints.names`
compiles them: `#` stands for a number, carried over in order, and the first rule that fits decides. Our names are those
below the child that holds the decoder's model, which are transformers' own.

Legend of shapes: W width of an image encoder, C width of its decoder.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

# The two-way transformer of SAM and SAM-HQ has PyTorch's default; transformers' configuration defaults to 1e-6, which
# moves logits by some 1e-3. Whoever builds a SamConfig for published weights sets it.
DECODER_LAYER_NORM_EPS = 1e-5
DECODER_HEADS = 8
WINDOW = 14

Rule = tuple[str, str]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Published:
    """One decoder's published forms.

    model_types: of the directories of transformers that hold its weights, and below which key of their `config.json`
        the decoder's own configuration stands (None: it is the whole).
    in_directories: rules for the names in such a directory, where they are not ours.
    unused: beginnings of our names of tensors that only other tasks need (videos, detection).
    in_file: rules for the names in the file of its authors; () where no such file is read.
    mark: our name of a tensor that is in this decoder's files and in no other's.
    stacked: our names of tensors that the authors' file holds row by row, under numbers.
    values_of_shapes: the values of its configuration from the shapes of its tensors, under our names; raises KeyError
        for a tensor that is missing and ValueError for shapes that are not of this decoder.
    adapted: the values of its configuration from those of a directory.
    """

    model_types: Mapping[str, str | None]
    in_directories: tuple[Rule, ...] = ()
    unused: tuple[str, ...] = ()
    in_file: tuple[Rule, ...] = ()
    mark: str = ""
    stacked: tuple[str, ...] = ()
    values_of_shapes: Callable[[Shapes], dict[str, Any]] | None = None
    adapted: Callable[[dict[str, Any]], dict[str, Any]] = dict


def count_modules(names: Collection[str], prefix: str) -> int:
    """How many numbered modules there are below `prefix`."""
    found = {match[1] for name in names if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))}
    if not found:
        raise KeyError(f"{prefix}.0")
    return len(found)


# --- names of SAM, and what the others have of them ------------------------------------------------------------------


def mlp_rules(theirs: str, ours: str) -> list[Rule]:
    """Rules for a perceptron of three layers."""
    layers = (("layers.0", "proj_in"), ("layers.1", "layers.0"), ("layers.2", "proj_out"))
    return [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in layers]


SAM_ENCODER_RULES = [
    ("image_encoder.patch_embed.proj", "vision_encoder.patch_embed.projection"),
    ("image_encoder.blocks.#.norm#", "vision_encoder.layers.#.layer_norm#"),
    ("image_encoder.blocks.#", "vision_encoder.layers.#"),
    ("image_encoder.neck.0", "vision_encoder.neck.conv1"),
    ("image_encoder.neck.1", "vision_encoder.neck.layer_norm1"),
    ("image_encoder.neck.2", "vision_encoder.neck.conv2"),
    ("image_encoder.neck.3", "vision_encoder.neck.layer_norm2"),
    ("image_encoder", "vision_encoder"),
]


def prompt_encoder_rules(theirs: str) -> list[Rule]:
    """Rules for a prompt encoder that the authors call `theirs`."""
    ours = "prompt_encoder"
    return [
        (f"{theirs}.pe_layer.positional_encoding_gaussian_matrix", f"{ours}.shared_embedding.positional_embedding"),
        (f"{theirs}.point_embeddings.#", f"{ours}.point_embed.#"),
        (f"{theirs}.mask_downscaling.0", f"{ours}.mask_embed.conv1"),
        (f"{theirs}.mask_downscaling.1", f"{ours}.mask_embed.layer_norm1"),
        (f"{theirs}.mask_downscaling.3", f"{ours}.mask_embed.conv2"),
        (f"{theirs}.mask_downscaling.4", f"{ours}.mask_embed.layer_norm2"),
        (f"{theirs}.mask_downscaling.6", f"{ours}.mask_embed.conv3"),
        (theirs, ours),
    ]


def mask_decoder_rules(theirs: str) -> list[Rule]:
    """Rules for a mask decoder that the authors call `theirs`, but for what is left as it is."""
    ours = "mask_decoder"
    return [
        (f"{theirs}.transformer.layers.#.norm#", f"{ours}.transformer.layers.#.layer_norm#"),
        (f"{theirs}.transformer.norm_final_attn", f"{ours}.transformer.layer_norm_final_attn"),
        (f"{theirs}.output_upscaling.0", f"{ours}.upscale_conv1"),
        (f"{theirs}.output_upscaling.1", f"{ours}.upscale_layer_norm"),
        (f"{theirs}.output_upscaling.3", f"{ours}.upscale_conv2"),
        *mask_head_rules(theirs),
    ]


def mask_head_rules(theirs: str) -> list[Rule]:
    """Rules for the perceptrons of a mask decoder that the authors call `theirs`."""
    names = ("output_hypernetworks_mlps.#", "iou_prediction_head")
    return [rule for name in names for rule in mlp_rules(f"{theirs}.{name}", f"mask_decoder.{name}")]


SAM_RULES = (
    *SAM_ENCODER_RULES,
    *prompt_encoder_rules("prompt_encoder"),
    *mask_decoder_rules("mask_decoder"),
    ("mask_decoder", "mask_decoder"),
)


# --- SAM -------------------------------------------------------------------------------------------------------------


def sam_values(shapes: Shapes) -> dict[str, Any]:
    """What leaves no trace in shapes is as in every published SAM: 8 decoder heads, epsilons, activations."""
    _, grid, _, width = shapes["vision_encoder.pos_embed"]
    _, channels, patch, _ = shapes["vision_encoder.patch_embed.projection.weight"]
    depth = count_modules(shapes, "vision_encoder.layers")
    lengths, head_width = zip(*(shapes[f"vision_encoder.layers.{i}.attn.rel_pos_h"] for i in range(depth)), strict=True)
    is_global = [length == 2 * grid - 1 for length in lengths]
    windows = {(length + 1) // 2 for length, everywhere in zip(lengths, is_global, strict=True) if not everywhere}
    return {
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
            "window_size": windows.pop() if windows else WINDOW,
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
            **_decoder_values(shapes, shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0]),
            "layer_norm_eps": DECODER_LAYER_NORM_EPS,
        },
    }


def _decoder_values(shapes: Shapes, mlp_dim: int) -> dict[str, Any]:
    """Values of a mask decoder's configuration that all of them have."""
    width = shapes["mask_decoder.iou_token.weight"][1]
    attention = shapes["mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"][0]
    return {
        "hidden_size": width,
        "mlp_dim": mlp_dim,
        "num_hidden_layers": count_modules(shapes, "mask_decoder.transformer.layers"),
        "num_attention_heads": DECODER_HEADS,
        "attention_downsample_rate": width // attention,
        "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
        "iou_head_hidden_dim": shapes["mask_decoder.iou_prediction_head.proj_in.weight"][0],
    }


def with_published_epsilon(values: dict[str, Any]) -> dict[str, Any]:
    """The decoder's epsilon that its weights were trained with: transformers saves its own default."""
    decoder = values.get("mask_decoder_config")
    epsilon = {"layer_norm_eps": DECODER_LAYER_NORM_EPS}
    return {**values, "mask_decoder_config": decoder | epsilon if isinstance(decoder, dict) else epsilon}


SAM = Published(
    model_types={"sam": None},
    in_file=SAM_RULES,
    mark="vision_encoder.neck.conv1.weight",
    values_of_shapes=sam_values,
    adapted=with_published_epsilon,
)


# --- SAM-HQ ----------------------------------------------------------------------------------------------------------


def sam_hq_values(shapes: Shapes) -> dict[str, Any]:
    """SAM's, and the width of the early features."""
    values = sam_values(shapes)
    values["mask_decoder_config"]["vit_dim"] = shapes["mask_decoder.compress_vit_conv1.weight"][0]
    return values


SAM_HQ = Published(
    model_types={"sam_hq": None},
    in_file=(
        ("mask_decoder.hf_token", "mask_decoder.hq_token"),
        *mlp_rules("mask_decoder.hf_mlp", "mask_decoder.hq_mask_mlp"),
        *(
            (f"mask_decoder.{theirs}.{number}", f"mask_decoder.{ours}_{module}")
            for theirs, ours in (
                ("compress_vit_feat", "compress_vit"),
                ("embedding_encoder", "encoder"),
                ("embedding_maskfeature", "mask"),
            )
            for number, module in ((0, "conv1"), (1, "norm"), (3, "conv2"))
        ),
        *SAM_RULES,
    ),
    mark="mask_decoder.hq_token.weight",
    values_of_shapes=sam_hq_values,
    adapted=with_published_epsilon,
)


# --- SAM 2.1 ---------------------------------------------------------------------------------------------------------

# What leaves no trace in the shapes of a Hiera, by its width and number of blocks: heads of the first stage, windows of
# the stages, and blocks with global attention (facebookresearch/sam2, configs/sam2.1: tiny, small, base+ and large).
HIERA_SIZES = {
    (96, 12): (1, (8, 4, 14, 7), (5, 7, 9)),
    (96, 16): (1, (8, 4, 14, 7), (7, 10, 13)),
    (112, 24): (2, (8, 4, 14, 7), (12, 16, 20)),
    (144, 48): (2, (8, 4, 16, 8), (23, 33, 43)),
}
SAM2_IMAGE, SAM2_PATCH = 1024, 16


def sam2_values(shapes: Shapes) -> dict[str, Any]:
    """Of one of the four published sizes, at 1024 pixels."""
    trunk = "vision_encoder.backbone"
    blocks = count_modules(shapes, f"{trunk}.blocks")
    width = shapes[f"{trunk}.pos_embed"][1]
    if (width, blocks) not in HIERA_SIZES:
        raise ValueError(f"no published Hiera has {blocks} blocks of width {width}; use a directory of transformers")
    heads, windows, everywhere = HIERA_SIZES[width, blocks]
    widths = [shapes[f"{trunk}.blocks.{index}.attn.proj.weight"][0] for index in range(blocks)]
    stages = list(dict.fromkeys(widths))
    grid = SAM2_IMAGE // SAM2_PATCH
    return {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": width,
                "num_attention_heads": heads,
                "image_size": [SAM2_IMAGE, SAM2_IMAGE],
                "blocks_per_stage": [widths.count(each) for each in stages],
                "embed_dim_per_stage": stages,
                "num_attention_heads_per_stage": [heads * each // width for each in stages],
                "window_size_per_stage": list(windows),
                "global_attention_blocks": list(everywhere),
                "window_positional_embedding_background_size": list(shapes[f"{trunk}.pos_embed"][2:]),
            },
            "backbone_channel_list": stages[::-1],
            "backbone_feature_sizes": [[side, side] for side in (4 * grid, 2 * grid, grid)],
            "fpn_hidden_size": shapes["vision_encoder.neck.convs.0.weight"][0],
        },
        "prompt_encoder_config": {
            "hidden_size": shapes["prompt_encoder.no_mask_embed.weight"][1],
            "image_size": SAM2_IMAGE,
            "patch_size": SAM2_PATCH,
            "mask_input_channels": shapes["prompt_encoder.mask_embed.conv2.weight"][0],
        },
        "mask_decoder_config": {
            **_decoder_values(shapes, shapes["mask_decoder.transformer.layers.0.mlp.proj_in.weight"][0]),
            "dynamic_multimask_via_stability": False,
        },
    }


def with_one_mask(values: dict[str, Any]) -> dict[str, Any]:
    """The mask of the first token alone, stable or not, so that what is used is what is trained."""
    decoder, one = values.get("mask_decoder_config"), {"dynamic_multimask_via_stability": False}
    return {**values, "mask_decoder_config": decoder | one if isinstance(decoder, dict) else one}


VIDEO_TENSORS = (
    "memory_",
    "mask_downsample",
    "object_pointer_proj.",
    "temporal_positional_encoding_projection_layer.",
    "no_memory_positional_encoding",
    "no_object_pointer",
    "occlusion_spatial_embedding_parameter",
)
SAM2 = Published(
    model_types={"sam2": None, "sam2_video": None},
    unused=(*VIDEO_TENSORS, "maskmem_tpos_enc", "no_mem_pos_enc", "no_obj_", "obj_ptr_"),
    in_file=(
        ("image_encoder.trunk.patch_embed.proj", "vision_encoder.backbone.patch_embed.projection"),
        ("image_encoder.trunk.blocks.#.norm#", "vision_encoder.backbone.blocks.#.layer_norm#"),
        ("image_encoder.trunk.blocks.#.mlp.layers.0", "vision_encoder.backbone.blocks.#.mlp.proj_in"),
        ("image_encoder.trunk.blocks.#.mlp.layers.1", "vision_encoder.backbone.blocks.#.mlp.proj_out"),
        ("image_encoder.trunk", "vision_encoder.backbone"),
        ("image_encoder.neck.convs.#.conv", "vision_encoder.neck.convs.#"),
        *prompt_encoder_rules("sam_prompt_encoder"),
        *(
            (f"sam_mask_decoder.transformer.{block}.out_proj", f"mask_decoder.transformer.{block}.o_proj")
            for block in (
                "layers.#.self_attn",
                "layers.#.cross_attn_token_to_image",
                "layers.#.cross_attn_image_to_token",
                "final_attn_token_to_image",
            )
        ),
        ("sam_mask_decoder.transformer.layers.#.mlp.layers.0", "mask_decoder.transformer.layers.#.mlp.proj_in"),
        ("sam_mask_decoder.transformer.layers.#.mlp.layers.1", "mask_decoder.transformer.layers.#.mlp.proj_out"),
        *mlp_rules("sam_mask_decoder.pred_obj_score_head", "mask_decoder.pred_obj_score_head"),
        *mask_decoder_rules("sam_mask_decoder"),
        ("sam_mask_decoder", "mask_decoder"),
        ("no_mem_embed", "no_memory_embedding"),
    ),
    mark="vision_encoder.backbone.pos_embed_window",
    stacked=("prompt_encoder.point_embed",),
    values_of_shapes=sam2_values,
    adapted=with_one_mask,
)


# --- SAM 3's tracker -------------------------------------------------------------------------------------------------

SAM3_LEVELS = 3  # of the feature pyramid that the tracker reads; a fourth, coarser one is the detector's


def as_tracker(values: dict[str, Any]) -> dict[str, Any]:
    """With the three levels of features that the tracker reads.

    transformers' `Sam3TrackerModel` adds the no-memory embedding to the last level that its neck makes, which is the
    unused fourth in published configurations; its video model and the authors add it to the third.
    """
    vision = values.get("vision_config")
    vision = dict(vision) if isinstance(vision, dict) else {}
    factors = vision.get("scale_factors")
    vision["scale_factors"] = factors[:SAM3_LEVELS] if isinstance(factors, list) else [4.0, 2.0, 1.0]
    return with_one_mask({**values, "vision_config": vision})


SAM3_TRACKER = Published(
    model_types={"sam3_tracker": None, "sam3_tracker_video": None, "sam3_video": "tracker_config"},
    in_directories=(
        ("tracker_model.detector_model.vision_encoder.backbone", "vision_encoder.backbone"),
        ("detector_model.vision_encoder.backbone", "vision_encoder.backbone"),
        ("tracker_model.tracker_neck", "vision_encoder.neck"),
        ("tracker_neck", "vision_encoder.neck"),
        ("tracker_model.", ""),
    ),
    unused=(*VIDEO_TENSORS, "detector_model.", f"vision_encoder.neck.fpn_layers.{SAM3_LEVELS}."),
    adapted=as_tracker,
)
