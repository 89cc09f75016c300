"""From a training checkpoint back to a whole model, for merging and for evaluation."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from checkpoints.runs import load_trained_weights, read_settings, resolve_checkpoint, verify_checkpoint
from model.policy import REFERENCE_GATE
from training.building import add_adapters_and_freeze, build_model
from training.config import TrainingConfig, config_class
from training.lora import merge_lora
from training.scores import scores_at
from utils.plugins import check_plugins, plugin_names


def flags_of(settings: dict[str, Any]) -> TrainingConfig:
    """The flags of the run that wrote a checkpoint."""
    known = {item.name for item in fields(config_class())}
    values = {name: value for name, value in settings["flags"].items() if name in known}
    check_plugins(plugin_names(values.get("plugin", "")), "this run")
    model = settings["model"]
    values |= {"model_key": model["system"], "gate": model.get("gate", REFERENCE_GATE)}
    values["attn_implementation"] = "sdpa"  # takes the packed rows of evaluation, and runs on every machine
    return config_class()(**values, given=frozenset({"model_key"}))


def load_trained(
    path: str | Path,
    *,
    precision: str = "fp32",
    base: dict[str, str] | None = None,
    overrides: dict[str, Any] | None = None,
    merge: bool = True,
):
    """(model, processor, settings) of a training checkpoint, on the CPU; LoRA is merged into the weights.

    The settings also hold the "scores" that the run recorded at this checkpoint, by split, None if it did not, and the
    "report" of what was loaded.
    path: a checkpoint, a directory of checkpoints, or a run (its best, else its latest).
    base: other places for "version", "vision_tower" or "vision_pretrained" than the run recorded.
    overrides: other values of the run's flags that describe the model.
    """
    checkpoint = resolve_checkpoint(Path(path))
    verify_checkpoint(checkpoint)
    settings = read_settings(checkpoint)
    flags = replace(flags_of(settings), **{**settings["base"], **(base or {}), **(overrides or {})})
    model, processor, report = build_model(flags, precision=precision)
    add_adapters_and_freeze(model, flags)
    trained = load_trained_weights(model, checkpoint)
    if merge:
        merge_lora(model)
    report = report.after_training(trained, checkpoint)
    return model.eval(), processor, settings | {"scores": scores_at(checkpoint), "report": report}
