"""Shapes of what a run records: `scores.json`, and the lines of `metrics.jsonl`."""

from typing import Any

from groundscore.schema import Shape, anything, list_of, mapping, number, optional, record, text, whole

RANKED = ("cIoU", "gIoU")  # the metrics that the best checkpoint is chosen by


def _with_scores(required: dict[str, Shape]) -> Shape:
    """An object with the metrics that the best is chosen by, what is `required`, and other metrics."""
    values = mapping(anything, at_least=(*required, *RANKED))
    known = {**required, **dict.fromkeys(RANKED, optional(number))}

    def check(value: Any, where: str) -> None:
        values(value, where)
        for name, shape in known.items():
            shape(value[name], f"{where}.{name}")

    return check


_EVALUATION = record({"step": whole(0), "epoch": whole(0), "splits": mapping(_with_scores({}))})
_BEST = _with_scores({"step": whole(0), "split": text})
SCORES_SHAPE = record({"best": optional(_BEST), "evaluations": list_of(_EVALUATION)})


def metrics_line(value: Any, where: str) -> None:
    """An object with a step, and numbers by name."""
    mapping(anything, at_least=("step",))(value, where)
    whole(0)(value["step"], "step")
