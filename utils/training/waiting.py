"""Nothing waits for ever: a thread that says which step is stuck, and ends a process that stays so.

The backend gives up on a collective by itself (`--collective_timeout`), but does not know what training was doing, and
NCCL ends the process without an exception that could be caught. Data that never comes is nobody else's to notice.
"""

import faulthandler
import os
import sys
import threading
import time

GRACE = 1.25  # of the timeout; before that the backend may say more


class Watchdog:
    """Watches that `beat` is called at least every `seconds`, while it is entered."""

    def __init__(self, seconds: float, exit_code: int = 1):
        self.seconds = seconds
        self.exit_code = exit_code
        self.doing = "the beginning"
        self.since = float("inf")
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()

    def beat(self, doing: str) -> None:
        """A part of the work begins; `doing` says which."""
        self.doing, self.since = doing, time.monotonic()

    def rest(self, doing: str) -> None:
        """What begins now takes as long as it takes."""
        self.doing, self.since = doing, float("inf")

    def _watch(self) -> None:
        warned = None
        while not self.ended.wait(min(1.0, self.seconds / 10)):
            doing, since = self.doing, self.since
            waited = time.monotonic() - since
            if waited < 0.9 * self.seconds:
                continue
            if warned != (doing, since):
                warned = (doing, since)
                self._say(f"{doing}: nothing has happened for {waited:.0f} s. Does another process hang, or the disk?")
            if waited > GRACE * self.seconds:
                self._say(f"{doing}: given up after {waited:.0f} s; the last checkpoint is as it was. Where it stood:")
                faulthandler.dump_traceback(all_threads=True)
                os._exit(self.exit_code)

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
