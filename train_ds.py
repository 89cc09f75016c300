"""Train a grounding model: flags -> model and data -> DeepSpeed -> loop.

    deepspeed train_ds.py --version …        torchrun --standalone --nproc_per_node 2 train_ds.py --version …
    python train_ds.py --version …           (one process; GPU if there is one, otherwise CPU)
    python train_ds.py --recipe 7b_reason_seg_val/uground_llava1.5_ema      python train_ds.py --config FILE.yaml

A run lives in runs/<exp_name>/: ckpt_model/ (latest) and best_ckpt_model/ (by cIoU on the first --val_dataset),
scores.json, metrics.jsonl, tensorboard/, config.yaml (for --config), meta.log (all output) and meta/ (what every launch
ran; see utils.tracking).
Started again with the same flags it goes on where it stopped. --dry_run says before whether it will fit.
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from groundscore.errors import run_main
from training.arguments import given_flags, parse_arguments
from training.config import TrainingConfig
from training.stopping import EndAtOnce, StopRequest, launchers
from utils.processes import ProcessId


def main(argv: Sequence[str]) -> None:
    config = parse_arguments(argv)
    if config.print_flags:
        print(shlex.join(given_flags(config)))
        return
    with EndAtOnce() as at_once:
        launch(config, at_once, launchers())


def launch(config: TrainingConfig, at_once: EndAtOnce, started_by: list[ProcessId]) -> None:
    from training import building
    from training.launch import RunLock, begin_launch
    from utils.distributed import join_world, naming_lost_processes
    from utils.logging import OutputLog
    from utils.seeding import seed_everything, use_deterministic_algorithms

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
    with naming_lost_processes("before the first step or after the last one"):
        if output:
            at_once.at_end.append(output.close)
            at_once.at_end.append(begin_launch(config, output, world).release)
        if config.eval_only:
            evaluate_only(config, precision, world)
        else:
            stopped = train_model(config, precision, world, started_by)
            if stopped and started_by and world.is_main:
                word = f"{stopped}. No process has failed: what the launcher says above is about the signal"
                output.leave_last_word(word, started_by)
        world.close()


def train_model(config: TrainingConfig, precision: str, world, started_by: list[ProcessId]) -> str | None:
    """Train as the flags say; returns a sentence where somebody asked to stop before the end."""
    from checkpoints.runs import BEST, Saver, read_settings, resume
    from checkpoints.runs.scores import open_scores
    from dataloaders.batching.collate import Collator
    from groundscore.annotations.bad_samples import describe_bad_samples
    from model.compiling import compile_encoders
    from training import building
    from training.engine import (
        BUCKET,
        build_optimizer,
        enable_gradient_checkpointing,
        engine_config,
        gate_learning_rate,
        start_engine,
    )
    from training.loop import train
    from training.memory import shared_memory_warning
    from training.preflight import preflight
    from training.progress import StepMeter
    from training.records import Records
    from training.resuming import (
        checkpoint_to_resume,
        describe_changes,
        describe_global_batch,
        describe_run,
        keep_best_apart,
        keep_gate,
    )
    from training.summaries import describe_data, describe_parameters, describe_training
    from training.trainable import count_parameters
    from training.validation import Keeper, new_progress
    from utils.seeding import preserved_random_state, seed_everything

    run_dir = config.run_dir
    schedule = building.schedule_of(config, world)
    checkpoint = None if config.dry_run else checkpoint_to_resume(config, run_dir, world)
    if checkpoint is not None:
        config = keep_gate(config, checkpoint)
    say = print if world.is_main else lambda text: None

    # Data and model; data first, for its errors come sooner
    say(f"\nreading {config.dataset_dir}, then {config.version}")
    validation = None if config.no_eval else building.build_validation(config, world.device)
    mixture = building.build_data(config, schedule)
    model, processor, report = building.build_model(config, precision=precision)
    say(report.whole() if config.debug else report)
    building.add_adapters_and_freeze(model, config)
    collator = Collator(processor, packed=config.pack, max_length=config.model_max_length)
    settings = describe_run(config, model, precision, world)
    changes = describe_changes(checkpoint, read_settings(checkpoint), settings) if checkpoint is not None else []
    for lines in (
        describe_data(mixture, schedule.samples_per_epoch, validation.sizes() if validation else {}),
        describe_parameters(count_parameters(model)),
        describe_training(config, schedule, world, precision),
        changes,
        building.cache_features(model, config),
    ):
        if lines:
            say("\n".join(lines))
    if config.compile:
        compile_encoders(model)
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(model)

    # DeepSpeed
    on_gpu = world.device.type == "cuda"
    policy_lr = gate_learning_rate(model, config.policy_lr)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    engine = start_engine(
        model,
        build_optimizer(model, lr=config.lr, betas=(config.beta1, config.beta2), policy_lr=policy_lr, fused=on_gpu),
        engine_config(
            batch_size=config.batch_size,
            accumulation=config.grad_accumulation_steps,
            world_size=world.size,
            precision=precision,
            zero_stage=config.zero_stage,
            lr=config.lr,
            policy_lr=policy_lr,
            warmup_min_lr=config.warmup_min_lr,
            warmup_num_steps=config.warmup_num_steps,
            total_steps=config.total_steps,
            overlap=on_gpu,
            bucket=min(BUCKET, trainable),
        ),
        world,
    )

    families = [family.name for family in mixture.families]
    meter = StepMeter(model.config.num_layers, world.device, families)
    workers = building.worker_count(config.workers, world.device)
    read_ahead = workers * building.PREFETCHED * building.expected_batch_bytes(config, model.config)
    for line in shared_memory_warning(read_ahead, processes=world.size_of_machine):
        say(line)
    if config.dry_run:
        batches = building.build_batches(mixture, collator, schedule, schedule.position_at(0), world, workers)
        preflight(
            engine,
            processor,
            mixture=mixture,
            collator=collator,
            batches=batches,
            schedule=schedule,
            validation=validation,
            meter=meter,
            precision=precision,
            zero_stage=config.zero_stage,
            workers=workers,
            world=world,
            say=say,
        )
        engine.destroy()
        return None

    # Where to begin. Dropout and the policy draw differently on every process.
    seed_everything(config.seed + world.rank)
    start = schedule.position_at(config.start_epoch * config.steps_per_epoch)
    if checkpoint is not None:
        written = resume(engine, checkpoint, world)
        start = replace(schedule.position_at(written.step), skipped=written.skipped)
        say(f"going on from {checkpoint} at step {start.step} of {schedule.total_steps}")
        if sentence := describe_global_batch(written, schedule):
            say(sentence)
    elif start.step:
        engine.lr_scheduler.step(start.step)

    # Records and the loop
    def prepare(step: int) -> None:
        model.loss_weights.entropy = config.entropy_weight_at(step)

    scores = open_scores(run_dir, checkpoint, world)
    scores.go_back_to(start.step)
    apart = keep_best_apart(run_dir, settings, world) if checkpoint is not None and validation is not None else None
    if apart is not None:
        directory, sentence = apart
        say(sentence)
        scores.forget_best()
        if world.is_main:
            scores.save()
        checkpoint = directory / checkpoint.name if checkpoint.parent == run_dir / BEST else checkpoint
    title = f"{config.model_key} · {Path(config.version).name}"
    progress = new_progress(schedule, world, style=config.print_style, title=title, scores=scores)
    records = Records(run_dir, first_step=start.step) if world.is_main else None
    saver = Saver(engine, world, settings)
    keeper = Keeper(
        saver=saver,
        processor=processor,
        run_dir=run_dir,
        schedule=schedule,
        world=world,
        validation=validation,
        keep=config.keep,
        save_latest=config.save_ckpt or config.no_eval,
        save_seconds=60 * config.save_minutes,
        scores=scores,
        dropped=lambda: collator.dropped,
        say=progress.message if progress else say,
        records=records,
    )
    with StopRequest(keeper.say, started_by) as stop, saver:
        if checkpoint is not None and schedule.pauses_after(start.step) and not scores.has(start.step):
            with preserved_random_state():
                keeper.validate(start, checkpoint)
        position = train(
            engine,
            building.build_batches(mixture, collator, schedule, start, world, workers),
            schedule,
            start,
            world=world,
            meter=meter,
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
    engine.destroy()
    if told := describe_bad_samples(config.bad_samples_file):
        say(f"bad samples: {told}")
    if position.step >= schedule.total_steps:
        say(f"done: {run_dir}")
        return None
    stopped = f"stopped after step {position.step}; the same command goes on from there"
    say(stopped)
    return stopped


def evaluate_only(config: TrainingConfig, precision: str, world) -> None:
    """Score a model without training it: `--version`, or the checkpoint that `--resume` names."""
    from checkpoints.runs.restoring import load_trained
    from checkpoints.runs.scores import Scores
    from groundscore.annotations.bad_samples import describe_bad_samples
    from training import building
    from training.validation import describe_scores

    validation = building.build_validation(config, world.device)
    if config.resume:
        model, processor, settings = load_trained(config.resume, precision=precision)
        report = settings["report"]
    else:
        model, processor, report = building.build_model(config, precision=precision)
    if world.is_main:
        print(report.whole() if config.debug else report)
    results = validation.run(model.eval().to(world.device), processor)
    if world.is_main:
        run_dir = config.log_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        scores = Scores(run_dir)
        scores.add(0, 0, results, validation.selecting)
        scores.save()
        print(describe_scores(results))
        print(f"scores: {scores.path}")
        if told := describe_bad_samples(config.bad_samples_file):
            print(f"bad samples: {told}")


if __name__ == "__main__":
    run_main(main)
