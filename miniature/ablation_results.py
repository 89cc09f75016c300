"""The rows of the ablation in the order of what they tell, and the results of their runs: means and differences.

The rows of one seed run before those of the next, so that a page can be written early.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from groundscore.errors import UserError
from groundscore.reading import read_json

LAST, LEARNED = "mode1", "mode3_leave_one_out"  # the fixed last layer, and the policy that it is compared with

# Held-out splits by what they ask for. In the last one a quarter of the expressions have no target; of the others two
# thirds have several.
SPLITS = {"reasoning": "ReasonSeg|val", "referring": "refcoco|unc|val", "several or none": "grefcoco|unc|val"}
GENERALISED = "several or none"
COMPARED = ("reasoning", "referring")  # the differences between rows are taken over the mean of these
ANALYSED = COMPARED  # masks are decoded at every layer
REFER_SETS = "--refer_seg_data refcoco||grefcoco"


@dataclass(frozen=True)
class Row:
    """name: of its runs and files. system: for --model_key. flags: beyond `RECIPE`, as one string."""

    name: str
    title: str
    system: str = "UGround"
    flags: str = ""

    @property
    def has_policy(self) -> bool:
        """Whether a layer policy is trained."""
        return self.system == "UGround" and "--mode 1" not in self.flags


def _policy(name: str, title: str, flags: str, mode: int = 3) -> Row:
    return Row(name, title, flags=f"--mode {mode} {flags}")


ROWS = (
    Row(LAST, "UGround, mode 1: last layer", flags="--mode 1"),
    _policy(LEARNED, "mode 3, leave_one_out, 4 layers", "--estimator leave_one_out"),
    _policy("mode3_sample_ema", "mode 3, sample + EMA", "--estimator sample --baseline_type ema"),
    _policy("mode3_expected", "mode 3, expected", "--estimator expected"),
    _policy(
        "mode3_all_maps",
        "mode 3, expected, similarity loss on the maps of all layers",
        "--estimator expected --map_loss_layers all",
    ),
    Row("lisa", "LISA", system="LISA"),
    _policy("mode2", "mode 2, leave_one_out", "--estimator leave_one_out", mode=2),
    _policy("no_mask_prompt", "mode 3, leave_one_out, no mask prompt", "--estimator leave_one_out --no_mask_prompt"),
    _policy("no_map_loss", "mode 3, leave_one_out, no similarity loss", "--estimator leave_one_out --no_map_loss"),
    Row("read", "READ", system="READ"),
    _policy("mode3_sample_critic", "mode 3, sample + critic", "--estimator sample --baseline_type critic"),
    _policy("mode3_sample_none", "mode 3, sample, no baseline", "--estimator sample --baseline_type none"),
    _policy(
        "mode3_entropy",
        "mode 3, leave_one_out, entropy bonus 0.1 → 0",
        "--estimator leave_one_out --entropy_weight 0.1 --entropy_weight_end 0",
    ),
    _policy(
        "mode3_reference",
        "mode 3, sample + EMA, one reward per micro-batch",
        "--estimator sample --baseline_type ema --reward batch",
    ),
)
QUICK = (LAST, LEARNED, "mode3_sample_ema", "lisa")


Results = dict[str, dict[int, dict]]  # row -> seed -> what `ablation.run_one` wrote


def read_results(directory: Path) -> Results:
    """All results of a directory, in the order of `ROWS`, seeds rising.

    Raises `UserError` where they were scored on different numbers of images.
    """
    found: Results = {}
    limits: dict[int, Path] = {}
    for path in sorted(directory.glob("*.seed*.json")):
        result = read_json(path, missing="run the ablation first")
        limits.setdefault(result["limit"], path)
        if len(limits) > 1:
            both = " and ".join(f"{file} on the first {limit} images" for limit, file in limits.items())
            raise UserError(f"{both} do not belong in one table; name another --runs, or --limit")
        found.setdefault(result["row"], {})[result["seed"]] = result
    return {row.name: dict(sorted(found[row.name].items())) for row in ROWS if row.name in found}


def score(result: dict, kind: str, metric: str = "gIoU") -> float | None:
    """One number of one run; None where the split has nothing that it is about."""
    return result["scores"][kind].get(metric)


def score_of_targets(result: dict) -> float | None:
    """gIoU of the generalised split without its no-target expressions (which score 1 if rejected)."""
    scores = result["scores"][GENERALISED]
    total, empty = scores["expressions"], scores["empty_targets"]
    if total == empty:
        return None
    return (scores["gIoU"] * total - (scores["N_acc"] or 0.0) * empty) / (total - empty)


def compared_score(result: dict) -> float:
    """The mean gIoU of the splits that rows are compared on."""
    return mean(score(result, kind) or 0.0 for kind in COMPARED)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over n seeds; the deviation is None for one seed."""

    mean: float
    deviation: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.deviation is None else f"{self.mean:.3f} ± {self.deviation:.3f}"

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return None if self.deviation is None else self.deviation / self.n**0.5


def spread(values: list[float | None]) -> Spread | None:
    """Mean and standard deviation of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(mean(known), stdev(known) if len(known) > 1 else None, len(known))


def difference(results: Results, row: str, other: str) -> Spread | None:
    """How much better `row` is than `other`, seed by seed, on the compared splits."""
    seeds = sorted(set(results.get(row, {})) & set(results.get(other, {})))
    return spread([compared_score(results[row][seed]) - compared_score(results[other][seed]) for seed in seeds])


def layer_curve(runs: dict[int, dict], kind: str) -> dict | None:
    """The layer analysis of a row on one split, averaged over seeds: iou [L+1], greedy, oracle, probabilities [L+1]."""
    analysed = [run["layers"][kind] for run in runs.values() if run["layers"]]
    if not analysed:
        return None
    return {
        "iou": [mean(column) for column in zip(*(one["iou"] for one in analysed), strict=True)],
        "probabilities": [mean(column) for column in zip(*(one["probabilities"] for one in analysed), strict=True)],
        "greedy": mean(one["greedy"] for one in analysed),
        "oracle": mean(one["oracle"] for one in analysed),
    }


def final_entropy(result: dict) -> float | None:
    """The policy's entropy at the last recorded step, in nats."""
    known = [line["policy/entropy"] for line in result["history"] if "policy/entropy" in line]
    return known[-1] if known else None


def favourite(result: dict) -> tuple[int, float] | None:
    """The layer that the policy likes best on the compared splits, and the share of targets it is likeliest for."""
    if not result["layers"]:
        return None
    counts = [sum(column) for column in zip(*(result["layers"][kind]["chosen"] for kind in COMPARED), strict=True)]
    best = max(range(len(counts)), key=counts.__getitem__)
    return best, counts[best] / sum(counts)


def best_layer(result: dict) -> int:
    """The layer with the best mean mask IoU on the compared splits."""
    means = [sum(column) for column in zip(*(result["layers"][kind]["iou"] for kind in COMPARED), strict=True)]
    return max(range(len(means)), key=means.__getitem__)
