"""The evaluation sets by their specs: "<name>|<split>" or "<name>|<annotator>|<split>"."""

from pathlib import Path

from dataloaders.families.family import did_you_mean, split_names
from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.refer_files import FALSE_PREMISE_SETS, REFER_SETS
from groundscore.annotations.repairs import STRICT, Tolerance
from groundscore.errors import UserError
from groundscore.splits.custom import CustomEvaluation
from groundscore.splits.item import EvaluationSet
from groundscore.splits.muse import MuseEvaluation
from groundscore.splits.reason_seg import FalsePremiseReasonSegEvaluation, ReasonSegEvaluation
from groundscore.splits.refer import FalsePremiseEvaluation, ReferEvaluation

MULTI_SETS = ("refcoco", "refcoco+", "refcocog")
# Those with files of their own: with false premises, or without the pictures that these are tested on.
TWO_PART_SETS = tuple(name for name, files in FALSE_PREMISE_SETS.items() if files != REFER_SETS.get(name))


def evaluation_set(spec: str, dataset_dir: str | Path, tolerance: Tolerance = STRICT) -> EvaluationSet:
    """The set that `spec` names; its items are decoded when they are asked for.

    tolerance: which entries may be left out that are known to be bad before an item is read.
    """
    bad_samples = BadSamples(tolerance)
    items = _open(spec, dataset_dir, bad_samples)
    items.unnumbered = tuple(bad_samples.unnumbered)
    return items


def _open(spec: str, dataset_dir: str | Path, bad_samples: BadSamples) -> EvaluationSet:
    name, *parts = (part.strip() for part in spec.split("|"))
    root = Path(dataset_dir)
    split = parts[-1] if parts else ""
    plain = name.removeprefix("multi")
    if not name or not split or len(parts) > 2:
        pass
    elif name == "custom" and len(parts) == 1:
        return CustomEvaluation(root, split, bad_samples)
    elif name == "fpReasonSeg" and len(parts) == 1:
        return FalsePremiseReasonSegEvaluation(root, split, bad_samples)
    elif name.startswith("MultiReasonSeg") and len(parts) == 1:
        return MuseEvaluation(root, name, split, bad_samples)
    elif name.startswith("multi") and plain in MULTI_SETS and len(parts) == 2:
        _check_annotator(spec, name, REFER_SETS[plain].annotator)
        return ReferEvaluation(root, plain, split, bad_samples, together=True)
    elif name in REFER_SETS and len(parts) == 2:
        _check_annotator(spec, name, REFER_SETS[name].annotator)
        return ReferEvaluation(root, name, split, bad_samples)
    elif name in TWO_PART_SETS:
        if len(parts) == 2:
            _check_annotator(spec, name, FALSE_PREMISE_SETS[name].annotator)
        return FalsePremiseEvaluation(root, name, split, bad_samples)
    elif len(parts) == 1 and (name == "ReasonSeg" or (root / "reason_seg" / name).is_dir()):
        return ReasonSegEvaluation(root, name, split, bad_samples)
    annotated = [*REFER_SETS, *(f"multi{name}" for name in MULTI_SETS)]
    names = [*annotated, *TWO_PART_SETS, "ReasonSeg", "fpReasonSeg", "MultiReasonSeg", "custom"]
    raise UserError(
        f"unknown evaluation set {spec!r}; known are ReasonSeg|SPLIT, fpReasonSeg|SPLIT, MultiReasonSeg|SPLIT, "
        f"custom|NAME, NAME|ANNOTATOR|SPLIT with NAME one of {', '.join(annotated)}, and NAME|SPLIT with NAME one of "
        f"{', '.join(TWO_PART_SETS)}{did_you_mean(name, names) if name not in names else ''}"
    )


def _check_annotator(spec: str, name: str, annotator: str) -> None:
    """Refuse an annotator whose refs are not those that are read."""
    _, given, split = (part.strip() for part in spec.split("|"))
    if given != annotator:
        raise UserError(
            f"evaluation set {spec!r}: the refs of {name} that are read are those of {annotator!r}, not of {given!r}; "
            f"write {name}|{annotator}|{split}"
        )


def evaluation_sets(specs: str, dataset_dir: str | Path, tolerance: Tolerance = STRICT) -> dict[str, EvaluationSet]:
    """The sets of a list joined by "||", by their specs, in that order."""
    names = split_names(specs)
    if not names:
        raise UserError("no evaluation set is named; for example: ReasonSeg|val")
    return {name: evaluation_set(name, dataset_dir, tolerance) for name in names}
