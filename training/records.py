"""Where the numbers of a run go: trackers such as TensorBoard for eyes, `metrics.jsonl` for machines.

The first ten tags are the reference's: train/{loss,ce_loss,mask_bce_loss,mask_dice_loss,mask_loss,lr},
metrics/{total,data}_secs_per_batch (seconds per optimizer step), val/{giou,ciou}. Besides:

    policy/{loss,entropy,reward,baseline,advantage}, and the histogram policy/layers
    train/grad_norm                            before clipping
    metrics/samples_per_second, metrics/memory_gib (the most so far; see memory.py)
    family/<family>/{ce_loss,mask_bce_loss,mask_dice_loss,samples}
    val/<split>/{giou,ciou}                    of the splits after the first
    <split>/picture_<n>                        the same few validation images every time, with mask and similarity map

x is the number of optimizer steps done. metrics.jsonl has a line per reported step and one per split and validation.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.errors import naming
from groundscore.schema import DamagedFile, anything, mapping, parse, set_aside, whole
from groundscore.writing import written_whole
from utils.trackers import TensorBoard, TrackedRun, Trackers

METRICS_FILE = "metrics.jsonl"


class Records:
    """Writes to `directory`; only the main process has one. `first_step` is the step that training resumes from:
    what an interrupted run wrote beyond it is dropped. trackers: by default TensorBoard alone."""

    def __init__(self, directory: Path, *, first_step: int = 0, trackers: Trackers | None = None):
        self.trackers = trackers or Trackers([TensorBoard.name], TrackedRun(directory, first_step=first_step))
        self.path = directory / METRICS_FILE
        _drop_lines_after(self.path, first_step)
        self.file = self.path.open("a", encoding="utf-8")

    def step(
        self,
        step: int,
        means: Mapping[str, float],
        layers: Sequence[int],
        *,
        learning_rate: float,
        grad_norm: float | None,
        seconds: float,
        data_seconds: float,
        samples_per_second: float,
        memory: float,
    ) -> None:
        """Numbers of an optimizer step. layers: how often each was chosen. seconds, data_seconds: of a step.
        memory: bytes."""
        scalars = {tag_of(name): value for name, value in means.items()}
        scalars |= {
            "train/lr": learning_rate,
            "metrics/total_secs_per_batch": seconds,
            "metrics/data_secs_per_batch": data_seconds,
            "metrics/samples_per_second": samples_per_second,
            "metrics/memory_gib": memory / 2**30,
        }
        if grad_norm is not None:
            scalars["train/grad_norm"] = grad_norm
        self.trackers.scalars(step, scalars)
        line = {"step": step, **scalars}
        if sum(layers):
            self.trackers.histogram(step, "policy/layers", layers)
            line["policy/layers"] = list(layers)
        self._write(line)

    def evaluation(self, step: int, split: str, scores: Mapping[str, float], *, selects: bool) -> None:
        """Scores of one split; the one that selects the best checkpoint has the reference's two tags."""
        group = "val" if selects else f"val/{split.replace('|', '_')}"
        self.trackers.scalars(step, {f"{group}/{name.lower()}": value for name, value in scores.items()})
        self._write({"step": step, "split": split, **{f"val/{name.lower()}": v for name, v in scores.items()}})
        self.trackers.flush()

    def images(self, step: int, split: str, images: Sequence[np.ndarray]) -> None:
        """Images uint8 [H, W, 3] of a split, the same images every time."""
        for number, image in enumerate(images, start=1):
            self.trackers.image(step, f"{split.replace('|', '_')}/picture_{number}", image)
        self.trackers.flush()

    def close(self) -> None:
        """Write what is buffered and close the files."""
        self.trackers.close()
        self.file.close()

    def _write(self, line: Mapping) -> None:
        with naming(self.path):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()


def metrics_line(value: Any, where: str) -> None:
    """Check a line of `metrics.jsonl`: an object with a step, and numbers by name."""
    mapping(anything, at_least=("step",))(value, where)
    whole(0)(value["step"], "step")


def tag_of(name: str) -> str:
    """`ce_loss` -> `train/ce_loss`, `policy_loss` -> `policy/loss`; a name with a group keeps it."""
    if name == "policy_loss":
        return "policy/loss"
    return name if "/" in name else f"train/{name}"


def _drop_lines_after(path: Path, step: int) -> None:
    """Remove what an interrupted run recorded beyond the step that is gone back to, and a line cut short. Where other
    lines are damaged, the file as it was is kept and named on standard error; so is what is no file."""
    if not os.path.lexists(path):
        return
    if not path.is_file():
        print(f"{path} is not a file; it is kept as {set_aside(path).name}, and new records begin", file=sys.stderr)
        return
    kept, problems = [], []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            if parse(line, metrics_line, f"{path}, line {number},")["step"] <= step:
                kept.append(line + b"\n")
        except DamagedFile as problem:
            if number < len(lines):
                problems.append(str(problem))
    with written_whole(path) as beside:
        beside.write_bytes(b"".join(kept))
        if problems:
            more = f", and {len(problems) - 1} more lines" if len(problems) > 1 else ""
            print(f"{problems[0]}{more}; the file as it was is kept as {set_aside(path).name}", file=sys.stderr)
