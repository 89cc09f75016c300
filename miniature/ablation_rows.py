"""The rows of the ablation: what is trained, with which flags, in the order of what they tell.

The rows of one seed run before those of the next, so that a page can be written early.
"""

from dataclasses import dataclass

DEFAULT_ESTIMATOR = "leave_one_out"
LAST, LEARNED = "mode1", "mode3_leave_one_out"  # the fixed last layer, and the policy that it is compared with

# Held-out splits by what they ask for. In the last one two thirds of the expressions that mean something mean several
# things at once, and a quarter of all mean nothing.
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
