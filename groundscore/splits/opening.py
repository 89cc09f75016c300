"""The evaluation sets by their specs: "<name>|<split>" or "<name>|<annotator>|<split>"."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from groundscore.annotations.bad_entries import STRICT, BadSamples, Tolerance
from groundscore.annotations.refer_files import FALSE_PREMISE_SETS, REFER_SETS
from groundscore.errors import UserError
from groundscore.names import nearest, split_names
from groundscore.splits.items import EvaluationSet
from groundscore.splits.questions import CustomEvaluation, MuseEvaluation
from groundscore.splits.reason_seg import ReasonSegEvaluation
from groundscore.splits.refer import ReferEvaluation

SURE = 0.85  # likeness of a name at which the others need not be listed
MULTI_SETS = ("refcoco", "refcoco+", "refcocog")
# Those with files of their own: with false premises, or without the images that these are tested on.
TWO_PART_SETS = tuple(name for name, files in FALSE_PREMISE_SETS.items() if files != REFER_SETS.get(name))


@dataclass(frozen=True)
class Spec:
    """A spec in its parts; `annotator` is empty where it has only two. text: as it was written."""

    text: str
    name: str
    annotator: str
    split: str

    def check_annotator(self, annotator: str) -> None:
        """Raises `UserError` for an annotator whose refs are not those that are read."""
        if self.annotator != annotator:
            raise UserError(
                f"evaluation set {self.text!r}: the refs of {self.name} that are read are those of {annotator!r}, not "
                f"of {self.annotator!r}; write {self.name}|{annotator}|{self.split}"
            )


@dataclass(frozen=True)
class SplitReader:
    """Opens evaluation sets of one kind.

    form: how their specs are written, for the error about an unknown one. names: those of the sets.
    open: returns the set of a spec, None where the spec is not one of these.
    """

    form: str
    names: tuple[str, ...]
    open: Callable[[Spec, Path, BadSamples], EvaluationSet | None]


def _open_reason_seg(spec: Spec, root: Path, bad_samples: BadSamples) -> EvaluationSet | None:
    if not spec.annotator and (spec.name == "ReasonSeg" or (root / "reason_seg" / spec.name).is_dir()):
        return ReasonSegEvaluation(root, spec.name, spec.split, bad_samples)
    return None


def _open_false_premise_reason_seg(spec: Spec, root: Path, bad_samples: BadSamples) -> EvaluationSet | None:
    if spec.name == "fpReasonSeg" and not spec.annotator:
        return ReasonSegEvaluation(root, "ReasonSeg", spec.split, bad_samples, false_premises=True)
    return None


def _open_muse(spec: Spec, root: Path, bad_samples: BadSamples) -> EvaluationSet | None:
    if spec.name.startswith("MultiReasonSeg") and not spec.annotator:
        return MuseEvaluation(root, spec.name, spec.split, bad_samples)
    return None


def _open_custom(spec: Spec, root: Path, bad_samples: BadSamples) -> EvaluationSet | None:
    return CustomEvaluation(root, spec.split, bad_samples) if spec.name == "custom" and not spec.annotator else None


def _open_refer(spec: Spec, root: Path, bad_samples: BadSamples) -> EvaluationSet | None:
    plain = spec.name.removeprefix("multi")
    together = spec.name != plain
    if not spec.annotator or plain not in (MULTI_SETS if together else REFER_SETS):
        return None
    spec.check_annotator(REFER_SETS[plain].annotator)
    return ReferEvaluation(root, plain, spec.split, bad_samples, together=together)


def _open_false_premises(spec: Spec, root: Path, bad_samples: BadSamples) -> EvaluationSet | None:
    if spec.name not in TWO_PART_SETS:
        return None
    if spec.annotator:
        spec.check_annotator(FALSE_PREMISE_SETS[spec.name].annotator)
    return ReferEvaluation(root, spec.name, spec.split, bad_samples, false_premises=True)


# The benchmarks of the field: the reference's in the order of its menu, then those that it lacks.
_REFER = {"refcocog": ("umd", ("val", "test")), "refcoco+": ("unc", ("val", "testA", "testB"))}
_REFER["refcoco"] = _REFER["refcoco+"]


def _three_part(prefix: str = "") -> list[str]:
    return [f"{prefix}{name}|{by}|{split}" for name, (by, splits) in _REFER.items() for split in splits]


BENCHMARKS = (
    *(f"ReasonSeg|{split}" for split in ("val", "test_overall", "test_shortquery", "test_longquery")),
    *_three_part(),
    *_three_part("multi"),
    *(f"MultiReasonSeg|{split}" for split in ("val", "test", "test_less", "test_many")),
    *(f"grefcoco|unc|{split}" for split in ("val", "testA", "testB")),
    "refzom|final|test",
    *(f"fp{name}|val" for name in MULTI_SETS),
    *(f"fpReasonSeg|{split}" for split in ("val", "test")),
    *(f"R-{name}|val" for name in MULTI_SETS),
    *(f"refclef|unc|{split}" for split in ("val", "test")),
    "refzom|final|val",
)

_ANNOTATED = (*REFER_SETS, *(f"multi{name}" for name in MULTI_SETS))
READERS = [
    SplitReader("ReasonSeg|SPLIT", ("ReasonSeg",), _open_reason_seg),
    SplitReader("fpReasonSeg|SPLIT", ("fpReasonSeg",), _open_false_premise_reason_seg),
    SplitReader("MultiReasonSeg|SPLIT", ("MultiReasonSeg",), _open_muse),
    SplitReader("custom|NAME", ("custom",), _open_custom),
    SplitReader(f"NAME|ANNOTATOR|SPLIT with NAME one of {', '.join(_ANNOTATED)}", _ANNOTATED, _open_refer),
    SplitReader(f"NAME|SPLIT with NAME one of {', '.join(TWO_PART_SETS)}", TWO_PART_SETS, _open_false_premises),
]


def evaluation_set(spec: str, dataset_dir: str | Path, tolerance: Tolerance = STRICT) -> EvaluationSet:
    """Returns the set that `spec` names; its items are decoded when they are asked for.

    tolerance: which entries may be left out that are known to be bad before an item is read.
    """
    name, *parts = (part.strip() for part in spec.split("|"))
    if name and len(parts) in (1, 2) and parts[-1]:
        read = Spec(spec, name, parts[0] if len(parts) == 2 else "", parts[-1])
        bad_samples = BadSamples(tolerance)
        for reader in READERS:
            items = reader.open(read, Path(dataset_dir), bad_samples)
            if items is not None:
                items.unnumbered = tuple(bad_samples.unnumbered)
                return items
    names = [name for reader in READERS for name in reader.names]
    near = nearest(name, names, SURE)
    if near is not None and near != name:
        raise UserError(f"unknown evaluation set {spec!r}. Did you mean {'|'.join([near, *parts])!r}?")
    *forms, last = (reader.form for reader in READERS)
    raise UserError(f"unknown evaluation set {spec!r}; known are {', '.join(forms)}, and {last}")


def evaluation_sets(specs: str, dataset_dir: str | Path, tolerance: Tolerance = STRICT) -> dict[str, EvaluationSet]:
    """Returns the sets of a list joined by "||", by their specs, in that order."""
    names = split_names(specs)
    if not names:
        raise UserError("no evaluation set is named; for example: ReasonSeg|val")
    return {name: evaluation_set(name, dataset_dir, tolerance) for name in names}


def shares_images(spec: str, other: str) -> bool:
    """Whether two specs are about (partly) the same images: the same split of one data set, in any of its versions.

    "refcoco|unc|val" shares its images with "multirefcoco|unc|val" and "fprefcoco|val", "ReasonSeg|test" with
    "ReasonSeg|test_shortquery".
    """
    return _images_of(spec) == _images_of(other)


def _images_of(spec: str) -> tuple[str, str]:
    name, *_, split = (part.strip() for part in spec.split("|"))
    for prefix in ("multi", "fp", "R-"):
        name = name.removeprefix(prefix)
    return name, split if name == "custom" else split.partition("_")[0]
