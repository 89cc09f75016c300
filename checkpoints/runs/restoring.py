"""From a training checkpoint back to a whole model, for inference, merging and validation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoints.loading import OpenedModel, open_model
from checkpoints.processing import GroundingProcessor
from checkpoints.runs.finding import read_settings, resolve_checkpoint, verify_checkpoint
from checkpoints.runs.resuming import load_trained_weights
from checkpoints.runs.scores import scores_at
from model.grounding import GroundingModel
from model.lora import add_lora, merge_lora
from model.policy import REFERENCE_GATE
from model.settings import LoraSettings, model_overrides
from utils.plugins import check_plugins, plugin_names
from utils.settings import pick


def open_base(
    settings: Mapping[str, Any],
    *,
    precision: str,
    base: Mapping[str, str | None] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> OpenedModel:
    """The model that a run started from, with the run's own settings; all but its values.

    settings: see `read_settings`. base, overrides: see `load_trained`.
    """
    flags = settings["flags"]
    check_plugins(plugin_names(flags.get("plugin", "")), "this run")
    paths = {**settings["base"], **(base or {})}
    gate = settings["model"].get("gate", REFERENCE_GATE)
    return open_model(
        paths["version"],
        system=settings["model"]["system"],
        vision_tower=paths["vision_tower"],
        vision_pretrained=paths["vision_pretrained"],
        precision=precision,
        overrides=model_overrides({**flags, "gate": gate, **(overrides or {})}),
        seed=flags.get("seed", 42),
        weight=paths.get("weight"),
        lora_alpha=pick(LoraSettings, flags).lora_alpha,
    )


def load_trained(
    path: str | Path,
    *,
    precision: str = "fp32",
    base: Mapping[str, str | None] | None = None,
    overrides: Mapping[str, Any] | None = None,
    merge: bool = True,
) -> tuple[GroundingModel, GroundingProcessor, dict[str, Any]]:
    """(model, processor, settings) of a training checkpoint, on the CPU; LoRA is merged into the weights.

    The settings also hold the "scores" that the run recorded at this checkpoint, by split, None if it did not, and the
    "report" of what was loaded.
    path: a checkpoint, a directory of checkpoints, or a run (its best, else its latest).
    base: other paths for "version", "vision_tower" or "vision_pretrained" than the run recorded.
    overrides: other values of the run's flags that describe the model.
    """
    checkpoint = resolve_checkpoint(Path(path))
    verify_checkpoint(checkpoint)
    settings = read_settings(checkpoint)
    opened = open_base(settings, precision=precision, base=base, overrides=overrides)
    opened.fill()
    model, lora, trained = opened.model, pick(LoraSettings, settings["flags"]), set(settings["trained"])
    model.backbone.use_attention("sdpa")  # takes packed rows, and runs on every machine
    if lora.lora_r > 0:
        add_lora(model, r=lora.lora_r, alpha=lora.lora_alpha, dropout=lora.lora_dropout, targets=lora.targets)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    loaded = load_trained_weights(model, checkpoint)
    if merge:
        merge_lora(model)
    report = opened.report_after_training(loaded, checkpoint)
    return model.eval(), opened.processor, settings | {"scores": scores_at(checkpoint), "report": report}
