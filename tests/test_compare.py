"""The comparison of the six systems: what it starts, what it skips, and its table."""

import json
from types import SimpleNamespace

import pytest

from miniature import compare
from utils.errors import UserError
from utils.systems import SYSTEMS
from utils.training.arguments import parse_arguments


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Runs `compare` in `tmp_path` without training anything; returns the commands that it started."""
    for name in ("base/llava", "data"):
        (tmp_path / name).mkdir(parents=True)
    commands = []

    def run(command, check):
        commands.append(command)
        flags = dict(zip(command, command[1:]))
        if "train_ds.py" in command:
            directory = tmp_path / "runs" / "100_steps" / flags["--exp_name"]
            directory.mkdir(parents=True)
            losses = [{"step": step, "train/loss": 10.0 - step} for step in range(1, 7)]
            (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))
        else:
            scores = {"gIoU": 0.5, "cIoU": None, "silent": 1, "expressions": 4}
            splits = dict.fromkeys(flags["--val_dataset"].split("||"), scores)
            (tmp_path / flags["--output"]).write_text(json.dumps({"protocol": {}, "splits": splits}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(compare.subprocess, "run", run)

    def start(*more):
        commands.clear()
        paths = {"--base": "base", "--dataset_dir": "data", "--runs": "runs", "--out": "table.md"}
        flags = [part for flag, name in paths.items() for part in (flag, str(tmp_path / name))]
        compare.main([*flags, "--steps", "100", *more])
        return list(commands)

    return start


def test_every_system_trains_with_flags_that_train_ds_knows(started):
    trainings = [command for command in started() if "train_ds.py" in command]
    configs = [parse_arguments(command[command.index("train_ds.py") + 1 :]) for command in trainings]
    assert [config.model_key for config in configs] == list(SYSTEMS)
    assert {config.total_steps for config in configs} == {100}
    assert [config.model_key for config in configs if config.vision_tower_for_mask] == ["PixelLM"]


def test_what_is_done_is_not_done_again(started, tmp_path):
    assert len(started("--systems", "lisa,UGround")) == 4
    assert len(started("--systems", "LISA,UGround,GSVA")) == 2
    table = (tmp_path / "table.md").read_text()
    assert "| LISA    | 0.500 / none" in table and "| GSVA " in table and "| READ" not in table
    assert "2 of 8" in table and "7.00 → 6.00" in table


def test_mistakes_are_said(started, tmp_path):
    with pytest.raises(UserError, match="--systems nothing"):
        started("--systems", "nothing")
    with pytest.raises(UserError, match="multiple of --processes"):
        started("--batch_size", "3", "--processes", "2")
    with pytest.raises(UserError, match="--base"):
        started("--base", str(tmp_path / "elsewhere"))
