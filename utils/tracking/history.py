"""Reading what `snapshot.py` recorded: one launch, the difference of two, and a copy of the code of one.

A run directory may have come from elsewhere: paths in it are checked, and nothing outside it is read or written.
"""

import contextlib
import difflib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from groundscore.errors import UserError
from groundscore.schema import (
    DamagedFile,
    anything,
    list_of,
    mapping,
    one_of,
    optional,
    read_json,
    record,
    text,
    whole,
)
from utils.logging import META

_FILE = record({"sha256": text, "bytes": whole(0), "launch": whole(1), "stored_as": text})
_GIT = record({"commit": text, "branch": text, "uncommitted": list_of(text)})
_MACHINE = record(
    {
        **dict.fromkeys(("host", "system", "python", "executable"), text),
        "cpus": optional(whole(1)),
        "gpus": list_of(text),
        "cuda": optional(text),
        "environment": mapping(text),
    }
)
_MANIFEST = record(
    {
        "format": one_of(1),
        "launch": whole(1),
        "time": text,
        "command": text,
        "settings": mapping(anything),
        "world_size": whole(1),
        "git": optional(_GIT),
        "machine": _MACHINE,
        "packages": mapping(text),
        "files": mapping(_FILE),
    }
)
MANIFEST = "manifest.json"
FILES = "files"


def launch_directory(run_dir: Path, launch: int) -> Path:
    """Where a launch is recorded."""
    return run_dir / META / f"meta_{launch}"


def launches(run_dir: Path) -> list[int]:
    """Numbers of the launches that were recorded, oldest first."""
    found = (path.parent.name.removeprefix("meta_") for path in (run_dir / META).glob(f"meta_*/{MANIFEST}"))
    return sorted(int(name) for name in found if re.fullmatch(r"[1-9][0-9]{0,8}", name))


def read_manifest(run_dir: Path, launch: int) -> dict[str, Any]:
    """What a launch recorded; `UserError` where there is nothing, or it is damaged."""
    path = launch_directory(run_dir, launch) / MANIFEST
    try:
        manifest = read_json(path, _MANIFEST)
    except FileNotFoundError:
        known = ", ".join(map(str, launches(run_dir))) or "none"
        raise UserError(f"{run_dir}: launch {launch} was not recorded; recorded are: {known}") from None
    if manifest["launch"] != launch:
        raise DamagedFile(f"{path} is damaged (launch is {manifest['launch']})")
    return manifest


def earlier_manifests(run_dir: Path, launch: int) -> list[dict[str, Any]]:
    """What the launches before `launch` recorded, oldest first. One that is damaged is skipped, and listed by
    `damaged_launches`: it must not keep a run from starting again."""
    manifests = []
    for number in launches(run_dir):
        if number < launch:
            with contextlib.suppress(UserError):
                manifests.append(read_manifest(run_dir, number))
    return manifests


def damaged_launches(run_dir: Path) -> list[str]:
    """A line for every launch whose record cannot be read."""
    problems = []
    for number in launches(run_dir):
        try:
            read_manifest(run_dir, number)
        except UserError as problem:
            problems.append(str(problem))
    return problems


def read_file(run_dir: Path, manifest: Mapping[str, Any], path: str) -> bytes:
    """A code file as it was at a launch, its hash checked."""
    entry = manifest["files"][path]
    where = launch_directory(run_dir, int(entry["launch"])) / FILES / _inside(entry["stored_as"])
    if not where.resolve().is_relative_to(run_dir.resolve()):
        raise UserError(f"{where} is outside the run; it is not read")
    if not where.is_file():
        raise UserError(f"{where}: {path} of launch {manifest['launch']} was stored there and is missing")
    content = where.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise UserError(f"{where} is not what launch {manifest['launch']} recorded: its hash differs")
    return content


