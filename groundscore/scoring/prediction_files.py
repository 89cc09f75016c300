"""Files of predictions: a JSON object a line for every expression. `docs/evaluation.md` describes the format.

{"split": "refcoco|unc|val", "image": "refer_seg/…/x.jpg", "expression": 2, "present": true,
 "mask": {"size": [480, 640], "counts": "…"}}
"""

import json
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from groundscore.annotations.json_files import require, require_integer, require_text
from groundscore.errors import UserError, shown
from groundscore.reading import parse_json, read_lines
from groundscore.scoring.report import write_whole
from groundscore.scoring.scores import kind_of

_REMEDY = "docs/evaluation.md lists the keys"


@dataclass(frozen=True)
class Prediction:
    """A line of the file.

    entry: the item that it belongs to, by the path of its picture, or by its place in its file where that is given.
    masks: COCO run lengths as they were read; None for an expression that has no mask.
    """

    line: int
    entry: str | int
    image: str | None
    expression: int
    present: bool
    masks: tuple[Any, ...]
    answer: str | None


def read_predictions(
    path: Path, wanted: Set[str]
) -> tuple[dict[str, dict[tuple[str | int, int], Prediction]], dict[str, int]]:
    """The predictions of the wanted splits, there by entry and expression; and the other splits with their first lines.

    Each line of a wanted split is checked for its form; masks are decoded when they are scored. Of other lines only
    the split is read. Raises `UserError` naming file and line.
    """
    splits: dict[str, dict[tuple[str | int, int], Prediction]] = {}
    others: dict[str, int] = {}
    for number, text in read_lines(path, missing="it is to hold predictions"):
        where = line_of(path, number)
        content, split = _read_line(text, where)
        if split not in wanted:
            others.setdefault(split, number)
            continue
        prediction = _read_prediction(content, split, number, where)
        before = splits.setdefault(split, {}).setdefault((prediction.entry, prediction.expression), prediction)
        if before is not prediction:
            raise UserError(
                f"{where} is about the same expression as line {before.line}: {split}, {prediction.entry}, expression "
                f"{prediction.expression}"
            )
    if not splits and not others:
        raise UserError(f"{path} holds no prediction")
    return splits, others


def line_of(path: Path, number: int) -> str:
    """How errors name a line."""
    return f"{path}, line {number}"


def write_predictions(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write objects in the form of this file, whole or not at all."""
    write_whole(path, (json.dumps(line) + "\n" for line in lines))


def _read_line(text: str, where: str) -> tuple[dict[str, Any], str]:
    """A line's object, and the split that it names."""
    content = parse_json(text, where, remedy=_REMEDY)
    return content, require_text(content, "split", where, remedy=_REMEDY)


def _read_prediction(content: dict[str, Any], split: str, number: int, where: str) -> Prediction:
    several = kind_of(split) == "muse"
    by_index = several or split.startswith("custom")
    index = _place(content, "index", where) if by_index and content.get("index") is not None else None
    image = None
    if index is None or "image" in content:
        image = PurePosixPath(require_text(content, "image", where, remedy=_REMEDY)).as_posix()
    present = content.get("present", True) if several else require(content, "present", where, remedy=_REMEDY)
    if not isinstance(present, bool):
        raise UserError(f"{where}: 'present' is true or false, not {shown(present)}")
    masks = require(content, "masks" if several else "mask", where, remedy=_REMEDY)
    if several and not isinstance(masks, list):
        raise UserError(f"{where}: 'masks' should be a list of masks, it is {shown(masks)}")
    answer = content.get("answer")
    if not isinstance(answer, str | None):
        raise UserError(f"{where}: 'answer' should be text, it is {shown(answer)}")
    return Prediction(
        line=number,
        entry=image if index is None else index,
        image=image,
        expression=_place(content, "expression", where),
        present=present,
        masks=tuple(masks) if several else () if masks is None else (masks,),
        answer=answer,
    )


def _place(content: dict, key: str, where: str) -> int:
    value = require_integer(content, key, where, remedy=_REMEDY)
    if value < 0 or isinstance(content[key], bool) or value != content[key]:
        raise UserError(f"{where}: {key!r} should be a number from 0, it is {shown(content[key])}")
    return value
