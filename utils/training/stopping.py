"""SIGTERM and SIGINT: training saves at the end of the step and stops."""

import multiprocessing
import multiprocessing.util
import os
import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Remembers that someone asked this process to stop, while it is entered. A second Ctrl-C ends it at once.

    say: prints a line.
    """

    def __init__(self, say=print):
        self.say = say
        self.asked = False
        self.before = {}

    def __enter__(self) -> "StopRequest":
        self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.asked:
            self.say(f"{signal.Signals(number).name}: saving at the end of this step, then stopping")
        self.asked = True


class WorkersEnd:
    """Lets data-loading processes live through the signals that ask training to stop, since a Ctrl-C and a batch
    system reach them as well, until training is at its end and ends them itself."""

    def __init__(self):
        self.ending = multiprocessing.Event()
        # Before multiprocessing sends SIGTERM to processes that are left, and waits for them.
        multiprocessing.util.Finalize(None, self.ending.set, exitpriority=100)

    def protect(self) -> None:
        """Called in a worker process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.ending.is_set():
            os._exit(0)
