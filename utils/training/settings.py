"""What a run records of itself in every checkpoint, and which checkpoint a run goes on from."""

import importlib.metadata
from pathlib import Path
from typing import Any

from utils.arguments import TrainingConfig
from utils.distributed import World
from utils.errors import UserError
from utils.training.checkpoints import BEST, LATEST, find_checkpoint, read_position, resolve_checkpoint

PACKAGES = ("torch", "transformers", "peft", "deepspeed")
BASE = ("version", "vision_tower", "vision_pretrained", "weight")


def describe_run(config: TrainingConfig, model, precision: str, world: World) -> dict[str, Any]:
    """All that merging and evaluation need to rebuild the model around the trained weights, and to tell runs apart.

    `base` holds absolute paths where the flags named local files; `trained` the names of the stored parameters.
    """
    return {
        "flags": config.to_dict(),
        "model": model.config.to_dict(),
        "base": {name: _absolute(getattr(config, name)) for name in BASE},
        "trained": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        "precision": precision,
        "world_size": world.size,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _absolute(path: str | None) -> str | None:
    """A local path as an absolute one; a hub id stays as it is."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


def checkpoint_to_resume(config: TrainingConfig, run_dir: Path, world: World) -> Path | None:
    """The checkpoint that `--resume` names, or this run's own unless `--no_resume`; None to start afresh."""
    checkpoint = resolve_checkpoint(Path(config.resume)) if config.resume else None
    if checkpoint is None and config.auto_resume:
        checkpoint = _own_checkpoint(config, run_dir)
    if checkpoint is not None:
        writers = read_position(checkpoint).world_size
        if writers != world.size:
            raise UserError(
                f"{checkpoint} was written by {writers} processes, and this run has {world.size}: "
                f"start {writers} processes, or pass --no_resume"
            )
    return checkpoint


def _own_checkpoint(config: TrainingConfig, run_dir: Path) -> Path | None:
    directory = run_dir / (BEST if config.resume_from_best else LATEST)
    found = find_checkpoint(directory)
    if found is None and directory.is_dir() and any(directory.glob("global_step*")):
        raise UserError(
            f"{directory} holds checkpoints, but none is complete; remove it, or pass --no_resume to start afresh"
        )
    return found
