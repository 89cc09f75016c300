"""The toy run trains in processes of its own: DeepSpeed and torch.distributed live as long as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils.errors import UserError
from utils.seeding import random_state, restore_random_state, seed_everything
from utils.training.checkpoints import (
    BEST,
    LATEST,
    MARKER,
    Scores,
    copy_checkpoint,
    find_checkpoint,
    is_complete,
    read_position,
    resolve_checkpoint,
    trained_weights,
)

ROOT = Path(__file__).parents[2]
TOY = str(ROOT / "tests" / "training" / "toy_run.py")


def toy_run(directory, *, processes=1, **options):
    launcher = [sys.executable]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        environment.pop(name, None)
    done = subprocess.run(
        [*launcher, TOY, str(directory), json.dumps(options)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(lines[0].removeprefix("RESULT ")) if lines else None


def fake_checkpoint(directory: Path, step: int) -> Path:
    path = directory / f"global_step{step}"
    path.mkdir(parents=True)
    (path / "weights.pt").write_bytes(b"x" * step)
    marker = {"step": step, "samples": 2 * step, "world_size": 1, "files": {"weights.pt": step}}
    (path / MARKER).write_text(json.dumps(marker))
    (directory / "latest").write_text(path.name)
    return path


class Alone:
    is_main = True

    def barrier(self):
        pass


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_stops_and_goes_on_equals_one_that_does_not(tmp_path, processes):
    whole = toy_run(tmp_path / "whole", processes=processes)
    toy_run(tmp_path / "cut", processes=processes, stop_at=2)
    rest = toy_run(tmp_path / "cut", processes=processes, resume=True)
    assert rest["trained"] == whole["trained"]
    assert rest["reward_mean"] == whole["reward_mean"]
    assert [seen[-4:] for seen in rest["seen"]] == [seen[-4:] for seen in whole["seen"]]
    half = 8 * processes
    numbers = [*range(half), *range(100, 100 + half)]
    assert sorted(number for seen in whole["seen"] for number in seen) == numbers


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_checkpoint_holds_what_was_trained_and_nothing_frozen(tmp_path, zero_stage):
    result = toy_run(tmp_path, zero_stage=zero_stage)
    checkpoint = resolve_checkpoint(tmp_path)
    weights = trained_weights(checkpoint)
    assert set(weights) == {"trained.weight", "trained.bias", "reward_mean"}
    assert weights["trained.weight"].flatten().tolist() == result["trained"]["weight"]
    assert read_position(checkpoint).step == 4
    assert read_position(checkpoint).samples == 16


def test_the_baseline_stays_float32_in_bf16(tmp_path):
    assert toy_run(tmp_path, precision="bf16")["reward_mean_dtype"] == "torch.float32"


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    toy_run(tmp_path, epochs=3, keep=2)
    names = {path.name for path in (tmp_path / LATEST).glob("global_step*")}
    assert names == {"global_step4", "global_step6"}
    assert not list((tmp_path / LATEST).glob(".*"))


def test_an_incomplete_checkpoint_is_passed_over(tmp_path):
    fake_checkpoint(tmp_path, 1)
    torn = fake_checkpoint(tmp_path, 2)
    (torn / "weights.pt").write_bytes(b"")
    assert not is_complete(torn)
    assert find_checkpoint(tmp_path).name == "global_step1"


def test_latest_decides_where_an_older_run_left_more_steps(tmp_path):
    fake_checkpoint(tmp_path, 100)
    fake_checkpoint(tmp_path, 3)
    assert find_checkpoint(tmp_path).name == "global_step3"


def test_a_copy_is_complete_and_replaces_the_old_best(tmp_path):
    first, second = (fake_checkpoint(tmp_path / LATEST, step) for step in (1, 2))
    for checkpoint in (first, second):
        copy_checkpoint(checkpoint, tmp_path / BEST, keep=1, world=Alone())
    assert [path.name for path in (tmp_path / BEST).glob("global_step*")] == ["global_step2"]
    assert is_complete(tmp_path / BEST / "global_step2")
    assert resolve_checkpoint(tmp_path).parent.name == BEST


def test_a_place_without_checkpoints_is_said(tmp_path):
    with pytest.raises(UserError, match="no complete training checkpoint"):
        resolve_checkpoint(tmp_path)
    with pytest.raises(UserError, match="no such checkpoint"):
        resolve_checkpoint(tmp_path / "nowhere")


def test_random_states_come_back(tmp_path):
    seed_everything(7)
    torch.save(random_state(), tmp_path / "state.pt")
    expected = torch.rand(3)
    torch.rand(5)
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(torch.rand(3), expected)


def test_the_best_is_chosen_by_ciou_and_ties_by_giou(tmp_path):
    scores = Scores(tmp_path)
    assert scores.add(1, 0, {"val": {"gIoU": 0.9, "cIoU": 0.5}}, "val")
    assert not scores.add(2, 0, {"val": {"gIoU": 0.95, "cIoU": 0.4}}, "val")
    assert not scores.add(3, 0, {"val": {"gIoU": 0.9, "cIoU": 0.5}}, "val")
    assert scores.add(4, 1, {"val": {"gIoU": 0.91, "cIoU": 0.5}}, "val")
    scores.save()
    again = Scores(tmp_path)
    assert again.content["best"]["step"] == 4
    again.go_back_to(2)
    assert again.has(2) and not again.has(4)
    assert again.content["best"]["step"] == 4
    again.go_back_to(0)
    assert again.content["best"] is None
