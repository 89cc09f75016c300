"""The rows of the policy study in the order of what they tell, and what their results say of layers."""

from statistics import mean

from groundscore.scoring.layers import GREEDY, LAST, ORACLE
from miniature.study_results import Results, Spread, StudyRow, paired

LAST_ROW, LEARNED = "mode1", "mode3_leave_one_out"  # the fixed last layer, and the policy that it is compared with
COMPARED = ("explicit", "implicit", "multi")  # differences between rows are taken over the mean of these
GENERATED, GIVEN = "generated", "given"  # answers; those that the model writes itself are what its user gets
ANALYSED = ("ReasonSeg|val", "refcoco|unc|val", "grefcoco|unc|val")  # splits whose layers the page shows


def _policy(name: str, title: str, flags: str, mode: int = 3) -> StudyRow:
    return StudyRow(name, title, flags=f"--mode {mode} {flags}")


ROWS = (
    StudyRow(LAST_ROW, "mode 1: last layer", flags="--mode 1"),
    StudyRow("mode1_all_maps", "mode 1, similarity loss on all layers", flags="--mode 1 --map_loss_layers all"),
    _policy(LEARNED, "mode 3, leave_one_out, 4 layers", "--estimator leave_one_out"),
    _policy("mode3_sample_ema", "mode 3, sample + EMA", "--estimator sample --baseline_type ema"),
    _policy("mode3_expected", "mode 3, expected", "--estimator expected"),
    _policy("mode3_context", "mode 3, leave_one_out, context gate", "--estimator leave_one_out --gate context"),
    _policy("mode3_context_expected", "mode 3, expected, context gate", "--estimator expected --gate context"),
    _policy(
        "mode3_all_maps",
        "mode 3, expected, similarity loss on all layers",
        "--estimator expected --map_loss_layers all",
    ),
    _policy(
        "mode3_context_all_maps",
        "mode 3, expected, context gate, similarity loss on all layers",
        "--estimator expected --gate context --map_loss_layers all",
    ),
    _policy("mode2", "mode 2, leave_one_out", "--estimator leave_one_out", mode=2),
    _policy("mode2_sample_ema", "mode 2, sample + EMA", "--estimator sample --baseline_type ema", mode=2),
    _policy("mode2_expected", "mode 2, expected", "--estimator expected", mode=2),
    _policy("mode2_context", "mode 2, leave_one_out, context gate", "--estimator leave_one_out --gate context", mode=2),
    StudyRow("lisa", "LISA", system="LISA"),
    StudyRow("read", "READ", system="READ"),
    _policy("no_mask_prompt", "mode 3, leave_one_out, no mask prompt", "--estimator leave_one_out --no_mask_prompt"),
    _policy("no_map_loss", "mode 3, leave_one_out, no similarity loss", "--estimator leave_one_out --no_map_loss"),
    _policy("mode3_sample_critic", "mode 3, sample + critic", "--estimator sample --baseline_type critic"),
    _policy("mode3_sample_none", "mode 3, sample, no baseline", "--estimator sample --baseline_type none"),
    _policy(
        "mode3_entropy",
        "mode 3, leave_one_out, entropy bonus 0.1 → 0",
        "--estimator leave_one_out --entropy_weight 0.1 --entropy_weight_end 0",
    ),
    _policy(
        "mode3_reference",
        "mode 3, sample + EMA, one reward per micro-batch, raw states",
        "--estimator sample --baseline_type ema --reward batch --gate reference",
    ),
)
STUDY = tuple(row.name for row in ROWS[:12])
QUICK = (LAST_ROW, LEARNED, "mode3_context")


def compared_score(result: dict) -> float | None:
    """The mean IoU of the kinds of query that rows are compared on, generated answers; None where one was not asked."""
    scores = [result["queries"].get("generated", {}).get(kind) for kind in COMPARED]
    return None if None in scores else mean(scores)


def difference(results: Results, row: str, other: str) -> Spread | None:
    """How much better `row` is than `other`, seed by seed, on the compared kinds of query."""
    return paired(results, row, other, compared_score)


def audits(result: dict, answer: str = GENERATED) -> list[dict]:
    """The audit's summaries of the analysed splits."""
    return [result["audit"][split][answer] for split in ANALYSED if split in result["audit"]]


def layer_curve(runs: dict[int, dict], split: str) -> dict | None:
    """gIoU of every layer, of the policy and of the best layer on a split, averaged over seeds."""
    found = [run["audit"].get(split, {}).get(GENERATED) for run in runs.values()]
    found = [one["scores"] for one in found if one and one["depth"] > 1]
    if not found:
        return None
    layers = [name for name in found[0] if name.startswith("layer ")]
    return {
        "layers": [mean(one[name]["gIoU"]["value"] for one in found) for name in layers],
        "policy": mean(one.get(GREEDY, one[LAST])["gIoU"]["value"] for one in found),
        "best": mean(one[ORACLE]["gIoU"]["value"] for one in found),
    }


def gain(result: dict, name: str, answer: str = GENERATED) -> float | None:
    """A gain of an audit ("layers", "luck", "beyond_luck"), the mean over the analysed splits."""
    found = [one["gains"][name]["value"] for one in audits(result, answer) if one.get("gains")]
    return mean(found) if found else None


def above_noise(result: dict, name: str, answer: str = GENERATED) -> float | None:
    """The share of expressions for which a layer, or a redraw, is better than the last layer by more than noise."""
    found = [one["gains"]["above_noise"][name]["value"] for one in audits(result, answer) if one.get("gains")]
    return mean(found) if found else None


def final_entropy(result: dict) -> float | None:
    """The policy's entropy at the last recorded step, in nats."""
    known = [line["policy/entropy"] for line in result["history"] if "policy/entropy" in line]
    return known[-1] if known else None


def favourite(result: dict) -> tuple[int, float] | None:
    """The layer that the policy takes most on the analysed splits, and the share of targets that it takes it for."""
    counts = [sum(column) for column in zip(*(one["chosen"] for one in audits(result)))]
    if not sum(counts):
        return None
    best = max(range(len(counts)), key=counts.__getitem__)
    return best, counts[best] / sum(counts)


def best_layer(result: dict) -> int:
    """The layer with the best mean gIoU on the analysed splits."""
    depth = audits(result)[0]["depth"]
    means = [sum(one["scores"][f"layer {layer}"]["gIoU"]["value"] for one in audits(result)) for layer in range(depth)]
    return max(range(depth), key=means.__getitem__)
