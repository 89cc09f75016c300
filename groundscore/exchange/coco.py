"""COCO results: a JSON list with an entry for each predicted mask.

    [{"image_id": 9, "sent_id": 42, "category_id": 1, "segmentation": {"size": [480, 640], "counts": "…"}}, …]

An entry names its expression by one of the keys of `addresses.py` ("expression_id", "sent_id", "ref_id", "ann_id", or
the image with "text"). Several entries of one expression are united, for a question of MUSE each is one mask, whatever
their scores; `"segmentation": null` predicts that there is no target. A COCO file of annotations works as well.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundscore.errors import UserError, shown
from groundscore.exchange.addresses import IMAGE_KEYS, INDEX, KEYS, TEXT_KEYS, UnknownKeys
from groundscore.exchange.predictions import PredictionFormat, Predictions
from groundscore.exchange.records import Gathered, beginning
from groundscore.reading import read_json
from groundscore.splits import OpenSplit

_IDS = f"{', '.join(KEYS)}, or the image ({', '.join(IMAGE_KEYS)})"
_KNOWN = (*KEYS, INDEX, *IMAGE_KEYS, *TEXT_KEYS, "split", "segmentation", "present", "answer")
_UNUSED = ("category_id", "score", "bbox", "area", "iscrowd", "id")  # COCO's own, which do not change a score


def read_coco(path: Path, splits: Mapping[str, OpenSplit], ids: str | None = None) -> Predictions:
    """The predictions of a file of COCO results."""
    content = read_json(path, missing="it is to hold predictions", remedy="the README of groundscore shows the form")
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path} is not a list of COCO results, objects with 'segmentation' and one of {_IDS}")
    gathered, unknown = Gathered(path, splits), UnknownKeys((*_KNOWN, *_UNUSED))
    for number, entry in enumerate(entries):
        where = f"{path}, entry {number}"
        unknown.note(entry, where)
        gathered.add(entry, where, _masks(entry, where), present=_present(entry, where), answer=entry.get("answer"))
    return gathered.predictions(unknown)


def _masks(entry: dict[str, Any], where: str) -> list[Any]:
    if "segmentation" not in entry:
        raise UserError(f"{where} has no 'segmentation', its mask as RLE; it has {', '.join(map(shown, entry))}")
    segmentation = entry["segmentation"]
    if segmentation is None or segmentation == []:
        return []
    if not isinstance(segmentation, dict | list):
        raise UserError(f"{where}: 'segmentation' is an RLE {{'size': …, 'counts': …}} or a list of polygons")
    return [segmentation]


def _present(entry: dict[str, Any], where: str) -> bool | None:
    present = entry.get("present")
    if not isinstance(present, bool | None):
        raise UserError(f"{where}: 'present' is true or false, not {shown(present)}")
    return present


def _recognises(path: Path) -> bool:
    start = beginning(path)
    return b'"segmentation"' in start or re.match(rb"\s*\[\s*\{", start) is not None


COCO = PredictionFormat(
    name="coco",
    help="COCO results: a JSON list of objects with 'segmentation' (RLE) and the id of an expression or ref",
    recognises=_recognises,
    read=read_coco,
)
