"""The evaluation sets: pictures in a fixed order, with what is asked, the given answer and the true masks.

"ReasonSeg|val"            name and split; also test_overall, test_shortquery and test_longquery
"fpReasonSeg|val"          the same pictures, each with a second question about what is not there
"refcoco|unc|testA"        name, annotator (each set has one) and split; also refzom|final|test, grefcoco|…
"multirefcoco|unc|testA"   the same expressions, to be asked for all together
"fprefcoco|val"            false premises: fprefcoco(+/g), R-refcoco(+/g); and plain refcoco(+/g) without their pictures
"MultiReasonSeg|test"      MUSE: val, test_less, test_many, and test for both
"custom|name"              custom/<name>.jsonl
"""

from groundscore.splits.item import EvaluationItem, EvaluationSet
from groundscore.splits.left_out import LeftOut, read_item, spread_items, too_many, unnumbered_entries
from groundscore.splits.sets import evaluation_set, evaluation_sets

__all__ = [
    "EvaluationItem",
    "EvaluationSet",
    "LeftOut",
    "evaluation_set",
    "evaluation_sets",
    "unnumbered_entries",
    "read_item",
    "spread_items",
    "too_many",
]
