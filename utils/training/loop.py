"""The training loop: micro-batches -> optimizer steps -> numbers, and a stop now and then to save and validate."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from utils.distributed import World
from utils.errors import UserError
from utils.training.checkpoints import Position
from utils.training.metering import StepMeter
from utils.training.progress import Progress
from utils.training.tensorboard import Records

SHOWN = {"loss": "loss", "ce_loss": "ce", "mask_loss": "mask"}


@dataclass(frozen=True)
class Schedule:
    """How long training is, and when it pauses. All counts are optimizer steps unless they say otherwise."""

    epochs: int
    steps_per_epoch: int
    accumulation: int
    batch_size: int
    world_size: int
    eval_interval: int = 0

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def samples_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.world_size

    @property
    def samples_per_epoch(self) -> int:
        return self.samples_per_step * self.steps_per_epoch

    @property
    def total_samples(self) -> int:
        return self.samples_per_step * self.total_steps

    def position_at(self, step: int) -> Position:
        return Position(step=step, samples=step * self.samples_per_step, world_size=self.world_size)

    def pauses_after(self, step: int) -> bool:
        """At the end of an epoch, and every `eval_interval` steps inside one."""
        inside = step % self.steps_per_epoch
        return inside == 0 or (self.eval_interval > 0 and inside % self.eval_interval == 0)

    def epoch_of(self, step: int) -> int:
        """The epoch, counted from 0, that step number `step` (from 1) belongs to."""
        return (step - 1) // self.steps_per_epoch


def train(
    engine,
    batches: Iterable,
    schedule: Schedule,
    start: Position,
    *,
    world: World,
    meter: StepMeter,
    print_freq: int,
    progress: Progress | None,
    records: Records | None,
    pause: Callable[[Position], None],
) -> None:
    """Train from `start` to the end of `schedule`.

    batches: the micro-batches of this process, from `start` on. progress, records: None except on the main process.
    pause: called where the schedule pauses, with the position; saves and validates.
    """
    engine.train()
    stream = iter(batches)
    data_seconds, last_read = 0.0, start.step
    if progress:
        progress.start(start.step)
    for step in range(start.step + 1, schedule.total_steps + 1):
        learning_rate = engine.get_lr()[0]
        for _ in range(schedule.accumulation):
            asked = time.monotonic()
            batch = _next_batch(stream)
            data_seconds += time.monotonic() - asked
            output = engine(batch.to(world.device))
            meter.add(output.losses, output.statistics)
            engine.backward(output.loss)
            engine.step()

        pausing = schedule.pauses_after(step)
        if step % print_freq == 0 or pausing:
            means, layers = meter.read(world.sum)
            _stop_if_not_finite(means, step)
            if progress and records:
                seconds = progress.advance(step)
                progress.report(step, {SHOWN[name]: means[name] for name in SHOWN if name in means}, learning_rate)
                records.step(
                    step,
                    means,
                    layers,
                    learning_rate=learning_rate,
                    grad_norm=_number(engine.get_global_grad_norm()),
                    seconds=seconds,
                    data_seconds=data_seconds / (step - last_read),
                    samples_per_second=schedule.samples_per_step / seconds if seconds else 0.0,
                )
            data_seconds, last_read = 0.0, step
        if pausing:
            pause(schedule.position_at(step))
            engine.train()
            if progress:
                progress.start(step)


def _next_batch(stream: Iterator):
    """The next micro-batch; what a worker process complains about is shown without its traceback."""
    try:
        return next(stream)
    except UserError as error:
        _, found, message = str(error).rpartition("UserError: ")
        raise UserError(message.strip() if found else str(error)) from error


def _stop_if_not_finite(means: dict[str, float], step: int) -> None:
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"step {step}: {', '.join(broken)} is not finite; the last checkpoint is as it was. "
            "Try a smaller --lr, --precision bf16 or fp32, or look at the samples of this step"
        )


def _number(value) -> float | None:
    return None if value is None else float(value)
