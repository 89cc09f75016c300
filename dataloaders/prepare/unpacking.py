"""Official archives into the layout of the data folder: each file goes where the declared sources say.

Archives may hold archives. Nothing is written but what a source names, so nothing leaves the data folder; what is odd
about an archive (names with "..", links that a source would take) is an error, not a file. A folder that is a link to a
user's own copy is left alone.
"""

import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from dataloaders.downloads import Download, Source
from dataloaders.prepare.choosing import files_of, is_linked
from dataloaders.prepare.fetching import ARCHIVES
from groundscore.errors import UserError
from groundscore.progress import ProgressBar
from groundscore.reading import parse_json
from groundscore.writing import make_directory, write_json, written_whole

DEEPEST = 3  # archives in one another
NOTES = ".prepare"  # folder of the data folder: which archives are unpacked, and inner archives while they are
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, EOFError)


@dataclass(frozen=True)
class Member:
    """A file in an archive. key: what opens it again. parts: of its path, the archive's own name first."""

    key: object
    parts: tuple[str, ...]
    size: int


@dataclass
class Unpacked:
    """What was done: files written, those that were there, and those with this name that are other ones."""

    written: int = 0
    there: int = 0
    other: int = 0


def unpack(
    download: Download, sources: Sequence[Source], root: Path, folder: Path, say: Callable[[str], None] = print
) -> Unpacked:
    """Put what `sources` name from a download in `folder` where it belongs; what is there already stays.

    The first time, and after a kill, every file is looked at; later nothing is, as long as the archive is the same.
    """
    done = Unpacked()
    sources = [source for source in sources if source.path.exists() or not source.is_there]
    primary, links = _split_places(sources, root)
    notes = root / NOTES
    for left in notes.glob("inner-*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    record = notes / f"{download.file}.json"
    for path in files_of(download, folder):
        state = {"size": path.stat().st_size, "mtime": path.stat().st_mtime_ns, "paths": [str(s.path) for s in primary]}
        seen = _record(record)
        is_done = seen.get(path.name) == state and all(source.path.exists() for source in primary)
        if is_done:
            continue
        before = done.written + done.there + done.other
        if _kind(path.name):
            make_directory(notes)
            with tempfile.TemporaryDirectory(dir=notes, prefix="inner-") as inner:
                _unpack_archive(path, (_stem(path.name),), primary, root, done, Path(inner), 1)
        else:
            _place_file(path, primary, root, done)
        if done.written + done.there + done.other == before:
            wanted = ", ".join(dict.fromkeys(source.inside for source in primary))
            say(f"nothing in {path} is of {download.title}: expected {wanted}")
            continue
        make_directory(record.parent)
        write_json(record, {**_record(record), path.name: state})
    for link, target in links:
        if link.exists() or link.is_symlink() or not target.exists() or is_linked(root, link.parent):
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent))
        say(f"linked   {link} -> {target}")
    return done


def _split_places(sources: Sequence[Source], root: Path) -> tuple[list[Source], list[tuple[Path, Path]]]:
    """Returns where files are written, once each, and (link, target) of the other folders that hold the same files.

    What is there already, or is a link of the user, is not chosen to be written to if there is another.
    """
    by_content: dict[str, list[Source]] = {}
    for source in sources:
        by_content.setdefault(source.inside, []).append(source)
    primary, links = [], []
    for same in by_content.values():
        there = [source for source in same if source.path.exists()]
        own = [source for source in there if not is_linked(root, source.path)]
        first = [*own, *there, *same][0]
        primary.append(first)
        links += [(source.path, first.path) for source in same if source is not first and not source.is_there]
    return primary, links


def _record(path: Path) -> dict:
    try:
        value = parse_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UserError):
        return {}
    return value if isinstance(value, dict) else {}


def _kind(name: str) -> str:
    """Returns "zip", "tar", or "" for what is no archive."""
    ending = next((ending for ending in ARCHIVES if name.lower().endswith(ending)), "")
    return "zip" if ending == ".zip" else ending and "tar"


def _stem(name: str) -> str:
    ending = next(ending for ending in ARCHIVES if name.lower().endswith(ending))
    return name[: -len(ending)]


def _place_file(path: Path, sources: Sequence[Source], root: Path, done: Unpacked) -> None:
    """A download that is no archive."""
    place = _place(sources, (path.name,)) or _place(sources, (path.parent.name, path.name))
    if place is not None and not _is_there(place, path.stat().st_size, root, done):
        with path.open("rb") as source:
            _write(source, place, path.stat().st_size, path.name)
        done.written += 1


# --- archives ---------------------------------------------------------------------------------------------------------