def restore(run_dir: Path, launch: int, target: Path) -> int:
    """Write the code of a launch into `target`, a new folder; returns the number of files."""
    manifest = read_manifest(run_dir, launch)
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError(f"{target} already exists; files are never overwritten; choose a new folder with --to")
    contents = {_inside(path): read_file(run_dir, manifest, path) for path in manifest["files"]}
    for path, content in contents.items():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        entry = manifest["files"][str(path)]
        stored = launch_directory(run_dir, int(entry["launch"])) / FILES / _inside(entry["stored_as"])
        if os.access(stored, os.X_OK):
            place.chmod(0o755)
    return len(contents)


def _inside(path: str) -> PurePosixPath:
    """A path that stays below where it is put."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\\" in path or "\0" in path:
        raise UserError(f"the manifest names the path {path!r}, which is outside its folder; it is not written")
    if any(part.lower().rstrip(". ") == ".git" for part in pure.parts):
        raise UserError(f"the manifest names {path!r}, a file of git itself, which git may run; it is not written")
    return pure


def describe(manifest: Mapping[str, Any], before: Mapping[str, Any] | None) -> Iterator[str]:
    """A launch in a few lines; `before` is the launch before it, None for the first."""
    yield f"launch {manifest['launch']}  {manifest['time']}"
    yield f"  command   {manifest['command']}"
    yield from describe_surroundings(manifest)
    yield f"  code      {len(manifest['files'])} files" + ("" if before else ", all stored")
    for change, paths in changes(manifest, before).items() if before else ():
        for path in paths:
            yield f"    {change:<9} {path}"


def describe_surroundings(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Where a launch ran, and on what."""
    machine, git = manifest["machine"], manifest["git"]
    gpus = ", ".join(f"{count} × {name}" for name, count in Counter(machine["gpus"]).items()) or "no GPU"
    yield f"  machine   {machine['host']}, world size {manifest['world_size']}, {machine['cpus']} CPUs, {gpus}"
    if git:
        count = len(git["uncommitted"])
        state = f"{count} files not committed" if count else "all committed"
        yield f"  git       {git['commit'][:12]} on {git['branch']}, {state}"
    else:
        yield "  git       commit unknown: git is not installed or does not respond"
    names = ("torch", "transformers", "deepspeed", "peft")
    versions = ", ".join(f"{name} {manifest['packages'].get(name, '-')}" for name in names)
    yield f"  packages  python {machine['python']}, {versions}"


def changes(manifest: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, list[str]]:
    """Code files that a launch has added, modified and removed since another."""
    new, old = manifest["files"], before["files"]
    return {
        "added": sorted(new.keys() - old.keys()),
        "modified": sorted(path for path in new.keys() & old.keys() if new[path]["sha256"] != old[path]["sha256"]),
        "removed": sorted(old.keys() - new.keys()),
    }


def difference(run_dir: Path, first: int, second: int) -> Iterator[str]:
    """Lines that say what changed from one launch to another: flags, packages, commit, code."""
    old, new = read_manifest(run_dir, first), read_manifest(run_dir, second)
    yield from _section("flags", old["settings"], new["settings"])
    yield from _section("packages", old["packages"], new["packages"])
    yield from _section("machine", _flat_machine(old), _flat_machine(new))
    for change, paths in changes(new, old).items():
        for path in paths:
            yield f"code: {change} {path}"
            was = _lines(run_dir, old, path) if change != "added" else []
            now = _lines(run_dir, new, path) if change != "removed" else []
            yield from (
                line.rstrip("\n")
                for line in difflib.unified_diff(was, now, f"meta_{first}/{path}", f"meta_{second}/{path}")
            )


def _lines(run_dir: Path, manifest: Mapping[str, Any], path: str) -> list[str]:
    return read_file(run_dir, manifest, path).decode("utf-8", errors="replace").splitlines(keepends=True)


def _flat_machine(manifest: Mapping[str, Any]) -> dict[str, Any]:
    git = manifest["git"] or {}
    return {
        **{name: value for name, value in manifest["machine"].items() if name != "environment"},
        **manifest["machine"]["environment"],
        "processes": manifest["world_size"],
        "commit": git.get("commit"),
    }


def _section(title: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name, "(none)"), new.get(name, "(none)")
        if was != now:
            yield f"{title}: {name}  {was} -> {now}"
