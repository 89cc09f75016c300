"""What the console says of a step: where training stands, its losses, its speed and the time that is left.

One line per report, or with `--print_style block` a block with every number.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

STYLES = ("line", "block")
IN_LINE = {"loss": "loss", "ce_loss": "ce", "mask_loss": "mask", "policy/reward": "reward"}
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
BAR = 30  # cells


class Progress:
    """Reports steps. Speed is measured over the latest reports, without what happens between a report and `start()`
    (evaluation, saving).

    title: stands above a block. remark: called for the last row of a block, e.g. the best scores; None for no row.
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
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.samples_per_step = samples_per_step
        self.style = style
        self.title = title
        self.remark = remark
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
        return self.samples_per_step / self.seconds_per_step if self.seconds_per_step else 0.0

    @property
    def epochs(self) -> int:
        return -(-self.total_steps // self.steps_per_epoch)

    def report(self, step: int, means: Mapping[str, float], *, learning_rate: float, data_seconds: float = 0.0) -> None:
        """Say how step number `step` went. data_seconds: of a step, spent waiting for data."""
        if self.style == "block":
            self.message("\n".join(self.block(step, means, learning_rate, data_seconds)))
        else:
            self.message(self.line(step, means, learning_rate))

    def line(self, step: int, means: Mapping[str, float], learning_rate: float) -> str:
        epoch = (step - 1) // self.steps_per_epoch + 1
        terms = "  ".join(f"{short} {means[name]:7.4f}" for name, short in IN_LINE.items() if name in means)
        return (
            f"epoch {_padded(epoch, self.epochs)}  step {_padded(step, self.total_steps)}  {terms}  "
            f"lr {learning_rate:.2e}  {self.samples_per_second:5.1f} samples/s  ETA {duration(self.seconds_left(step))}"
        )

    def block(self, step: int, means: Mapping[str, float], learning_rate: float, data_seconds: float) -> list[str]:
        inside = (step - 1) % self.steps_per_epoch + 1
        filled = max(1, BAR * inside // self.steps_per_epoch)
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
            f"{'█' * filled}{'▒' * (BAR - filled)} {100 * inside / self.steps_per_epoch:.1f} %",
            *(f"  {name:<15}: {value}" for name, value in rows.items()),
        ]

    def seconds_left(self, step: int) -> float:
        return (self.total_steps - step) * (self.seconds_per_step or 0.0)

    def message(self, text: str) -> None:
        """Say something else."""
        self.stream.write(text + "\n")
        self.stream.flush()


def _padded(number: int, total: int) -> str:
    """7 of 100 -> "  7/100", so that lines below each other align."""
    return f"{number:>{len(str(total))}}/{total}"


def duration(seconds: float) -> str:
    """75 -> "1:15", 3725 -> "1:02:05", 90000 -> "1d 1:00:00"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}:{minute:02d}:{second:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
