"""The numbers of one optimizer step, summed on the device over micro-batches and read once.

Reading a number from a GPU waits for it; doing that once per optimizer step instead of once per term and micro-batch
keeps the GPU busy. The layout is fixed, so that all processes reduce the same vector whatever their batches held.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "mask_loss", "policy_loss")
POLICY_STATISTICS = ("policy/entropy", "policy/reward", "policy/baseline", "policy/advantage")
LAYERS = "policy/layers"
FAMILY_LOSSES = ("ce_loss", "mask_bce_loss", "mask_dice_loss")


class StepMeter:
    """Means of the scalars over micro-batches and processes, and the sum of the layer counts.

    A scalar that a micro-batch does not have is not counted there.
    families: names of the data's families, for which the losses are also told apart: means over their tokens and
        targets, as "family/<name>/<loss>", and "family/<name>/samples", how many there were.
    """

    def __init__(self, num_layers: int, device: torch.device, families: Sequence[str] = ()):
        self.names = LOSSES + POLICY_STATISTICS
        self.num_layers = num_layers
        self.device = device
        self.families = {name: number for number, name in enumerate(families)}
        self.clear()

    def clear(self) -> None:
        self.counts = [0] * len(self.names)
        self.samples = [0] * len(self.families)
        self.sums = torch.zeros(len(self.names), dtype=torch.float64, device=self.device)
        self.layers = torch.zeros(self.num_layers, dtype=torch.float64, device=self.device)
        # By loss: sums, then counts, of every family.
        shape = (len(FAMILY_LOSSES), 2, len(self.families))
        self.by_family = torch.zeros(shape, dtype=torch.float64, device=self.device)

    def add(self, output, batch) -> None:
        """Take in one micro-batch, a `GroundingOutput` for a `Batch`, without waiting for the device."""
        values = {**output.losses, **output.statistics}
        zero = self.sums.new_zeros(())
        self.sums += torch.stack([values[n].detach().double().reshape(()) if n in values else zero for n in self.names])
        self.counts = [count + (name in values) for count, name in zip(self.counts, self.names, strict=True)]
        if LAYERS in values:
            self.layers += values[LAYERS].detach().double()
        if self.families and output.loss_parts is not None:
            self._add_families(output.loss_parts, batch)

    def _add_families(self, parts, batch) -> None:
        numbers = [self.families[source.partition("/")[0]] for source in batch.sources]
        for number in numbers:
            self.samples[number] += 1
        family_of_image = torch.tensor(numbers).to(self.device, non_blocking=True)
        rows = batch.label_positions // batch.input_ids.shape[1]
        of_tokens = family_of_image[batch.image_index[rows]]
        of_targets = family_of_image[batch.seg_image]
        for sums, values, families in zip(
            self.by_family, (parts.ce, parts.bce, parts.dice), (of_tokens, of_targets, of_targets), strict=True
        ):
            sums[0].index_add_(0, families, values.double())
            sums[1].index_add_(0, families, torch.ones_like(values, dtype=torch.float64))

    def read(self, reduce: Callable[[Tensor], Tensor]) -> tuple[dict[str, float], list[int]]:
        """Means by name, and how often each layer was chosen; `reduce` sums a tensor over processes in place."""
        known = torch.tensor([*self.counts, *self.samples], dtype=torch.float64).to(self.device, non_blocking=True)
        numbers = reduce(torch.cat([self.sums, known, self.layers, self.by_family.flatten()])).tolist()
        self.clear()
        width, families = len(self.names), len(self.families)
        sums, counts = numbers[:width], numbers[width : 2 * width]
        means = {name: value / count for name, value, count in zip(self.names, sums, counts, strict=True) if count}
        samples = numbers[2 * width : 2 * width + families]
        layers = numbers[2 * width + families : 2 * width + families + self.num_layers]
        rest = iter(numbers[2 * width + families + self.num_layers :])
        for loss in FAMILY_LOSSES:
            totals, terms = [next(rest) for _ in range(families)], [next(rest) for _ in range(families)]
            for name, total, count in zip(self.families, totals, terms, strict=True):
                if count:
                    means[f"family/{name}/{loss}"] = total / count
        means |= {f"family/{name}/samples": count for name, count in zip(self.families, samples, strict=True) if count}
        return means, [round(count) for count in layers]
