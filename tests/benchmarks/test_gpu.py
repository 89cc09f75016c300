"""The GPU benchmark runs all its checks, here at a tiny size on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_checks
from benchmarks.gpu_checks import Finding, NeedsCuda

ROOT = Path(__file__).parents[2]
TINY = "--size tiny --device cpu --images 1 --conversations 2 --steps 1 --prompts 2 --new_tokens 2 --lengths 2".split()  # noqa: SIM905


def run(tmp_path: Path, *flags: str) -> tuple[subprocess.CompletedProcess, dict]:
    command = [sys.executable, "-m", "benchmarks.gpu", *TINY, "--gate_steps", "2", "--samples", "10"]
    command += ["--out", str(tmp_path / "gpu.json"), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    return done, json.loads((tmp_path / "gpu.json").read_text())["checks"]


def test_checks_go_through_the_training_engine_and_say_what_needs_cuda(tmp_path):
    names = ["waits", "packed"]
    done, checks = run(tmp_path, "--only", *names)
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = {name: check["status"] for name, check in checks.items()}
    assert statuses == {"waits": "skipped", "packed": "ok"}
    assert "skipped  waits       no CUDA" in done.stdout
    assert checks["packed"]["numbers"]["ce_loss"] < 1e-4


@pytest.mark.slow
def test_all_checks_run(tmp_path):
    done, checks = run(tmp_path)
    assert list(checks) == list(gpu_checks.CHECKS)
    statuses = {name: check["status"] for name, check in checks.items()}
    assert {name for name, status in statuses.items() if status == "skipped"} == {"waits", "memory"}, done.stdout
    assert [name for name, status in statuses.items() if status == "failed"] == [], done.stdout
    assert checks["resume"]["numbers"]["difference"] == 0
    assert checks["gate"]["numbers"]["first"] == pytest.approx(1, abs=0.01)


class Forgetting:
    forgotten = 0

    def forget_trainer(self):
        self.forgotten += 1


def test_a_check_that_fails_is_a_line_and_frees_what_it_held():
    bench = Forgetting()

    def fails(bench):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 8 GiB")

    def needs_cuda(bench):
        raise NeedsCuda("reason")

    result = gpu.run_check(fails, bench)
    assert (result["status"], result["text"]) == ("failed", "OutOfMemoryError: CUDA out of memory.")
    assert bench.forgotten == 1
    assert gpu.run_check(needs_cuda, bench)["text"] == "no CUDA (reason)"
    assert gpu.run_check(lambda bench: Finding("wrong", ok=False), bench)["status"] == "failed"


def test_an_unknown_check_is_named_with_the_known_ones(capsys):
    with pytest.raises(gpu.UserError, match="--only speed: the checks are zero2, attention"):
        gpu.main([*TINY, "--only", "speed"])
