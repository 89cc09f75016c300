"""Which checkpoint is complete, which is the newest, and is it what was written?"""

import json
from pathlib import Path
from typing import Any

from utils.errors import UserError

from .layout import BEST, LATEST, MARKER, REPLACED, SETTINGS, Position, digest_of


def read_marker(checkpoint: Path) -> dict[str, Any] | None:
    """What `complete.json` says, if every file that it lists is there with its size; None for an incomplete one."""
    try:
        marker = json.loads((checkpoint / MARKER).read_text())
        if marker["format"] == 1:  # had sizes only, and no number
            files = {name: {"bytes": size, "blake2b": None} for name, size in marker["files"].items()}
            marker |= {"save": 0, "skipped": 0, "files": files}
        whole = all((checkpoint / name).stat().st_size == file["bytes"] for name, file in marker["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return marker if whole else None


def is_complete(checkpoint: Path) -> bool:
    return read_marker(checkpoint) is not None


def checkpoints_in(directory: Path) -> list[Path]:
    """The complete checkpoints of a directory, the newest first. One that was moved aside when it was about to be
    replaced counts as well: the process may have died right then."""
    found = []
    for path in [*directory.glob("global_step*"), *directory.glob(f"{REPLACED}global_step*")]:
        marker = read_marker(path)
        if marker is not None:
            found.append((marker["save"], marker["step"], path))
    return [path for _, _, path in sorted(found, reverse=True)]


def find_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint of a directory that holds several, or None."""
    return next(iter(checkpoints_in(directory)), None)


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


def verify_checkpoint(checkpoint: Path) -> None:
    """Read every file again; a `UserError` names one whose content is not what was written."""
    for name, file in _marker_of(checkpoint)["files"].items():
        if file["blake2b"] not in (None, digest_of(checkpoint / name)):
            raise UserError(
                f"{checkpoint / name} is damaged: its content is not what was written. Go on from another checkpoint "
                "with --resume DIR, or start afresh with --no_resume"
            )


def read_position(checkpoint: Path) -> Position:
    marker = _marker_of(checkpoint)
    return Position(**{name: marker[name] for name in ("step", "samples", "world_size", "skipped")})


def read_settings(checkpoint: Path) -> dict[str, Any]:
    """The settings of the run that wrote a checkpoint: `flags` (see `TrainingConfig`), `model` (its configuration),
    `base` (paths of the frozen weights), `versions`."""
    return json.loads((checkpoint / SETTINGS).read_text())


def _marker_of(checkpoint: Path) -> dict[str, Any]:
    marker = read_marker(checkpoint)
    if marker is None:
        raise UserError(f"{checkpoint} is not a complete checkpoint: {MARKER} or a file that it lists is missing")
    return marker
