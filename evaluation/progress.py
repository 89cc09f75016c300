"""The line that tells how far an evaluation is: a bar, the scores so far, and how long it will take."""

import sys
import time
from typing import TextIO

WIDTH = 24
SECONDS_BETWEEN_LINES = 30


class ProgressBar:
    """A bar that is rewritten on a terminal; elsewhere a line now and then.

    Call it with images done, images in all, and the running gIoU and cIoU (None before there are any); first before
    any work, so that what an earlier call has done does not make the estimate too good. Of several processes that
    share a split the main one shows its own part.
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
