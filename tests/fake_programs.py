"""Stands for the programs that the miniature's experiments start: they check their flags, and leave made-up results."""

import json
from pathlib import Path
from types import SimpleNamespace

import eval as eval_script
from evaluation.report_files import report_path
from miniature import programs
from training.arguments import parse_arguments


def replace_programs(monkeypatch, root: Path, losses: list[dict], scores: dict) -> list[list[str]]:
    """Nothing is trained or scored any more; returns the commands that would have been run, as they come.

    root: where an experiment may write. losses: lines of a run's metrics. scores: of every split.
    """
    (root / "base/llava").mkdir(parents=True)
    (root / "data").mkdir()
    commands = []

    def run(command, check):
        commands.append(command)
        if "train_ds.py" in command:
            directory = parse_arguments(command[command.index("train_ds.py") + 1 :]).log_dir
            directory.mkdir(parents=True)
            (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))
        else:
            flags = eval_script.build_parser().parse(command[command.index("eval.py") + 1 :])
            splits = flags.val_dataset.split("||")
            report = {"protocol": {}, "dataset_dir": flags.dataset_dir, "splits": dict.fromkeys(splits, scores)}
            path = report_path(flags, splits)
            assert path.is_relative_to(root)
            path.write_text(json.dumps(report))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(programs.subprocess, "run", run)
    return commands
