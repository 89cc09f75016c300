"""Stands for the programs that the miniature's experiments start: they check their flags, and leave made-up results."""

import json
from pathlib import Path
from types import SimpleNamespace

import eval as eval_script
from evaluation import audit
from evaluation.report_files import report_path
from groundscore.scoring.layer_rows import IMAGE_TOKENS, SIDES, LayerRow
from groundscore.scoring.layers import summarise_rows
from miniature import programs
from tests.groundscore.scoring.rows import row
from training.arguments import parse_arguments

KINDS = (
    ("explicit", "positive", "single"),
    ("implicit", "positive", "single"),
    ("explicit", "positive", "multi"),
    ("explicit", "none"),
    ("explicit", "correction"),
)


def replace_programs(monkeypatch, root: Path, losses: list[dict], scores: dict) -> list[list[str]]:
    """Nothing is trained or scored any more; returns the commands that would have been run, as they come.

    root: where an experiment may write. losses: lines of a run's metrics. scores: of every split.
    """
    make_base(root / "base")
    (root / "data").mkdir()
    commands = []

    def run(command, check, **output):
        commands.append(command)
        if "train_ds.py" in command:
            directory = parse_arguments(command[command.index("train_ds.py") + 1 :]).log_dir
            directory.mkdir(parents=True)
            (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))
        elif "evaluation.audit" in command:
            flags = audit.build_parser().parse(command[command.index("evaluation.audit") + 1 :])
            assert flags.output.is_relative_to(root)
            write_audit(flags.output, flags.val_dataset.split("||"), scores)
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


def make_base(directory: Path) -> None:
    """What a base has, empty."""
    (directory / "llava").mkdir(parents=True)
    (directory / "sam_miniature.pth").touch()


def audit_rows(split: str, answer: str, *, last: int = 50, first: int = 20, luck: int = 55, greedy: int = 1):
    """An expression of every kind on an image each; IoU in percent of two layers, of a redraw, and what is greedy."""
    rows = []
    for item, kinds in enumerate(KINDS):
        target = 100 if "positive" in kinds else 0
        masks = [row(min(iou, target), min(iou, target), target, item=item) for iou in (first, last, luck)]
        choice = [0.9, 0.1] if greedy == 0 else [0.1, 0.9]
        points = {side: [[0, int(side == IMAGE_TOKENS)]] for side in SIDES} if target else {}
        redraws = {"0.2": masks[2:]}
        rows.append(LayerRow(split, answer, kinds, masks[:2], masks[greedy], redraws, [choice], [greedy], points))
    return rows


def write_audit(page: Path, splits: list[str], scores: dict, **options) -> None:
    """What an audit leaves behind, from `audit_rows` with these options."""
    path = page.with_suffix(".layers.jsonl")
    rows = [
        one for split in splits for answer in ("given", "generated") for one in audit_rows(split, answer, **options)
    ]
    path.write_text("".join(one.to_line() for one in rows))
    both = {"given": scores, "generated": scores}
    report = {"protocol": {}, "splits": dict.fromkeys(splits, both), "audit": summarise_rows(path, bootstrap=20)}
    page.with_suffix(".json").write_text(json.dumps(report))
