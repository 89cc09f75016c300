"""Training checkpoints: what a run leaves behind, and how it goes on from it.

    runs/<exp>/ckpt_model/global_step<N>/     the latest; runs/<exp>/best_ckpt_model/… the best by cIoU
        mp_rank_00_model_states.pt, …         DeepSpeed: trained weights, optimizer, schedule (frozen weights are not
                                              stored, `settings.json` says where they are)
        random_state_rank_<r>.pt              generators of every process
        settings.json                         flags, model configuration, base paths: all that merging needs
        complete.json                         position in training, and every file with its size; written last
    runs/<exp>/ckpt_model/latest              name of the newest
    runs/<exp>/scores.json                    every evaluation, and the best

A checkpoint is written beside under a name that nobody reads, and renamed when it is complete.
"""

import contextlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.distributed import World
from utils.errors import UserError
from utils.seeding import random_state, restore_random_state

LATEST = "ckpt_model"
BEST = "best_ckpt_model"
LATEST_FILE = "latest"
MARKER = "complete.json"
SETTINGS = "settings.json"
SCORES = "scores.json"
WRITING = ".writing-"
REPLACED = ".replaced-"
FORMAT = 1


@dataclass
class Position:
    """Where training stands.

    step: optimizer steps done. samples: items of the data consumed, over all processes. world_size: processes.
    """

    step: int
    samples: int
    world_size: int


def tag_of(step: int) -> str:
    return f"global_step{step}"


# --- writing ---------------------------------------------------------------------------------------------------------


def save_checkpoint(
    engine, directory: Path, *, position: Position, settings: dict[str, Any], keep: int, world: World
) -> Path:
    """Write a checkpoint of all processes into `directory` and drop all but the newest `keep`. Returns its path."""
    tag = tag_of(position.step)
    beside = directory / f"{WRITING}{tag}"
    if world.is_main:
        directory.mkdir(parents=True, exist_ok=True)
        _clear_debris(directory)
    world.barrier()
    engine.save_checkpoint(str(directory), tag=beside.name, save_latest=False, exclude_frozen_parameters=True)
    _write_tensor_file(beside / f"random_state_rank_{world.rank}.pt", random_state())
    world.barrier()
    target = directory / tag
    if world.is_main:
        _write_json(beside / SETTINGS, settings)
        sizes = {path.name: path.stat().st_size for path in sorted(beside.iterdir())}
        _write_json(beside / MARKER, {"format": FORMAT, **asdict(position), "files": sizes})
        _publish(beside, target)
        _drop_old(directory, keep)
    world.barrier()
    return target


def copy_checkpoint(source: Path, directory: Path, *, keep: int, world: World) -> None:
    """Make a complete checkpoint also the newest of `directory`, without a second copy of its bytes if possible."""
    if world.is_main:
        directory.mkdir(parents=True, exist_ok=True)
        _clear_debris(directory)
        beside = directory / f"{WRITING}{source.name}"
        beside.mkdir()
        names = sorted(path.name for path in source.iterdir() if path.name != MARKER)
        for name in [*names, MARKER]:
            _link_or_copy(source / name, beside / name)
        _publish(beside, directory / source.name)
        _drop_old(directory, keep)
    world.barrier()


