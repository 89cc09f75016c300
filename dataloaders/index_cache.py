"""Annotation files parsed once: an index of what training needs of them lies in a file that is mapped into memory.

    annotation files ──build──▶ tables of records ──▶ DATASET_DIR/.uground_cache/<name>-<digest>.arrow
                                                      and beside it the sizes, times and digests of the sources

An index is used again while its sources are what they were (same size and times, or else same content) and the code
that parses them is too; else it is replaced. It is built under a lock, written beside and renamed, so any number of
processes may start together and a killed one does no harm.
Where the data folder cannot be written, indices lie in ~/.cache/uground; `UGROUND_CACHE_DIR` names another place.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from dataloaders.records import Tables, pack_tables, read_tables, write_tables
from utils.errors import UserError

logger = logging.getLogger(__name__)

ENVIRONMENT = "UGROUND_CACHE_DIR"
FORMAT = 1  # to be raised when the layout of the files changes

Build = Callable[[], Mapping[str, Iterable[Any] | Mapping[int, Any]]]


def open_index(dataset_dir: Path, name: str, sources: Sequence[Path], build: Build) -> Tables:
    """The tables that `build` makes of `sources`, from the cache where it has them.

    name: which index this is, such as "refer_seg/refcoco".
    build: parses the sources. Its module's text is part of what the index depends on.
    """
    for source in sources:
        if not source.is_file():
            raise UserError(f"annotation file {source} is missing; see dataloaders/README.md for where files go")
    folder = cache_directory(dataset_dir)
    if folder is None:
        return pack_tables(build())
    sources = [path.absolute() for path in sources]
    code = _digest_of_file(Path(sys.modules[build.__module__].__file__))
    key = json.dumps([name, *map(str, sources)])
    file = folder / f"{re.sub(r'[^A-Za-z0-9+-]+', '_', name)}-{_digest_of(key.encode())[:16]}.arrow"
    tables = _open_fresh(file, sources, code)
    if tables is not None:
        return tables
    try:
        with _locked(file.with_suffix(".lock")):
            tables = _open_fresh(file, sources, code)  # another process may have built it meanwhile
            if tables is None:
                tables = _build(file, sources, code, build)
    except OSError as error:
        logger.warning("%s: the index of %s cannot be kept (%s)", folder, name, error)
        tables = pack_tables(build())
    return tables


def cache_directory(dataset_dir: Path) -> Path | None:
    """Where the indices of a data folder lie; None where nothing can be written."""
    chosen = os.environ.get(ENVIRONMENT)
    owner = _digest_of(str(dataset_dir.resolve()).encode())[:16]
    places = [dataset_dir / ".uground_cache", Path.home() / ".cache" / "uground" / owner]
    for place in [Path(chosen)] if chosen else places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            if not (place / ".gitignore").exists():
                (place / ".gitignore").write_text("*\n")
        except OSError:
            continue
        if os.access(place, os.W_OK | os.X_OK):
            return place
    if chosen:
        raise UserError(f"{ENVIRONMENT}={chosen}: this folder cannot be written")
    return None


def _build(file: Path, sources: Sequence[Path], code: str, build: Build) -> Tables:
    # Times and digests are taken before the sources are parsed: a change in between makes the index stale, not wrong.
    stamp = {str(path): {**_state(path), "digest": _digest_of_file(path)} for path in sources}
    tables = build()
    temporary = file.with_suffix(".writing")
    write_tables(temporary, tables, _joint_digest(stamp, code))
    os.replace(temporary, file)
    _write_stamp(file, stamp)
    return read_tables(file)[0]


def _open_fresh(file: Path, sources: Sequence[Path], code: str) -> Tables | None:
    """The tables in `file` if they were made of what the sources are now, by the same code."""
    try:
        stamp = json.loads(_stamp_path(file).read_text())
        tables, made_of = read_tables(file)
        recorded = [stamp[str(path)] for path in sources]
        if made_of != _joint_digest(stamp, code):
            return None
        states = [_state(path) for path in sources]
        if all(state.items() <= record.items() for state, record in zip(states, recorded)):
            return tables
        if any(state["size"] != record["size"] for state, record in zip(states, recorded)):
            return None
        current = {str(path): {**state, "digest": _digest_of_file(path)} for path, state in zip(sources, states)}
        if _joint_digest(current, code) != made_of:
            return None
        with contextlib.suppress(OSError):
            _write_stamp(file, current)
        return tables
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _state(path: Path) -> dict[str, int]:
    """What changes when a file is written to. The last cannot be set back, unlike the modification time."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}


def _digest_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _joint_digest(stamp: Mapping[str, Mapping], code: str) -> str:
    return _digest_of(json.dumps([FORMAT, code, *(stamp[path]["digest"] for path in sorted(stamp))]).encode())


def _stamp_path(file: Path) -> Path:
    return file.with_suffix(".json")


def _write_stamp(file: Path, stamp: Mapping[str, Mapping]) -> None:
    temporary = _stamp_path(file).with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(stamp))
    os.replace(temporary, _stamp_path(file))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time; a lock is gone with its process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
