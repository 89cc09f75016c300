"""The one line that says how training goes: step, losses, learning rate, speed and the time that is left."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO


class Progress:
    """Prints one line per report: over itself on a terminal, below each other elsewhere.

    Speed is measured over the latest reports, without the time spent in `paused()` stretches (evaluation, saving).
    """

    MEMORY = 0.9  # of the running mean of seconds per step

    def __init__(
        self,
        *,
        total_steps: int,
        steps_per_epoch: int,
        samples_per_step: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.samples_per_step = samples_per_step
        self.stream = stream or sys.stdout
        self.clock = clock
        self.seconds_per_step: float | None = None
        self.width = 0
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

    def report(self, step: int, losses: Mapping[str, float], learning_rate: float) -> None:
        line = self.line(step, losses, learning_rate)
        if self.stream.isatty():
            self.stream.write("\r" + line.ljust(self.width))
            self.width = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def line(self, step: int, losses: Mapping[str, float], learning_rate: float) -> str:
        epoch = (step - 1) // self.steps_per_epoch + 1
        epochs = -(-self.total_steps // self.steps_per_epoch)
        left = (self.total_steps - step) * (self.seconds_per_step or 0.0)
        terms = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        return (
            f"epoch {epoch}/{epochs}  step {step}/{self.total_steps}  {terms}  lr {learning_rate:.2e}  "
            f"{self.samples_per_second:.1f} samples/s  ETA {duration(left)}"
        )

    def message(self, text: str) -> None:
        """A line of its own that stays."""
        if self.stream.isatty() and self.width:
            self.stream.write("\n")
            self.width = 0
        self.stream.write(text + "\n")
        self.stream.flush()


def duration(seconds: float) -> str:
    """75 -> "1:15", 3725 -> "1:02:05", 90000 -> "1d 1:00:00"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}:{minute:02d}:{second:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
