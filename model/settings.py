"""The settings of a model that training can set and that are stored in its configuration (`GroundingConfig`).

Nothing heavy is imported, so that `--help` answers at once.
"""

from dataclasses import dataclass

from utils.settings import FIXED, RANKING, Setting, above, at_least, number, option, settings_of, whole


@dataclass
class ModelSettings:
    """What all systems have, or the parts of the skeleton that some of them use."""

    conv_type: str = option(
        "llava_v1",
        "model",
        "conversation template: the system text speaks of a human (llava_v1) or a user (vicuna_v1)",
        choices=("llava_v1", "vicuna_v1"),
        stored=True,
        inference=True,
    )
    out_dim: int = option(
        256,
        "model",
        "width of SAM's prompts",
        default_text="SAM's",
        check=whole(1, 2**17),
        on_resume=FIXED,
        stored=True,
    )
    seg_token_num: int = option(
        1, "model", "tokens per target and scale (PixelLM)", check=whole(1, 64), on_resume=FIXED, stored=True
    )
    image_feature_scale_num: int = option(
        1, "model", "image feature scales (PixelLM)", check=whole(1, 64), on_resume=FIXED, stored=True
    )
    vision_tower_for_mask: bool = option(
        False, "model", "decode masks from CLIP's features (PixelLM)", on_resume=FIXED, stored=True
    )
    separate_mm_projector: bool = option(
        False, "model", "a second projector for the mask path", on_resume=FIXED, stored=True
    )
    pad_train_clip_images: bool = option(
        False, "model", "CLIP sees the whole image, padded, not its centre", stored=True
    )
    resize_vision_tower: bool = option(
        False, "model", "interpolate CLIP's position embeddings", on_resume=FIXED, stored=True
    )
    resize_vision_tower_size: int = option(
        224,
        "model",
        "side in pixels after resizing; a value other than 224 also trains the projectors",
        check=whole(1, 2**13),
        on_resume=FIXED,
        stored=True,
    )
    llm_image_grid: int | None = option(
        None,
        "model",
        "image tokens of the LLM along a side",
        default_text="CLIP's; original PixelLM has 16",
        check=whole(1, 256),
        stored=True,
    )


@dataclass
class PointSettings:
    """READ's points."""

    read_num_points: int = option(
        60, "model", "READ: most points per target", check=whole(1, 10**4), stored=True, inference=True
    )
    read_t_pos: float = option(
        0.8,
        "model",
        "READ: similarity from which a point is positive",
        check=number(0, 1),
        stored=True,
        inference=True,
    )
    read_t_neg: float = option(
        0.2,
        "model",
        "READ: similarity up to which one is negative",
        check=number(0, 1),
        stored=True,
        inference=True,
    )
    read_down_sample: int = option(
        1,
        "model",
        "READ: how much coarser than the image tokens the points' grid is",
        check=whole(1, 256),
        stored=True,
        inference=True,
    )
    read_point_space: str = option(
        "grid",
        "model",
        "READ: points are refined on that grid, or in pixels as READ's own code does",
        choices=("grid", "pixel"),
        stored=True,
        inference=True,
    )


@dataclass
class PolicySettings:
    """UGround's layer policy and similarity map."""

    mode: int = option(
        3,
        "policy",
        "1 last layer, 2 sampled layer for the map, 3 sampled layer for map and text",
        choices=(1, 2, 3),
        stored=True,
    )
    gate: str = option(
        "reference",  # of a stored configuration that does not name it; a policy that starts takes the other
        "policy",
        "what the policy sees: normalized states, or the reference's raw ones, which learn faster the wider the LLM is",
        default_text="normalized for a policy that starts here, otherwise the checkpoint's",
        choices=("normalized", "reference"),
        stored=True,
    )
    estimator: str = option(
        "leave_one_out",
        "policy",
        "layers of a target whose maps are scored: the sampled one, several, or all",
        default_text="leave_one_out; sample where --baseline_type or --reward batch is given",
        choices=("sample", "leave_one_out", "expected"),
        stored=True,
    )
    policy_samples: int = option(
        4, "policy", "layers per target that leave_one_out scores", check=whole(2, 1000), stored=True
    )
    baseline_type: str = option(
        "ema",
        "policy",
        "what estimator sample compares the reward with",
        choices=("ema", "critic", "none"),
        stored=True,
    )
    baseline_beta: float = option(1.0, "policy", "weight of the critic's regression", check=number(0, 1e6), stored=True)
    reward: str = option(
        "target",
        "policy",
        "a reward per target, or the reference's one per micro-batch",
        choices=("target", "batch"),
        stored=True,
    )
    eval_legacy: bool = option(
        False,
        "policy",
        "outside training use the last layer, whatever was learned",
        on_resume=RANKING,
        stored=True,
    )
    map_geometry: str = option(
        "fit",
        "policy",
        "where the similarity map is placed: where CLIP looked, or always as for padded CLIP input",
        choices=("fit", "reference"),
        stored=True,
        inference=True,
    )
    mask_prompt: bool = option(True, "policy", "prompt SAM with the similarity map", stored=True)
    map_loss: bool = option(True, "policy", "train the similarity map against the mask", stored=True)
    map_loss_layers: str = option(
        "chosen",
        "policy",
        "which maps that loss trains: the chosen layer's, or those of all layers alike",
        choices=("chosen", "all"),
        stored=True,
    )
    policy_lr: float | None = option(
        None,
        "policy",
        "highest learning rate of the policy's gate: with --gate normalized the most by which a step changes a layer's "
        "logit",
        default_text="0.1; with --gate reference that of --lr",
        check=above(0),
    )
    entropy_weight: float = option(
        0.0, "policy", "weight of the policy's entropy bonus at the first step", check=at_least(0)
    )
    entropy_weight_end: float | None = option(
        None,
        "policy",
        "its weight at the last step, on a straight line",
        default_text="as at the first",
        check=at_least(0),
    )


# Every class above; a system with settings of its own adds its class here.
DECLARED = (ModelSettings, PointSettings, PolicySettings)


def model_settings() -> dict[str, Setting]:
    """The settings that are stored with a model, by name."""
    return {name: setting for name, setting in settings_of(*DECLARED).items() if setting.stored}


def inference_settings() -> dict[str, Setting]:
    """The settings of a model that may be changed after training, by name."""
    return {name: setting for name, setting in model_settings().items() if setting.inference}
