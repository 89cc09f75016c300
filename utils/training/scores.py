"""runs/<exp>/scores.json: every evaluation of a run, and the best of them."""

import json
from pathlib import Path
from typing import Any

from utils.training.checkpoints import read_position
from utils.training.checkpoints.layout import write_json

SCORES = "scores.json"


class Scores:
    """Every evaluation of a run, and the best by cIoU (ties by gIoU), in `scores.json`."""

    def __init__(self, directory: Path):
        self.path = directory / SCORES
        self.content: dict[str, Any] = {"best": None, "evaluations": []}
        if self.path.exists():
            self.content = json.loads(self.path.read_text())

    def go_back_to(self, step: int) -> None:
        """Training goes on from `step`: drop what was scored beyond it. The best checkpoint outlives an interruption,
        and so does its score; a run that starts afresh has none."""
        self.content["evaluations"] = [entry for entry in self.content["evaluations"] if entry["step"] <= step]
        if step == 0:
            self.content["best"] = None

    def forget_best(self) -> None:
        """What follows is not compared with what was scored before."""
        self.content["best"] = None

    def has(self, step: int) -> bool:
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
        write_json(self.path, self.content)


def scores_at(checkpoint: Path) -> dict[str, dict[str, float | None]] | None:
    """What a run scored at a checkpoint: split -> metric -> value; None where it was not evaluated there."""
    scores, step = Scores(checkpoint.parent.parent), read_position(checkpoint).step
    found = [entry["splits"] for entry in scores.content["evaluations"] if entry["step"] == step]
    return found[-1] if found else None


def _rank(scores: dict[str, float | None]) -> tuple[float, float]:
    """By cIoU, then gIoU; a score that nothing was there for is the worst."""
    return tuple(-1.0 if scores[name] is None else scores[name] for name in ("cIoU", "gIoU"))
