"""`train_ds.py --dry_run`: will this run fit, and how long will it take?

The largest of some drawn batches goes through forward, backward and an optimizer step, then a few ordinary steps and
some validation images are timed. Nothing is written.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from checkpoints.processing import GroundingProcessor
from checkpoints.runs import Position
from dataloaders.batching.batch import Batch
from dataloaders.batching.collate import Collator
from dataloaders.mixture import Mixture
from groundscore.errors import UserError
from groundscore.progress import duration
from model.grounding import GroundingModel
from training.building import Built, Launch
from training.data import PREFETCHED
from training.engine import BUCKET, whole_weights
from training.loop import Schedule, train
from training.memory import (
    GIB,
    MIB,
    MemoryEstimate,
    batch_bytes,
    device_memory,
    estimate_memory,
    peak_memory,
    shared_memory_warning,
    tensor_memory,
)
from training.summaries import heading, pairs, table
from training.trainable import count_parameters
from training.validation import Validation
from utils.distributed import World

DRAWN = 64  # samples among which the largest are looked for
TIMED_STEPS = 3  # after one that warms up
VALIDATED = 8  # images per process and split

Pause = Callable[[Position], None]
Run = Callable[[Iterable[Batch], Schedule, Pause], None]  # the training loop


@dataclass(frozen=True)
class LargestBatch:
    """The micro-batch that needs most memory among `drawn` samples; `tokens` is the length of its rows."""

    batch: Batch
    drawn: int
    rows: int
    tokens: int
    targets: int
    pixels: int


def find_largest_batch(mixture: Mixture, collator: Collator, batch_size: int, *, drawn: int = DRAWN) -> LargestBatch:
    """Draw samples as training does and put the most expensive together.

    What a sample costs is its tokens (the LLM) and the pixels of its masks (mask decoder and losses), each relative to
    the most that was drawn.
    """
    drawn = max(drawn, batch_size)
    samples = [mixture[0, item % len(mixture)] for item in range(drawn)]
    alone = [collator([sample]) for sample in samples]
    tokens = [batch.input_ids.numel() for batch in alone]
    pixels = [sum(mask.numel() for mask in batch.masks) for batch in alone]
    costs = [t / max(tokens) + p / max(*pixels, 1) for t, p in zip(tokens, pixels, strict=True)]
    largest = sorted(range(drawn), key=lambda number: -costs[number])[:batch_size]
    batch = collator([samples[number] for number in largest])
    return LargestBatch(
        batch=batch,
        drawn=drawn,
        rows=batch.input_ids.shape[0],
        tokens=batch.input_ids.shape[1],
        targets=len(batch.seg_positions),
        pixels=max(pixels),
    )


def run_largest_batch(largest: LargestBatch, schedule: Schedule, run: Run) -> None:
    """A whole optimizer step of it."""
    run(itertools.repeat(largest.batch), replace(schedule, epochs=1, steps_per_epoch=1, eval_interval=0), _nothing)


def time_steps(batches: Iterable[Batch], schedule: Schedule, run: Run) -> float:
    """Seconds per optimizer step, data included, of ordinary batches after a first step, where there are more."""
    moments = [time.monotonic()]
    short = replace(schedule, epochs=1, steps_per_epoch=min(1 + TIMED_STEPS, schedule.total_steps), eval_interval=1)
    run(batches, short, lambda position: moments.append(time.monotonic()))
    timed = moments[1:] if len(moments) > 2 else moments
    return (timed[-1] - timed[0]) / (len(timed) - 1)


def time_validation(
    validation: Validation, model: GroundingModel, processor: GroundingProcessor, world: World
) -> float:
    """Seconds that scoring all splits will take, from a few images of each."""
    total = 0.0
    for split, images in validation.sizes().items():
        some = min(VALIDATED * world.size, images)
        started = time.monotonic()
        validation.score(split, model, processor, limit=some)
        total += (time.monotonic() - started) * images / some
    return total


def describe_memory(
    estimate: MemoryEstimate, *, held: int, peak: int, device: torch.device, read_ahead: int
) -> list[str]:
    """Estimated and measured bytes of one process. held: of tensors after an optimizer step; peak: during it, of
    tensors on a GPU and of the whole process on a CPU; read_ahead: of the batches that its workers keep ready."""
    unit, name = (GIB, "GiB") if max(peak, estimate.peak()) >= GIB else (MIB, "MiB")

    def shown(count: int) -> str:
        return f"{count / unit:,.2f}"

    def parts(**counts: int) -> list[tuple[str, str, str]]:
        return [(part.replace("_", " "), shown(count), "") for part, count in counts.items() if count]

    rows = parts(weights=estimate.weights, float32_copy=estimate.float32_copy, moments_of_Adam=estimate.adam_moments)
    gradients = parts(
        gradients=estimate.gradients,
        gradients_of_one_micro_batch=estimate.new_gradients,
        buffers_of_ZeRO=estimate.buckets,
    )
    between = ("between steps", shown(estimate.between_steps), shown(held))
    rows += [*gradients, between] if estimate.gradients_stay else [between, *gradients]
    rows.append(("backward pass, without activations", shown(estimate.backward), ""))
    rows += parts(gradients_in_float32_at_the_step=estimate.float32_gradients)
    rows.append(("optimizer step", shown(estimate.step), ""))
    if device.type == "cuda":
        rows.append(("activations", "", shown(max(peak - estimate.backward, 0))))
    else:
        rows.append(("these, activations and Python", "", shown(peak - held)))
    rows.append((f"peak, of {device_memory(device) / unit:,.0f}", f"at least {shown(estimate.peak())}", shown(peak)))
    title = f"Memory of a process ({device.type}), {name}"
    lines = [*heading(title), *table(("", "estimated", "measured"), rows, totals=1)]
    return [*lines, f"  and {read_ahead / unit:,.2f} {name} of shared memory for what its workers read ahead"]


def describe_time(
    schedule: Schedule, seconds_per_step: float, validation_seconds: float | None, *, now: float | None = None
) -> list[str]:
    """How long the run takes; validation_seconds: of one validation, None without."""
    pauses = sum(schedule.pauses_after(step) for step in range(1, schedule.total_steps + 1))
    steps = schedule.total_steps * seconds_per_step
    values = {
        "speed": f"{schedule.samples_per_step / seconds_per_step:.1f} samples/s, {seconds_per_step:.2f} s/step",
        "training": f"{schedule.total_steps:,} steps in {duration(steps)}",
    }
    whole = steps
    if validation_seconds is not None:
        values["validation"] = f"{pauses} times {duration(validation_seconds)}"
        whole += pauses * validation_seconds
    end = time.strftime("%Y-%m-%d %H:%M", time.localtime((time.time() if now is None else now) + whole))
    values["in all"] = f"{duration(whole)}; started now, it ends {end}, without the time that saving takes"
    return [*heading("Time"), *pairs(values)]


def describe_batch(largest: LargestBatch) -> list[str]:
    """Lines about the largest batch: how it was found, its size, its samples."""
    values = {
        "found among": f"{largest.drawn} drawn samples",
        "size": f"{len(largest.batch.masks)} images, {largest.rows} rows of {largest.tokens:,} tokens, "
        f"{largest.targets} targets",
    }
    lines = [*heading("Largest batch"), *pairs(values)]
    return lines + [f"  {source}" for source in largest.batch.sources]


def _nothing(position: Position) -> None:
    """Pauses of a dry run leave nothing behind."""


def preflight(launch: Launch, built: Built) -> None:
    """Try everything out and print what memory and time it takes; all ranks take part."""
    world, say, engine, schedule = launch.world, launch.say, built.engine, built.schedule
    on_gpu = world.device.type == "cuda"

    def run(batches: Iterable[Batch], schedule: Schedule, pause: Pause) -> None:
        start, never = schedule.position_at(0), schedule.total_steps
        end = train(
            engine, batches, schedule, start,
            world=world, meter=built.meter, print_freq=never, progress=None, records=None, pause=pause,
        )  # fmt: skip
        if end.step < schedule.total_steps:
            raise UserError("dry run: stopped before its end, as requested")

    largest = find_largest_batch(built.mixture, built.collator, schedule.batch_size)
    say("\n".join(describe_batch(largest)))
    counts = count_parameters(engine.module)
    trainable = sum(count.trainable for count in counts)
    estimate = estimate_memory(
        total=sum(count.total for count in counts),
        trainable=trainable,
        precision=launch.precision,
        zero_stage=launch.config.zero_stage,
        world_size=world.size,
        accumulation=schedule.accumulation,
        bucket=min(BUCKET, trainable),
        overlap=on_gpu,
    )
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(world.device)
    try:
        run_largest_batch(largest, schedule, run)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the largest batch does not fit into {device_memory(world.device) / GIB:.1f} GiB: between steps alone "
            f"{estimate.between_steps / GIB:.1f} GiB are needed, and {estimate.peak() / GIB:.1f} during a step. Lower "
            "--batch_size (and raise --grad_accumulation_steps), --num_classes_per_sample or --model_max_length, or "
            "share more with --zero_stage and more processes"
        ) from error
    held, peak = tensor_memory(world.device), peak_memory(world.device)
    read_ahead = built.workers * PREFETCHED * batch_bytes(largest.batch)
    say("\n".join(describe_memory(estimate, held=held, peak=peak, device=world.device, read_ahead=read_ahead)))
    for line in shared_memory_warning(read_ahead, processes=world.size_of_machine):
        say(line)
    seconds = time_steps(built.batches_from(schedule.position_at(0), world), schedule, run)
    validation_seconds = None
    if built.validation:
        with whole_weights(engine):
            validation_seconds = time_validation(built.validation, engine.module, built.processor, world)
    say("\n".join(describe_time(schedule, seconds, validation_seconds)))
    say("\ndry run: nothing was written")
    engine.destroy()
