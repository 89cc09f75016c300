"""Family `reason_seg_plus`: LISA++. Instances by name, reasoning in steps, dialogues and captions with masks."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.families.family import draw_until, look_up, require_some, split_names
from dataloaders.mentions import marks_to_targets, marks_to_words, split_dialogue
from dataloaders.sample import SEG, Sample, Turn
from dataloaders.templates import fill, pick, read_pool
from dataloaders.wording import join_names
from groundscore.annotations.bad_samples import BadSamples, settle
from groundscore.annotations.images import coco_number, read_image
from groundscore.annotations.index_cache import open_index
from groundscore.annotations.json_files import (
    NOT_OFFICIAL,
    are_numbers,
    check_text,
    read_each,
    read_json,
    require,
    require_path,
    require_text,
)
from groundscore.annotations.records import PackedRecords
from groundscore.annotations.repairs import BadEntry, note_repair
from groundscore.annotations.segmentations import NO_PIXEL, decode_segmentation
from groundscore.errors import UserError, shown


@dataclass(frozen=True)
class Subset:
    """Where a part of LISA++ lies, and the keys of an entry's picture, masks and texts."""

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


class ReasonSegPlus:
    """Draws entries of LISA++, from its parts equally often.

    num_turns: at most so many turns of a dialogue, each asked as a conversation of its own.
    excluded: COCO numbers of pictures to leave out.
    bad_samples: what to do about bad entries; None stops at the first.
    """

    name = "reason_seg_plus"

    def __init__(
        self,
        dataset_dir: Path,
        names: str,
        *,
        num_turns: int = 3,
        excluded: Collection[int] = (),
        bad_samples: BadSamples | None = None,
    ):
        self._images = dataset_dir / "refer_seg" / "images" / "mscoco" / "images" / "train2017"
        self._num_turns = num_turns
        self._subsets = split_names(names)
        require_some(self._subsets, "--reason_seg_plus_data")
        for subset in self._subsets:
            look_up(subset, SUBSETS, "reason_seg_plus data set")
        self._paths = {name: dataset_dir / "reason_seg_plus" / SUBSETS[name].file for name in self._subsets}
        self._entries = {name: self._open(dataset_dir, name, excluded, bad_samples) for name in self._subsets}
        self._conditional = read_pool("conditional_long_questions", ("{sent}",))
        words = read_pool("instruction_words")
        self._asks_for_something = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
        self._single = read_pool("single_reasoning_answers", ("{class_name}", SEG))

    def _open(
        self, dataset_dir: Path, name: str, excluded: Collection[int], bad_samples: BadSamples | None
    ) -> PackedRecords:
        path = self._paths[name]
        tables = open_index(dataset_dir, f"reason_seg_plus/{name}", [path], lambda: _parse(path, name))
        settle(f"reason_seg_plus/{name}", list(tables["problems"]), len(tables["entries"]), bad_samples)
        entries = tables["entries"].without(excluded)
        require_some(entries, str(path))
        return entries

    def paths(self) -> list[Path]:
        """The pictures of all entries."""
        return [self._images / entry["image"] for entries in self._entries.values() for entry in entries]

    def sizes(self) -> dict[str, int]:
        return {subset: len(self._entries[subset]) for subset in self._subsets}

    def draw(self, rng: np.random.Generator) -> Sample:
        subset = self._subsets[int(rng.integers(len(self._subsets)))]
        return draw_until(lambda: self._draw_from(rng, subset), f"{self.name}/{subset}")

    def _draw_from(self, rng: np.random.Generator, subset: str) -> Sample | None:
        entries = self._entries[subset]
        entry = entries[int(rng.integers(len(entries)))]
        path = self._images / entry["image"]
        image = read_image(path)
        masks = self._masks(subset, entry, *image.shape[:2])
        written = self._write(rng, subset, entry, set(masks))
        written = [(question, answer, ids) for question, answer, ids in written if answer.strip()]
        if not written:
            return None
        used = [number for _, _, ids in written for number in ids]
        return Sample(
            image_path=path,
            image=image,
            conversations=[(Turn(question, answer),) for question, answer, _ in written],
            masks=np.stack([masks[number] for number in used]) if used else np.zeros((0, *image.shape[:2]), np.uint8),
            ignore=None,
            family=self.name,
            dataset=subset,
            expressions=tuple(entry["masks"][number][1] or number for number in used),
        )

    def draw_all(self, subset: str, number: int) -> None:
        """Read the image of an entry and draw all its masks, for the errors and repairs in them."""
        entry = self._entries[subset][number]
        self._masks(subset, entry, *read_image(self._images / entry["image"]).shape[:2])

    def _masks(self, subset: str, entry: dict, height: int, width: int) -> dict[str, np.ndarray]:
        """The masks that cover a pixel, uint8 [height, width] in {0, 1}, by id; what is said of others is read as
        words."""
        where = f"{self._paths[subset]}: entry {entry['number']}"
        masks = {}
        for number, (polygons, _) in entry["masks"].items():
            mask = decode_segmentation(polygons, height, width, f"{where}, mask {number}")
            if mask.any():
                masks[number] = mask
        if entry["masks"] and not masks:
            raise BadEntry.at(where, f"{NO_PIXEL}, though it has {len(entry['masks'])} masks")
        for number in entry["masks"].keys() - masks.keys():
            note_repair(f"{where}, mask {number}", f"{NO_PIXEL}, so it is no target")
        return masks

    def _write(
        self, rng: np.random.Generator, subset: str, entry: dict, valid: set[str]
    ) -> list[tuple[str, str, list[str]]]:
        """Questions and answers, each with the ids of the masks in the order of its `[SEG]`. valid: ids with a mask."""
        if subset == "conversations":
            pairs = split_dialogue(entry["texts"][0])[: self._num_turns]
            return [(marks_to_words(question), *marks_to_targets(text, valid)) for question, text in pairs]
        question = marks_to_words(entry["texts"][0])
        if subset == "instance_seg":
            ids = [number for number in entry["ids"] if number in valid]
            template = pick(rng, self._single).removesuffix(".")
            names = join_names([fill(template, class_name=entry["masks"][number][1]) for number in ids])
            return [(question, f"{names}." if ids else "", ids)]
        answer, ids = marks_to_targets(entry["texts"][1], valid)
        if subset == "caption":
            answer = re.sub(r"(?<=\S)\[SEG\]", f" {SEG}", answer)
        elif not self._asks_for_something.search(question):
            question = fill(pick(rng, self._conditional), sent=question)
        return [(question, answer, ids)]


