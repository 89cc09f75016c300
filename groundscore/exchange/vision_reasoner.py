"""What the evaluations of Seg-Zero and VisionReasoner write: `output_0.json`, `output_1.json`, … of a folder.

    [{"image_id": "…", "ann_id": "…", "think": "…", "intersection": 3051, "union": 3702, "bbox_iou": 1.0}, …]

There are no masks, only counts against the ground truth of their own data sets, so that scores follow their counting:
ignored pixels of ReasonSeg belong to the target there. Ids are the image's name for ReasonSeg, and COCO's for the
referring sets. Their main sets ask one sentence about each object: its prediction stands for all of them, and `--unit
object` gives each object the weight that it has there. Those with all sentences have an entry for each, in any order:
which is which does not matter, since the target is the same. (Layout: `evaluation_scripts/evaluation.py` of
dvlab-research/Seg-Zero, `evaluation/evaluation_segmentation.py` of dvlab-research/VisionReasoner.)
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundscore.errors import UserError, shown
from groundscore.exchange.addresses import Address, UnknownKeys
from groundscore.exchange.predictions import PredictionFormat, Predictions
from groundscore.exchange.records import Gathered, beginning
from groundscore.reading import read_json
from groundscore.splits import OpenSplit

_KNOWN = ("image_id", "ann_id", "intersection", "union", "think", "bbox_iou", "text", "split")


def read_vision_reasoner(path: Path, splits: Mapping[str, OpenSplit], ids: str | None = None) -> Predictions:
    """The counts in a folder of such files, or in one of them."""
    files = sorted(path.glob("output_*.json")) if path.is_dir() else [path]
    gathered, unknown = Gathered(path, splits, once=True, protocol="generated"), UnknownKeys(_KNOWN)
    about: dict[tuple[str, tuple[Address, ...]], list[tuple[dict[str, Any], str]]] = {}  # expressions -> entries, where
    for file in files:
        entries = read_json(file, list, missing="the evaluation writes it", remedy="run the evaluation again")
        for number, entry in enumerate(entries):
            where = f"{file}, entry {number}"
            if not isinstance(entry, dict):
                raise UserError(f"{where} is not an object with 'intersection' and 'union'")
            unknown.note(entry, where)
            for spec, addresses in gathered.addresses_of(entry, where).items():
                about.setdefault((spec, tuple(addresses)), []).append((entry, where))
    for (spec, addresses), entries in about.items():
        if len(entries) not in (1, len(addresses)):
            raise UserError(
                f"{entries[-1][1]}: {len(entries)} entries are about the {len(addresses)} expressions of {spec} that "
                f"{addresses[0].id} is one of; there should be one for all of them, or one for each"
            )
        for one, (entry, where) in zip(addresses, itertools.cycle(entries)):
            gathered.add_to(spec, one, where, [], counts=_counts(entry, where), answer=entry.get("think"))
    return gathered.predictions(unknown)


def _counts(entry: dict[str, Any], where: str) -> tuple[int, int]:
    """Intersection and union of an entry."""
    counts = _count(entry, "intersection", where), _count(entry, "union", where)
    if counts[0] > counts[1]:
        raise UserError(f"{where}: the intersection, {counts[0]}, is larger than the union, {counts[1]}")
    return counts


def _count(entry: dict[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int or value < 0:
        raise UserError(f"{where}: {key!r} should be a number of pixels, it is {shown(value)}")
    return value


def _recognises(path: Path) -> bool:
    if path.is_dir():
        return any(_has_counts(file) for file in path.glob("output_*.json"))
    return path.is_file() and _has_counts(path)


def _has_counts(file: Path) -> bool:
    start = beginning(file)
    return start.lstrip().startswith(b"[") and b'"intersection"' in start and b'"union"' in start


VISION_REASONER = PredictionFormat(
    name="vision_reasoner",
    help="the folder of output_*.json that the evaluations of VisionReasoner and Seg-Zero write",
    recognises=_recognises,
    read=read_vision_reasoner,
)
