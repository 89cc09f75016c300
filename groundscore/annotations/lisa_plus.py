"""LISA++: instances by name, reasoning in steps, dialogues and captions, whose texts name objects by marks.

The marks are `[dog <380>]`, `[<380|dog>, <348|cat>]`, `<380|dog>` and `《380|dog》`. In an answer they become `[SEG]`
tokens, in a question the words that they stand for.
"""

import re
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.annotations.bad_entries import BadEntry, BadSamples, note_repair
from groundscore.annotations.index_cache import open_entries
from groundscore.annotations.json_files import (
    NOT_OFFICIAL,
    are_numbers,
    check_text,
    entries_by_image,
    require,
    require_path,
    require_text,
)
from groundscore.annotations.segmentations import NO_PIXEL, decode_segmentation
from groundscore.errors import UserError, shown
from groundscore.json_items import read_items
from groundscore.names import look_up
from groundscore.targets import REJ, SEG, join_names


@dataclass(frozen=True)
class Subset:
    """Where a part of LISA++ lies, and the keys of an entry's image, masks and texts."""

    file: str
    image_key: str
    masks_key: str
    text_keys: tuple[str, ...]


SUBSETS = {
    "instance_seg": Subset("LISA_Plus_Instance_Seg.json", "img_path", "points", ("English Question",)),
    "cot": Subset("LISA_Plus_COT.json", "image_path", "info", ("English Question", "English Answer")),
    "conversations": Subset("LISA_Plus_Conversations.json", "img_pth", "info", ("output",)),
    "caption": Subset("LISA_Plus_Caption.json", "image_path", "info", ("English Question", "English Answer")),
}


@dataclass(frozen=True)
class PlusEntry:
    """An entry of a part of LISA++.

    polygons: flat polygons by mask id. names: of what each mask shows, empty where the data do not tell.
    texts: as `Subset.text_keys` name them. ids: the masks that an entry of `instance_seg` asks for.
    """

    path: Path
    polygons: dict[str, list]
    names: dict[str, str]
    texts: list[str]
    ids: list[str]
    where: str

    def masks(self, height: int, width: int) -> dict[str, np.ndarray]:
        """Returns the masks that cover a pixel, uint8 [height, width] in {0, 1}, by id; a mention of another is read
        as words. Raises `BadEntry` where none does."""
        masks = {}
        for number, polygons in self.polygons.items():
            mask = decode_segmentation(polygons, height, width, f"{self.where}, mask {number}")
            if mask.any():
                masks[number] = mask
        if self.polygons and not masks:
            raise BadEntry.at(self.where, f"{NO_PIXEL}, though it has {len(self.polygons)} masks")
        for number in self.polygons.keys() - masks.keys():
            note_repair(f"{self.where}, mask {number}", f"{NO_PIXEL}, so it is no target")
        return masks


