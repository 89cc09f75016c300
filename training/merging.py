"""What `merge_lora_weights.py` merges: a training run with its base, or a consolidated file of the reference."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from checkpoints import OpenedModel, load_model, merged_tensors, open_model
from checkpoints.consolidated import refuse_deepspeed
from checkpoints.runs import read_settings, resolve_checkpoint, trained_weights, verify_checkpoint
from checkpoints.streaming import TensorToWrite
from groundscore.errors import UserError
from inference.loading import is_training_checkpoint
from training.building import open_base
from training.restoring import flags_of, load_trained
from training.scores import scores_at


@dataclass
class Merge:
    """A merge that has not been written yet.

    opened: the base without its values: configuration, processor, and a model that only knows its shapes.
    tensors: the merged weights, read and computed when they are written.
    precision: of the merged weights.
    base: where the base is: "version", "vision_tower", "vision_pretrained".
    scores: what the run scored at this checkpoint, by split, or None.
    load_unmerged: precision -> (model, processor) as training left them, to compare with; LoRA beside the weights
        where there is a run, computed in memory where there is only a consolidated file.
    """

    opened: OpenedModel
    tensors: dict[str, TensorToWrite]
    precision: str
    base: dict[str, str | None]
    scores: dict[str, Any] | None
    load_unmerged: Callable[[str], tuple]


def is_run(weight: str) -> bool:
    """Whether `--weight` names a training of ours, rather than a consolidated file or directory of the reference."""
    path = Path(weight)
    refuse_deepspeed(path)
    return path.is_dir() and (is_training_checkpoint(path) or any(path.glob("global_step*")))


def merge_of_run(
    path: str, *, precision: str | None, base: dict[str, str], overrides: dict[str, Any] | None = None
) -> Merge:
    """The merge of a checkpoint, a directory of checkpoints, or a run (its best, else its latest).

    precision: of the merged weights, None for that of training. base: other places of the base than recorded.
    overrides: other values of the run's flags that describe the model.
    """
    checkpoint = resolve_checkpoint(Path(path))
    verify_checkpoint(checkpoint)
    settings = read_settings(checkpoint)
    base = {**settings["base"], **base}
    overrides = overrides or {}
    flags = replace(flags_of(settings), **base, **overrides)
    # In the precision of training, so that what nobody trains and no file has is drawn as it was then.
    opened = open_base(flags, precision=settings["precision"])
    trained = trained_weights(checkpoint)
    missing = sorted(set(settings["trained"]) - set(trained))
    if missing:
        raise UserError(f"{checkpoint}: {len(missing)} trained tensors are missing: {missing[:8]}")

    def load_unmerged(precision: str) -> tuple:
        return load_trained(checkpoint, precision=precision, base=base, overrides=overrides, merge=False)[:2]

    precision = precision or settings["precision"]
    tensors = merged_tensors(opened, trained, alpha=flags.lora_alpha, precision=precision)
    opened.report = opened.report.after_training(trained, checkpoint)
    return Merge(opened, tensors, precision, base, scores_at(checkpoint), load_unmerged)


def merge_of_consolidated(
    path: str,
    *,
    precision: str | None,
    base: dict[str, str],
    system: str | None,
    lora_alpha: float,
    overrides: dict[str, Any] | None = None,
) -> Merge:
    """The merge of a consolidated training file (or directory of shards) of the reference, `base["version"]` being what
    it was trained from."""
    source = {"system": system, "weight": path, "lora_alpha": lora_alpha, "overrides": overrides}
    source |= {name: base[name] for name in ("vision_tower", "vision_pretrained") if name in base}

    def load_unmerged(precision: str) -> tuple:
        return load_model(base["version"], precision=precision, **source)[:2]

    opened = open_model(base["version"], **source)
    precision = precision or "bf16"
    tensors = merged_tensors(opened, {}, alpha=lora_alpha, precision=precision)
    return Merge(opened, tensors, precision, base, None, load_unmerged)
