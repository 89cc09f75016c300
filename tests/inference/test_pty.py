"""chat.py in a real terminal, from a checkpoint directory: streaming, Ctrl-C, the arrow keys, leaving."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from checkpoints.saving import save_model
from tests.tiny import tiny_model

pty = pytest.importorskip("pty", reason="this platform has no pseudo terminals")

ROOT = Path(__file__).resolve().parents[2]


class Terminal:
    """A process behind a pseudo terminal, and everything that it has shown."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        ours, theirs = pty.openpty()

        def take_over() -> None:
            os.login_tty(theirs)  # Ctrl-C reaches only a terminal's own session
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, preexec_fn=take_over, pass_fds=[theirs])
        os.close(theirs)
        self.end, self.shown = ours, ""

    def send(self, text: str) -> None:
        os.write(self.end, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C while the process waits for a key: Python misses one that comes between a key and the next wait."""
        while psutil.Process(self.process.pid).status() != psutil.STATUS_SLEEPING:
            time.sleep(0.01)
        self.send("\x03")

    def expect(self, pattern: str, seconds: float = 90) -> str:
        """Read until `pattern` appears after what was expected before; what came until then."""
        deadline = time.monotonic() + seconds
        while (match := re.search(pattern, self.shown)) is None:
            if time.monotonic() > deadline:
                pytest.fail(f"{pattern!r} did not appear; the terminal shows {self.shown[-500:]!r}")
            if select.select([self.end], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.end, 65536).decode(errors="replace")
                except OSError:  # the process has left
                    pytest.fail(f"{pattern!r} did not appear before the end; the terminal shows {self.shown[-500:]!r}")
        before, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return before


@pytest.fixture
def terminal(tmp_path):
    model, processor = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[model.config.text_config.eos_token_id] = 0  # it never stops by itself
        for seg in model.config.seg_token_ids:
            model.lm_head.weight[seg] = 0
    save_model(model, processor, tmp_path / "checkpoint")
    Image.fromarray(np.zeros((30, 44, 3), np.uint8)).save(tmp_path / "photo.png")
    command = [sys.executable, "chat.py", "--version", str(tmp_path / "checkpoint"), "--device", "cpu"]
    command += ["--vis_save_path", str(tmp_path / "out"), "--max_new_tokens", "100000"]
    environment = os.environ | {"TERM": "dumb", "XDG_STATE_HOME": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"}
    terminal = Terminal(command, environment)
    yield terminal
    terminal.process.kill()
    terminal.process.wait()
    os.close(terminal.end)


def test_a_person_talks_interrupts_recalls_a_line_and_leaves(terminal, tmp_path):
    terminal.expect("> ")
    terminal.send(f"/image {tmp_path / 'photo.png'}\n")
    terminal.expect("44 × 30")
    terminal.expect("> ")
    terminal.send("Where is the kite?\n")
    terminal.expect(r"kite\?\r\n")
    terminal.expect(r"\S")  # the answer has begun
    terminal.send("\x03")
    terminal.expect(r"\(interrupted")
    terminal.expect("> ")
    terminal.send("\x1b[A")  # the arrow up
    terminal.expect(r"Where is the kite\?")
    terminal.interrupt()
    terminal.expect("> ")
    terminal.send("/layer 2\n")
    terminal.expect("layer: 2")
    terminal.expect("> ")
    terminal.send("/quit\n")

    assert terminal.process.wait(timeout=30) == 0
    kept = tmp_path / "state" / "uground" / "chat_history"
    assert "Where is the kite?" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
