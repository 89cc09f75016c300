"""The miniature's mask decoders: their configurations, untrained models of them, and how they are written."""

from pathlib import Path

import torch
from transformers import (
    MODEL_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
    Sam2Config,
    Sam3TrackerConfig,
    SamConfig,
    SamHQConfig,
)

from checkpoints.names import sam_state_dict_to_original
from miniature.sizes import MiniatureSizes
from model.decoders.published import DECODER_LAYER_NORM_EPS


def sam_config(sizes: MiniatureSizes) -> SamConfig:
    """The configuration of the miniature SAM."""
    return SamConfig(
        vision_config={
            "hidden_size": sizes.sam_width,
            "num_hidden_layers": sizes.sam_layers,
            "num_attention_heads": sizes.sam_heads,
            "image_size": sizes.sam_image,
            "patch_size": sizes.sam_patch,
            "window_size": sizes.sam_window,
            "global_attn_indexes": list(sizes.sam_global),
            "mlp_dim": 4 * sizes.sam_width,
            "output_channels": sizes.decoder_width,
            "num_pos_feats": sizes.decoder_width // 2,
            "scale": 1.0,  # of the positional frequencies, as in segment-anything; transformers' default is noise here
            "layer_norm_eps": 1e-6,
        },
        prompt_encoder_config={
            "hidden_size": sizes.decoder_width,
            "image_size": sizes.sam_image,
            "patch_size": sizes.sam_patch,
        },
        mask_decoder_config={
            "hidden_size": sizes.decoder_width,
            "mlp_dim": sizes.decoder_mlp,
            "iou_head_hidden_dim": sizes.decoder_width,
            "layer_norm_eps": DECODER_LAYER_NORM_EPS,
        },
    )


def decoder_config(name: str, sizes: MiniatureSizes) -> PreTrainedConfig:
    """The configuration of the model of any mask decoder, as wide and about as deep as the miniature SAM."""
    if name == "sam":
        return sam_config(sizes)
    if name == "sam_hq":
        of_sam = sam_config(sizes)
        parts = {part: getattr(of_sam, part).to_dict() for part in of_sam.sub_configs}
        parts["mask_decoder_config"]["vit_dim"] = sizes.sam_width
        for part in parts.values():
            del part["model_type"]
        return SamHQConfig(**parts)
    patch, grid = (sizes.sam_patch, sizes.sam_image // sizes.sam_patch) if name == "sam2" else (14, 8)
    widths = [sizes.sam_width // 4 * 2**stage for stage in range(4)]
    hiera = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": widths[0],
        "image_size": [patch * grid, patch * grid],
        "blocks_per_stage": [1, 1, 3, 1],
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 4, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    vit = {
        "model_type": "sam3_vit_model",
        "hidden_size": sizes.sam_width,
        "intermediate_size": 4 * sizes.sam_width,
        "num_hidden_layers": sizes.sam_layers,
        "num_attention_heads": sizes.sam_heads,
        "image_size": patch * grid,
        "patch_size": patch,
        "window_size": sizes.sam_window,
        "global_attn_indexes": list(sizes.sam_global),
        "pretrain_image_size": patch * grid,
    }
    own = {"backbone_channel_list": widths[::-1]} if name == "sam2" else {"scale_factors": [4.0, 2.0, 1.0]}
    return (Sam2Config if name == "sam2" else Sam3TrackerConfig)(
        vision_config={
            "backbone_config": hiera if name == "sam2" else vit,
            "backbone_feature_sizes": [[times * grid, times * grid] for times in (4, 2, 1)],
            "fpn_hidden_size": sizes.decoder_width,
            **own,
        },
        prompt_encoder_config={
            "hidden_size": sizes.decoder_width,
            "image_size": patch * grid,
            "patch_size": patch,
        },
        mask_decoder_config={
            "hidden_size": sizes.decoder_width,
            "mlp_dim": sizes.decoder_mlp,
            "iou_head_hidden_dim": sizes.decoder_width,
            "dynamic_multimask_via_stability": False,
        },
    )


def untrained_decoder(name: str, sizes: MiniatureSizes) -> PreTrainedModel:
    """The model of a mask decoder, weights as the random state has it."""
    config = decoder_config(name, sizes)
    sam = MODEL_MAPPING[type(config)](config)
    frequencies = sam.prompt_encoder.shared_embedding.positional_embedding
    sam.shared_image_embedding.positional_embedding.data.copy_(frequencies)  # one matrix, as in published ones
    return sam


def write_decoder(out: Path, sam: PreTrainedModel) -> None:
    """SAM in float32, as segment-anything publishes it; another mask decoder in half precision, for transformers."""
    if isinstance(sam.config, SamConfig):
        torch.save(sam_state_dict_to_original(sam.state_dict()), out / "sam_miniature.pth")
        return
    theirs = MODEL_MAPPING[type(sam.config)](sam.config)
    theirs.load_state_dict(sam.state_dict())
    theirs.half().save_pretrained(out / f"{sam.config.model_type}_miniature")
