"""Processes that were met earlier: which one it was, and whether it still runs."""

import os
import signal
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groundscore.schema import optional, text, whole

PROC = Path("/proc")
SHAPE = {  # of what `to_dict` returns, in a file
    "host": text,
    "pid": whole(1),
    "started": optional(whole(0)),
    "boot": optional(text),
    "namespace": optional(text),
}
START = 19  # among the fields that `_stat` returns


@dataclass(frozen=True)
class ProcessId:
    """A process, told apart from a later one with the same number.

    started: clock ticks from the boot of its machine to its start. boot, namespace: the boot of the machine, and the
    numbering of processes (a container's own) that `pid` belongs to. These three are None where there is no /proc.
    """

    host: str
    pid: int
    started: int | None
    boot: str | None
    namespace: str | None

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """The process that has this number on this machine now."""
        fields = _stat(pid)
        return cls(socket.gethostname(), pid, None if fields is None else int(fields[START]), _boot(), _namespace())

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return asdict(self)

    def runs(self) -> bool | None:
        """Whether it still runs; None where that cannot be told from here: on another machine, in another container."""
        here = ProcessId.of(os.getpid())
        if self.boot != here.boot:
            return False if self.host == here.host else None  # the machine was rebooted, or is another one
        if self.namespace != here.namespace or (self.boot is None and self.host != here.host):
            return None
        fields = _stat(self.pid)
        if fields is None:  # no /proc, or one that hides the processes of other users
            return _answers(self.pid)
        return fields[0] not in "ZX" and int(fields[START]) == self.started

    def parent(self) -> "ProcessId | None":
        """The process that started it; None where /proc does not say."""
        fields = _stat(self.pid)
        return None if fields is None else ProcessId.of(int(fields[1]))

    def name(self) -> str:
        """The name of its program, "" where /proc does not say."""
        return _text(self.pid, "comm").strip()

    def command(self) -> list[str]:
        """Its command line, empty where /proc does not say."""
        return _text(self.pid, "cmdline").split("\0")

    def is_stopped(self) -> bool:
        """Whether it is here and was stopped by a signal (SIGSTOP, Ctrl-Z), so that it does nothing."""
        return bool(self.runs()) and (_stat(self.pid) or " ")[0] in "Tt"

    def kill(self) -> None:
        """End it at once, also where it is stopped."""
        os.kill(self.pid, signal.SIGKILL)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on: state, parent, …; None where that cannot be read."""
    return _text(pid, "stat").rpartition(")")[2].split() or None


def _text(pid: int, file: str) -> str:
    try:
        return (PROC / str(pid) / file).read_text(errors="replace")
    except OSError:
        return ""


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot() -> str | None:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return os.readlink(PROC / "self/ns/pid")
    except OSError:
        return None