def _unpack_archive(
    path: Path, within: tuple[str, ...], sources: Sequence[Source], root: Path, done: Unpacked, inner: Path, depth: int
) -> None:
    """within: the names of the archives around these files, as the first parts of their paths."""
    try:
        with _opened(path) as (members, opened_in_order):
            wanted, archives = {}, {}
            for member in members():
                parts = (*within, *_safe_parts(member.parts, path))
                if any(part.startswith(("._", "__MACOSX")) for part in parts):
                    continue
                place = _place(sources, parts)
                if place is not None:
                    wanted[member.key] = (member, place)
                elif _kind(parts[-1]) and depth < DEEPEST:
                    archives[member.key] = member
            todo = {
                key: (member, place)
                for key, (member, place) in wanted.items()
                if not _is_there(place, member.size, root, done)
            }
            _check_space(path, root, sum(member.size for member, _ in todo.values()))
            bar, total, so_far = ProgressBar(f"unpack {path.name}"), len(todo), 0
            bar.show(0, total or 1)
            for key, file in opened_in_order({*todo, *archives}):
                if key in todo:
                    member, place = todo[key]
                    _write(file, place, member.size, f"{path}: {'/'.join(member.parts)}")
                    done.written, so_far = done.written + 1, so_far + 1
                    bar.show(so_far, total)
                else:
                    name = archives[key].parts[-1]
                    copy = inner / f"{depth}-{name}"
                    with copy.open("wb") as out:
                        shutil.copyfileobj(file, out, 1 << 20)
                    _unpack_archive(copy, (*within, _stem(name)), sources, root, done, inner, depth + 1)
                    copy.unlink()
    except _DAMAGED as error:
        raise UserError(f"{path} is damaged or cut off ({error}); fetch it again") from error
    except NotImplementedError as error:  # a method of compression, or an archive in parts
        raise UserError(f"{path} cannot be unpacked here ({error}); unpack it with 7z, and use `link`") from error
    except RuntimeError as error:  # how zipfile says it
        raise UserError(f"{path} is encrypted ({error}); unpack it with its password, and use `link`") from error


def _place(sources: Sequence[Source], parts: Sequence[str]) -> Path | None:
    return next((place for source in sources if (place := source.place(parts)) is not None), None)


def _safe_parts(parts: Sequence[str], path: Path) -> Sequence[str]:
    if not parts or ".." in parts or parts[0] == "/" or "\0" in parts[0] or parts[0].endswith(":"):
        raise UserError(f"{path} has a file named {'/'.join(parts)[:200]!r}, which lies outside it; it is not official")
    return parts


@contextmanager
def _opened(
    path: Path,
) -> Iterator[tuple[Callable[[], Iterator[Member]], Callable[[set], Iterator[tuple[object, IO]]]]]:
    """Yields two functions: one lists the files of an archive, one opens those whose keys it is given, in order."""
    if _kind(path.name) == "zip":
        with zipfile.ZipFile(path) as archive:
            yield lambda: _zip_members(archive, path), lambda keys: _open_zip(archive, keys)
    else:
        yield lambda: _tar_members(path), lambda keys: _open_tar(path, keys)


def _zip_members(archive: zipfile.ZipFile, path: Path) -> Iterator[Member]:
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        parts = PurePosixPath(name).parts
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UserError(f"{path} has a link, {name[:200]!r}; official archives have none")
        if parts and not info.is_dir():
            yield Member(info.filename, parts, info.file_size)


def _open_zip(archive: zipfile.ZipFile, keys: set) -> Iterator[tuple[object, IO]]:
    for info in archive.infolist():
        if info.filename in keys:
            with archive.open(info) as file:
                yield info.filename, file


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for number, info in enumerate(archive):
            try:
                tarfile.data_filter(info, "/nowhere")
            except tarfile.FilterError as error:
                raise UserError(f"{path}: {error}; it is not official") from error
            if info.issym() or info.islnk():
                raise UserError(f"{path} has a link, {info.name[:200]!r}; official archives have none")
            if info.isreg():
                yield Member(number, PurePosixPath(info.name).parts, info.size)


def _open_tar(path: Path, keys: set) -> Iterator[tuple[object, IO]]:
    """A second pass: a compressed archive can only be read in its order."""
    with tarfile.open(path) as archive:
        for number, info in enumerate(archive):
            if number in keys:
                yield number, archive.extractfile(info)


def _is_there(place: Path, size: int, root: Path, done: Unpacked) -> bool:
    """Whether nothing is to be written: it is there, something else is, or a link leads to the user's own copy."""
    if place.exists():
        if place.stat().st_size == size:
            done.there += 1
        else:
            done.other += 1
        return True
    if is_linked(root, place):
        done.other += 1
        return True
    return False


def _check_space(path: Path, root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(f"{path} needs {needed / 1e9:.1f} GB below {root}, where {free / 1e9:.1f} GB are free")


def _write(source: IO, place: Path, size: int, name: str) -> None:
    """Write a file whole or not at all, and never more than it is said to have."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(place) as beside, beside.open("wb") as out:
        left = size
        while chunk := source.read(min(1 << 20, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise UserError(f"{name} has more bytes than the archive says; it is not official")
            out.write(chunk)
        if left:
            raise UserError(f"{name} is cut off; fetch the archive again")
