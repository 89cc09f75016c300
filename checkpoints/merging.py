"""What `merge_lora_weights.py` merges, a training run with its base or a consolidated file of the reference, and the
check that the merged model answers as the run did.

What was trained is put into the base tensor by tensor while it is written; no model is ever filled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checkpoints.adapting import merge_lora
from checkpoints.consolidated import refuse_deepspeed
from checkpoints.loading import PRECISIONS, OpenedModel, load_model, open_model
from checkpoints.processing import GroundingProcessor
from checkpoints.runs import is_run, read_settings, resolve_checkpoint, scores_at, trained_weights, verify_checkpoint
from checkpoints.runs.restoring import load_trained, open_base
from checkpoints.vocabulary import tables_of
from checkpoints.weights import check_names, check_shapes
from checkpoints.writing import TensorToWrite
from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from groundscore.errors import UserError
from groundscore.scoring import percent
from groundscore.scoring.counts import iou
from model.backbones.base import ties_embeddings
from model.grounding import GroundingModel
from model.settings import LoraSettings
from utils.distributed import choose_device
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

    precision: of the merged weights, None for that of training. base: other paths of the base than recorded.
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
    opened.report = opened.report_after_training(trained, checkpoint)
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

    opened: the base. trained: the trained tensors, under the names of the model with LoRA; they replace the base's.
    alpha: LoRA's scale times rank. precision: of parameters; buffers such as the running reward stay exact.
    """
    weights, source = opened.weights, str(opened.report.path)
    drawn = opened.model.state_dict()
    for name in opened.report.new:
        weights.put(name, tuple(drawn[name].shape), partial(drawn.__getitem__, name))
    for name, tensor in trained.items():
        weights.put(name, tuple(tensor.shape), partial(trained.__getitem__, name))
    words, head = tables_of(opened.model.config)
    if head not in trained and ties_embeddings(opened.model.config):
        weights.put(head, weights.shape(words), weights.reader(words))
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


# Largest relative difference that rounding explains: of weights to the saved precision, and of sums in another order.
LOGIT_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
# A similarity map is stretched to [0, 1] before SAM sees it, and what is lost in it grows.
MASK_TOLERANCE = {name: 10 * value for name, value in LOGIT_TOLERANCE.items()}


@dataclass(frozen=True)
class Probe:
    """What a model made of the small input.

    logits [K, V]: of the tokens that the answer is made of. masks [m, H, W]: mask logits. layers: what prompted them.
    """

    logits: Tensor
    masks: Tensor
    layers: list[int]


@dataclass(frozen=True)
class Comparison:
    """logits, masks: relative differences, the norm of the difference over the norm. tokens: share of equal choices.
    iou: of the masks, over all of them together."""

    logits: float
    masks: float
    tokens: float
    iou: float

    def __str__(self) -> str:
        return (
            f"logits differ by {self.logits:.1e}, masks by {self.masks:.1e} (relative); "
            f"same token {100 * self.tokens:.0f} %, mask IoU {percent(self.iou)}"
        )


def small_sample() -> Sample:
    """An image of two boxes on noise, asked about twice."""
    image = np.random.default_rng(0).integers(0, 90, (72, 96, 3), dtype=np.uint8)
    masks = np.zeros((2, 72, 96), dtype=np.uint8)
    masks[0, 10:50, 8:40], masks[1, 30:66, 52:90] = 1, 1
    image[masks[0] > 0], image[masks[1] > 0] = (220, 40, 30), (40, 80, 230)
    conversations = [
        (Turn(f"What is the {colour} box in this image? Please output segmentation mask.", "It is [SEG]."),)
        for colour in ("red", "blue")
    ]
    return Sample(
        image_path=Path("boxes"),
        image=image,
        conversations=conversations,
        masks=masks,
        ignore=None,
        family="check",
        dataset="merge",
    )


@torch.no_grad()
def probe(model: GroundingModel, processor: GroundingProcessor, layers: list[int] | None = None) -> Probe:
    """Run the small input; `layers` repeats another probe's choice, so that a near tie changes nothing.

    The first target's layer is taken for both: one that is asked for is asked for all.
    """
    batch = Collator(processor)([small_sample()]).to(model.device)
    unrolled = model.read(batch, model.encode_images(batch))
    logits = model.lm_head(unrolled[-1].flatten(0, 1)[batch.label_positions])
    layer = layers[0] if layers and model.system.uses_policy else None
    (answer,) = model.segment(batch, layer)
    if len(set(answer.layers)) > 1:
        (answer,) = model.segment(batch, answer.layers[0])
    return Probe(logits.float().cpu(), answer.mask_logits.float().cpu(), answer.layers)


def compare(one: Probe, other: Probe) -> Comparison:
    """How much two probes differ, relative to the first."""
    a, b = one.masks > 0, other.masks > 0
    return Comparison(
        logits=_relative(one.logits, other.logits),
        masks=_relative(one.masks, other.masks),
        tokens=(one.logits.argmax(-1) == other.logits.argmax(-1)).float().mean().item(),
        iou=iou(int((a & b).sum()), int((a | b).sum())),
    )


def _relative(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / one.norm().clamp_min(1e-12)).item()


def check_merge(
    load_unmerged: Callable[[str], tuple], load_merged: Callable[[str], tuple], precision: str
) -> Comparison:
    """Compare a run with its merged model, one after the other in memory. Raises `UserError` where they differ.

    load_unmerged, load_merged: precision of arithmetic -> (model, processor). precision: of the saved weights; a CPU
    computes in fp32, since it hardly computes in anything else.
    """
    device = choose_device("auto", 0)
    arithmetic = precision if device.type == "cuda" else "fp32"
    probes: list[Probe] = []
    for load in (load_unmerged, load_merged):
        model, processor = load(arithmetic)
        probes.append(probe(model.eval().to(device), processor, probes[0].layers if probes else None))
        del model
    result = compare(*probes)
    if not (result.logits <= LOGIT_TOLERANCE[precision] and result.masks <= MASK_TOLERANCE[precision]):
        raise UserError(
            f"the merged model does not answer as the run did: {result}; rounding to {precision} explains "
            f"{LOGIT_TOLERANCE[precision]:g} and {MASK_TOLERANCE[precision]:g}. Nothing is kept or "
            "replaced; --no_check writes it anyway"
        )
    return result
