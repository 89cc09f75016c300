"""Everything that a run prints: runs/<exp>/meta/meta_<N>.log, one per launch, and meta.log that leads to the newest.

Both streams of every process are captured at the level of file descriptors, so that warnings, tracebacks, C++ and
worker processes are in the log as well. On the screen nothing changes. Notes on a launch go to memo.log.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from groundscore.terminal import terminal_width
from utils.log_pump import pump
from utils.processes import ProcessId

if TYPE_CHECKING:
    from utils.distributed import World  # imports torch, which is to say its first words into the log

PUMP = Path(__file__).with_name("log_pump.py")
META = "meta"
NEWEST = "meta.log"
MEMO = "memo.log"
PATIENCE = 10.0  # seconds for the pump to write what is left


class OutputLog:
    """Captures what this process and its children write, from its construction on.

    Nothing is kept unless `keep` names a file.
    """

    def __init__(self):
        self.process_id, self.started = os.getpid(), time.monotonic()
        self.width = terminal_width()  # of what the output goes to in the end; None for a file
        sys.stdout.flush()
        sys.stderr.flush()
        out, err, control = os.pipe(), os.pipe(), os.pipe()
        # Kept open here as well: so no writer is ended by SIGPIPE when the pump is gone.
        self.readers = (out[0], err[0], control[0])
        # A session of its own: Ctrl-C and a closed terminal end training first, and the log ends last.
        self.pump = subprocess.Popen(
            [sys.executable, "-I", "-S", str(PUMP), *map(str, self.readers)],
            stdin=subprocess.DEVNULL,
            pass_fds=self.readers,
            start_new_session=True,
        )
        self.control = control[1]
        self.command: dict | None = None
        self.ending = False
        self.waits = True  # at the end, until all is written
        self.originals = (os.dup(1), os.dup(2))
        os.dup2(out[1], 1)
        os.dup2(err[1], 2)
        for descriptor in (out[1], err[1]):
            os.close(descriptor)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(line_buffering=True)
        self.keeper = threading.Thread(target=self._outlive_pump, name="log", daemon=True)
        self.keeper.start()
        atexit.register(self.close)

    def keep(self, path: Path, *, prefix: str = "", header: Sequence[str] = ()) -> None:
        """Write to `path` all output so far and from now on; `prefix` stands before every line."""
        self.command = {"path": str(path.absolute()), "prefix": prefix, "header": list(header)}
        self._tell(self.command)

    def leave_last_word(self, word: str, launchers: Sequence[ProcessId]) -> None:
        """Say `word` when this process and then `launchers` have ended: they report a signal as an error of their own,
        with a traceback, also where all processes have saved and ended well."""
        self._tell({"word": word, "after": [[launcher.pid, launcher.started] for launcher in launchers]})
        self.waits = False

    def close(self) -> None:
        """Give the streams back and wait until all is written. Also called when the process ends."""
        if self.ending or os.getpid() != self.process_id:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self.ending = True
        for number, original in zip((1, 2), self.originals, strict=True):
            os.dup2(original, number)
        seconds = round(time.monotonic() - self.started)
        self._tell({"end": f"ended after {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"})
        os.close(self.control)
        if self.waits:
            self.keeper.join(PATIENCE)
        if self.waits and self.keeper.is_alive():
            print("the log is not complete: it is still being written", file=sys.stderr)

    def _tell(self, command: dict) -> None:
        os.write(self.control, (json.dumps(command) + "\n").encode())

    def _outlive_pump(self) -> None:
        """Wait for the end of the pump; where it comes early, do its work from then on in a thread of this process."""
        code = self.pump.wait()
        if self.ending and code == 0:
            return
        word = f"the process that writes the log ended (exit code {code}); training continues, and keeps it itself\n"
        os.write(2, word.encode())
        if self.command is not None and not self.ending:
            self._tell({**self.command, "header": []})
        try:
            pump(dict(zip(self.readers, self.originals)), self.readers[2])
        finally:
            for number, original in zip((1, 2), self.originals, strict=True):
                os.dup2(original, number)


def keep_log(output: OutputLog, run_dir: Path, world: "World", *, command: str) -> int:
    """Begin the log of this launch, for all processes; returns the number of the launch.

    Processes on other machines write files of their own beside it: appending is not safe across a network.
    """
    host, name = socket.gethostname(), None
    if world.is_main:
        name = claim_log(run_dir).name
    name, main_host = world.broadcast((name, host))
    number = int(name.removeprefix("meta_").removesuffix(".log"))
    path = run_dir / META / (name if host == main_host else f"meta_{number}.{host}.log")
    header = []
    if world.is_main:
        moment = time.strftime("%Y-%m-%d %H:%M:%S %z")
        header = [f"launch {number} of {run_dir.name}, {moment}, world size {world.size}, first on {host}", command, ""]
    output.keep(path, prefix=f"[{world.rank}] " if world.size > 1 else "", header=header)
    return number


def claim_log(run_dir: Path) -> Path:
    """A new, empty meta/meta_<N>.log with the first N above all others; meta.log leads to it."""
    directory = run_dir / META
    directory.mkdir(parents=True, exist_ok=True)
    number = newest_launch(run_dir) + 1
    while True:
        path = directory / f"meta_{number}.log"
        try:
            path.open("x").close()
            break
        except FileExistsError:
            number += 1
    beside = run_dir / f".{NEWEST}.writing"
    beside.unlink(missing_ok=True)
    beside.symlink_to(path.relative_to(run_dir))
    os.replace(beside, run_dir / NEWEST)
    return path


def newest_launch(run_dir: Path) -> int:
    """The highest number of a launch that left something; 0 for none."""
    names = [path.name.removesuffix(".log").removeprefix("meta_") for path in (run_dir / META).glob("meta_*")]
    return max((int(name) for name in names if name.isdecimal() and len(name) < 10), default=0)


def add_memo(run_dir: Path, launch: int, text: str) -> None:
    """Append a note on a launch to memo.log."""
    line = " ".join(text.split())
    with (run_dir / MEMO).open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M')}  meta_{launch}.log  {line}\n")
