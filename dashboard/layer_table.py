"""What the Layers tab shows of a whole split: each layer's mean IoU and loss, and how often the policy wants it."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dashboard import markup
from evaluation.layer_analysis import analyse_split
from groundscore.errors import UserError
from groundscore.splits import evaluation_set

COLUMNS = ("layer", "IoU", "loss", "probability")


@dataclass
class LayerTable:
    """Means over a split's targets.

    iou, loss, probability: a value per layer, as in `evaluation.layer_analysis.LayerAnalysis`; greedy: the IoU with the
    layer that the policy finds likeliest; oracle: with each target's best layer.
    """

    split: str
    targets: int
    iou: list[float]
    loss: list[float]
    probability: list[float]
    greedy: float
    oracle: float

    def rows(self) -> list[dict[str, float]]:
        """A row per layer with the fields `COLUMNS`."""
        columns = zip(range(len(self.iou)), self.iou, self.loss, self.probability, strict=True)
        return [dict(zip(COLUMNS, values, strict=True)) for values in columns]

    def write_csv(self, path: Path) -> Path:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows())
        return path


def measure_split(
    model, processor, split: str, dataset_dir: Path, *, limit: int, progress: Callable[[int, int], None]
) -> LayerTable:
    """Every layer's means on a split's first `limit` pictures; progress(done, total) counts pictures."""
    split = split.strip()
    items = evaluation_set(split, dataset_dir)
    found = analyse_split(model, processor, items, batch_size=4, limit=limit, progress=progress)
    targets = len(found.iou)
    if not targets:
        raise UserError(f"{split}: none of these pictures has a target.")
    likeliest = found.probabilities.argmax(1)
    return LayerTable(
        split=split,
        targets=targets,
        iou=found.iou.mean(0).tolist(),
        loss=found.loss.mean(0).tolist(),
        probability=found.probabilities.mean(0).tolist(),
        greedy=float(found.iou[torch.arange(targets), likeliest].mean()),
        oracle=float(found.iou.max(1).values.mean()),
    )


def summary(table: LayerTable) -> str:
    """The split's most telling numbers as HTML."""
    best = max(range(len(table.iou)), key=table.iou.__getitem__)
    least = min(range(len(table.loss)), key=table.loss.__getitem__)
    values = (
        ("IoU, last layer", f"{table.iou[-1]:.3f}"),
        (f"IoU, best layer for all ({best})", f"{table.iou[best]:.3f}"),
        ("IoU, the policy's choice", f"{table.greedy:.3f}"),
        ("IoU, best layer of each target", f"{table.oracle:.3f}"),
        (f"lowest loss (layer {least})", f"{table.loss[least]:.3f}"),
    )
    words = (
        f"Means over {table.targets} targets of {table.split}. Loss: what training would count for the masks of that "
        "layer, weighted BCE and Dice of the mask and, where the checkpoint learns it, of the similarity map."
    )
    return markup.numbers(values) + markup.note(words)
