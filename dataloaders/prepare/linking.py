"""A user's own copies of the data, wherever they lie, into the layout: by symbolic links, or as copies.

Nothing is ever written into them; a folder that is linked holds what the user's own holds.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from dataloaders.downloads import Source
from dataloaders.prepare.choosing import is_linked
from groundscore.errors import UserError
from groundscore.progress import ProgressBar

_LOOKED_AT = 200  # names of a folder, to see what it holds


def link(
    sources: Sequence[Source], root: Path, places: Sequence[Path], *, copy: bool, say: Callable[[str], None] = print
) -> int:
    """Find the files and folders of `sources` below `places` and link, or copy, them into the data folder.

    What is there already stays. Returns how many were linked or copied; says a line for each, and for what was found
    more than once.
    """
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place} is no folder; name one in which your copies lie")
        if place.resolve() == root.resolve():
            raise UserError(f"{place} is the data folder itself; name the one in which your copies lie")
    missing = [source for source in sources if not source.is_there]
    found = _find(missing, root, places)
    count = 0
    for source in missing:
        if source.is_there or source.path not in found:  # `is_there`: its other path may have come in between
            continue
        first, *others = found[source.path]
        if others:
            say(f"note     {source.path.name} is also {', '.join(map(str, others))}; the first one is taken")
        if is_linked(root, source.path.parent):
            say(f"left     {source.path}: its folder is a link to your own copy")
            continue
        source.path.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            _copy(first, source.path)
        else:
            source.path.symlink_to(first.resolve())
        say(f"{'copied' if copy else 'linked'}   {source.path} {'from' if copy else '->'} {first}")
        count += 1
    return count


def _find(sources: Sequence[Source], root: Path, places: Sequence[Path]) -> dict[Path, list[Path]]:
    """Returns the files and folders that fit each path of the layout, by the ends of their paths and what they hold."""
    found: dict[Path, list[Path]] = {}
    visited: set[str] = set()
    for place in places:
        for directory, folders, names in os.walk(place, followlinks=True):
            real = os.path.realpath(directory)
            if real in visited or real == str(root.resolve()):
                folders.clear()
                continue
            visited.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            parts = Path(directory).absolute().parts
            for source in sources:
                if source.is_file:
                    fitting = [name for name in sorted(names) if source.place((*parts, name)) is not None]
                    found.setdefault(source.path, []).extend(Path(directory, name) for name in fitting)
                elif _is_folder_of(source, parts, names, folders):
                    found.setdefault(source.path, []).append(Path(directory))
    return {path: candidates for path, candidates in found.items() if candidates}


def _is_folder_of(source: Source, parts: Sequence[str], names: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether a folder is that of a source: the end of its path, and files such as it has."""
    *wanted, last = source.inside.lower().split("/")
    end = [part.lower() for part in parts[-len(wanted) :]]
    if len(end) != len(wanted) or not all(map(fnmatchcase, end, wanted)):
        return False
    if last == "**":
        return bool(folders or names)
    return any(fnmatchcase(name.lower(), last) for name in names[:_LOOKED_AT])


def _copy(origin: Path, target: Path) -> None:
    """Copy a file or a folder beside its place, then give it its name; a killed copy goes on with the missing files."""
    beside = target.with_name(f".{target.name}.copying")
    if origin.is_file():
        shutil.copyfile(origin, beside)
    else:
        files = sorted(path for path in origin.rglob("*") if path.is_file())
        bar = ProgressBar(f"copy {target.name}")
        bar.show(0, len(files) or 1)
        for number, path in enumerate(files, start=1):
            to = beside / path.relative_to(origin)
            if not to.exists() or to.stat().st_size != path.stat().st_size:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)
            bar.show(number, len(files))
    beside.replace(target)
