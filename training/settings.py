"""What a run records of itself in every checkpoint, and which checkpoint a run goes on from."""

import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkpoints.runs import (
    BEST,
    LATEST,
    candidates_in,
    checkpoints_in,
    incomplete_in,
    read_settings,
    resolve_checkpoint,
    verify_checkpoint,
)
from groundscore.errors import UserError
from model.policy import REFERENCE_GATE
from training.changed_flags import frozen_digest
from training.config import TrainingConfig
from utils.distributed import World

PACKAGES = ("torch", "transformers", "peft", "deepspeed")
BASE = ("version", "vision_tower", "vision_pretrained", "weight")


def describe_run(config: TrainingConfig, model, precision: str, world: World) -> dict[str, Any]:
    """All that merging and evaluation need to rebuild the model around the trained weights, and to tell runs apart.

    `base` holds absolute paths where the flags named local files; `trained` the names of the stored parameters;
    `frozen` a digest of the others.
    """
    return {
        "flags": config.to_dict(),
        "model": model.config.to_dict(),
        "base": {name: _absolute(getattr(config, name)) for name in BASE},
        "trained": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        "frozen": frozen_digest(model),
        "precision": precision,
        "world_size": world.size,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _absolute(path: str | None) -> str | None:
    """A local path as an absolute one; a hub id stays as it is."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


def checkpoint_to_resume(config: TrainingConfig, run_dir: Path, world: World) -> Path | None:
    """The checkpoint that `--resume` names, or this run's own unless `--no_resume`; None to start afresh.

    Its files are read and compared with what was written. The main process looks, so that all take the same one.
    """
    found, problem = None, None
    if world.is_main:
        try:
            found = _choose_checkpoint(config, run_dir)
        except UserError as error:
            problem = str(error)
    found, problem = world.broadcast((found, problem))
    if problem is not None:
        raise UserError(problem)
    return found


def resumed_from(config: TrainingConfig) -> tuple[str, ...]:
    """The directories of a run that automatic resume takes a checkpoint from, the preferred one first."""
    # The best is also what is left where the latest is not kept; and until there is a best there is the latest.
    if config.resume_from_best:
        return (BEST, LATEST)
    return (LATEST,) if config.save_ckpt else (LATEST, BEST)


def _choose_checkpoint(config: TrainingConfig, run_dir: Path) -> Path | None:
    checkpoint = None
    if config.resume:
        checkpoint = resolve_checkpoint(Path(config.resume))
        try:
            verify_checkpoint(checkpoint)
        except UserError as error:
            raise UserError(f"{error}; name another checkpoint with --resume") from error
    elif config.auto_resume:
        found = (_own_checkpoint(run_dir / name) for name in resumed_from(config))
        checkpoint = next((path for path in found if path is not None), None)
    return checkpoint


def keep_gate(config: TrainingConfig, checkpoint: Path) -> TrainingConfig:
    """The flags with the form of the policy's gate that this run began with.

    Raises `UserError` for a flag that asks for another form: the weights would mean something else.
    """
    gate = read_settings(checkpoint)["model"].get("gate", REFERENCE_GATE)
    if config.gate not in (None, gate):
        raise UserError(f"--gate {config.gate}: {checkpoint} has {gate}; leave the flag out, or pass --no_resume")
    return replace(config, gate=gate)


def _own_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint of a run that is undamaged."""
    for problem in incomplete_in(directory):
        print(f"passed over: {problem}", file=sys.stderr)
    for checkpoint in checkpoints_in(directory):
        try:
            verify_checkpoint(checkpoint)
        except UserError as error:
            print(f"passed over: {error}", file=sys.stderr)
            continue
        return checkpoint
    if candidates_in(directory):
        others = [path for name in (LATEST, BEST) for path in checkpoints_in(directory.with_name(name))]
        other = next((path for path in others if path.parent != directory), None)
        raise UserError(
            f"{directory} holds checkpoints, but none is complete and undamaged; "
            + (f"--resume {other} goes on from there, and " if other else "")
            + "--no_resume starts afresh, which moves this run aside"
        )
    return None
