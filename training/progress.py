"""The numbers of an optimizer step: summed on the device over micro-batches, read once, and printed.

Reading a number from a GPU waits for it; doing that once per optimizer step instead of once per term and micro-batch
keeps the GPU busy. The layout is fixed, so that all ranks reduce the same vector whatever their batches held. The
console gets one line per report, or with `--print_style block` a block with every number.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

import torch
from torch import Tensor

from dataloaders.batching.batch import Batch
from groundscore.progress import duration
from groundscore.terminal import wrapped
from model.outputs import GroundingOutput, LossParts

LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "mask_loss", "policy_loss")
POLICY_STATISTICS = ("policy/entropy", "policy/reward", "policy/baseline", "policy/advantage")
LAYERS = "policy/layers"
FAMILY_LOSSES = ("ce_loss", "mask_bce_loss", "mask_dice_loss")
IN_LINE = {"loss": "loss", "ce_loss": "ce", "mask_loss": "mask", "policy/reward": "reward"}
# Of a line that is too long for the terminal these are left out, in this order; they stay in the records.
LESS_IMPORTANT = ("epoch", "speed", "lr", "ce", "mask", "reward", "step")
IN_BLOCK = (
    "loss",
    "ce_loss",
    "mask_loss",
    "mask_bce_loss",
    "mask_dice_loss",
    "policy_loss",
    "policy/entropy",
    "policy/reward",
)
BAR, BESIDE_BAR = 30, 34  # cells, and the characters that stand beside them


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
        """Begin the next sums."""
        self.counts = [0] * len(self.names)
        self.samples = [0] * len(self.families)
        self.sums = torch.zeros(len(self.names), dtype=torch.float64, device=self.device)
        self.layers = torch.zeros(self.num_layers, dtype=torch.float64, device=self.device)
        # By loss: sums, then counts, of every family.
        shape = (len(FAMILY_LOSSES), 2, len(self.families))
        self.by_family = torch.zeros(shape, dtype=torch.float64, device=self.device)

    def add(self, output: GroundingOutput, batch: Batch) -> None:
        """Take in one micro-batch, a `GroundingOutput` for a `Batch`, without waiting for the device."""
        values = {**output.losses, **output.statistics}
        zero = self.sums.new_zeros(())
        self.sums += torch.stack([values[n].detach().double().reshape(()) if n in values else zero for n in self.names])
        self.counts = [count + (name in values) for count, name in zip(self.counts, self.names, strict=True)]
        if LAYERS in values:
            self.layers += values[LAYERS].detach().double()
        if self.families and output.loss_parts is not None:
            self._add_families(output.loss_parts, batch)

    def _add_families(self, parts: LossParts, batch: Batch) -> None:
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


class Progress:
    """Reports steps. Speed is measured over the latest reports, without what happens between a report and `start()`
    (evaluation, saving).

    title: stands above a block. remark: called for the last row of a block, e.g. the best scores; None for no row.
    width: of the terminal, which lines fit; None for a file.
    """

    MEMORY = 0.9  # of the running mean of seconds per step

    def __init__(
        self,
        *,
        total_steps: int,
        steps_per_epoch: int,
        samples_per_step: int,
        style: str = "line",
        title: str = "",
        remark: Callable[[], str | None] = lambda: None,
        width: int | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.samples_per_step = samples_per_step
        self.style = style
        self.title = title
        self.remark = remark
        self.width = width
        self.stream = stream or sys.stdout
        self.clock = clock
        self.seconds_per_step: float | None = None
        self.last_time = clock()
        self.last_step: int | None = None

    def start(self, step: int) -> None:
        """Measure from here: `step` steps are done. Also called after a pause."""
        self.last_time, self.last_step = self.clock(), step

    def advance(self, step: int) -> float:
        """`step` steps are done; returns the mean seconds per step since the last call."""
        assert self.last_step is not None and step > self.last_step, "start() comes first, and steps only grow"
        now = self.clock()
        seconds = (now - self.last_time) / (step - self.last_step)
        if self.seconds_per_step is None:
            self.seconds_per_step = seconds
        else:
            self.seconds_per_step = self.MEMORY * self.seconds_per_step + (1 - self.MEMORY) * seconds
        self.last_time, self.last_step = now, step
        return seconds

    @property
    def samples_per_second(self) -> float:
        """Images per second, over all ranks."""
        return self.samples_per_step / self.seconds_per_step if self.seconds_per_step else 0.0

    @property
    def epochs(self) -> int:
        """Epochs of the training, a begun one included."""
        return -(-self.total_steps // self.steps_per_epoch)

    def report(self, step: int, means: Mapping[str, float], *, learning_rate: float, data_seconds: float = 0.0) -> None:
        """Say how step number `step` went. data_seconds: of a step, spent waiting for data."""
        if self.style == "block":
            self.message("\n".join(self.block(step, means, learning_rate, data_seconds)))
        else:
            self.message(self.line(step, means, learning_rate))

    def line(self, step: int, means: Mapping[str, float], learning_rate: float) -> str:
        """One line about a step."""
        epoch = (step - 1) // self.steps_per_epoch + 1
        pieces = {
            "epoch": f"epoch {_padded(epoch, self.epochs)}",
            "step": f"step {_padded(step, self.total_steps)}",
            **{short: f"{short} {means[name]:7.4f}" for name, short in IN_LINE.items() if name in means},
            "lr": f"lr {learning_rate:.2e}",
            "speed": f"{self.samples_per_second:5.1f} samples/s",
            "left": f"ETA {duration(self.seconds_left(step))}",
        }
        for name in LESS_IMPORTANT if self.width else ():
            if len("  ".join(pieces.values())) > self.width:
                pieces.pop(name, None)
        return "  ".join(pieces.values())

    def block(self, step: int, means: Mapping[str, float], learning_rate: float, data_seconds: float) -> list[str]:
        """Lines with every number of a step."""
        inside = (step - 1) % self.steps_per_epoch + 1
        cells = BAR if self.width is None else max(1, min(BAR, self.width - BESIDE_BAR))
        filled = max(1, cells * inside // self.steps_per_epoch)
        rows = {name.replace("/", " ").replace("_", " "): f"{means[name]:.4f}" for name in IN_BLOCK if name in means}
        rows |= {
            "learning rate": f"{learning_rate:.2e}",
            "time": f"{self.seconds_per_step or 0:.3f} s/step, {data_seconds:.3f} s of it for data",
            "speed": f"{self.samples_per_second:.1f} samples/s",
            "left": f"{duration(self.seconds_left(step))} to step {self.total_steps}",
        }
        remark = self.remark()
        if remark:
            rows["scores"] = remark
        return [
            "",
            self.title,
            "─" * len(self.title),
            f"epoch {_padded((step - 1) // self.steps_per_epoch + 1, self.epochs)}  "
            f"step {_padded(inside, self.steps_per_epoch)}  "
            f"{'█' * filled}{'▒' * (cells - filled)} {100 * inside / self.steps_per_epoch:.1f} %",
            *(f"  {name:<15}: {value}" for name, value in rows.items()),
        ]

    def seconds_left(self, step: int) -> float:
        """Estimated seconds until the last step."""
        return (self.total_steps - step) * (self.seconds_per_step or 0.0)

    def message(self, text: str) -> None:
        """Say something else."""
        self.stream.write(wrapped(text, self.width) + "\n")
        self.stream.flush()


def _padded(number: int, total: int) -> str:
    """7 of 100 -> "  7/100", so that lines below each other align."""
    return f"{number:>{len(str(total))}}/{total}"
