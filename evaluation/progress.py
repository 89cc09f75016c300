"""How far an evaluation is: the scores so far, and the line that tells them and how long it will take."""

import sys
import time
from collections.abc import Callable, Iterable
from typing import TextIO

from evaluation.records import ImageResult
from groundscore.scoring.counts import iou

WIDTH = 24
SECONDS_BETWEEN_LINES = 30

Progress = Callable[[int, int, float | None, float | None], None]


class RunningScores:
    """Scores of the images done so far, for `progress` alone: those of earlier calls and of this process.

    total: how many images there are. progress: called with images done, `total`, and gIoU and cIoU or None.
    """

    def __init__(self, done: Iterable[ImageResult], remaining: int, progress: Progress | None):
        self.progress = progress
        self.images = self.pairs = self.intersection = self.union = 0
        self.ious = 0.0
        for result in done:
            self._count(result)
        self.total = self.images + remaining
        if progress and remaining:
            progress(self.images, self.total, None, None)

    def add(self, results: Iterable[ImageResult]) -> None:
        for result in results:
            self._count(result)
        if self.progress and self.pairs:
            self.progress(self.images, self.total, self.ious / self.pairs, iou(self.intersection, self.union))

    def _count(self, result: ImageResult) -> None:
        self.images += 1
        for pair in (pair for row in result.rows for pair in row.pairs()):
            self.pairs += 1
            self.ious += pair.iou
            self.intersection += pair.intersection
            self.union += pair.union


class ProgressBar:
    """A bar that is rewritten on a terminal; elsewhere a line now and then.

    It is called as `Progress`; first before any work, so that what an earlier call has done does not make the estimate
    too good. Of several processes that share a split the main one shows its own part.
    """

    def __init__(self, name: str, stream: TextIO | None = None):
        self.name, self.stream = name, stream or sys.stderr
        self.last = time.monotonic()
        self.start, self.first = self.last, None

    def __call__(self, done: int, total: int, giou: float | None, ciou: float | None) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = done, now
        line = self._line(done, total, giou, ciou, now)
        if self.stream.isatty():
            print(f"\r\x1b[K{line}", end="\r\x1b[K" if done == total else "", file=self.stream, flush=True)
        elif done < total and now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            print(line, file=self.stream, flush=True)

    def _line(self, done: int, total: int, giou: float | None, ciou: float | None, now: float) -> str:
        filled = WIDTH * done // total
        bar = "█" * filled + "░" * (WIDTH - filled)
        scores = "".join(
            f"  {name} {value:.4f}" for name, value in (("gIoU", giou), ("cIoU", ciou)) if value is not None
        )
        new = done - self.first
        left = f"  {_clock((now - self.start) / new * (total - done))} left" if new > 0 else ""
        return f"{self.name} {bar} {done}/{total}{scores}{left}"


def _clock(seconds: float) -> str:
    """`75.2` -> `1:15`, with hours where there are some."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