class PlusFile(Sequence[PlusEntry]):
    """The entries of one of `SUBSETS`. excluded: COCO numbers of images to leave out."""

    def __init__(
        self, dataset_dir: Path, name: str, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
    ):
        self.name = name
        self.subset = look_up(name, SUBSETS, "reason_seg_plus data set")
        self.path = dataset_dir / "reason_seg_plus" / self.subset.file
        self._images = dataset_dir / "refer_seg" / "images" / "mscoco" / "images" / "train2017"
        source = f"reason_seg_plus/{name}"
        self._records = open_entries(
            dataset_dir, source, self.path, self._parse, excluded=excluded, bad_samples=bad_samples
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> PlusEntry:
        record = self._records[number]
        return PlusEntry(
            path=self._images / record["image"],
            polygons={key: polygons for key, (polygons, _) in record["masks"].items()},
            names={key: name for key, (_, name) in record["masks"].items()},
            texts=record["texts"],
            ids=record.get("ids", []),
            where=f"{self.path}: entry {record['number']}",
        )

    def _parse(self) -> dict[str, Any]:
        return entries_by_image(read_items(self.path), self._read_entry, itemgetter("image"))

    def _read_entry(self, item: Any, number: int) -> dict:
        where = f"{self.path}: entry {number}"
        masks = require(item, self.subset.masks_key, where)
        if not isinstance(masks, dict):
            raise UserError(
                f"{where}: {self.subset.masks_key!r} must contain masks by id, it is {shown(masks)}; {NOT_OFFICIAL}"
            )
        entry = {
            "number": number,
            "image": require_path(item, self.subset.image_key, where),
            "masks": {key: _read_mask(value, f"{where}, mask {shown(key)}") for key, value in masks.items()},
            "texts": [require_text(item, key, where) for key in self.subset.text_keys],
        }
        if self.name == "instance_seg":
            entry["ids"] = _read_ids(require(item, "ID", where), entry["masks"], where)
        if self.name == "conversations" and not any(answer for _, answer in split_dialogue(entry["texts"][0])):
            raise UserError(f"{where}: 'output' has no <person>: question with a <robot>: answer; {NOT_OFFICIAL}")
        return entry


def _read_ids(value: Any, masks: dict[str, Any], where: str) -> list[str]:
    ids = [str(number) for number in (value if isinstance(value, list) else [value])]
    for number in ids:
        if number not in masks:
            raise UserError(f"{where}: 'ID' names mask {shown(number)}, which 'points' does not have; {NOT_OFFICIAL}")
        if not masks[number][1]:
            raise UserError(f"{where}: mask {shown(number)} has no 'label name'; {NOT_OFFICIAL}")
    if not ids:
        raise UserError(f"{where}: 'ID' names no mask; {NOT_OFFICIAL}")
    return ids


def _read_mask(value: Any, where: str) -> tuple[list[list[float]], str]:
    """Returns flat polygons and the name of what they show.

    A mask is one polygon as a list of points, or a list of polygons: as lists of points, or flat.
    """
    label = ""
    if isinstance(value, dict):
        if value.get("label name") is not None:
            label = check_text(value["label name"], f"{where}: 'label name'", empty=True).strip()
        value = value["polygon"] if "polygon" in value else require(value, "points", where)
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        raise UserError(f"{where}: a mask is a list of points or of polygons, not {shown(value)}; {NOT_OFFICIAL}")
    if value and isinstance(value[0][0] if value[0] else None, list):
        polygons = [[number for point in polygon for number in _pair(point, where)] for polygon in value]
    elif value and all(len(part) == 2 for part in value):
        polygons = [[number for point in value for number in point]]
    else:
        polygons = value
    for polygon in polygons:
        if len(polygon) % 2 or not are_numbers(polygon):
            raise UserError(f"{where}: points are pairs of finite numbers, not {shown(polygon)}; {NOT_OFFICIAL}")
    return polygons, label


def _pair(point: Any, where: str) -> list:
    if not isinstance(point, list) or len(point) != 2:
        raise UserError(f"{where}: a point is a pair of numbers, not {shown(point)}; {NOT_OFFICIAL}")
    return point


_MARK = re.compile(r"\[(?P<group>[^\[\]]*)\]|《\s*(?P<a>\d+)\s*\|(?P<an>[^》]*)》|<\s*(?P<b>\d+)\s*\|(?P<bn>[^>]*)>")
# How ids are written inside brackets; the first form that occurs is the one that is read. (id, name) are its groups.
_IN_BRACKETS = (
    re.compile(r"(?P<name>\w+)\s*<\s*(?P<id>\d+)\s*>"),
    re.compile(r"<\s*(?P<id>\d+)\s*\|(?P<name>[^>]*)>"),
    re.compile(r"《\s*(?P<id>\d+)\s*\|(?P<name>[^》]*)》"),
    re.compile(r"(?P<id>\d+)\s*\|(?P<name>[^,\]]*)"),
)


def marks_to_targets(text: str, valid: Container[str]) -> tuple[str, list[str]]:
    """Returns the text with `[SEG]` for every mentioned id of `valid`, and these ids in the order of the tokens.

    A mark of other ids is deleted, and so is a bracket without any: what it meant cannot be shown. A bare `dog <380>`
    outside brackets stays as it is.
    """
    found: list[str] = []

    def replace(match: re.Match) -> str:
        ids = [number for number, _ in _mentioned(match) if number in valid]
        found.extend(ids)
        return join_names([SEG] * len(ids))

    return _MARK.sub(replace, text), found


def marks_to_words(text: str) -> str:
    """Returns the text with the names of what it mentions in place of the marks, and no target token: a question."""

    def replace(match: re.Match) -> str:
        names = [name.strip() for _, name in _mentioned(match)]
        return join_names([name for name in names if name]) if names else match[0]

    return _MARK.sub(replace, text.replace(SEG, "").replace(REJ, ""))


def _mentioned(match: re.Match) -> list[tuple[str, str]]:
    """Returns (id, name) of everything that a mark mentions."""
    if match["group"] is None:
        return [(match["a"], match["an"])] if match["a"] else [(match["b"], match["bn"])]
    for form in _IN_BRACKETS:
        found = [(one["id"], one["name"]) for one in form.finditer(match["group"])]
        if found:
            return found
    return []


def split_dialogue(text: str) -> list[tuple[str, str]]:
    """Returns (question, answer) of a text with turns `<person>: …` and `<robot>: …`.

    What one side says in a row is one turn. A question that is not answered, or an answer that nobody asked for, is
    left out.
    """
    pieces = re.split(r"<\s*(person|robot)\s*>\s*:", text)
    turns = [(speaker, words.strip()) for speaker, words in zip(pieces[1::2], pieces[2::2]) if words.strip()]
    pairs: list[tuple[str, str]] = []
    question, answers = "", []
    for speaker, words in [*turns, ("person", "")]:
        if speaker == "robot":
            answers.append(words)
            continue
        if question and answers:
            pairs.append((question, " ".join(answers)))
        question, answers = words, []
    return pairs
