"""What a run records of itself in every checkpoint, which checkpoint it resumes, and which flags changed since.

A setting's declaration says what another value means (`on_resume`, see `utils/settings.py`).
"""

import hashlib
import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from checkpoints.runs import (
    BEST,
    LATEST,
    Position,
    candidates_in,
    checkpoints_in,
    find_checkpoint,
    incomplete_in,
    read_settings,
    resolve_checkpoint,
    verify_checkpoint,
)
from checkpoints.runs.finding import move_aside
from groundscore.errors import UserError, shown
from model.grounding import GroundingModel
from model.policy import REFERENCE_GATE
from model.settings import model_settings, settings_of_system
from model.systems import SYSTEMS
from training.config import TrainingConfig, config_class
from training.loop import Schedule
from training.settings import split_list
from training.summaries import heading
from utils.distributed import World
from utils.plugins import check_plugins, plugin_names
from utils.settings import FIXED, RANKING, REPORTED, settings_of

PACKAGES = ("torch", "transformers", "peft", "deepspeed")
BASE = ("version", "vision_tower", "vision_pretrained", "weight")
SAMPLED = 64  # values of a frozen parameter that its digest looks at


def describe_run(config: TrainingConfig, model: GroundingModel, precision: str, world: World) -> dict[str, Any]:
    """All that merging and evaluation need to rebuild the model around the trained weights, and to tell runs apart.

    `base` holds absolute paths where the flags named local files; `trained` the names of the stored parameters;
    `frozen` a digest of the frozen ones.
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

    Raises `UserError` for a flag that asks for another form, where the weights would mean something else, and for a
    plugin of the run that is not imported.
    """
    settings = read_settings(checkpoint)
    check_plugins(plugin_names(settings["flags"].get("plugin", "")), str(checkpoint))
    model = settings["model"]
    if not SYSTEMS[model["system"]].uses_policy:
        return config
    gate = model.get("gate", REFERENCE_GATE)
    if config.gate not in (None, gate):
        raise UserError(f"--gate {config.gate}: {checkpoint} has {gate}; leave the flag out, or pass --no_resume")
    return replace(config, gate=gate)


def _own_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint of a run that is undamaged."""
    for problem in incomplete_in(directory):
        print(f"skipped: {problem}", file=sys.stderr)
    for checkpoint in checkpoints_in(directory):
        try:
            verify_checkpoint(checkpoint)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        return checkpoint
    if candidates_in(directory):
        others = [path for name in (LATEST, BEST) for path in checkpoints_in(directory.with_name(name))]
        other = next((path for path in others if path.parent != directory), None)
        raise UserError(
            f"{directory} contains checkpoints, but none is complete and undamaged; "
            + (f"--resume {other} resumes from there, and " if other else "")
            + "--no_resume starts a new run, which moves this run aside"
        )
    return None


def frozen_digest(model: nn.Module) -> str:
    """A digest of the frozen weights, by a few values of each: trained weights mean nothing on top of others.

    Position embeddings are left out: they may have been interpolated, which rounds differently on other machines.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and "position_embedding" not in name:
            values = parameter.detach().flatten()
            some = values[:: max(1, len(values) // SAMPLED)][:SAMPLED]
            digest.update(f"{name} {tuple(parameter.shape)} {some.dtype}".encode())
            digest.update(some.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe_changes(checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns lines that name every flag whose new value changes how training continues, old → new.

    before, now: what `describe_run` returned for the run that wrote `checkpoint` and for this one. Raises `UserError`
    where training cannot continue so.
    """
    old, new = _values(before), _values(now)
    fixed = _changed(old, new, FIXED)
    if fixed:
        was = ", ".join(_as_flag(name, old[name]) for name in fixed)
        given = ", ".join(_as_flag(name, new[name]) for name in fixed)
        raise UserError(
            f"{checkpoint} was trained with {was}, and cannot be resumed with others (this run has {given}): start "
            "with that, or start a run of its own with another --exp_name, or a new run with --no_resume"
        )
    if before.get("frozen", now["frozen"]) != now["frozen"]:
        was = ", ".join(_as_flag(name, value) for name, value in before["base"].items() if value)
        raise UserError(
            f"{checkpoint} was trained on other frozen weights than those of {_shown(new['version'])}: start "
            f"with {was}, their files as they were then, or start a run of its own with another --exp_name"
        )
    said = {name: f"{_shown(old[name])} → {_shown(new[name])}" for name in _changed(old, new, REPORTED, RANKING)}
    if before.get("world_size", now["world_size"]) != now["world_size"]:
        said = {"processes": f"{before['world_size']} → {now['world_size']}", **said}
    width = max(map(len, said), default=0)
    lines = [f"  {name.ljust(width)}  {change}" for name, change in said.items()]
    return [*heading("Changed since the checkpoint was written"), *lines] if said else []


def keep_best_apart(run_dir: Path, now: Mapping[str, Any], world: World) -> tuple[Path, str] | None:
    """Rename the directory of the best checkpoint if its scores do not compare with those of this run, which validates
    on another split or in another way. Returns the new path and a sentence; None where the best stays the best."""
    moved = None
    if world.is_main:
        moved = _keep_best_apart(run_dir / BEST, _values(now))
    return world.broadcast(moved)


def _keep_best_apart(directory: Path, new: Mapping[str, Any]) -> tuple[Path, str] | None:
    best = find_checkpoint(directory)
    if best is None:
        return None
    old = _values(read_settings(best))
    changed = _changed(old, new, RANKING)
    if not changed:
        return None
    target = move_aside(directory)
    reasons = ", ".join(f"{name} {_shown(old[name])} → {_shown(new[name])}" for name in changed)
    return target, f"validation selects differently than before ({reasons}): the earlier best is kept in {target}"


def describe_global_batch(written: Position, schedule: Schedule) -> str:
    """A sentence on a global batch size that is not the one of the checkpoint; "" where it is."""
    before, now = written.samples // max(written.step, 1), schedule.samples_per_step
    if schedule.position_at(written.step).samples == written.samples:
        return ""
    accumulation, rest = divmod(before, schedule.batch_size * schedule.world_size)
    remedy = f"; --grad_accumulation_steps {accumulation} keeps it" if accumulation and not rest else ""
    return f"The global batch size changed from {before} to {now}, so the sample order differs from before{remedy}."


def _values(run: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags of a run came to: a flag that is not given may come from the base model or the device.

    Settings of other systems are left out: they change nothing.
    """
    flags = {name: value for name, value in run["flags"].items() if name not in model_settings()}
    own = {name for name, setting in settings_of_system(run["model"]["system"]).items() if setting.stored}
    model = {name: run["model"][name] for name in own if name in run["model"]}
    return {**flags, **model, **run["base"], "model_key": run["model"]["system"], "precision": run["precision"]}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], *kinds: str) -> list[str]:
    """The flags of some kinds that differ."""
    asked = {name for name, setting in settings_of(config_class()).items() if setting.on_resume in kinds}
    return [name for name in new if name in asked and name in old and _differ(name, old, new)]


def _differ(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    was, now = old[name], new[name]
    if name == "val_dataset" and isinstance(was, str):  # the first split selects
        return split_list(was)[:1] != split_list(now)[:1]
    if name == "dataset_dir" and isinstance(was, str):
        return Path(was).resolve() != Path(now).resolve()
    return was != now


def _as_flag(name: str, value: Any) -> str:
    return f"no --{name}" if value in (None, "", False) else f"--{name} {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value[:200] if isinstance(value, str) else shown(value)
