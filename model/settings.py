"""The settings of a model: what all systems have, declared here, and what each declares in its own file.

The `stored` ones are fields of the model's configuration (`GroundingConfig`). Nothing heavy is imported, so that
`--help` answers at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataloaders.batching.conversation import TEMPLATES
from groundscore.errors import UserError
from model.systems import SYSTEMS
from utils.settings import FIXED, FRACTION, Setting, at_least, option, settings_of, whole

LONGEST_ANSWER = 512  # tokens that a model may write, in every program that does not say otherwise


@dataclass
class ModelSettings:
    """What all systems have, or the parts of the skeleton that some of them use."""

    conv_type: str = option(
        "llava_v1",
        "model",
        "conversation template; LLaVA's system text names a human (llava_v1) or a user (vicuna_v1)",
        choices=tuple(TEMPLATES),
        default_text="the backbone's own, llava_v1 for LLaVA",
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
    map_geometry: str = option(
        "fit",
        "policy",
        "placement of the similarity map: fit follows CLIP's crop, reference always assumes padded CLIP input",
        choices=("fit", "reference"),
        stored=True,
        inference=True,
    )


@dataclass
class ImageSettings:
    """How a backbone sees images; each setting belongs to the backbones that name it in `settings`."""

    separate_mm_projector: bool = option(
        False, "model", "a second projector for the mask path", on_resume=FIXED, stored=True
    )
    pad_train_clip_images: bool = option(
        False, "model", "CLIP sees the whole image, padded, instead of its centre crop", stored=True
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
    anyres: bool = option(
        False,
        "model",
        "LLaVA 1.6 also sees tiles of the image, as its authors trained it, instead of one square (the reference)",
        on_resume=FIXED,
        stored=True,
    )
    min_pixels: int | None = option(
        None,
        "model",
        "pixels that an image is enlarged to (Qwen-VL)",
        default_text="the base's",
        check=whole(1, 2**28),
        stored=True,
        inference=True,
    )
    max_pixels: int | None = option(
        None,
        "model",
        "pixels that an image is reduced to (Qwen-VL) or that its tiles have, which bounds its tokens",
        default_text="the base's",
        check=whole(1, 2**28),
        stored=True,
        inference=True,
    )


@dataclass
class LoraSettings:
    """Adapters of the LLM."""

    lora_r: int = option(
        8, "trainable part", "LoRA rank; 0 trains the whole LLM", on_resume=FIXED, check=at_least(0), common=True
    )
    lora_alpha: int = option(16, "trainable part", "LoRA scale times rank", on_resume=FIXED)
    lora_dropout: float = option(0.05, "trainable part", "LoRA dropout", check=FRACTION)
    lora_target_modules: str = option(
        "q_proj,v_proj", "trainable part", "linear layers of the LLM with LoRA", on_resume=FIXED
    )

    @property
    def targets(self) -> list[str]:
        """The names of the layers."""
        return [name.strip() for name in self.lora_target_modules.split(",")]


def declared() -> tuple[type, ...]:
    """The dataclasses of settings of all models, those of plugins' systems among them: call it after their import."""
    return tuple(dict.fromkeys((ModelSettings, ImageSettings, *(system.settings for system in SYSTEMS.values()))))


def settings_of_system(system: str) -> dict[str, Setting]:
    """The settings that models of a system have, by name; those of images only with some backbones."""
    return settings_of(*dict.fromkeys((ModelSettings, ImageSettings, SYSTEMS[system].settings)))


def model_settings() -> dict[str, Setting]:
    """The settings that are stored with a model, by name."""
    return {name: setting for name, setting in settings_of(*declared()).items() if setting.stored}


def inference_settings() -> dict[str, Setting]:
    """The settings of a model that may be changed after training, by name."""
    return {name: setting for name, setting in model_settings().items() if setting.inference}


def model_overrides(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What flags say about the model: the stored settings that are given, and what these imply.

    The rest stays as the checkpoint has it. Raises `UserError` for settings that contradict each other.
    """
    given = {name: flags[name] for name in model_settings() if flags.get(name) is not None}
    for system in SYSTEMS.values():
        given = system.complete(given)
    return given


def check_overrides(overrides: Mapping[str, Any], system: str) -> None:
    """Raise `UserError` for a setting that only other systems have."""
    for name in overrides:
        if name not in settings_of_system(system):
            owner = next(other for other, kind in SYSTEMS.items() if name in settings_of(kind.settings))
            raise UserError(
                f"--{name}: this checkpoint is of {system}, and only {owner} has that setting; leave the flag out"
            )
