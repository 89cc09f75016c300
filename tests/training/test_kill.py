"""kill -9 at any moment loses the steps since the last save, and never a checkpoint."""

import os
import random
import re

import pytest

from checkpoints.runs import BEST, LATEST, find_checkpoint, read_position, verify_checkpoint
from tests.training.toys import start_toy, toy_run

SEED = int(os.environ.get("UGROUND_KILL_SEED", "0"))


@pytest.mark.parametrize(
    ("kills", "processes"),
    [(4, 1), pytest.param(60, 1, marks=pytest.mark.slow), pytest.param(20, 2, marks=pytest.mark.slow)],
)
def test_kills_at_random_moments_change_nothing(tmp_path, kills, processes):
    chance = random.Random(SEED)
    options = {"processes": processes, "epochs": 5 * kills, "steps_per_epoch": 2, "keep": 2}
    run, last, best = tmp_path / "cut", 0, 0
    for _ in range(kills):
        toy = start_toy(run, resume=True, **options)
        # Mostly while training saves, which it does after every step; sometimes before it has done anything.
        if chance.random() < 0.9:
            toy.wait_for("SAVED")
        toy.processes[0].join(0.3 * chance.random())
        said = re.findall(r"^SAVED (\d+)$", toy.kill()[0], flags=re.MULTILINE)
        last = max([last, *map(int, said)])
        # The best is a copy of the latest, made after it.
        for directory, least in ((run / LATEST, last), (run / BEST, best)):
            checkpoint = find_checkpoint(directory)
            if checkpoint is None:
                assert least == 0
                continue
            verify_checkpoint(checkpoint)
            assert least <= read_position(checkpoint).step <= last + 1
            best = read_position(checkpoint).step
    result = toy_run(run, resume=True, patience=300, **options)
    whole = toy_run(tmp_path / "whole", patience=300, **options)
    assert last > 0 and len(result.pop("seen")[0]) < len(whole.pop("seen")[0])
    assert result == whole
