"""What a training command line says about the model itself: flags that are fields of its configuration."""

from typing import Any

from training.config import TrainingConfig

MODEL_FIELDS = (
    "out_dim",
    "seg_token_num",
    "image_feature_scale_num",
    "vision_tower_for_mask",
    "separate_mm_projector",
    "pad_train_clip_images",
    "resize_vision_tower",
    "resize_vision_tower_size",
    "llm_image_grid",
    "read_num_points",
    "read_t_pos",
    "read_t_neg",
    "read_down_sample",
    "read_point_space",
    "conv_type",
    "mode",
    "gate",
    "estimator",
    "policy_samples",
    "baseline_type",
    "baseline_beta",
    "reward",
    "eval_legacy",
    "map_geometry",
    "mask_prompt",
    "map_loss",
    "map_loss_layers",
)


def model_overrides(config: TrainingConfig) -> dict[str, Any]:
    """What the command line says about the model; the rest stays as the checkpoint has it."""
    given = {name: getattr(config, name) for name in MODEL_FIELDS if getattr(config, name) is not None}
    if "baseline_type" in given or given.get("reward") == "batch":
        given.setdefault("estimator", "sample")  # what these are about
    return given
