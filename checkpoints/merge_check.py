"""Does a merged model answer as the training run did? Both see one small input; logits and masks are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from groundscore.errors import UserError
from groundscore.scoring.counts import iou
from utils.distributed import choose_device

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
            f"same token {100 * self.tokens:.0f} %, mask IoU {self.iou:.4f}"
        )


def small_sample() -> Sample:
    """A picture of two boxes on noise, asked about twice."""
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
def probe(model, processor, layers: list[int] | None = None) -> Probe:
    """Run the small input; `layers` repeats another probe's choice of layers, so that a near tie changes nothing."""
    batch = Collator(processor)([small_sample()]).to(model.device)
    unrolled, _ = model.read(batch, model.encode_images(batch))
    logits = model.lm_head(unrolled[-1].flatten(0, 1)[batch.label_positions])
    layer = layers[0] if layers and model.system.uses_policy else None
    (answer,) = model.segment(batch, layer)
    return Probe(logits.float().cpu(), answer.mask_logits.float().cpu(), answer.layers)


def compare(one: Probe, other: Probe) -> Comparison:
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
            f"{LOGIT_TOLERANCE[precision]:g} and {MASK_TOLERANCE[precision]:g}. Nothing is "
            "written; --no_check writes it anyway"
        )
    return result
