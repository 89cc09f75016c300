"""The ground: data sets as they lie on disk, and scores. On numpy, never torch; imports nothing else of ours.

benchmark = groundscore.load("refcoco|unc|testA", root="dataset")
scorer = benchmark.scorer()
for item in benchmark:
    scorer.add(item, masks, present=None)
print(scorer.report())
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundscore.benchmark import Benchmark, load, load_all
    from groundscore.errors import UserError
    from groundscore.scoring.scorer import Scorer, report_of
    from groundscore.splits import EvaluationItem as Item

# Imported when asked for: whoever needs only the user's error does not wait for pyarrow and OpenCV.
_MODULES = {
    "Benchmark": "groundscore.benchmark",
    "Item": "groundscore.splits",
    "Scorer": "groundscore.scoring.scorer",
    "UserError": "groundscore.errors",
    "load": "groundscore.benchmark",
    "load_all": "groundscore.benchmark",
    "report_of": "groundscore.scoring.scorer",
}
__all__ = ["Benchmark", "Item", "Scorer", "UserError", "load", "load_all", "report_of"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'groundscore' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), "EvaluationItem" if name == "Item" else name)
