"""Saved predictions of any format, counted against the ground truth by the scorer."""

from collections.abc import Callable, Mapping
from pathlib import Path

from groundscore.errors import UserError
from groundscore.exchange import FORMATS, PredictionFormat
from groundscore.exchange.predictions import Matching
from groundscore.names import look_up
from groundscore.scoring.scorer import Scorer
from groundscore.splits import LeftOut, OpenSplit, unnumbered_entries

Progress = Callable[[str, int, int], None]


def format_of(path: Path, name: str | None = None) -> PredictionFormat:
    """Returns the format called `name`, or else the first that recognises the file or folder."""
    if name is not None:
        return look_up(name, {one.name: one for one in FORMATS}, "format of predictions")
    if not path.exists():
        raise UserError(f"{path} is missing; it is to hold predictions")
    for one in FORMATS:
        if one.recognises(path):
            return one
    known = "; ".join(f"{one.name}: {one.help}" for one in FORMATS)
    raise UserError(f"{path} is in no format that is recognised ({known}); --format names one")


def count_predictions(
    path: str | Path,
    splits: Mapping[str, OpenSplit],
    *,
    format: str | None = None,
    ids: str | None = None,
    threshold: float | None = None,
    keep_masks: bool = False,
    progress: Progress | None = None,
) -> dict[str, Scorer]:
    """Counts saved predictions of every split of `splits`, by spec; returns their scorers.

    format: of the file, by default what it looks like. ids: the kind of the ids in it, one of `addresses.KINDS`, by
    default found out. threshold, keep_masks: see `Scorer`.
    progress: called with split, images done and in all; first before any is done.
    Raises `UserError` naming file and line where a prediction is malformed, missing, repeated or about nothing, or
    where its mask has not the size of its image.
    """
    path = Path(path)
    found = format_of(path, format).read(path, splits, ids)
    scorers = {}
    for spec, split in splits.items():
        scorer = Scorer(split, threshold=threshold, keep_masks=keep_masks)
        scorers[spec] = _count(Matching(path, split, found.pop(spec, {})), scorer, progress)
    return scorers


def _count(matching: Matching, scorer: Scorer, progress: Progress | None) -> Scorer:
    split = scorer.benchmark
    left_out: list[LeftOut] = []
    total = len(split)
    if progress:
        progress(split.spec, 0, total)
    for number in range(total):
        item = split.read(number)
        if isinstance(item, LeftOut):
            left_out.append(item)
            split.check_left_out(left_out)
            matching.leave_out(item)
            continue
        predictions = matching.take(item)
        if not matching.missing:  # else only what else is missing is of interest
            scorer.add_answered(item, predictions)
        if progress:
            progress(split.spec, number + 1, total)
    if total == len(split.items) and not unnumbered_entries(split.items):
        matching.check_left()  # else lines about what was not read cannot be told from mistakes
    matching.check_missing()
    return scorer
