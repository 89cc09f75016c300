"""Sample logs of lmms-eval: `<date>_samples_<task>.jsonl`, which `--log_samples` writes.

    {"doc_id": 0, "target": "000000000009_0", "filtered_resps": "{\"size\": [480, 640], \"counts\": \"…\"}", …}

Masks stand in the response as RLE in JSON, with any words around them; a response without one predicts that there is no
target. A line is about the expression that `target` names by its id, as the tasks of `groundscore/integrations` write
it, else about the one that its document names, else about expression number `doc_id` of the split. (Layout:
`lmms_eval/loggers/evaluation_tracker.py`; `resps` is left out where it equals `filtered_resps`.)
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groundscore.errors import UserError, shown
from groundscore.exchange.addresses import KEYS, Address, Addresses
from groundscore.exchange.mask_files import slug
from groundscore.exchange.predictions import PredictionFormat, Predictions
from groundscore.exchange.records import Gathered, beginning
from groundscore.reading import parse_json, read_lines
from groundscore.splits import OpenSplit

_SAMPLES = "_samples_"
_REMEDY = "run lmms-eval with --log_samples again"
_OBJECT = re.compile(r"[{\[]")
_COUNTS = re.compile(r"[{][^{}]*counts[^{}]*[}]")
_DECODER = json.JSONDecoder()


def masks_in_text(text: Any) -> list[dict[str, Any]]:
    """Returns the RLE dictionaries in a model's response: a text with JSON anywhere in it, or what JSON holds."""
    if isinstance(text, dict):
        if "counts" in text:
            return [text]
        return [mask for value in text.values() for mask in masks_in_text(value)]
    if isinstance(text, list):
        return [mask for value in text for mask in masks_in_text(value)]
    if not isinstance(text, str):
        return []
    found: list[dict[str, Any]] = []
    end = 0
    while match := _OBJECT.search(text, end):
        try:
            value, end = _DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            end = match.end()
        else:
            found += masks_in_text(value)
    return found


def read_lmms_eval(path: Path, splits: Mapping[str, OpenSplit], ids: str | None = None) -> Predictions:
    """The predictions in a sample log, or in the logs of a folder whose names end in those of the splits."""
    gathered = Gathered(path, splits, once=True, protocol="generated")
    for spec, addresses in gathered.addresses.items():
        for file in _logs(path, spec, len(splits)):
            for number, line in read_lines(file, missing="lmms-eval writes it with --log_samples"):
                where = f"{file}, line {number}"
                sample = parse_json(line, where, remedy=_REMEDY)
                response = _response(sample, where)
                masks = masks_in_text(response)
                for one in _expressions(sample, addresses, where):
                    gathered.add_to(spec, one, where, masks, present=bool(masks), answer=_words(response))
    return gathered.predictions()


def _logs(path: Path, spec: str, splits: int) -> list[Path]:
    if path.is_file():
        if splits > 1:
            raise UserError(f"{path} is the log of one task; name the folder of the logs of all splits")
        return [path]
    logs = sorted(path.rglob(f"*{_SAMPLES}*.jsonl"))
    own = [log for log in logs if log.stem.endswith(f"_{slug(spec)}")]
    chosen = own or (logs if splits == 1 else [])
    if len(chosen) != 1:
        named = ", ".join(log.name for log in chosen[:3]) if chosen else f"none ends in {slug(spec)}.jsonl"
        raise UserError(f"{path} should have one sample log for {spec}: {named}; name the file")
    return chosen


def _response(sample: Any, where: str) -> Any:
    if not isinstance(sample, dict) or "doc_id" not in sample:
        raise UserError(f"{where} is not a sample of lmms-eval: it has no 'doc_id'; {_REMEDY}")
    for key in ("resps", "filtered_resps"):
        if key in sample:
            return sample[key]
    raise UserError(f"{where} has neither 'resps' nor 'filtered_resps', but {shown(list(sample))}")


def _expressions(sample: dict[str, Any], addresses: Addresses, where: str) -> list[Address]:
    found = addresses.find("expression", sample.get("target"))
    if not found and isinstance(sample.get("doc"), dict) and sample["doc"].keys() & {*KEYS, "id"}:
        found = addresses.of_record(sample["doc"], where)
    if not found:
        number = sample["doc_id"]
        found = addresses.find("number", number)
        if not found:
            raise UserError(f"{where}: {addresses.spec} has no expression number {shown(number)}, the first is 0")
    return found


def _words(response: Any) -> str | None:
    """What the model wrote, where that is one text; without its masks, which are no words."""
    while isinstance(response, list) and len(response) == 1:
        response = response[0]
    return _COUNTS.sub("", response) if isinstance(response, str) else None


def _recognises(path: Path) -> bool:
    if path.is_dir():
        return any(path.rglob(f"*{_SAMPLES}*.jsonl"))
    start: Iterator[bytes] = iter(beginning(path).splitlines())
    return b'"doc_id"' in next(start, b"") and path.suffix == ".jsonl"


LMMS_EVAL = PredictionFormat(
    name="lmms_eval",
    help="a sample log of lmms-eval, masks as RLE in the response",
    recognises=_recognises,
    read=read_lmms_eval,
)
