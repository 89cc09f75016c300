"""`--deterministic`: asked for before CUDA starts, and on a CPU the numbers are those of always."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.training.test_train_ds import ROOT, TRAINING, run_train_ds, write_reason_seg
from utils.seeding import use_deterministic_algorithms


@pytest.fixture
def restored(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)


def test_torch_and_cublas_are_told(restored):
    use_deterministic_algorithms()
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_work_space_that_the_user_chose_stays(restored, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    use_deterministic_algorithms()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


LOSSES = """
import sys
import torch
from dataloaders.batching.collate import Collator
from tests.tiny import tiny_model, tiny_samples
from utils.seeding import seed_everything, use_deterministic_algorithms
torch.set_num_threads(1)
if sys.argv[1] == "deterministic":
    use_deterministic_algorithms()
model, processor = tiny_model()
seed_everything(0)
output = model(Collator(processor)(tiny_samples()))
output.loss.backward()
gradients = [each.grad.double().abs().sum().item() for each in model.parameters() if each.grad is not None]
print(output.loss.item(), gradients)
"""


def test_losses_and_gradients_on_a_cpu_are_those_without():
    def numbers(how: str) -> str:
        command = [sys.executable, "-W", "error::UserWarning", "-c", LOSSES, how]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert numbers("deterministic") == numbers("as always") != ""


@pytest.mark.slow
def test_a_run_with_it_has_the_losses_of_one_without(tmp_path):
    from checkpoints import save_model
    from tests.tiny import tiny_model

    write_reason_seg(tmp_path / "dataset")
    save_model(*tiny_model(), tmp_path / "base")
    flags = ["--version", tmp_path / "base", "--dataset_dir", tmp_path / "dataset", "--log_base_dir", tmp_path]
    losses = []
    for name, extra in (("with", ["--deterministic"]), ("without", [])):
        done = run_train_ds(*flags, *TRAINING, "--no_eval", "--exp_name", name, *extra)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train/loss"] for line in lines])
    assert losses[0] == losses[1] and len(losses[0]) == 4
