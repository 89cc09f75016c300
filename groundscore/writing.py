"""Files that appear whole or not at all: written beside their place, then renamed; and locked files.

A reader sees the old content or the new, whatever happens in between; a failure leaves nothing behind.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from groundscore.errors import UserError, naming


@contextlib.contextmanager
def written_whole(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a path beside `path`; the file written there takes the name of `path` when the block succeeds.

    sync: ask the system to write the content to disk before the file gets its name. Errors of the system name `path`.
    """
    # A name of its own for every writer: threads share a process id, and so may machines that share a disk.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.writing")
    try:
        with naming(path):
            yield beside
            if sync:
                sync_to_disk(beside)
            os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write a UTF-8 file whole or not at all; characters that UTF-8 cannot hold become "?"."""
    with written_whole(path, sync=sync) as beside:
        beside.write_text(text, encoding="utf-8", errors="replace")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a UTF-8 file, piece by piece, whole or not at all; `UserError` where the disk does not take it."""
    try:
        with written_whole(path) as beside, beside.open("w", encoding="utf-8", errors="replace") as file:
            file.writelines(lines)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error


def write_json(path: Path, value: Any, *, sync: bool = False, **options: Any) -> None:
    """Write a JSON file whole or not at all, indented by 2; `options` of `json.dumps`."""
    write_text(path, json.dumps(value, **{"indent": 2, **options}) + "\n", sync=sync)


def sync_to_disk(path: Path) -> None:
    """Ask the system to write a file, or the names in a directory, to disk before what follows."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Makes a directory for results, before any work is spent on them; `UserError` where it cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{directory} cannot be a directory for results: a file has this name") from None
    except OSError as error:
        raise UserError(
            f"{directory} cannot be written ({error.strerror}); choose another directory for results"
        ) from None


def open_locked(path: Path) -> TextIO | None:
    """Opens a file to append to, creating it if need be, locked until it is closed; None if another process has it.

    The lock goes with the process, however that ends. A disk that knows no locks gives the file to everybody.
    """
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.close()
                return None
            return file
        if _is_still(file, path):
            return file
        file.close()  # its owner removed it in between


def _is_still(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
