"""What ends a run from outside: signals before the first step, and launchers that are gone."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkpoints.runs import LATEST, find_checkpoint, read_position
from tests.tiny import tiny_model
from tests.training.test_train_ds import ROOT, TRAINING, launch_environment, write_reason_seg
from training.stopping import StopRequest, launchers
from utils.distributed import free_port
from utils.processes import ProcessId

SCRIPT = """
import sys, time
from training.stopping import EndAtOnce, StopRequest
with EndAtOnce() as at_once:
    at_once.at_end += [lambda: print("first", flush=True), lambda: print("last", flush=True)]
    if "train" in sys.argv:
        with StopRequest() as stop:
            print("training", flush=True)
            while not stop.asked:
                time.sleep(0.01)
    print("no step is under way", flush=True)
    sys.stdin.read() if "train" in sys.argv else time.sleep(60)
"""


def start_script(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_no_step_is_under_way_ends_at_once(number, code):
    process = start_script()
    assert process.stdout.readline() == "no step is under way\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert (out, err) == ("last\nfirst\n", f"{number.name}: ended; no step was in progress\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_step_waits_for_its_end_and_a_repeated_one_does_not_spoil_it(number):
    process = start_script("train")
    assert process.stdout.readline() == "training\n"
    process.send_signal(number)
    assert process.stdout.readline() == f"{number.name}: saving at the end of this step, then stopping\n"
    assert process.stdout.readline() == "no step is under way\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate("", timeout=30) == ("", "") and process.returncode == 0


def test_a_launcher_that_is_gone_asks_training_to_stop_once():
    launcher, said = subprocess.Popen(["sleep", "60"]), []
    stop = StopRequest(said.append, [ProcessId.of(launcher.pid)])
    assert not stop.asked
    launcher.kill()
    while not stop.asked:
        time.sleep(0.01)
    assert stop.asked and said == [
        f"the launcher (process {launcher.pid}) ended: saving at the end of this step, then stopping"
    ]
    launcher.wait()


def test_only_ranks_have_launchers_and_a_shell_is_none(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert launchers() == []
    ask = "from training.stopping import launchers; print([launcher.pid for launcher in launchers()])"
    command = [sys.executable, "-c", ask]
    options = {"cwd": ROOT, "env": launch_environment() | {"RANK": "0"}, "stdout": subprocess.PIPE, "text": True}
    assert subprocess.run(command, **options).stdout == f"[{os.getpid()}]\n"
    in_shell = ["sh", "-c", f"{sys.executable} -c '{ask}'; true"]
    assert subprocess.run(in_shell, **options).stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number"),
    [("torchrun", signal.SIGKILL), ("deepspeed", signal.SIGKILL), ("torchrun", signal.SIGTERM)],
)
def test_ranks_whose_launcher_ends_save_and_stop_and_have_the_last_word(tmp_path, launcher, number):
    from checkpoints import save_model

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    if launcher == "deepspeed":
        command = [sys.executable, "-m", "deepspeed.launcher.runner", "--master_port", str(free_port())]
    write_reason_seg(tmp_path / "dataset")
    save_model(*tiny_model(), tmp_path / "base")
    flags = ["--version", tmp_path / "base", "--dataset_dir", tmp_path / "dataset", "--log_base_dir", tmp_path]
    command += ["train_ds.py", *map(str, flags), *TRAINING, "--exp_name", "cut"]
    with (tmp_path / "output").open("w") as output:
        started = subprocess.Popen(
            [*command, "--epochs", "500", "--no_eval"], cwd=ROOT, env=launch_environment(), stdout=output, stderr=output
        )

    def wait_for(pattern: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, Path(tmp_path / "output").read_text()):
            assert time.monotonic() < end, Path(tmp_path / "output").read_text()
            time.sleep(0.05)

    wait_for("step +5/")
    started.send_signal(number)
    started.wait()
    wait_for("(SIGTERM|ended): saving at the end of this step")
    wait_for(r"stopped after step (\d+); the same command resumes from there\. No process has failed.*\n$")
    stopped = re.search(r"stopped after step (\d+)", Path(tmp_path / "output").read_text())
    assert read_position(find_checkpoint(tmp_path / "cut" / LATEST)).step == int(stopped.group(1))
    lock = tmp_path / ".cut.lock"
    end = time.monotonic() + 30
    while lock.exists():  # held until the main process has ended
        assert time.monotonic() < end
        time.sleep(0.05)
