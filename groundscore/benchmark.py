"""A split as a model's author uses it: its images one by one, and a scorer for what was predicted for them."""

from collections.abc import Sequence
from pathlib import Path

from groundscore.annotations.bad_entries import DEFAULT_SHARE, Tolerance
from groundscore.data_root import check_data_root
from groundscore.errors import UserError
from groundscore.names import split_names
from groundscore.scoring.scorer import Scorer
from groundscore.splits import OpenSplit, evaluation_set


class Benchmark(OpenSplit):
    """The items of a split, in a fixed order, and what scores predictions for them. Made by `load`."""

    def scorer(self, file: str | Path | None = None, *, threshold: float | None = None) -> Scorer:
        """Returns a scorer; see there for its arguments."""
        return Scorer(self, file, threshold=threshold)


def load(
    spec: str, root: str | Path = "dataset", *, limit: int | None = None, skip_bad_samples: float = DEFAULT_SHARE
) -> Benchmark:
    """Returns the benchmark of a split, such as "ReasonSeg|val" or "refcoco|unc|testA".

    root: the data root, which holds the official folders. limit: take the first so many images only.
    skip_bad_samples: the share of images without a usable file or mask that may be left out; 0 stops at the first.
    """
    (benchmark,) = load_all([spec], root, limit=limit, skip_bad_samples=skip_bad_samples).values()
    return benchmark


def load_all(
    specs: str | Sequence[str],
    root: str | Path = "dataset",
    *,
    limit: int | None = None,
    skip_bad_samples: float = DEFAULT_SHARE,
) -> dict[str, Benchmark]:
    """Returns several benchmarks by their specs; `specs` may be joined by "||". See `load`."""
    root, tolerance = Path(root), Tolerance(skip_bad_samples)
    check_data_root(root, "--data")
    names = split_names(specs) if isinstance(specs, str) else list(specs)
    if not names:
        raise UserError("no split is named; for example: ReasonSeg|val")
    return {spec: Benchmark(spec, root, evaluation_set(spec, root, tolerance), tolerance, limit) for spec in names}
