"""Train a grounding model: flags -> model and data -> DeepSpeed -> loop.

    deepspeed train_ds.py --version …        torchrun --standalone --nproc_per_node 2 train_ds.py --version …
    python train_ds.py --version …           (one process; GPU if there is one, otherwise CPU)

A run lives in runs/<exp_name>/: ckpt_model/ (latest) and best_ckpt_model/ (by cIoU on the first --val_dataset),
scores.json, metrics.jsonl, tensorboard/. Started again with the same flags it goes on where it stopped.
"""

from collections.abc import Sequence
from pathlib import Path

from utils.arguments import TrainingConfig, parse_arguments
from utils.errors import run_main


def main(argv: Sequence[str]) -> None:
    config = parse_arguments(argv)

    from utils.distributed import join_world
    from utils.seeding import seed_everything
    from utils.training import building

    building.check_paths(config)
    world = join_world(config.device, config.local_rank)
    precision = building.choose_precision(config.precision, world.device)
    seed_everything(config.seed)

    if config.eval_only:
        evaluate_only(config, precision, world)
    else:
        train_model(config, precision, world)
    world.close()


def train_model(config: TrainingConfig, precision: str, world) -> None:
    from dataloaders.collate import Collator
    from utils.seeding import seed_everything
    from utils.training import building
    from utils.training.checkpoints import Scores, resume
    from utils.training.engine import build_optimizer, enable_gradient_checkpointing, engine_config, start_engine
    from utils.training.loop import train
    from utils.training.metering import StepMeter
    from utils.training.settings import checkpoint_to_resume, describe_run
    from utils.training.tensorboard import Records
    from utils.training.trainable import count_parameters, describe_parameters
    from utils.training.validation import Keeper, new_progress

    run_dir = Path(config.log_base_dir) / config.run_name
    schedule = building.schedule_of(config, world)
    checkpoint = checkpoint_to_resume(config, run_dir, world)
    say = print if world.is_main else lambda text: None

    # Data and model; data first, for its errors come sooner
    validation = None if config.no_eval else building.build_validation(config)
    mixture = building.build_data(config, schedule)
    model, processor = building.build_model(config, precision=precision)
    building.add_adapters_and_freeze(model, config)
    collator = Collator(processor, packed=config.pack, max_length=config.model_max_length)
    say(describe_parameters(count_parameters(model)))
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(model)

    # DeepSpeed
    model.to(world.device)
    engine = start_engine(
        model,
        build_optimizer(model, lr=config.lr, betas=(config.beta1, config.beta2)),
        engine_config(
            batch_size=config.batch_size,
            accumulation=config.grad_accumulation_steps,
            world_size=world.size,
            precision=precision,
            zero_stage=config.zero_stage,
            lr=config.lr,
            warmup_min_lr=config.warmup_min_lr,
            warmup_num_steps=config.warmup_num_steps,
            total_steps=config.total_steps,
            overlap=world.device.type == "cuda",
        ),
        world,
    )

    # Where to begin. Dropout and the policy draw differently on every process.
    seed_everything(config.seed + world.rank)
    start = schedule.position_at(config.start_epoch * config.steps_per_epoch)
    if checkpoint is not None:
        start = resume(engine, checkpoint, world)
        say(f"going on from {checkpoint} at step {start.step} of {schedule.total_steps}")
    elif start.step:
        engine.lr_scheduler.step(start.step)

    # Records and the loop
    progress = new_progress(schedule, world)
    records = Records(run_dir, first_step=start.step) if world.is_main else None
    scores = Scores(run_dir)
    scores.go_back_to(start.step)
    keeper = Keeper(
        engine=engine,
        processor=processor,
        run_dir=run_dir,
        schedule=schedule,
        world=world,
        validation=validation,
        settings=describe_run(config, model, precision, world),
        keep=config.keep,
        save_latest=config.save_ckpt or config.no_eval,
        scores=scores,
        dropped=lambda: collator.dropped,
        say=progress.message if progress else say,
        records=records,
    )
    if checkpoint is not None and validation and not scores.has(start.step):
        keeper.validate(start, checkpoint)
    train(
        engine,
        building.build_batches(
            mixture, collator, schedule, start, world, building.worker_count(config.workers, world.device)
        ),
        schedule,
        start,
        world=world,
        meter=StepMeter(model.config.num_layers, world.device),
        print_freq=config.print_freq,
        progress=progress,
        records=records,
        pause=keeper.pause,
    )
    if records:
        records.close()
    say(f"done: {run_dir}")


def evaluate_only(config: TrainingConfig, precision: str, world) -> None:
    """Score a model without training it: `--version`, or the checkpoint that `--resume` names."""
    from utils.training import building
    from utils.training.checkpoints import Scores
    from utils.training.restoring import load_trained
    from utils.training.validation import describe_scores

    validation = building.build_validation(config)
    if config.resume:
        model, processor, _ = load_trained(config.resume, precision=precision)
    else:
        model, processor = building.build_model(config, precision=precision)
    results = validation.run(model.eval().to(world.device), processor)
    if world.is_main:
        run_dir = Path(config.log_base_dir) / config.run_name / "eval"
        run_dir.mkdir(parents=True, exist_ok=True)
        scores = Scores(run_dir)
        scores.add(0, 0, results, validation.selecting)
        scores.save()
        print(describe_scores(results))
        print(f"scores: {scores.path}")


if __name__ == "__main__":
    run_main(main)
