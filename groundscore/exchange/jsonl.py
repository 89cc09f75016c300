"""Our own prediction files: a JSON object a line for every expression, masks as COCO RLE.

    {"split": "refcoco|unc|val", "image": "refer_seg/…/x.jpg", "expression": 2, "present": true,
     "mask": {"size": [480, 640], "counts": "…"}}

`docs/evaluation.md` describes the keys.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from groundscore.annotations.json_files import require, require_integer, require_text
from groundscore.errors import UserError, shown
from groundscore.exchange.addresses import UnknownKeys
from groundscore.exchange.predictions import Prediction, PredictionFormat, Predictions, add_prediction
from groundscore.reading import parse_json, read_lines_at
from groundscore.scoring.metrics import kind_of
from groundscore.splits import OpenSplit, evaluation_set
from groundscore.writing import write_lines

_KEYS = ("split", "image", "expression", "index", "present", "mask", "masks", "answer", "protocol")
_KEYS += ("id", "text", "prompt", "ref_id", "sentence_id")  # of `groundscore export-items`, for whom they help
_REMEDY = "the README of groundscore lists the keys"


def write_predictions(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Writes objects in the form of this file, whole or not at all."""
    write_lines(path, (json.dumps(line) + "\n" for line in lines))


def masks_of(line: dict[str, Any]) -> list[Any]:
    """The masks of a line, as RLE."""
    if "masks" in line:
        return line["masks"]
    return [] if line["mask"] is None else [line["mask"]]


def read_predictions(path: Path, splits: Mapping[str, OpenSplit], ids: str | None = None) -> Predictions:
    """The predictions of the wanted splits; what is in `ids` is not used.

    Each line of a wanted split is checked for its form; its masks stay in the file until they are counted. Of other
    lines only the split is read; it must exist.
    """
    found: Predictions = {}
    others: dict[str, str] = {}
    unknown = UnknownKeys(_KEYS)
    for number, start, text in read_lines_at(path, missing="it is to hold predictions"):
        where = f"{path}, line {number}"
        content = parse_json(text, where, remedy=_REMEDY)
        split = require_text(content, "split", where, remedy=_REMEDY)
        if split in splits:
            unknown.note(content, where)
            add_prediction(found, split, _read(content, split, where, partial(_masks_at, path, start, where)))
        else:
            others.setdefault(split, where)
    unknown.tell()
    if not found and not others:
        raise UserError(f"{path} contains no prediction")
    root = next(iter(splits.values())).root
    for split, where in others.items():
        try:
            evaluation_set(split, root)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    missing = [spec for spec in splits if spec not in found]
    if missing:
        raise UserError(
            f"{path} has no prediction for {', '.join(missing)}; it has some for {', '.join([*found, *others])}"
        )
    return found


def _masks_at(path: Path, start: int, where: str) -> list[Any]:
    """The masks of the line that begins at a byte."""
    with path.open("rb") as file:
        file.seek(start)
        line = file.readline()
    return masks_of(parse_json(line.decode("utf-8-sig" if start == 0 else "utf-8"), where, remedy="it has changed"))


def _read(content: dict, split: str, where: str, read_masks: partial) -> Prediction:
    several = kind_of(split) == "muse"
    by_index = several or split.startswith("custom")
    index = _index(content, "index", where) if by_index and content.get("index") is not None else None
    image = None
    if index is None or "image" in content:
        image = sys.intern(PurePosixPath(require_text(content, "image", where, remedy=_REMEDY)).as_posix())
    present = content.get("present", True) if several else require(content, "present", where, remedy=_REMEDY)
    if not isinstance(present, bool):
        raise UserError(f"{where}: 'present' is true or false, not {shown(present)}")
    masks = require(content, "masks" if several else "mask", where, remedy=_REMEDY)
    if several and not isinstance(masks, list):
        raise UserError(f"{where}: 'masks' should be a list of masks, it is {shown(masks)}")
    for mask in masks if several else [] if masks is None else [masks]:
        if not isinstance(mask, dict):
            raise UserError(f"{where}: a mask is a COCO RLE {{'size': …, 'counts': …}}, not {shown(mask)}")
    answer = content.get("answer")
    if not isinstance(answer, str | None):
        raise UserError(f"{where}: 'answer' should be text, it is {shown(answer)}")
    protocol = content.get("protocol", None if answer is None else "generated")  # a model that answers is not given it
    if not isinstance(protocol, str | None):
        raise UserError(f"{where}: 'protocol' should be text, it is {shown(protocol)}")
    return Prediction(
        where=where,
        entry=image if index is None else index,
        image=image,
        expression=_index(content, "expression", where),
        present=present,
        masks=read_masks,
        answer=answer,
        protocol=protocol,
    )


def _index(content: dict, key: str, where: str) -> int:
    value = require_integer(content, key, where, remedy=_REMEDY)
    if value < 0:
        raise UserError(f"{where}: {key!r} should be a number from 0, it is {shown(content[key])}")
    return value


JSONL = PredictionFormat(
    name="jsonl",
    help="one JSON object a line for every expression, as eval.py --save_predictions writes it",
    recognises=Path.is_file,  # the last that is tried: its errors say what a line should be
    read=read_predictions,
)
