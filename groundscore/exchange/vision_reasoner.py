"""What the evaluations of Seg-Zero and VisionReasoner write: `output_0.json`, `output_1.json`, … of a folder.

    [{"image_id": "…", "ann_id": "…", "think": "…", "intersection": 3051, "union": 3702, "bbox_iou": 1.0}, …]

There are no masks, only counts against the ground truth of their own data sets, so that scores follow their counting:
ignored pixels of ReasonSeg belong to the target there. Ids are the image's name for ReasonSeg, and COCO's for the
referring sets, where one sentence is asked about each object: its prediction stands for all of them, and `--unit
object` gives each object the weight that it has there. (Layout: `evaluation_scripts/evaluation.py` of
dvlab-research/Seg-Zero, `evaluation/evaluation_segmentation.py` of dvlab-research/VisionReasoner.)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundscore.errors import UserError, shown
from groundscore.exchange.addresses import UnknownKeys
from groundscore.exchange.predictions import PredictionFormat, Predictions
from groundscore.exchange.records import Gathered, beginning
from groundscore.reading import read_json
from groundscore.splits import OpenSplit

_KNOWN = ("image_id", "ann_id", "intersection", "union", "think", "bbox_iou", "text", "split")


def read_vision_reasoner(path: Path, splits: Mapping[str, OpenSplit], ids: str | None = None) -> Predictions:
    """The counts in a folder of such files, or in one of them."""
    files = sorted(path.glob("output_*.json")) if path.is_dir() else [path]
    gathered, unknown = Gathered(path, splits, once=True, protocol="generated"), UnknownKeys(_KNOWN)
    for file in files:
        entries = read_json(file, list, missing="the evaluation writes it", remedy="run the evaluation again")
        for number, entry in enumerate(entries):
            where = f"{file}, entry {number}"
            if not isinstance(entry, dict):
                raise UserError(f"{where} is not an object with 'intersection' and 'union'")
            unknown.note(entry, where)
            counts = _count(entry, "intersection", where), _count(entry, "union", where)
            if counts[0] > counts[1]:
                raise UserError(f"{where}: the intersection, {counts[0]}, is larger than the union, {counts[1]}")
            answer = entry.get("think")
            gathered.add(entry, where, [], counts=counts, answer=answer if isinstance(answer, str) else None)
    return gathered.predictions(unknown)


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
