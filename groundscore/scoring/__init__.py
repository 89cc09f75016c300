"""Scores of predictions, from pixel counts alone: no model and no torch.

    masks ─▶ scorer ─▶ counts (rows) ─▶ metrics (scores) ─▶ report (files), tables, gallery
                                         └─ bootstrap (intervals) ─▶ comparison (of reports)

A row holds the pixel counts of one expression (of one question for MUSE). Everything after the rows is a function of
them alone: processes gather rows, a killed evaluation goes on from its rows, reports are compared by theirs.
"""

# Files hold scores as fractions from 0 to 1; what people read has them in percent, written by `percent`.


def percent(value: float | None, sign: str = "") -> str:
    """A score or share, 0 to 1, as people read it: 0 to 100 with one decimal; "none" for None. sign: "+" for
    differences."""
    return "none" if value is None else f"{100 * value:{sign}.1f}"


UNITS = ("expression", "ref", "object")  # what may have the weight of one in scores
