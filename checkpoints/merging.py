"""What `merge_lora_weights.py` merges: a training run with its base, or a consolidated file of the reference.

What was trained is put into the base tensor by tensor while it is written; no model is ever filled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints.adapting import merge_lora
from checkpoints.consolidated import refuse_deepspeed
from checkpoints.loading import PRECISIONS, OpenedModel, load_model, open_model
from checkpoints.runs import is_run, read_settings, resolve_checkpoint, scores_at, trained_weights, verify_checkpoint
from checkpoints.runs.restoring import load_trained, open_base
from checkpoints.streaming import TensorToWrite
from checkpoints.weights import check_names, check_shapes
from groundscore.errors import UserError
from model.settings import LoraSettings
from utils.settings import pick


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


def is_training(weight: str) -> bool:
    """Whether `--weight` names a training of ours, rather than a consolidated file or directory of the reference."""
    refuse_deepspeed(Path(weight))
    return is_run(Path(weight))


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
    # In the precision of training, so that what nobody trains and no file has is drawn as it was then.
    opened = open_base(settings, precision=settings["precision"], base=base, overrides=overrides)
    trained = trained_weights(checkpoint)
    missing = sorted(set(settings["trained"]) - set(trained))
    if missing:
        raise UserError(f"{checkpoint}: {len(missing)} trained tensors are missing: {missing[:8]}")

    def load_unmerged(precision: str) -> tuple:
        return load_trained(checkpoint, precision=precision, base=base, overrides=overrides, merge=False)[:2]

    precision = precision or settings["precision"]
    tensors = merged_tensors(
        opened, trained, alpha=pick(LoraSettings, settings["flags"]).lora_alpha, precision=precision
    )
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


def merged_tensors(
    opened: OpenedModel, trained: Mapping[str, Tensor], *, alpha: float, precision: str
) -> dict[str, TensorToWrite]:
    """All tensors of the merged model, ready to be written.

    opened: the base. trained: what learned, under the names of the model with LoRA; it takes the place of the base's.
    alpha: LoRA's scale times rank. precision: of parameters; buffers such as the running reward stay exact.
    """
    weights, source = opened.weights, str(opened.report.path)
    drawn = opened.model.state_dict()
    for name in opened.report.new:
        weights.put(name, tuple(drawn[name].shape), partial(drawn.__getitem__, name))
    for name, tensor in trained.items():
        weights.put(name, tuple(tensor.shape), partial(trained.__getitem__, name))
    merge_lora(weights, alpha, source)
    check_names(drawn.keys() - weights.keys(), weights.keys() - drawn.keys(), f"what was trained on {source}")
    check_shapes(weights, drawn, f"what was trained on {source}")
    parameters = {name for name, _ in opened.model.named_parameters(remove_duplicate=False)}
    types = {name: _dtype(name in parameters, tensor, precision) for name, tensor in drawn.items()}
    return {name: TensorToWrite(weights.shape(name), types[name], weights.reader(name)) for name in drawn}


def _dtype(is_parameter: bool, tensor: Tensor, precision: str) -> torch.dtype:
    if is_parameter:
        return PRECISIONS[precision]
    return torch.float32 if tensor.is_floating_point() else tensor.dtype
