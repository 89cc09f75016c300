"""The process beside a training process that passes its output on and keeps a copy in the log.

    stdout, stderr of the training process ─pipes─▶ this ─▶ where they went before, unchanged
                                                        └▶ the log: a line at a time, without redraws and colours

Being a process of its own it still writes the last output when the other one is killed, and records that it was.
`utils/logging.py` starts it; it needs nothing but Python. Lines are written whole to a file opened for appending, so
that several processes share one log.
"""

import json
import os
import re
import selectors
import signal
import sys
import time

ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
BAR = re.compile(r"(\d+)%\|")
LONGEST_LINE = 1 << 16
CHUNK = 1 << 16
LAUNCHER_SECONDS = 60.0


class LineFilter:
    """Bytes as they arrive -> lines worth keeping.

    Of a line that was redrawn repeatedly (carriage returns) the last state counts, a bar that has not come to
    100 % is left out, and blank lines do not follow each other. `draws` is True while a bar is being drawn.
    """

    def __init__(self):
        self.pending = b""
        self.last = ""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *lines, self.pending = (self.pending + data).split(b"\n")
        if b"\r" in self.pending:
            *_, shown = (part for part in self.pending.split(b"\r") if part) if self.pending.strip(b"\r") else (b"",)
            self.pending = shown + (b"\r" if self.pending.endswith(b"\r") else b"")
        if len(self.pending) > LONGEST_LINE:
            lines.append(self.pending)
            self.pending = b""
        return [text for line in lines if (text := self._keep(line)) is not None]

    def finish(self) -> list[str]:
        """What stands on a line that was never ended; here an unfinished bar tells how far things got."""
        text, self.pending = _visible(self.pending), b""
        return [text] if text else []

    def _keep(self, line: bytes) -> str | None:
        text = _visible(line)
        bar = BAR.search(text)
        if (bar and int(bar.group(1)) < 100) or (not text and not self.last):
            return None
        self.last = text
        return text


def _visible(line: bytes) -> str:
    """What a terminal would show of a line at its end."""
    parts = [part for part in line.split(b"\r") if part]
    return ESCAPES.sub("", parts[-1].decode("utf-8", errors="replace")).rstrip() if parts else ""


class LogFile:
    """Lines with their time, kept in memory until the log has a name."""

    def __init__(self):
        self.waiting: list[tuple[str, str]] = []  # time, line
        self.descriptor: int | None = None
        self.prefix = ""
        self.broken = False

    def open(self, path: str, prefix: str, header: list[str]) -> None:
        """Write to `path` from now on, first `header` as it is; `prefix` stands before every line, and tells processes
        apart."""
        try:
            self.descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            self._give_up(error)
        self.prefix = prefix
        waiting, self.waiting = self.waiting, []
        lines = [*header, *(f"{moment} {prefix}{line}" for moment, line in waiting)]
        self._append("".join(f"{line}\n" for line in lines))

    def write(self, lines: list[str]) -> None:
        """Append lines, each with its time."""
        moment = time.strftime("%m-%d %H:%M:%S")
        if self.descriptor is None and not self.broken:
            self.waiting += [(moment, line) for line in lines]
        else:
            self._append("".join(f"{moment} {self.prefix}{line}\n" for line in lines))

    def _append(self, text: str) -> None:
        data = text.encode("utf-8", errors="replace")
        try:
            while data and not self.broken:
                data = data[os.write(self.descriptor, data) :]
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """What was to be logged still reaches the screen."""
        self.broken = True
        _pass_on(2, f"the log can no longer be written: {error}; training continues without it\n".encode())


def _pass_on(descriptor: int, data: bytes) -> bool:
    """Write all of `data`; False where nothing reads it any more."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return False
    return True


def pump(outputs: dict[int, int], control: int) -> None:
    """Run until the other side says "end", or is gone.

    outputs: pipe -> where its bytes go on to. control: pipe of JSON lines: {"path", "prefix", "header"} names the log,
    {"end": text} ends it; {"word", "after": [[pid, start], …]} is printed after that, and after these processes' end.
    """
    last_word = None
    log, filters = LogFile(), {source: LineFilter() for source in outputs}
    listening = dict.fromkeys(outputs, True)
    selector, commands, end = selectors.DefaultSelector(), b"", None
    for descriptor in (*outputs, control):
        os.set_blocking(descriptor, False)
        selector.register(descriptor, selectors.EVENT_READ)

    def read(source: int) -> bool:
        """Take what is there; True if it was anything."""
        try:
            data = os.read(source, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            selector.unregister(source)
            return False
        listening[source] = listening[source] and _pass_on(outputs[source], data)
        log.write(filters[source].feed(data))
        return True

    while end is None and selector.get_map():
        for key, _ in selector.select():
            if key.fd != control:
                read(key.fd)
                continue
            data = os.read(control, CHUNK)
            if not data:
                selector.unregister(control)
            *lines, commands = (commands + data).split(b"\n")
            for command in map(json.loads, lines):
                if "path" in command:
                    log.open(command["path"], command["prefix"], command["header"])
                elif "word" in command:
                    last_word = command
                else:
                    end = command["end"]
    for source in outputs:
        while source in selector.get_map() and read(source):
            pass
        log.write(filters[source].finish())
    log.write([end] if end is not None else ["the process ended without an error message: killed, or out of memory?"])
    if last_word is not None:
        for pid, started in last_word["after"]:
            _wait_for_end(pid, started)
        _pass_on(next(iter(outputs.values())), f"{last_word['word']}\n".encode())


def _wait_for_end(pid: int, started: int | None) -> None:
    """Return when a process is gone, or nearly so (a zombie), or when it has had its time."""
    deadline = time.monotonic() + LAUNCHER_SECONDS
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return
        if fields[0] in "ZX" or int(fields[19]) != started:
            return
        time.sleep(0.02)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for training, which may have something to say about them
    out, err, orders = map(int, sys.argv[1:])
    pump({out: 1, err: 2}, orders)
