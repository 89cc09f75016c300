"""runs/<exp>/scores.json: every evaluation of a run, and the best of them.

Every checkpoint holds the same content as it was then. So a lost file is rebuilt from the checkpoint that training
resumes from, and the best checkpoint always holds its own score.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints.runs.finding import BEST, SCORES, candidates_in, find_checkpoint, move_aside, read_position
from groundscore.schema import (
    DamagedFile,
    Shape,
    anything,
    list_of,
    mapping,
    number,
    optional,
    read_json,
    record,
    set_aside,
    text,
    whole,
)
from groundscore.writing import write_json
from utils.distributed import World

Say = Callable[[str], None]

RANKED = ("cIoU", "gIoU")  # the metrics that the best checkpoint is chosen by


def _with_scores(required: dict[str, Shape]) -> Shape:
    """An object with the metrics that the best is chosen by, what is `required`, and other metrics."""
    values = mapping(anything, at_least=(*required, *RANKED))
    known = {**required, **dict.fromkeys(RANKED, optional(number))}

    def check(value: Any, where: str) -> None:
        values(value, where)
        for name, shape in known.items():
            shape(value[name], f"{where}.{name}")

    return check


_EVALUATION = record({"step": whole(0), "epoch": whole(0), "splits": mapping(_with_scores({}))})
_BEST = _with_scores({"step": whole(0), "split": text})
SCORES_SHAPE = record({"best": optional(_BEST), "evaluations": list_of(_EVALUATION)})


def _say(line: str) -> None:
    print(line, file=sys.stderr)


class Scores:
    """Every evaluation of a run, and the best by cIoU (ties by gIoU); `content` is what the file holds."""

    def __init__(self, directory: Path, content: dict[str, Any] | None = None):
        self.path = directory / SCORES
        self.content = content or {"best": None, "evaluations": []}

    def go_back_to(self, step: int) -> None:
        """Training resumes from `step`: drop what was scored beyond it. The best checkpoint outlives an interruption,
        and so does its score; a run that starts afresh has none."""
        self.content["evaluations"] = [entry for entry in self.content["evaluations"] if entry["step"] <= step]
        if step == 0:
            self.content["best"] = None

    def forget_best(self) -> None:
        """What follows is not compared with what was scored before."""
        self.content["best"] = None

    def has(self, step: int) -> bool:
        """Whether a step was evaluated."""
        return any(entry["step"] == step for entry in self.content["evaluations"])

    def add(self, step: int, epoch: int, scores: dict[str, dict[str, float]], selecting: str) -> bool:
        """Record the scores of all splits; True if `selecting` is the best so far."""
        entry = {"step": step, "epoch": epoch, "splits": scores}
        self.content["evaluations"].append(entry)
        ours, best = scores[selecting], self.content["best"]
        is_best = best is None or _rank(ours) > _rank(best)
        if is_best:
            self.content["best"] = {"step": step, "epoch": epoch, "split": selecting, **ours}
        return is_best

    def save(self) -> None:
        """Write the file."""
        write_json(self.path, self.content, sync=True)


def open_scores(run_dir: Path, checkpoint: Path | None, world: World, say: Say = _say) -> Scores:
    """The scores of a run that resumes from `checkpoint`; the main rank reads them, all get them.

    A damaged file is moved aside and reported. The best is what the best checkpoint records.
    """
    content = None
    if world.is_main:
        content = _read_own(run_dir, say) or _read_stored(checkpoint) or {"best": None, "evaluations": []}
        content["best"] = _best_of(run_dir, content, say)
    return Scores(run_dir, world.broadcast(content))


def _read_own(run_dir: Path, say: Say) -> dict[str, Any] | None:
    try:
        return read_json(run_dir / SCORES, SCORES_SHAPE)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        say(f"{error}; it is kept as {set_aside(run_dir / SCORES).name}, and rebuilt from the checkpoint")
        return None


def _read_stored(checkpoint: Path | None) -> dict[str, Any] | None:
    """The scores inside a checkpoint, None where it has none: an older version wrote it, or nothing was scored."""
    try:
        return None if checkpoint is None else read_json(checkpoint / SCORES, SCORES_SHAPE)
    except (FileNotFoundError, DamagedFile):
        return None


def _best_of(run_dir: Path, content: dict[str, Any], say: Say) -> dict[str, Any] | None:
    """What the best checkpoint of a run scored; None where there is none. One whose scores are not known any more is
    moved aside, since the next one would replace it."""
    directory = run_dir / BEST
    best = find_checkpoint(directory)
    if best is None and not candidates_in(directory):
        return None
    stored, listed = _read_stored(best), content["best"]
    if stored is not None and stored["best"] is not None:
        return stored["best"]
    if best is not None and listed is not None and read_position(best).step == listed["step"]:
        return listed
    kept = move_aside(directory)
    say(f"{directory}: what it scored is not known; it is kept as {kept.name}, and a new best is chosen")
    return None


def scores_at(checkpoint: Path) -> dict[str, dict[str, float | None]] | None:
    """What a run scored at a checkpoint: split -> metric -> value; None where it was not evaluated there."""
    step = read_position(checkpoint).step
    try:
        content = read_json(checkpoint.parent.parent / SCORES, SCORES_SHAPE)
    except FileNotFoundError:
        content = None
    except DamagedFile as error:
        _say(f"skipped: {error}")
        content = None
    for known in (content, _read_stored(checkpoint)):
        found = [entry["splits"] for entry in (known or {"evaluations": []})["evaluations"] if entry["step"] == step]
        if found:
            return found[-1]
    return None


def selected_on(checkpoint: Path) -> str | None:
    """The split by whose scores a run chose this checkpoint; None where it is not the best of a run, or not known."""
    if checkpoint.parent.name != BEST:
        return None
    stored = _read_stored(checkpoint)
    return stored["best"]["split"] if stored is not None and stored["best"] is not None else None


def _rank(scores: dict[str, float | None]) -> tuple[float, ...]:
    """By cIoU, then gIoU; a score that nothing was there for is the worst."""
    return tuple(-1.0 if scores[name] is None else scores[name] for name in RANKED)
