"""Annotation files parsed once: an index of what training needs of them lies in a file that is mapped into memory.

    annotation files ──build──▶ tables of records ──▶ DATASET_DIR/.uground_cache/<name>-<digest>.arrow
                                                      and beside it the sizes, times and digests of the sources
                                                      and of the index, sealed with a key of the user's own

An index is used again while its sources are what they were (same size and times, or else same content) and the code
that parses them is too; else it is replaced. It is built under a lock, written beside and renamed, so any number of
processes may start together and a killed one does no harm.
Where the data folder cannot be written, indices lie in ~/.cache/uground; `UGROUND_CACHE_DIR` names another folder.

An index that came with a data set is not read: neither its name nor its seal can be known without the user's key, which
lies in ~/.cache/uground (or in `UGROUND_CACHE_DIR`). Of an index whose times have changed the content is checked.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import multiprocessing
import os
import re
import secrets
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextvars import ContextVar
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from groundscore.annotations.bad_entries import BadSamples, settle
from groundscore.annotations.records import PackedRecords, Tables, pack_tables, read_tables, write_tables
from groundscore.errors import UserError
from groundscore.names import files_like, require_some
from groundscore.reading import MISSING, check_regular, decode_json, read_bytes
from groundscore.writing import write_json, written_whole

logger = logging.getLogger(__name__)

ENVIRONMENT = "UGROUND_CACHE_DIR"
FORMAT = 3  # to be raised when the layout of the files changes, or what is accepted as their content

Build = Callable[[], Mapping[str, Iterable[Any] | Mapping[int, Any]]]


def open_index(dataset_dir: Path, name: str, sources: Sequence[Path], build: Build) -> Tables:
    """Returns the tables that `build` makes of `sources`, from the cache where it has them.

    name: which index this is, such as "refer_seg/refcoco".
    build: parses the sources. Its module's text is part of what the index depends on.
    """
    for source in sources:
        check_regular(source, missing=MISSING + files_like(source))
    folder, key = cache_directory(dataset_dir), _user_key()
    if folder is None or key is None:
        return pack_tables(build())  # nothing that another process makes would be found here
    sources = [path.absolute() for path in sources]
    subject = _seal(key, [name, *map(str, sources)])[:16]
    file = folder / f"{re.sub(r'[^A-Za-z0-9+-]+', '_', name)}-{subject}.arrow"
    index = _Index(file, sources, _digest_of_file(Path(sys.modules[build.__module__].__file__)), key)
    tables = index.open()
    if tables is not None:
        return tables
    if not _may_build.get():
        raise NotIndexed(sum(path.stat().st_size for path in sources))
    try:
        with _locked(file.with_suffix(".lock")):
            tables = index.open()  # another process may have built it meanwhile
            if tables is None:
                if index.is_damaged:
                    logger.warning("%s is damaged: its content is not what was written; it is rebuilt", file)
                tables = index.build(build)
    except OSError as error:
        logger.warning("%s: the index of %s cannot be saved (%s)", folder, name, error)
        tables = pack_tables(build())
    return tables


class NotIndexed(Exception):
    """An index would have to be built of `size` bytes."""

    def __init__(self, size: int):
        super().__init__(size)
        self.size = size


_may_build: ContextVar[bool] = ContextVar("may_build", default=True)


@contextlib.contextmanager
def only_opening() -> Iterator[None]:
    """Inside the `with` block an index that would have to be built raises `NotIndexed`."""
    token = _may_build.set(False)
    try:
        yield
    finally:
        _may_build.reset(token)


def build_in_parallel(dataset_dir: Path, openings: Sequence[Callable[[], object]]) -> None:
    """Builds the indices that `openings` lack, the largest first, several at a time in processes of their own.

    openings: each opens what has an index, and can be pickled. Of processes that start together one builds. Errors are
    left to who opens the files afterwards.
    """
    folder = cache_directory(dataset_dir)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            with contextlib.suppress(OSError):
                stack.enter_context(_locked(folder / "building.lock"))
        missing = [(size, opening) for opening in openings if (size := _missing_bytes(opening))]
        missing.sort(key=itemgetter(0), reverse=True)
        processes = min(len(missing), os.cpu_count() or 1, _MOST_PROCESSES)
        if processes < 2 or sum(size for size, _ in missing) < _WORTH_PROCESSES:
            return
        # Forked, a process needs no start of its own, and does not run the user's program again.
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
            for done in [pool.submit(_build, opening) for _, opening in missing]:
                with contextlib.suppress(BrokenProcessPool):
                    done.result()


_MOST_PROCESSES = 4  # each has about one and a half times its file in memory
_WORTH_PROCESSES = 64 << 20  # bytes of files, which take seconds


def _missing_bytes(opening: Callable[[], object]) -> int:
    try:
        with only_opening():
            opening()
    except NotIndexed as error:
        return error.size
    except UserError:
        pass
    return 0


def _build(opening: Callable[[], object]) -> None:
    with contextlib.suppress(UserError):
        opening()


def open_entries(
    dataset_dir: Path,
    name: str,
    source: Path,
    build: Build,
    *,
    excluded: Collection[int],
    bad_samples: BadSamples | None,
    label: str | None = None,
) -> PackedRecords:
    """Returns the good entries that `build` makes of a file (`entries_by_image`), except those of `excluded` images.

    label: what messages about bad entries call the file, `name` by default. Raises `UserError` where none is left.
    """
    tables = open_index(dataset_dir, name, [source], build)
    settle(label or name, list(tables["problems"]), len(tables["entries"]), bad_samples)
    entries = tables["entries"].without(excluded)
    require_some(entries, str(source))
    return entries


def cache_directory(dataset_dir: Path) -> Path | None:
    """Returns the folder of a data folder's indices; None where nothing can be written."""
    chosen = os.environ.get(ENVIRONMENT)
    folders = [Path(chosen) if chosen else dataset_dir / ".uground_cache"]
    if not chosen:
        owner = _digest_of(str(dataset_dir.resolve()).encode())[:16]
        with contextlib.suppress(RuntimeError):  # nobody knows where home is
            folders.append(Path.home() / ".cache" / "uground" / owner)
    for folder in folders:
        marker = folder / ".gitignore"
        try:
            if not marker.exists():  # one question for every index that a rank opens, on a disk that all ranks share
                folder.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError), marker.open("x") as file:
                    file.write("*\n")
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    if chosen:
        raise UserError(f"{ENVIRONMENT}={chosen}: this folder cannot be written")
    return None


