"""Names of a run's files, and its checkpoints: which is complete, which is the newest, is it what was written?"""

import json
import os
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpoints.digests import digest_of, digest_of_text
from checkpoints.files import CONFIG_FILE
from groundscore.errors import UserError
from groundscore.schema import (
    DamagedFile,
    Shape,
    ShapeError,
    anything,
    either,
    flag,
    list_of,
    mapping,
    number,
    one_of,
    optional,
    read_json,
    record,
    text,
    whole,
)
from groundscore.writing import sync_to_disk

LATEST = "ckpt_model"
BEST = "best_ckpt_model"
LATEST_FILE = "latest"
MARKER = "complete.json"
SETTINGS = "settings.json"
SCORES = "scores.json"
WRITING = ".writing-"
REPLACED = ".replaced-"
FORMAT = 3
_FIRST = {"format": one_of(1), "step": whole(0), "samples": whole(0), "world_size": whole(1)}
_SECOND = {**_FIRST, "format": one_of(2), "save": whole(0), "skipped": whole(0)}
_FILE = record({"bytes": whole(0), "blake2b": optional(text)})
_MARKERS: dict[int, Shape] = {
    1: record({**_FIRST, "files": mapping(whole(0))}),  # sizes only, and no number of the save
    2: record({**_SECOND, "files": mapping(_FILE)}),  # no digest of the marker itself
    FORMAT: record({**_SECOND, "format": one_of(FORMAT), "files": mapping(_FILE), "blake2b": text}),
}
_SETTINGS = record(
    {
        "flags": mapping(optional(either(text, number, flag))),
        "model": mapping(anything, at_least=("system",)),
        "base": mapping(optional(text)),
        "trained": list_of(text),
        "precision": one_of("fp32", "bf16", "fp16"),
    },
    {"world_size": whole(1), "versions": mapping(text), "frozen": text},
)
_NAME = re.compile(r"global_step\d+")


@dataclass
class Position:
    """Where training stands.

    step: optimizer steps done. samples: items of the data consumed, over all processes. world_size: processes.
    skipped: steps among them whose update was left out because of bad numbers.
    """

    step: int
    samples: int
    world_size: int
    skipped: int = 0


def tag_of(step: int) -> str:
    """The name of the checkpoint of a step."""
    return f"global_step{step}"


def random_state_file(rank: int) -> str:
    """The file that holds the random generators of a rank."""
    return f"random_state_rank_{rank}.pt"


def move_aside(directory: Path) -> Path:
    """Rename a directory to the first free of `<name>.1`, `<name>.2`, …; returns the new path."""
    number = 1
    while os.path.lexists(target := directory.with_name(f"{directory.name}.{number}")):
        number += 1
    os.rename(directory, target)
    return target


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file, or a copy where the disk knows no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def sync_directory(path: Path) -> None:
    """Ask the system to write a directory and its files to disk before what follows."""
    for entry in [*(child for child in path.iterdir() if child.is_file()), path]:
        sync_to_disk(entry)


class Incomplete(UserError):
    """A checkpoint lacks something, or its marker is not what was written."""


@dataclass(frozen=True)
class Marker:
    """What `complete.json` says.

    save: number of the save in its directory. files: by name, "bytes" and "blake2b" (None in the oldest format).
    """

    save: int
    position: Position
    files: dict[str, dict[str, Any]]

    def to_text(self) -> str:
        """The content of the file, which ends in a digest of the rest."""
        files = dict(sorted(self.files.items()))
        content = {"format": FORMAT, "save": self.save, **asdict(self.position), "files": files}
        return json.dumps({**content, "blake2b": _digest_of_marker(content)}, indent=2) + "\n"


def read_marker(checkpoint: Path) -> Marker:
    """What `complete.json` says, if every file that it lists is there with its size; `Incomplete` says what is not."""
    content = _read_marker_file(checkpoint / MARKER)
    files = content["files"]
    if content["format"] == 1:
        files = {name: {"bytes": size, "blake2b": None} for name, size in files.items()}
    for name, file in files.items():
        path = checkpoint / name
        if Path(name).name != name or not path.is_file():
            raise Incomplete(f"{checkpoint} is incomplete: {name!r} is missing")
        if path.stat().st_size != file["bytes"]:
            raise Incomplete(f"{path} is damaged: it has {path.stat().st_size} bytes, and {file['bytes']} were written")
    position = Position(**{name: content.get(name, 0) for name in ("step", "samples", "world_size", "skipped")})
    return Marker(content.get("save", 0), position, files)


