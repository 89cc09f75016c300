"""How training ends before its last step: SIGTERM and SIGINT, the end of the launcher, and a step that is stuck.

On a signal training saves at the end of the step and stops; without a step to end, the process ends at once. The end of
the launcher counts as SIGTERM: nothing else would stop the processes that it leaves behind.

A collective gives up by itself (`--collective_timeout`), but does not know what training was doing, and NCCL ends the
process without an exception that could be caught. Nothing else notices data that never comes. So a thread prints which
step is stuck, and ends the process.
"""

import faulthandler
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from utils.processes import ProcessId

if TYPE_CHECKING:
    from utils.distributed import World  # imports torch

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "csh", "tcsh")
GRACE = 1.25  # of the timeout; before that the backend may say more


class EndAtOnce:
    """Inside the `with` block a signal ends the process at once, with exit code 143 (SIGTERM) or 130 (SIGINT).

    A thread does it, since the main thread does not receive signals while it waits inside a library: for other
    processes, for a disk. Inactive inside a `StopRequest`.

    at_end: called before the process ends, the last one first.
    """

    def __init__(self):
        self.at_end: list[Callable[[], None]] = []
        self.before = {}
        self.reader = self.writer = -1

    def __enter__(self) -> "EndAtOnce":
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        self.before = {number: signal.signal(number, _leave_to_thread) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            if signal.getsignal(number) is _leave_to_thread:
                signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self.writer)

    def _listen(self) -> None:
        process = os.getpid()
        while number := os.read(self.reader, 1):
            if number[0] in SIGNALS and os.getpid() == process:
                print(f"{signal.Signals(number[0]).name}: ended; no step was in progress", file=sys.stderr, flush=True)
                for call in reversed(self.at_end):
                    call()
                os._exit(128 + number[0])


def _leave_to_thread(number: int, frame: FrameType | None) -> None:
    pass


class StopRequest:
    """Remembers, inside the `with` block, that someone asked this process to stop. A second Ctrl-C ends it at once.

    say: prints a line. launchers: processes whose end asks for it as well; see `launchers`.
    """

    def __init__(self, say: Callable[[str], None] = print, launchers: Sequence[ProcessId] = ()):
        self.say = say
        self.launchers = launchers
        self.signalled = False
        self.before = {}
        self.wakeup = -1

    def __enter__(self) -> "StopRequest":
        self.wakeup = signal.set_wakeup_fd(-1)
        self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.signalled:  # all is saved; a launcher may repeat itself while the process ends, which is to end well
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.set_wakeup_fd(self.wakeup)

    @property
    def asked(self) -> bool:
        """Whether a signal, or the end of a launcher, has asked for the stop."""
        gone = [launcher for launcher in self.launchers if launcher.runs() is False]
        if gone and not self.signalled:
            self._begin(f"the launcher (process {gone[0].pid}) ended")
        return self.signalled

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.signalled:
            self._begin(signal.Signals(number).name)

    def _begin(self, reason: str) -> None:
        self.signalled = True
        self.say(f"{reason}: saving at the end of this step, then stopping")


def launchers() -> list[ProcessId]:
    """The processes that started this one as a rank of several, and look after it: torchrun, or DeepSpeed's two.

    Empty for a process that was started by itself, or from a shell, which may end before it.
    """
    if "RANK" not in os.environ:
        return []
    parent = ProcessId.of(os.getppid())
    if parent.pid == 1 or parent.name() in SHELLS:
        return []
    above = parent.parent()
    if above is not None and above.pid != 1 and "deepspeed.launcher.launch" in parent.command():
        return [parent, above]
    return [parent]


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


class Peers:
    """The processes of a run. All of them make this at once."""

    def __init__(self, world: "World"):
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
        """A part of the work begins. doing: names it."""
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
                self._say(f"{doing}: given up after {waited:.0f} s; the last checkpoint is unchanged. Where it stood:")
                faulthandler.dump_traceback(all_threads=True)
                os._exit(self.exit_code)

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
