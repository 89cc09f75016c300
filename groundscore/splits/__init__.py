"""A split string to items: images in a fixed order, each with expressions, prompts, true masks and ids.

"ReasonSeg|val"            name and split; also test_overall, test_shortquery and test_longquery
"fpReasonSeg|val"          the same images, some with a second expression that has a false premise
"refcoco|unc|testA"        name, annotator (each set has one) and split; also refzom|final|test, grefcoco|…
"multirefcoco|unc|testA"   the same expressions, to be asked for all together
"fprefcoco|val"            false premises: fprefcoco(+/g), R-refcoco(+/g); and plain refcoco(+/g) without their images
"MultiReasonSeg|test"      MUSE: val, test_less, test_many, and test for both
"custom|name"              custom/<name>.jsonl
"""

from groundscore.splits.items import (
    QUERY_KINDS,
    EvaluationItem,
    EvaluationSet,
    LeftOut,
    path_below,
    read_item,
    spread_items,
    too_many,
    unnumbered_entries,
)
from groundscore.splits.open_split import OpenSplit
from groundscore.splits.opening import (
    BENCHMARKS,
    READERS,
    SplitReader,
    evaluation_set,
    evaluation_sets,
    shares_images,
    split_names,
)

__all__ = [
    "BENCHMARKS",
    "QUERY_KINDS",
    "READERS",
    "EvaluationItem",
    "EvaluationSet",
    "LeftOut",
    "OpenSplit",
    "SplitReader",
    "evaluation_set",
    "evaluation_sets",
    "path_below",
    "read_item",
    "shares_images",
    "split_names",
    "spread_items",
    "too_many",
    "unnumbered_entries",
]
