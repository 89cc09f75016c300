"""One launch of `train_ds.py`: how it begins, then training from the first step to the last, or evaluation alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from checkpoints.runs import BEST, Position, Saver, Scores, open_scores, resume
from checkpoints.runs.restoring import load_trained
from groundscore.annotations.bad_entries import describe_bad_samples
from groundscore.terminal import terminal_width, wrapped
from training import building
from training.building import Built, Launch
from training.config import TrainingConfig
from training.keeper import Keeper, describe_scores, new_progress
from training.launch import RunLock, begin_launch
from training.loop import train
from training.records import Records
from training.resuming import describe_global_batch, keep_best_apart
from training.stopping import EndAtOnce, StopRequest
from utils.distributed import join_world, naming_lost_processes
from utils.logging import OutputLog
from utils.processes import ProcessId
from utils.seeding import preserved_random_state, seed_everything, use_deterministic_algorithms
from utils.trackers import TrackedRun, Trackers, tracker_names


@contextmanager
def begun(config: TrainingConfig, at_once: EndAtOnce) -> Iterator[Launch]:
    """Check paths and names of data, lock the run, open its log, join the other processes and seed; inside the block a
    launch runs. A mistake that is found before the lock leaves nothing on disk."""
    building.check_paths(config)
    if not config.dry_run:
        RunLock(config.log_dir).refuse_second_launch()
    if config.deterministic:
        use_deterministic_algorithms()
    output = None if config.dry_run else OutputLog()
    world = join_world(config.device, config.local_rank, timeout=config.collective_timeout)
    precision = building.choose_precision(config.precision, world.device)
    building.check_flash_attention(config, world.device, precision)
    seed_everything(config.seed)
    building.check_data_sets(config)
    validation = None if config.no_eval else building.build_validation(config, world.device)
    width = output.width if output else terminal_width()

    def say(text: str) -> None:
        if world.is_main:
            print(wrapped(text, width))

    with naming_lost_processes("before the first step or after the last one"):
        if output:
            at_once.at_end.append(output.close)
            at_once.at_end.append(begin_launch(config, output, world).release)
        yield Launch(config, world, precision, output, say, validation, width)
        world.close()


def _records(config: TrainingConfig, first_step: int) -> Records:
    run = TrackedRun(
        config.run_dir,
        name=config.run_name,
        project=config.tracker_project,
        settings=config.to_dict(),
        first_step=first_step,
        online=config.tracker_online,
    )
    trackers = Trackers(tracker_names(config.tracker), run)
    return Records(config.run_dir, first_step=first_step, trackers=trackers)


def train_to_end(launch: Launch, built: Built, launchers: Sequence[ProcessId]) -> None:
    """Train, save and validate until the schedule ends or a stop is requested.

    launchers: the processes whose end asks for it as well.
    """
    config, world, say, schedule = launch.config, launch.world, launch.say, built.schedule
    model = built.engine.module
    start = _start(launch, built)
    scores, checkpoint = _scores(launch, built, start)
    title = f"{config.model_key} · {Path(config.version).name}"
    progress = new_progress(schedule, world, style=config.print_style, title=title, scores=scores, width=launch.width)
    records = _records(config, start.step) if world.is_main else None
    saver = Saver(built.engine, world, built.settings)
    keeper = Keeper(
        saver=saver,
        processor=built.processor,
        run_dir=config.run_dir,
        schedule=schedule,
        world=world,
        validation=built.validation,
        keep=config.keep,
        save_latest=config.save_ckpt or config.no_eval,
        save_seconds=60 * config.save_minutes,
        scores=scores,
        dropped=lambda: built.collator.dropped,
        say=progress.message if progress else say,
        records=records,
    )

    def prepare(step: int) -> None:
        model.loss_weights.entropy = config.entropy_weight_at(step)

    with StopRequest(keeper.say, launchers) as stop, saver:
        if checkpoint is not None and schedule.pauses_after(start.step) and not scores.has(start.step):
            with preserved_random_state():
                keeper.validate(start, checkpoint)
        position = train(
            built.engine,
            built.batches_from(start, world),
            schedule,
            start,
            world=world,
            meter=built.meter,
            print_freq=config.print_freq,
            progress=progress,
            records=records,
            pause=keeper.pause,
            saving=keeper,
            prepare=prepare,
            stop=stop,
            skip_nonfinite=config.skip_nonfinite,
            timeout=config.collective_timeout,
        )
    if records:
        records.close()
    built.engine.destroy()
    _say_bad_samples(launch)
    if position.step >= schedule.total_steps:
        say(f"done: {config.run_dir}")
        return
    stopped = f"stopped after step {position.step}; the same command resumes from there"
    say(stopped)
    if launchers and world.is_main:
        word = f"{stopped}. No process has failed: what the launcher says above is about the signal"
        launch.output.leave_last_word(word, launchers)


def _start(launch: Launch, built: Built) -> Position:
    """Where training begins; the engine is brought there."""
    config, schedule, checkpoint = launch.config, built.schedule, built.checkpoint
    seed_everything(config.seed + launch.world.rank)  # dropout and the policy draw differently on every rank
    start = schedule.position_at(config.start_epoch * config.steps_per_epoch)
    if checkpoint is not None:
        written = resume(built.engine, checkpoint, launch.world)
        start = replace(schedule.position_at(written.step), skipped=written.skipped)
        launch.say(f"resuming {checkpoint} at step {start.step} of {schedule.total_steps}")
        if sentence := describe_global_batch(written, schedule):
            launch.say(sentence)
    elif start.step:
        built.engine.lr_scheduler.step(start.step)
    return start


def _scores(launch: Launch, built: Built, start: Position) -> tuple[Scores, Path | None]:
    """The scores up to `start`, and where the resumed checkpoint is now: an earlier best may have been set apart."""
    run_dir, world, checkpoint = launch.config.run_dir, launch.world, built.checkpoint
    scores = open_scores(run_dir, checkpoint, world)
    scores.go_back_to(start.step)
    if checkpoint is None or built.validation is None:
        return scores, checkpoint
    apart = keep_best_apart(run_dir, built.settings, world)
    if apart is None:
        return scores, checkpoint
    directory, sentence = apart
    launch.say(sentence)
    scores.forget_best()
    if world.is_main:
        scores.save()
    return scores, directory / checkpoint.name if checkpoint.parent == run_dir / BEST else checkpoint


def evaluate_only(launch: Launch) -> None:
    """Score a model without training it: `--version`, or the checkpoint that `--resume` names."""
    config, world, say = launch.config, launch.world, launch.say
    if config.resume:
        model, processor, settings = load_trained(config.resume, precision=launch.precision)
        report = settings["report"]
    else:
        model, processor, report = building.build_model(config, precision=launch.precision)
    say(report.whole() if config.debug else str(report))
    results = launch.validation.run(model.eval().to(world.device), processor)
    if world.is_main:
        config.log_dir.mkdir(parents=True, exist_ok=True)
        scores = Scores(config.log_dir)
        scores.add(0, 0, results, launch.validation.selecting)
        scores.save()
        say(describe_scores(results))
        say(f"scores: {scores.path}")
        _say_bad_samples(launch)


def _say_bad_samples(launch: Launch) -> None:
    if told := describe_bad_samples(launch.config.bad_samples_file):
        launch.say(f"bad samples: {told}")
