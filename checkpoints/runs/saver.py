"""Writing a checkpoint so that a process killed at any moment leaves a complete one, while training continues.

`Saver.start` copies what a checkpoint holds and lets a thread of every process write and read back its files beside.
When all have, `Saver.finish` writes the marker and renames. One is written at a time.
"""

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from checkpoints.digests import file_record
from checkpoints.runs.finding import (
    LATEST_FILE,
    MARKER,
    REPLACED,
    SCORES,
    SETTINGS,
    WRITING,
    Marker,
    Position,
    candidates_in,
    checkpoints_in,
    is_complete,
    link_or_copy,
    random_state_file,
    read_marker,
    sync_directory,
    tag_of,
)
from checkpoints.runs.snapshots import capture
from groundscore.errors import UserError
from groundscore.writing import sync_to_disk, write_json, write_text
from utils.distributed import World
from utils.seeding import random_state

GRACE = 60.0  # seconds that a write may take after training has failed


@dataclass
class _Write:
    """A checkpoint that is being written. files: sizes and digests of what this process has written so far."""

    directory: Path
    position: Position
    keep: int
    done: Callable[[], None]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    problem: Exception | None = None
    thread: threading.Thread | None = None

    @property
    def beside(self) -> Path:
        """The directory that is written; it gets the name of `target` when it is complete."""
        return self.directory / f"{WRITING}{tag_of(self.position.step)}"

    @property
    def target(self) -> Path:
        """The path of the complete checkpoint."""
        return self.directory / tag_of(self.position.step)


class Saver:
    """Saves checkpoints of all processes, which make the same calls in the same order and see the same disk.

    Used in a `with` block; settings: what a checkpoint records of its run.
    """

    def __init__(self, engine: Any, world: World, settings: dict[str, Any]):
        self.engine, self.world, self.settings = engine, world, settings
        self._write: _Write | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        # Where training failed other ranks may be gone, and nothing can be published; a thread must not be cut off.
        if self._write is not None and kind is not KeyboardInterrupt:
            self._write.thread.join(GRACE)

    def is_pending(self, directory: Path | None = None) -> bool:
        """Whether a checkpoint (of `directory`) was started and is not there yet; the same on all processes."""
        return self._write is not None and directory in (None, self._write.directory)

    @property
    def started(self) -> Path | None:
        """The path that the pending checkpoint will have."""
        return self._write and self._write.target

    @property
    def is_writing(self) -> bool:
        """Whether this process still writes."""
        return self._write is not None and self._write.thread.is_alive()

    def start(
        self,
        directory: Path,
        *,
        position: Position,
        keep: int,
        scores: Any = None,
        done: Callable[[], None] = lambda: None,
    ) -> Path:
        """Begin to save into `directory`, in which all but the newest `keep` are dropped then. Returns the path that
        the checkpoint will have.

        scores: of the run so far. done: called on all processes when the checkpoint is there.
        """
        self.finish()
        write = self._write = _Write(directory, position, keep, done)
        try:
            if self.world.is_main:
                directory.mkdir(parents=True, exist_ok=True)
                _clear_debris(directory)
            self.world.barrier()
            files = capture(self.engine, directory, write.beside.name)
            files[write.beside / random_state_file(self.world.rank)] = random_state()
            if self.world.is_main:
                write_json(write.beside / SETTINGS, self.settings, sync=True)
                if scores is not None:
                    write_json(write.beside / SCORES, scores, sync=True)
                # Besides these two, whatever DeepSpeed has written itself.
                written = [path for path in write.beside.iterdir() if path.is_file()]
            else:
                written = []
            self.world.barrier()
        except Exception as error:
            self._write = None
            _fail(write, error, self.world)
        write.thread = threading.Thread(target=_write_files, args=(write, written, files), name="saver", daemon=True)
        write.thread.start()
        return write.target

    def finish(self) -> None:
        """Wait until all processes have written what was started, and give it its name. Returns at once where nothing
        is pending. `UserError` where it could not be written; the checkpoints that were there before are there still.
        """
        write, self._write = self._write, None
        if write is None:
            return
        write.thread.join()
        problem = write.problem
        try:
            everywhere = self.world.gather((write.files, None if problem is None else _reason(problem)))
            reasons = [reason for _, reason in everywhere if reason is not None]
            if problem is None and reasons:
                problem = OSError(reasons[0])
            if problem is not None:
                raise problem
            if self.world.is_main:
                files = {name: record for part, _ in everywhere for name, record in part.items()}
                _check_shared(write, files, self.world.size)
                _write_marker(write.beside, Marker(_next_number(write.directory), write.position, files))
                _publish(write.beside, write.target)
                _drop_old(write.directory, write.keep)
        except Exception as error:
            _fail(write, error, self.world)
        self.world.barrier()
        write.done()