def _parse(path: Path, name: str) -> dict[str, Any]:
    """entries: records by COCO number; problems: what is wrong with others."""
    subset = SUBSETS[name]

    def read_entry(item: Any, number: int) -> dict:
        where = f"{path}: entry {number}"
        masks = require(item, subset.masks_key, where)
        if not isinstance(masks, dict):
            raise UserError(
                f"{where}: {subset.masks_key!r} should hold masks by id, it is {shown(masks)}; {NOT_OFFICIAL}"
            )
        entry = {
            "number": number,
            "image": require_path(item, subset.image_key, where),
            "masks": {key: _read_mask(value, f"{where}, mask {shown(key)}") for key, value in masks.items()},
            "texts": [require_text(item, key, where) for key in subset.text_keys],
        }
        if name == "instance_seg":
            entry["ids"] = _read_ids(require(item, "ID", where), entry["masks"], where)
        if name == "conversations" and not any(answer for _, answer in split_dialogue(entry["texts"][0])):
            raise UserError(f"{where}: 'output' has no <person>: question with a <robot>: answer; {NOT_OFFICIAL}")
        return entry

    entries, problems = read_each(read_json(path, list), read_entry)
    return {
        "entries": PackedRecords(entries, [coco_number(entry["image"]) for entry in entries]),
        "problems": problems,
    }


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
    """Flat polygons and the name of what they show.

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
