"""`eval.py --predictions`: saved predictions scored as a checkpoint is, without one and without torch."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from evaluation.report_files import Task, locked_report
from groundscore.errors import UserError
from groundscore.exchange.counting import count_predictions
from groundscore.progress import ProgressBar
from groundscore.splits import OpenSplit


def evaluate_predictions(flags: Namespace, argv: Sequence[str]) -> int:
    """Scores the file that `flags.predictions` names and writes the same report as for a checkpoint."""
    if not flags.val_dataset:
        raise UserError("--predictions needs --val_dataset: the splits to score, joined by ||")
    for name in ("save_predictions", "sheet", "vis"):
        if getattr(flags, name):
            raise UserError(f"--{name} needs a checkpoint and does not work with --predictions; use --gallery")
    task = Task.of(flags, argv)
    with locked_report(task.files.report):
        bars = {spec: ProgressBar(spec) for spec in task.sets}
        root = Path(flags.dataset_dir)
        scorers = count_predictions(
            flags.predictions,
            {spec: OpenSplit(spec, root, items, task.tolerance, flags.limit) for spec, items in task.sets.items()},
            format=flags.format,
            ids=flags.ids,
            threshold=flags.threshold,
            keep_masks=flags.gallery,
            progress=lambda spec, done, total: bars[spec].show(done, total),
        )
        protocol = {"answer": "predicted", "expressions": None}
        report = task.new_report(
            protocol=protocol | {"gres_reference": flags.gres_reference, "limit": flags.limit},
            predictions={"file": str(flags.predictions)},
        )
        report.nested = False
        for spec, scorer in scorers.items():
            report.add(spec, protocol | {"answer": scorer.protocol}, scorer.counts())
        task.write(report, 0)
    return 0