class _Index:
    """One index file and the stamp beside it.

    code: digest of the code that parses. key: of the user. is_damaged: whether `open` has found it changed.
    """

    def __init__(self, file: Path, sources: Sequence[Path], code: str, key: bytes):
        self.file, self.sources, self.code, self.key = file, sources, code, key
        self.stamp = file.with_suffix(".json")
        self.is_damaged = False

    def build(self, build: Build) -> Tables:
        """Returns the tables that `build` makes, as they were written."""
        # Times and digests are taken before the sources are parsed: a change in between makes the index stale, not
        # wrong.
        made_of = {str(path): _record(path) for path in self.sources}
        tables = build()
        with written_whole(self.file) as beside:
            write_tables(beside, tables)
        self._write_stamp({"format": FORMAT, "code": self.code, "sources": made_of, "index": _record(self.file)})
        return read_tables(self.file)

    def open(self) -> Tables | None:
        """The tables, if they were made of what the sources are now, by the same code, and nothing changed them."""
        try:
            stamp = self._read_stamp()
            if stamp is None or (stamp["format"], stamp["code"]) != (FORMAT, self.code):
                return None
            current = {path: _unchanged(Path(path), record) for path, record in stamp["sources"].items()}
            if None in current.values() or current.keys() != {str(path) for path in self.sources}:
                return None
            index = _unchanged(self.file, stamp["index"])
            if index is None:
                self.is_damaged = True
                return None
            tables = read_tables(self.file)
            if current != stamp["sources"] or index != stamp["index"]:
                with contextlib.suppress(OSError):
                    self._write_stamp({**stamp, "sources": current, "index": index})
            return tables
        except (OSError, pa.ArrowException):
            return None

    def _read_stamp(self) -> dict[str, Any] | None:
        """What was written, None where there is nothing or nothing of ours."""
        try:
            sealed = decode_json(read_bytes(self.stamp).decode())
            seal, stamp = sealed["seal"], sealed["stamp"]
            return stamp if hmac.compare_digest(seal, _seal(self.key, stamp)) else None
        except (UserError, ValueError, KeyError, TypeError):
            return None

    def _write_stamp(self, stamp: Mapping[str, Any]) -> None:
        write_json(self.stamp, {"seal": _seal(self.key, stamp), "stamp": stamp}, indent=None)


def _user_key() -> bytes | None:
    """32 random bytes that only this user knows, made when first asked for; None where they cannot be kept."""
    chosen = os.environ.get(ENVIRONMENT)
    try:
        folder = Path(chosen) if chosen else Path.home() / ".cache" / "uground"
        path = folder / "index.key"
        with contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            if not path.exists():
                temporary = path.with_suffix(".writing")
                temporary.touch(mode=0o600)
                temporary.write_bytes(secrets.token_bytes(32))
                os.replace(temporary, path)
        return path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows where home is
        logger.warning(
            "no index is saved because there is no folder for its key (%s); set %s to one", error, ENVIRONMENT
        )
        return None


def _seal(key: bytes, content: Any) -> str:
    return hmac.new(key, json.dumps(content, sort_keys=True).encode(), "sha256").hexdigest()


def _record(path: Path) -> dict[str, Any]:
    return {**_state(path), "digest": _digest_of_file(path)}


def _unchanged(path: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a file as it is now, if its content is that of `record`; it is read only if its times changed."""
    state = _state(path)
    if state.items() <= record.items():
        return dict(record)
    current = _record(path) if state["size"] == record["size"] else None
    return current if current is not None and current["digest"] == record["digest"] else None


def _state(path: Path) -> dict[str, int]:
    """What changes when a file is written to. The last cannot be set back, unlike the modification time."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}


def _digest_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time; a lock is gone with its process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
