"""`eval.py` without a model: scores of saved predictions, and two reports compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.places import Places, choose_places
from evaluation.progress import ProgressBar
from evaluation.report_lock import lock_report
from evaluation.results import Entry, Results, header_of
from groundscore.annotations.repairs import Tolerance
from groundscore.errors import UserError
from groundscore.scoring.compare import compare_reports
from groundscore.scoring.predictions import score_predictions
from groundscore.scoring.report import refuse_foreign_report
from groundscore.splits import EvaluationItem, evaluation_sets
from inference.saving import make_directory


def evaluate_predictions(flags, argv: Sequence[str]) -> int:
    """Score the file that `flags.predictions` names and write the same report as for a checkpoint."""
    if not Path(flags.dataset_dir).is_dir():
        raise UserError(f"--dataset_dir {flags.dataset_dir}: no such directory")
    if not flags.val_dataset:
        raise UserError("--predictions needs --val_dataset: the splits to score, joined by ||")
    for name in ("save_predictions", "sheet", "vis"):
        if getattr(flags, name):
            raise UserError(f"--{name} goes with a checkpoint, not with --predictions; --gallery draws these")
    tolerance = Tolerance(flags.skip_bad_samples)
    sets = evaluation_sets(flags.val_dataset, flags.dataset_dir, tolerance)
    places = choose_places(flags, list(sets))
    refuse_foreign_report(places.report)
    make_directory(places.report.parent)
    with lock_report(places.report):
        _score(flags, argv, sets, places, tolerance)
    return 0


def _score(
    flags, argv: Sequence[str], sets: Mapping[str, Sequence[EvaluationItem]], places: Places, tolerance: Tolerance
) -> None:
    """Count the predictions of all splits and write the report, and the gallery where it is asked for."""
    bars = {spec: ProgressBar(spec) for spec in sets}
    counted = score_predictions(
        flags.predictions,
        flags.dataset_dir,
        sets,
        limit=flags.limit,
        tolerance=tolerance,
        progress=lambda spec, done, total: bars[spec](done, total, None, None),
    )
    protocol = {"answer": "predicted", "expressions": None}
    header = header_of(flags, argv)
    header["protocol"] = protocol | {"gres_reference": flags.gres_reference, "limit": flags.limit}
    header["predictions"] = {"file": str(flags.predictions)}
    results = Results(header, False, flags.gres_reference, flags.bootstrap)
    for spec, one in counted.items():
        results.add_rows(Entry(spec, protocol, one.rows, one.masks, left_out=one.left_out, repaired=one.repaired))
    if flags.gallery:
        results.write_gallery(places, sets)
    if places.tensorboard:
        results.write_scalars(places.tensorboard, 0)
    results.write(places)


def compare(flags) -> int:
    """Print the paired comparison of two reports."""
    print(compare_reports(*flags.compare))
    return 0