def _read_marker_file(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, _marker_shape)
    except FileNotFoundError:
        raise Incomplete(f"{path.parent} is incomplete: it has no {MARKER}") from None
    except DamagedFile as error:
        raise Incomplete(str(error)) from error
    except OSError as error:
        raise Incomplete(f"{path} cannot be read ({error.strerror})") from error
    named = path.parent.name.removeprefix(REPLACED)
    if content.get("blake2b") not in (None, _digest_of_marker(content)) or (
        _NAME.fullmatch(named) and named != tag_of(content["step"])
    ):
        raise Incomplete(f"{path} is damaged: its content is not what was written")
    return content


def _marker_shape(value: Any, where: str) -> None:
    mapping(anything, at_least=("format",))(value, where)
    form = value["format"]
    if type(form) is not int or form not in _MARKERS:
        raise ShapeError(f"format should be one of {', '.join(map(str, _MARKERS))}")
    _MARKERS[form](value, where)


def _digest_of_marker(content: dict[str, Any]) -> str:
    return digest_of_text(json.dumps({name: content[name] for name in sorted(content) if name != "blake2b"}))


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint has a valid marker and all files that it lists."""
    try:
        read_marker(checkpoint)
    except Incomplete:
        return False
    return True


def checkpoints_in(directory: Path) -> list[Path]:
    """The complete checkpoints of a directory, the newest first. One that was moved aside when it was about to be
    replaced counts as well: the process may have died right then."""
    found = []
    for path in candidates_in(directory, "", REPLACED):
        try:
            marker = read_marker(path)
        except Incomplete:
            continue
        found.append((marker.save, marker.position.step, path))
    return [path for _, _, path in sorted(found, reverse=True)]


def incomplete_in(directory: Path) -> list[str]:
    """A line for every checkpoint of a directory that is not complete."""
    problems = []
    for path in candidates_in(directory):
        try:
            read_marker(path)
        except Incomplete as problem:
            problems.append(str(problem))
    return problems


def candidates_in(directory: Path, *prefixes: str) -> list[Path]:
    """What has the name of a checkpoint, after one of the prefixes (default: none); what a user called otherwise has
    not."""
    return [
        path
        for prefix in prefixes or ("",)
        for path in sorted(directory.glob(f"{prefix}global_step*"))
        if _NAME.fullmatch(path.name.removeprefix(prefix))
    ]


def find_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint of a directory that holds several, or None. Others are named on stderr."""
    for problem in incomplete_in(directory):
        print(f"skipped: {problem}", file=sys.stderr)
    return next(iter(checkpoints_in(directory)), None)


def resolve_checkpoint(path: Path) -> Path:
    """What `--resume` and merging may be given: a checkpoint, a directory of checkpoints, or a run (its best)."""
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    if (path / MARKER).exists() or _NAME.fullmatch(path.name):
        read_marker(path)
        return path
    for directory in (path, path / BEST, path / LATEST):
        found = find_checkpoint(directory)
        if found is not None:
            return found
        if incomplete_in(directory):
            raise UserError(f"{incomplete_in(directory)[0]}; name another checkpoint of the run, if there is one")
    raise UserError(
        f"{path}: no complete training checkpoint (a directory global_step… with {MARKER}) here, in {BEST} or {LATEST}"
    )


def is_run(path: Path) -> bool:
    """Whether this is a run of ours, or checkpoints of one, and not a model's directory."""
    names = (MARKER, LATEST_FILE, LATEST, BEST)
    held = any((path / name).exists() for name in names) or any(path.glob(f"global_step*/{SETTINGS}"))
    return held and not (path / CONFIG_FILE).exists()


def verify_checkpoint(checkpoint: Path) -> None:
    """Read every file again; a `UserError` names one whose content is not what was written."""
    for name, file in read_marker(checkpoint).files.items():
        if file["blake2b"] not in (None, digest_of(checkpoint / name)):
            raise UserError(f"{checkpoint / name} is damaged: its content is not what was written")


def read_position(checkpoint: Path) -> Position:
    """Where training stood when the checkpoint was written."""
    return read_marker(checkpoint).position


def read_settings(checkpoint: Path) -> dict[str, Any]:
    """The settings of the run that wrote a checkpoint: `flags` (see `TrainingConfig`), `model` (its configuration),
    `base` (paths of the frozen weights), `trained` (names of the stored parameters), `precision`, `versions`."""
    return read_json(checkpoint / SETTINGS, _SETTINGS)
