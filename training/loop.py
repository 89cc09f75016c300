"""The training loop: micro-batches -> optimizer steps -> numbers, and a stop now and then to save and validate."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from checkpoints.runs import Position
from checkpoints.runs.resharding import optimizer_of
from dataloaders.batching.batch import Batch
from groundscore.errors import UserError, message_of
from training.bad_numbers import NumberWatch
from training.memory import peak_memory
from training.progress import Progress, StepMeter
from training.records import Records
from training.stopping import Peers, StopRequest, Watchdog
from utils.distributed import TIMEOUT, World, is_lost_process
from utils.seeding import preserved_random_state


@dataclass(frozen=True)
class Schedule:
    """How long training is, and when it pauses. All counts are optimizer steps unless stated otherwise."""

    epochs: int
    steps_per_epoch: int
    accumulation: int
    batch_size: int
    world_size: int
    eval_interval: int = 0
    save_interval: int = 0

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def samples_per_step(self) -> int:
        """Images of an optimizer step, over all ranks."""
        return self.batch_size * self.accumulation * self.world_size

    @property
    def samples_per_epoch(self) -> int:
        """Images of an epoch, over all ranks."""
        return self.samples_per_step * self.steps_per_epoch

    @property
    def total_samples(self) -> int:
        """Images of the whole training, over all ranks."""
        return self.samples_per_step * self.total_steps

    def position_at(self, step: int) -> Position:
        """The position after `step` optimizer steps."""
        return Position(step=step, samples=step * self.samples_per_step, world_size=self.world_size)

    def pauses_after(self, step: int) -> bool:
        """At the end of an epoch, and every `eval_interval` steps inside one."""
        inside = step % self.steps_per_epoch
        return inside == 0 or (self.eval_interval > 0 and inside % self.eval_interval == 0)

    def saves_after(self, step: int) -> bool:
        """Every `save_interval` steps."""
        return self.save_interval > 0 and step % self.save_interval == 0

    def epoch_of(self, step: int) -> int:
        """The epoch, counted from 0, that step number `step` (from 1) belongs to."""
        return (step - 1) // self.steps_per_epoch


class Saving(Protocol):
    """What saves during training; `keeper.Keeper` is one. All processes make the same calls."""

    is_due: bool
    is_writing: bool

    def save(self, position: Position) -> None:
        """Begin to save."""

    def ends(self, position: Position) -> None:
        """The last step is done."""

    def finish(self) -> None:
        """Wait until what was begun is there."""


def train(
    engine: Any,
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
    saving: Saving | None = None,
    prepare: Callable[[int], None] = lambda step: None,
    stop: StopRequest | None = None,
    skip_nonfinite: int = 0,
    timeout: float = TIMEOUT,
) -> Position:
    """Train from `start` to the end of `schedule`, or until a stop is requested; returns the position reached.

    batches: the micro-batches of this process, from `start` on. progress, records: None except on the main process.
    pause: called where the schedule pauses, with the position; validates.
    saving: called where the schedule saves, where it is due on any process, after the last step, and where `stop` was
        asked for on any process, which ends training. The random generators are restored after these two, so that a run
        resumed from there draws the same numbers as this one.
    prepare: called before every optimizer step with its number, from 1; sets what is on a schedule.
    skip_nonfinite: steps of the run whose numbers may be bad; see `bad_numbers.py`.
    timeout: seconds after which a step that does not move is given up.
    """
    engine.train()
    position, stream = start, iter(batches)
    data_seconds, last_read = 0.0, start.step
    say = progress.message if progress else (lambda text: None)
    watch = NumberWatch(
        engine, optimizer_of(engine), accumulation=schedule.accumulation, world=world, budget=skip_nonfinite,
        skipped=start.skipped, gradients=not engine.fp16_enabled(), say=say,
        before_ending=saving.finish if saving else lambda: None,  # what was begun at an earlier step is whole
    )  # fmt: skip
    if progress:
        progress.start(start.step)
    peers = Peers(world)
    with Watchdog(timeout, peers) as watchdog, _named_failures(watchdog, peers), watch:
        for step in range(start.step + 1, schedule.total_steps + 1):
            watchdog.beat(f"step {step}")
            prepare(step)
            learning_rate = engine.get_lr()[0]
            watch.begin()
            for number in range(1, schedule.accumulation + 1):
                place = f"step {step}, micro-batch {number} of {schedule.accumulation}"
                watchdog.beat(f"{place}, waiting for data")
                asked = time.monotonic()
                batch = _next_batch(stream)
                data_seconds += time.monotonic() - asked
                watchdog.beat(f"{place}, forward and backward")
                watch.expect(batch)
                batch = batch.to(world.device)
                output = engine(batch)
                meter.add(output, batch)
                engine.backward(output.loss)
                watch.take(output)
                if number == schedule.accumulation:
                    watchdog.beat(f"step {step}, optimizer")
                    stopping, due, writing = watch.check(
                        step,
                        stop is not None and stop.asked,
                        saving is not None and saving.is_due,
                        saving is not None and saving.is_writing,
                    )
                    if watch.skipping:
                        meter.clear()
                engine.step()
            watch.after_step(step)
            position = replace(schedule.position_at(step), skipped=watch.skipped)

            pausing = schedule.pauses_after(step)
            if step % print_freq == 0 or pausing or stopping:
                watchdog.beat(f"step {step}, adding up the numbers of all processes")
                means, layers = meter.read(world.sum)
                if progress and records:
                    seconds = progress.advance(step)
                    data_seconds /= step - last_read
                    progress.report(step, means, learning_rate=learning_rate, data_seconds=data_seconds)
                    records.step(
                        step,
                        means,
                        layers,
                        learning_rate=learning_rate,
                        grad_norm=_number(engine.get_global_grad_norm()),
                        seconds=seconds,
                        data_seconds=data_seconds,
                        samples_per_second=schedule.samples_per_step / seconds if seconds else 0.0,
                        memory=peak_memory(world.device),
                    )
                data_seconds, last_read = 0.0, step
            if saving and not writing:
                saving.finish()  # every process has written what was begun at an earlier step
            last = step == schedule.total_steps
            saved = stopping or due or last or schedule.saves_after(step)
            if saving and saved:
                watchdog.rest(f"step {step}, saving")
                with preserved_random_state():
                    saving.ends(position) if last and not stopping else saving.save(position)
                if progress:
                    progress.start(step)
            if stopping:
                break
            if pausing:
                watchdog.rest(f"step {step}, validating")
                with preserved_random_state():
                    pause(position)
                engine.train()
                if progress:
                    progress.start(step)
                if stop is not None and world.any(stop.asked):
                    if saving and not saved:
                        watchdog.rest(f"step {step}, saving")
                        saving.save(position)
                    break
        if saving:
            watchdog.rest(f"step {position.step}, waiting until the checkpoint is written")
            saving.finish()
    return position


def _next_batch(stream: Iterator) -> Batch:
    """The next micro-batch; what a worker process complains about is shown without its traceback."""
    try:
        return next(stream)
    except UserError as error:
        raise UserError(message_of(error)) from error


@contextmanager
def _named_failures(watchdog: Watchdog, peers: Peers) -> Iterator[None]:
    """Turns failures caused by other processes into errors that name the step."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        text, doing = str(error), watchdog.doing
        if text.startswith("DataLoader worker") or not isinstance(error, RuntimeError):
            raise UserError(
                f"{doing}: a process that reads data died ({(text or repr(error)).splitlines()[0]}). Was there too "
                "little memory? Try fewer --workers; with --workers 0 the training process reads, and shows the error "
                "itself"
            ) from error
        if is_lost_process(error):
            stopped = peers.end_stopped()
            raise UserError(
                f"{doing}: another process died or hangs ({text.splitlines()[0]}). "
                + (f"{stopped}; " if stopped else "Its own log shows the reason; ")
                + "the last checkpoint is unchanged"
            ) from error
        raise
    except Exception as error:
        if "loss scale already at minimum" in str(error):
            raise UserError(
                f"{watchdog.doing}: gradients overflow fp16 however little the loss is scaled. Try --precision bf16 or "
                "fp32; the last checkpoint is unchanged"
            ) from error
        raise


def _number(value: float | Tensor | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None  # not so where fp16 overflowed
