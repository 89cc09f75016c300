"""Which parameters are trained.

Always: LoRA adapters (or the whole LLM at `--lora_r 0`), word embeddings and output head, the text projection, SAM's
prompt encoder and mask decoder, and the modules of the system. Only with `--unfreeze`: the CLIP tower, SAM's image
encoder, the projector between CLIP and LLM, and the modules that the system declares as frozen.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.systems import SYSTEMS

if TYPE_CHECKING:
    from torch import nn

# The parts of the skeleton that are frozen unless `--unfreeze` names them: whose they are, and what they are there.
PARTS = {
    "vision_tower": ("backbone", "encoder"),
    "sam_encoder": ("decoder", "encoder"),
    "mm_projector": ("backbone", "projector"),
    "language_model": ("backbone", "llm"),
}
DEFAULT_VISION_SIZE = 224


def unfreezable() -> tuple[str, ...]:
    """Names that `--unfreeze` takes: parts of the skeleton and frozen modules of the systems."""
    return tuple(dict.fromkeys((*PARTS, *(name for system in SYSTEMS.values() for name in system.frozen))))


def trainable_prefixes(
    model: nn.Module, *, lora_r: int, train_mask_decoder: bool, flags: Any = None, unfreeze: Collection[str] = ()
) -> tuple[str, ...]:
    """Returns the prefixes of the names of trained parameters.

    model: the `GroundingModel`; as in the reference, a `resize_vision_tower_size` other than 224 frees its projectors.
    flags: the settings of the training, of which a system may have some. unfreeze: names of `unfreezable`.
    """
    system, of_backbone, of_decoder = model.system, model.backbone.parts, model.decoder.parts
    unfrozen = {name: getattr(model, owner).parts.get(part, ()) for name, (owner, part) in PARTS.items()}
    prefixes = [*of_backbone["head"], *of_backbone["embeddings"], "text_hidden_fcs", *of_decoder["prompt"]]
    prefixes += [*of_decoder["decoder"], *(name for name in model.system_modules if name not in system.frozen)]
    if not train_mask_decoder:
        prefixes = [prefix for prefix in prefixes if prefix not in of_decoder["decoder"]]
    if lora_r == 0:
        prefixes += unfrozen["language_model"]
    if model.config.resize_vision_tower_size != DEFAULT_VISION_SIZE:
        prefixes += unfrozen["mm_projector"]
    if flags is not None:
        prefixes += system.trained(flags)
    for part in unfreeze:
        prefixes += unfrozen.get(part, (part,))
    return tuple(dict.fromkeys(prefixes))


def is_trainable(name: str, prefixes: Collection[str]) -> bool:
    """Whether a parameter is one of LoRA's or lies below one of `prefixes`."""
    return ".lora_" in name or any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def set_trainable(model: nn.Module, prefixes: Collection[str]) -> None:
    """Sets `requires_grad` of all parameters."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trainable(name, prefixes))


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters of a part of the model: all of them, and the trained ones."""

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
    """A number in billions, millions or thousands."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)
