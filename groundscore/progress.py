"""How far something is and how long the rest takes: a bar that is rewritten on a terminal, elsewhere lines."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from groundscore.terminal import terminal_width

WIDTH = 24  # of the bar
SECONDS_BETWEEN_LINES = 30


class ProgressBar:
    """Shows how many of `total` are done.

    Call `show` first before any work, so that what an earlier call has done does not make the estimate too good.

    name: what is being done, at the beginning of the line. say: prints a line; with it there are lines only, no bar.
    shown: writes a count, where it is not simply the number.
    """

    def __init__(
        self,
        name: str,
        *,
        stream: TextIO | None = None,
        say: Callable[[str], None] | None = None,
        shown: Callable[[int], str] = str,
    ):
        self.name, self.say, self.shown = name, say, shown
        self.stream = stream or sys.stderr
        self.last = self.start = time.monotonic()
        self.first: int | None = None

    def show(self, done: int, total: int, note: str = "") -> None:
        """note: stands behind the count."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = done, now
        if self.say is None and self.stream.isatty():
            end = "\r\x1b[K" if done == total else ""
            print(f"\r\x1b[K{self._fitted(done, total, note, now)}", end=end, file=self.stream, flush=True)
        elif 0 < done < total and now - self.last >= SECONDS_BETWEEN_LINES:
            self.last, line = now, self._line(done, total, note, now)
            self.say(line) if self.say else print(line, file=self.stream, flush=True)

    def _fitted(self, done: int, total: int, note: str, now: float) -> str:
        """The line, shortened to the terminal's width: one that wraps could not be rewritten."""
        line, most = self._line(done, total, note, now), terminal_width(self.stream)
        if most is not None and len(line) >= most:
            line = self._line(done, total, note, now, width=max(WIDTH - (len(line) - most + 1), 3))
        return line if most is None or len(line) < most else "…" + line[len(line) - most + 2 :]

    def _line(self, done: int, total: int, note: str, now: float, width: int = WIDTH) -> str:
        filled = width * done // total
        bar = "█" * filled + "░" * (width - filled)
        new = done - self.first
        left = f"  {duration((now - self.start) / new * (total - done))} left" if new > 0 else ""
        return f"{self.name} {bar} {self.shown(done)}/{self.shown(total)}{note}{left}"


def data_size(count: float) -> str:
    """1536 -> "1.5 kB", 2 * 10**9 -> "2.0 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(seconds: float) -> str:
    """75 -> "1:15", 3725 -> "1:02:05", 90000 -> "1d 1:00:00"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}:{minute:02d}:{second:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
