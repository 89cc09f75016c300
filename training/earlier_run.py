"""A launch that starts afresh in the directory of an earlier run moves that run aside, whole: `runs/<exp>.1`."""

import os
from pathlib import Path

from checkpoints.runs import BEST, LATEST, candidates_in
from checkpoints.runs.scores import SCORES
from groundscore.errors import UserError
from training.config import TrainingConfig
from training.settings import resumed_from
from training.tensorboard import METRICS_FILE
from utils.distributed import World

READ = ("version", "vision_tower", "vision_pretrained", "weight", "dataset_dir", "resume", "cache_features")


def move_earlier_run(config: TrainingConfig, world: World) -> None:
    """Rename the directory of a run that this launch would otherwise write over; the main process does, and says so.

    Raises `UserError` on all processes where it cannot be renamed, or holds what this launch reads.
    """
    problem = None
    if world.is_main and _starts_afresh(config):
        try:
            moved = _move_aside(config)
            print(f"starting afresh in {config.run_dir}; the earlier run is kept in {moved}")
        except UserError as error:
            problem = str(error)
    problem = world.broadcast(problem)
    if problem is not None:
        raise UserError(problem)


def _starts_afresh(config: TrainingConfig) -> bool:
    """Whether there is an earlier run that is not gone on from."""
    run_dir = config.run_dir
    if config.eval_only or not run_dir.is_dir():
        return False
    holds = [name for name in (LATEST, BEST) if candidates_in(run_dir / name)]
    if config.resume:
        return bool(holds) and not Path(config.resume).resolve().is_relative_to(run_dir.resolve())
    if not config.auto_resume:
        return bool(holds) or any((run_dir / name).exists() for name in (SCORES, METRICS_FILE))
    # With --save_ckpt the best alone is not gone on from, and a new best would replace it.
    return bool(holds) and not set(holds) & set(resumed_from(config))


def _move_aside(config: TrainingConfig) -> Path:
    """Rename the run to the first free number; the new path."""
    place = config.run_dir.resolve()
    for name in READ:
        path = getattr(config, name)
        if path and Path(path).exists() and Path(path).resolve().is_relative_to(place):
            raise UserError(
                f"--{name} {path} lies in {config.run_dir}, which a fresh start moves aside; take another --exp_name"
            )
    number = 1
    while os.path.lexists(f"{place}.{number}"):
        number += 1
    try:
        os.rename(place, f"{place}.{number}")
    except OSError as error:
        raise UserError(
            f"{config.run_dir} holds an earlier run and cannot be renamed ({error.strerror}); take another --exp_name"
        ) from error
    if config.run_dir.is_symlink():
        place.mkdir()  # or the link would lead nowhere
    return Path(f"{place}.{number}")