def save_checkpoint(
    engine: Any,
    directory: Path,
    *,
    position: Position,
    settings: dict[str, Any],
    keep: int,
    world: World,
    scores: Any = None,
) -> Path:
    """Write a checkpoint and wait until it is there; returns its path. See `Saver`."""
    saver = Saver(engine, world, settings)
    target = saver.start(directory, position=position, keep=keep, scores=scores)
    saver.finish()
    return target


def copy_checkpoint(source: Path, directory: Path, *, keep: int, world: World, scores: Any = None) -> None:
    """Make a complete checkpoint also the newest of `directory`, without a second copy of its bytes if possible.

    scores: those of the run so far, instead of those that `source` has.
    """
    if world.is_main:
        marker = read_marker(source)
        write = _Write(directory, marker.position, keep, lambda: None)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _clear_debris(directory)
            write.beside.mkdir()
            files = dict(marker.files)
            if scores is not None:
                write_json(write.beside / SCORES, scores, sync=True)
                files[SCORES] = file_record(write.beside / SCORES)
            for name in marker.files:
                if name != SCORES or scores is None:
                    link_or_copy(source / name, write.beside / name)
            _write_marker(write.beside, Marker(_next_number(directory), marker.position, files))
            _publish(write.beside, write.target)
            _drop_old(directory, keep)
        except Exception as error:
            _fail(write, error, world)
    world.barrier()


def _write_files(write: _Write, written: list[Path], files: dict[Path, Any]) -> None:
    """In a thread: write the files of this process and read them back, together with those already `written`."""
    try:
        for path in written:
            write.files[path.name] = file_record(path)
        while files:
            path, content = files.popitem()
            torch.save(content, path)
            del content  # its memory goes back before the next is written
            sync_to_disk(path)
            write.files[path.name] = file_record(path)
    except Exception as problem:  # raised by `finish`
        write.problem = problem


def _check_shared(write: _Write, files: dict[str, Any], size: int) -> None:
    missing = sorted(name for name in files if not (write.beside / name).is_file())
    missing += [name for name in map(random_state_file, range(size)) if name not in files]
    if missing:
        raise UserError(
            f"{write.directory}: {missing[0]} of another process is missing; a run needs one directory that all "
            "machines share (--log_base_dir)"
        )


def _fail(write: _Write, error: Exception, world: World) -> NoReturn:
    """Remove what was written, and raise a `UserError` where the disk is the reason."""
    free = shutil.disk_usage(write.directory).free / 2**30 if write.directory.exists() else 0.0
    if world.is_main:
        shutil.rmtree(write.beside, ignore_errors=True)
    if not isinstance(error, OSError) and "inline_container" not in str(error):  # torch's word for a full disk
        raise error
    raise UserError(
        f"{write.directory}: the checkpoint could not be written ({_reason(error)}; {free:.1f} GiB were free). The "
        "checkpoints before it are as they were: free some space, and start again to resume from the newest"
    ) from error


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _write_marker(beside: Path, marker: Marker) -> None:
    sync_directory(beside)
    write_text(beside / MARKER, marker.to_text(), sync=True)


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
    write_text(target.parent / LATEST_FILE, target.name, sync=True)
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
    for path in candidates_in(directory, REPLACED):
        original = path.with_name(path.name.removeprefix(REPLACED))
        if not original.exists() and is_complete(path):
            os.rename(path, original)
        else:
            shutil.rmtree(path, ignore_errors=True)
    for path in candidates_in(directory, WRITING):
        shutil.rmtree(path, ignore_errors=True)
