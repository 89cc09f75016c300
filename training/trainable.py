"""Which parameters learn.

Always: LoRA adapters (or the whole LLM at `--lora_r 0`), word embeddings and output head, the text projection,
SAM's prompt encoder and mask decoder, and the policy.
Never, unless `--unfreeze` says so: the CLIP tower, SAM's image encoder, the projector between CLIP and LLM, PixelLM's
feature neck (newly initialised and frozen in the reference too, which names it in no list); and unless
`--train_fusion` says so: PixelLM's weights of tokens and scales.
"""

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

ALWAYS = (
    "lm_head",
    "language_model.embed_tokens",
    "text_hidden_fcs",
    "sam.prompt_encoder",
    "sam.mask_decoder",
    "prompt_encoder",
    "mask_decoder",
    "policy",
)
MASK_DECODERS = ("sam.mask_decoder", "mask_decoder")
PROJECTORS = ("mm_projector", "out_mm_projector")
FUSION = "fusion"
PARTS = {
    "vision_tower": ("vision_tower",),
    "sam_encoder": ("sam.vision_encoder",),
    "mm_projector": PROJECTORS,
    "image_feature_neck": ("image_feature_neck",),
    "language_model": ("language_model",),
}
DEFAULT_VISION_SIZE = 224


def trainable_prefixes(
    *,
    lora_r: int,
    train_mask_decoder: bool,
    vision_size: int,
    train_fusion: bool = False,
    unfreeze: Collection[str] = (),
) -> tuple[str, ...]:
    """Prefixes of the names that learn.

    vision_size: `resize_vision_tower_size`; as in the reference, a value other than 224 frees the projectors.
    unfreeze: keys of `PARTS`.
    """
    prefixes = [prefix for prefix in ALWAYS if train_mask_decoder or prefix not in MASK_DECODERS]
    if lora_r == 0:
        prefixes += PARTS["language_model"]
    if vision_size != DEFAULT_VISION_SIZE:
        prefixes += PROJECTORS
    if train_fusion:
        prefixes.append(FUSION)
    for part in unfreeze:
        prefixes += PARTS[part]
    return tuple(dict.fromkeys(prefixes))


def is_trainable(name: str, prefixes: Collection[str]) -> bool:
    return ".lora_" in name or any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def set_trainable(model: nn.Module, prefixes: Collection[str]) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trainable(name, prefixes))


@dataclass(frozen=True)
class ParameterCount:
    part: str
    total: int
    trainable: int


def count_parameters(model: nn.Module) -> list[ParameterCount]:
    """Parameters by part of the model (first name, the LLM's adapters apart)."""
    totals: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        part = "LoRA" if ".lora_" in name else name.split(".")[0]
        if part == "sam":
            part = ".".join(name.split(".")[:2])
        entry = totals.setdefault(part, [0, 0])
        size = getattr(parameter, "ds_numel", parameter.numel())
        entry[0] += size
        entry[1] += size if parameter.requires_grad else 0
    return [ParameterCount(part, *counts) for part, counts in totals.items()]


def human(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)
