"""Processes that were met earlier: which one it was, and whether it still runs."""

import os
import signal
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROC = Path("/proc")


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
        return cls(socket.gethostname(), pid, _stat(pid)[1], _boot(), _namespace())

    @classmethod
    def from_dict(cls, values: Any) -> "ProcessId":
        """Raises `ValueError` for what `to_dict` does not give."""
        kinds = {"host": str, "pid": int, "started": int | None, "boot": str | None, "namespace": str | None}
        if not isinstance(values, dict) or not all(
            name in values and isinstance(values[name], kind) for name, kind in kinds.items()
        ):
            raise ValueError("not the description of a process")
        return cls(**{name: values[name] for name in kinds})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def runs(self) -> bool | None:
        """Whether it still runs; None where that cannot be told from here: on another machine, in another container."""
        here = ProcessId.of(os.getpid())
        if self.boot != here.boot:
            return False if self.host == here.host else None  # the machine was started anew, or is another one
        if self.namespace != here.namespace or (self.boot is None and self.host != here.host):
            return None
        state, started = _stat(self.pid)
        if state is None:  # no /proc, or one that hides the processes of other users
            return _answers(self.pid)
        return state not in "ZX" and started == self.started

    def is_stopped(self) -> bool:
        """Whether it is here and was stopped by a signal (SIGSTOP, Ctrl-Z), so that it does nothing."""
        return bool(self.runs()) and _stat(self.pid)[0] in ("T", "t")

    def kill(self) -> None:
        """End it at once, also where it is stopped."""
        os.kill(self.pid, signal.SIGKILL)


def _stat(pid: int) -> tuple[str | None, int | None]:
    """State letter and start of a process, as /proc/<pid>/stat has them; (None, None) where that cannot be read."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None, None
    return fields[0], int(fields[19])


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
