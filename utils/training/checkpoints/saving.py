"""Writing a checkpoint so that a process killed at any moment leaves a complete one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from utils.digests import file_record
from utils.distributed import World
from utils.errors import UserError
from utils.seeding import random_state

from .finding import Marker, candidates_in, checkpoints_in, is_complete, read_marker
from .layout import (
    LATEST_FILE,
    MARKER,
    REPLACED,
    SETTINGS,
    WRITING,
    Position,
    link_or_copy,
    random_state_file,
    sync_directory,
    tag_of,
    write_json,
    write_text,
)


def save_checkpoint(
    engine, directory: Path, *, position: Position, settings: dict[str, Any], keep: int, world: World
) -> Path:
    """Write a checkpoint of all processes into `directory` and drop all but the newest `keep`. Returns its path.

    All processes call this, and all must see the same disk. `UserError` where it cannot be written; the checkpoints
    that were there before are then still there.
    """
    beside, target = directory / f"{WRITING}{tag_of(position.step)}", directory / tag_of(position.step)
    with _clear_after_failure(beside, world):
        if world.is_main:
            directory.mkdir(parents=True, exist_ok=True)
            _clear_debris(directory)
        world.barrier()
        engine.save_checkpoint(str(directory), tag=beside.name, save_latest=False, exclude_frozen_parameters=True)
        torch.save(random_state(), beside / random_state_file(world.rank))
        if world.is_main:
            write_json(beside / SETTINGS, settings)
        world.barrier()
        files = _read_back(beside, world)
        if world.is_main:
            _write_marker(beside, Marker(_next_number(directory), position, files))
            _publish(beside, target)
            _drop_old(directory, keep)
    world.barrier()
    return target


def copy_checkpoint(source: Path, directory: Path, *, keep: int, world: World) -> None:
    """Make a complete checkpoint also the newest of `directory`, without a second copy of its bytes if possible."""
    beside = directory / f"{WRITING}{source.name}"
    if world.is_main:
        with _clear_after_failure(beside, world):
            directory.mkdir(parents=True, exist_ok=True)
            _clear_debris(directory)
            beside.mkdir()
            marker = read_marker(source)
            for name in marker.files:
                link_or_copy(source / name, beside / name)
            _write_marker(beside, Marker(_next_number(directory), marker.position, marker.files))
            _publish(beside, directory / source.name)
            _drop_old(directory, keep)
    world.barrier()


@contextmanager
def _clear_after_failure(beside: Path, world: World) -> Iterator[None]:
    """What cannot be written is an error that says so, and takes no room on the disk."""
    try:
        yield
    except Exception as error:
        free = shutil.disk_usage(beside.parent).free / 2**30 if beside.parent.exists() else 0.0
        if world.is_main:
            shutil.rmtree(beside, ignore_errors=True)
        if not isinstance(error, OSError) and "inline_container" not in str(error):  # torch's word for a full disk
            raise
        raise UserError(
            f"{beside.parent}: the checkpoint could not be written ({str(error).splitlines()[0]}; {free:.1f} GiB were "
            "free). The checkpoints before it are as they were: make room, and start again to go on from the newest"
        ) from error


def _read_back(beside: Path, world: World) -> dict[str, dict[str, Any]]:
    """Size and digest of every file as it can be read now; the processes share the work, all get the result."""
    names = sorted(path.name for path in beside.iterdir())
    missing = sorted({random_state_file(rank) for rank in range(world.size)} - set(names))
    if missing:
        raise UserError(
            f"{beside.parent}: {missing[0]} of another process is not there; a run needs one directory that all "
            "machines share (--log_base_dir)"
        )
    ours = {name: file_record(beside / name) for name in names[world.rank :: world.size]}
    return {name: file for part in world.gather(ours) for name, file in part.items()}


def _write_marker(beside: Path, marker: Marker) -> None:
    sync_directory(beside)
    write_text(beside / MARKER, marker.to_text())


def _next_number(directory: Path) -> int:
    newest = next(iter(checkpoints_in(directory)), None)
    return 1 if newest is None else read_marker(newest).save + 1


def _publish(beside: Path, target: Path) -> None:
    """Give a complete checkpoint its name, then point `latest` at it."""
    sync_directory(beside)
    replaced = target.with_name(f"{REPLACED}{target.name}")
    if target.exists():
        os.rename(target, replaced)
    os.rename(beside, target)
    write_text(target.parent / LATEST_FILE, target.name)
    sync_directory(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _drop_old(directory: Path, keep: int) -> None:
    kept = set(checkpoints_in(directory)[:keep])
    for path in candidates_in(directory):
        if path not in kept:
            # Renamed first: a checkpoint that is half gone must not look like one.
            doomed = path.with_name(f"{WRITING}{path.name}")
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
