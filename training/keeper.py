"""Saving now and then, validating at the pauses of the schedule, and keeping the best checkpoint."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.runs import BEST, LATEST, Position, Saver, copy_checkpoint
from checkpoints.runs.finding import tag_of
from checkpoints.runs.scores import Scores
from groundscore.progress import duration
from groundscore.scoring import percent
from training.engine import whole_weights
from training.loop import Schedule
from training.progress import Progress
from training.records import Records
from training.validation import Validation
from utils.distributed import World

Say = Callable[[str], None]


def describe_scores(scores: dict[str, dict[str, Any]], *, indent: str = "") -> str:
    """A line per split, in percent."""
    width = max(map(len, scores))
    return "\n".join(
        f"{indent}{split:<{width}}  {values['answer']} answers  gIoU {percent(values['gIoU']):>5}  "
        f"cIoU {percent(values['cIoU']):>5}{_left_out(values)}"
        for split, values in scores.items()
    )


def _left_out(values: dict[str, Any]) -> str:
    """What must not be overlooked beside the scores: they are not those of the whole split."""
    count = values.get("left_out", 0)
    return f"  ({count} bad {'entry' if count == 1 else 'entries'} left out)" if count else ""


def _describe_best(scores: Scores) -> str:
    best = scores.content["best"]
    values = f"gIoU {percent(best['gIoU'])}, cIoU {percent(best['cIoU'])}"
    return f"the best is step {best['step']} ({values} on {best['split']})"


@dataclass
class Keeper:
    """Saves and validates during training; all ranks make the same calls.

    validation: None with `--no_eval`. save_latest: False keeps the best checkpoint only. save_seconds: between two
    latest checkpoints, by the clock of the main process; 0 leaves them to `--save_interval`.
    dropped: conversations that did not fit into a row so far.
    say: prints a line; records: None except on the main process.
    """

    saver: Saver
    processor: Any
    run_dir: Path
    schedule: Schedule
    world: World
    validation: Validation | None
    keep: int
    save_latest: bool
    save_seconds: float
    scores: Scores
    dropped: Callable[[], int]
    say: Callable[[str], None]
    records: Records | None
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        """Whether the latest checkpoint is old enough for a new one; True on the main process alone."""
        late = self.save_seconds > 0 and time.monotonic() - self.saved_at >= self.save_seconds
        return late and self.save_latest and self.world.is_main

    @property
    def is_writing(self) -> bool:
        """Whether this process still writes a checkpoint."""
        return self.saver.is_writing

    def finish(self) -> None:
        """Wait until the checkpoint that is being written, if any, is there."""
        self.saver.finish()

    def save(self, position: Position) -> None:
        """Begin to save the latest checkpoint."""
        self.saved_at = time.monotonic()
        self._start(position, self.run_dir / LATEST, self.keep)

    def ends(self, position: Position) -> None:
        """Training has done its last step: save, unless only the best is kept."""
        if self.save_latest:
            self.save(position)

    def pause(self, position: Position) -> None:
        """Validate at a pause of the schedule, and keep the best."""
        if self.dropped():
            self.say(f"{self.dropped()} conversations dropped so far: too long for --model_max_length")
        latest = self.run_dir / LATEST / tag_of(position.step)
        self.validate(position, latest if self.saver.started == latest else None)

    def validate(self, position: Position, saved: Path | None) -> None:
        """saved: a checkpoint of this position, which is there or is being written; None where there is none."""
        if self.validation is None:
            return
        model, started = self.saver.engine.module, time.monotonic()
        with whole_weights(self.saver.engine):
            results = self.validation.run(model, self.processor, say=self.say)
            images = self.validation.images(model, self.processor)
        if self.saver.is_pending(self.run_dir / BEST):
            self.finish()  # a best must be there before its score is recorded
        epoch = self.schedule.epoch_of(position.step)
        is_best = self.scores.add(position.step, epoch, results, self.validation.selecting)
        seconds = duration(time.monotonic() - started)
        verdict = f"the best by {self.validation.selecting} so far" if is_best else _describe_best(self.scores)
        self.say(f"step {position.step}: validated in {seconds}, {verdict}\n{describe_scores(results, indent='  ')}")
        if is_best and saved is not None:
            self.finish()
            copy_checkpoint(saved, self.run_dir / BEST, keep=1, world=self.world, scores=self.scores.content)
            self._record_scores()
        elif is_best:
            self._start(position, self.run_dir / BEST, 1, done=self._record_scores)
        else:
            self._record_scores()
        if self.records:
            for split, values in results.items():
                numbers = {name: values[name] for name in ("gIoU", "cIoU") if values[name] is not None}
                self.records.evaluation(position.step, split, numbers, selects=split == self.validation.selecting)
                self.records.images(position.step, split, images[split])

    def _start(self, position: Position, directory: Path, keep: int, done: Callable[[], None] = lambda: None) -> None:
        target = directory / tag_of(position.step)

        def published() -> None:
            self.say(f"step {position.step}: saved {target}")
            done()

        self.saver.start(directory, position=position, keep=keep, scores=self.scores.content, done=published)

    def _record_scores(self) -> None:
        if self.world.is_main:
            self.scores.save()


def new_progress(
    schedule: Schedule,
    world: World,
    *,
    style: str = "line",
    title: str = "",
    scores: Scores | None = None,
    width: int | None = None,
) -> Progress | None:
    """Reports of the main rank, None on the other ranks; a block ends with the best and the latest of `scores`.

    width: of the terminal.
    """
    if not world.is_main:
        return None

    def remark() -> str | None:
        if scores is None or scores.content["best"] is None:
            return None
        return f"{_describe_best(scores)}, the latest step {scores.content['evaluations'][-1]['step']}"

    return Progress(
        total_steps=schedule.total_steps,
        steps_per_epoch=schedule.steps_per_epoch,
        samples_per_step=schedule.samples_per_step,
        style=style,
        title=title,
        remark=remark,
        width=width,
    )