def _publish(beside: Path, target: Path) -> None:
    """Give a complete checkpoint its name, then point `latest` at it."""
    _sync_directory(beside)
    replaced = target.with_name(f"{REPLACED}{target.name}")
    if target.exists():
        os.rename(target, replaced)
    os.rename(beside, target)
    _write_text(target.parent / LATEST_FILE, target.name)
    _sync_directory(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _drop_old(directory: Path, keep: int) -> None:
    newest = (directory / LATEST_FILE).read_text()
    others = [path for path in directory.glob("global_step*") if path.is_dir() and path.name != newest]
    tags = sorted(others, key=lambda path: (path / MARKER).stat().st_mtime if is_complete(path) else 0.0)
    for path in tags[: max(len(tags) - (keep - 1), 0)]:
        # Renamed first: a checkpoint that is half gone must not look like one.
        doomed = path.with_name(f"{REPLACED}{path.name}")
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _clear_debris(directory: Path) -> None:
    """What a killed save left: unfinished directories go; a complete one that was moved aside comes back."""
    for path in directory.glob(f"{REPLACED}*"):
        original = path.with_name(path.name.removeprefix(REPLACED))
        if not original.exists() and is_complete(path):
            os.rename(path, original)
        else:
            shutil.rmtree(path, ignore_errors=True)
    for path in directory.glob(f"{WRITING}*"):
        shutil.rmtree(path, ignore_errors=True)


# --- finding ---------------------------------------------------------------------------------------------------------


def is_complete(checkpoint: Path) -> bool:
    """Whether the marker is there and every file that it lists has its size."""
    try:
        marker = json.loads((checkpoint / MARKER).read_text())
        return all((checkpoint / name).stat().st_size == size for name, size in marker["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def find_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint of a directory that holds several, or None: the one that `latest` names, and
    if that is not complete the one with most steps."""
    if not directory.is_dir():
        return None
    with contextlib.suppress(OSError):
        newest = directory / (directory / LATEST_FILE).read_text().strip()
        if is_complete(newest):
            return newest
    candidates = [
        *(path for path in directory.glob("global_step*") if path.is_dir()),
        *(path for path in directory.glob(f"{REPLACED}global_step*") if path.is_dir()),
    ]
    for path in sorted(candidates, key=_step_of, reverse=True):
        if is_complete(path):
            return path
    return None


def resolve_checkpoint(path: Path) -> Path:
    """What `--resume` and merging may be given: a checkpoint, a directory of checkpoints, or a run (its best)."""
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    if is_complete(path):
        return path
    for directory in (path, path / BEST, path / LATEST):
        found = find_checkpoint(directory)
        if found is not None:
            return found
    raise UserError(
        f"{path}: no complete training checkpoint (a directory global_step… with {MARKER}) here, in {BEST} or {LATEST}"
    )


def read_position(checkpoint: Path) -> Position:
    marker = json.loads((checkpoint / MARKER).read_text())
    return Position(**{name: marker[name] for name in ("step", "samples", "world_size")})


def read_settings(checkpoint: Path) -> dict[str, Any]:
    """The settings of the run that wrote a checkpoint: `flags` (see `TrainingConfig`), `model` (its configuration),
    `base` (paths of the frozen weights), `versions`."""
    return json.loads((checkpoint / SETTINGS).read_text())


# --- going on --------------------------------------------------------------------------------------------------------


def resume(engine, checkpoint: Path, world: World) -> Position:
    """Load weights, optimizer, schedule and random states into a fresh engine; returns where training stood."""
    _check_trained(engine.module, checkpoint)
    loaded, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name, load_module_strict=False)
    if loaded is None:
        raise UserError(f"{checkpoint}: DeepSpeed could not load this checkpoint")
    restore_random_state(torch.load(checkpoint / f"random_state_rank_{world.rank}.pt", weights_only=True))
    return read_position(checkpoint)


def _check_trained(model: nn.Module, checkpoint: Path) -> None:
    """DeepSpeed would skip what does not match; we say it."""
    stored = set(read_settings(checkpoint)["trained"])
    ours = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if stored != ours:
        raise UserError(
            f"{checkpoint} holds other parameters than this run trains: {len(ours - stored)} are not stored "
            f"{sorted(ours - stored)[:5]}, {len(stored - ours)} are not trained here {sorted(stored - ours)[:5]}; "
            "use the flags of that run, or pass --no_resume"
        )


def trained_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The trained parameters and the buffers of a checkpoint in float32, by their names in the model with LoRA."""
    with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        if any(checkpoint.glob("*_optim_states.pt")):
            weights = get_fp32_state_dict_from_zero_checkpoint(
                str(checkpoint.parent), tag=checkpoint.name, exclude_frozen_parameters=True
            )
        else:
            # ZeRO 0 keeps everything in one file. It holds DeepSpeed's own objects, so it is a trusted pickle:
            # these checkpoints are ours, never downloaded.
            states = torch.load(checkpoint / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False)
            weights = states["module"]
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def load_trained_weights(model: nn.Module, checkpoint: Path) -> None:
    """Put a checkpoint's weights into a model with LoRA; what learned must all be there, and nothing unknown."""
    weights = trained_weights(checkpoint)
    known = dict(model.named_parameters()) | dict(model.named_buffers())
    unknown = sorted(set(weights) - set(known))
    missing = sorted(name for name, value in model.named_parameters() if value.requires_grad and name not in weights)
    if unknown or missing:
        raise UserError(
            f"{checkpoint} does not fit the model: {len(missing)} missing {missing[:8]}, "
            f"{len(unknown)} unknown {unknown[:8]}; was the run made with other flags or another base?"
        )
    with torch.no_grad():
        for name, value in weights.items():
            known[name].copy_(value)


# --- scores ----------------------------------------------------------------------------------------------------------


class Scores:
    """Every evaluation of a run, and the best by cIoU (ties by gIoU), in `scores.json`."""

    def __init__(self, directory: Path):
        self.path = directory / SCORES
        self.content: dict[str, Any] = {"best": None, "evaluations": []}
        if self.path.exists():
            self.content = json.loads(self.path.read_text())

    def go_back_to(self, step: int) -> None:
        """Training goes on from `step`: drop what was scored beyond it. The best checkpoint outlives an interruption,
        and so does its score; a run that starts afresh has none."""
        self.content["evaluations"] = [entry for entry in self.content["evaluations"] if entry["step"] <= step]
        if step == 0:
            self.content["best"] = None

    def has(self, step: int) -> bool:
        return any(entry["step"] == step for entry in self.content["evaluations"])

    def add(self, step: int, epoch: int, scores: dict[str, dict[str, float]], selecting: str) -> bool:
        """Record the scores of all splits; True if `selecting` is the best so far."""
        entry = {"step": step, "epoch": epoch, "splits": scores}
        self.content["evaluations"].append(entry)
        ours, best = scores[selecting], self.content["best"]
        is_best = best is None or _rank(ours) > _rank(best)
        if is_best:
            self.content["best"] = {"step": step, "epoch": epoch, "split": selecting, **ours}
        return is_best

    def save(self) -> None:
        _write_json(self.path, self.content)


def scores_at(checkpoint: Path) -> dict[str, dict[str, float | None]] | None:
    """What a run scored at a checkpoint: split -> metric -> value; None where it was not evaluated there."""
    scores, step = Scores(checkpoint.parent.parent), read_position(checkpoint).step
    found = [entry["splits"] for entry in scores.content["evaluations"] if entry["step"] == step]
    return found[-1] if found else None


def _rank(scores: dict[str, float | None]) -> tuple[float, float]:
    """By cIoU, then gIoU; a score that nothing was there for is the worst."""
    return tuple(-1.0 if scores[name] is None else scores[name] for name in ("cIoU", "gIoU"))


# --- files -----------------------------------------------------------------------------------------------------------


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix(REPLACED).removeprefix("global_step"))


def _write_json(path: Path, content: Any) -> None:
    _write_text(path, json.dumps(content, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.writing")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _write_tensor_file(path: Path, content: Any) -> None:
    with path.open("wb") as file:
        torch.save(content, file)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sync_directory(path: Path) -> None:
    """Ask the system to write a directory and its files to disk before what follows."""
    for entry in [*(child for child in path.iterdir() if child.is_file()), path]:
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
