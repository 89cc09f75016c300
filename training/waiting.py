"""Nothing waits for ever: a thread that says which step is stuck, and ends a process that stays so.

The backend gives up on a collective by itself (`--collective_timeout`), but does not know what training was doing, and
NCCL ends the process without an exception that could be caught. Data that never comes is nobody else's to notice.
"""

import faulthandler
import os
import sys
import threading
import time

from utils.distributed import World
from utils.processes import ProcessId

GRACE = 1.25  # of the timeout; before that the backend may say more


class Peers:
    """The processes of a run. All of them make this at once."""

    def __init__(self, world: World):
        ours = ProcessId.of(os.getpid())
        self.processes = [ProcessId(**peer) for peer in world.gather(ours.to_dict())]

    def end_stopped(self) -> str:
        """Kill those of this machine that a signal has stopped (SIGSTOP, Ctrl-Z): the run ends, and they could not
        notice. Returns which they were, as a sentence without its full stop, "" if there were none."""
        ended = []
        for rank, process in enumerate(self.processes):
            if process.is_stopped():
                process.kill()
                ended.append(f"rank {rank} (process {process.pid})")
        return f"{', '.join(ended)} had been stopped by a signal, and was ended" if ended else ""


class Watchdog:
    """Watches that `beat` is called at least every `seconds`, inside the `with` block."""

    def __init__(self, seconds: float, peers: Peers, exit_code: int = 1):
        self.seconds = seconds
        self.peers = peers
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
                if stopped := self.peers.end_stopped():
                    self._say(stopped)
                self._say(f"{doing}: given up after {waited:.0f} s; the last checkpoint is as it was. Where it stood:")
                faulthandler.dump_traceback(all_threads=True)
                os._exit(self.exit_code)

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
