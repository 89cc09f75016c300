"""The numbers of one optimizer step, summed on the device over micro-batches and read once.

Reading a number from a GPU waits for it; doing that once per optimizer step instead of once per term and micro-batch
keeps the GPU busy. The layout is fixed, so that all processes reduce the same vector whatever their batches held.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "mask_loss", "policy_loss")
POLICY_STATISTICS = ("policy/entropy", "policy/reward", "policy/baseline", "policy/advantage")
LAYERS = "policy/layers"


class StepMeter:
    """Means of the scalars over micro-batches and processes, and the sum of the layer counts.

    A scalar that a micro-batch does not have is not counted there.
    """

    def __init__(self, num_layers: int, device: torch.device):
        self.names = LOSSES + POLICY_STATISTICS
        self.num_layers = num_layers
        self.device = device
        self.clear()

    def clear(self) -> None:
        self.rows: list[Tensor] = []
        self.layers: list[Tensor] = []

    def add(self, losses: dict[str, Tensor], statistics: dict[str, Tensor]) -> None:
        """Take in one micro-batch without waiting for the device."""
        values = {**losses, **statistics}
        present = [name for name in self.names if name in values]
        row = torch.zeros(2, len(self.names), device=self.device, dtype=torch.float64)
        if present:
            places = [self.names.index(name) for name in present]
            row[0, places] = torch.stack([values[name].detach().double().reshape(()) for name in present])
            row[1, places] = 1.0
        self.rows.append(row)
        if LAYERS in values:
            self.layers.append(values[LAYERS].detach().double())

    def read(self, reduce: Callable[[Tensor], Tensor]) -> tuple[dict[str, float], list[int]]:
        """Means by name, and how often each layer was chosen; `reduce` sums a tensor over processes in place."""
        sums = torch.stack(self.rows).sum(dim=0).flatten()
        layers = torch.stack(self.layers).sum(dim=0) if self.layers else sums.new_zeros(self.num_layers)
        numbers = reduce(torch.cat([sums, layers])).tolist()
        self.clear()
        width = len(self.names)
        totals, counts = numbers[:width], numbers[width : 2 * width]
        means = {
            name: total / count for name, total, count in zip(self.names, totals, counts, strict=True) if count > 0
        }
        return means, [round(count) for count in numbers[2 * width :]]
