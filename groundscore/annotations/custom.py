"""Your own data: one JSON object a line, in `custom/<name>.jsonl`. DATA.md of groundscore describes the format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.annotations.bad_entries import BadEntry, BadSamples, settle
from groundscore.annotations.index_cache import open_index
from groundscore.annotations.json_files import check_segmentation, read_each, require_list, require_path, require_text
from groundscore.annotations.label_maps import read_mask
from groundscore.annotations.segmentations import NO_PIXEL, decode_segmentation
from groundscore.errors import UserError, shown
from groundscore.names import require_some
from groundscore.reading import parse_json, read_lines
from groundscore.targets import IMAGE_PLACEHOLDER, REJ, SEG, refuse_targets, target_kinds

_REMEDY = "`python -m groundscore layout` describes the format"


@dataclass(frozen=True)
class CustomEntry:
    """A line of the file.

    conversations: each with (question, answer) of its turns.
    mask_specs: one for every `[SEG]`, as they are written; ignore_spec: of what does not count, or None.
    dataset: name of the file; folder: where it lies; where: file and line.
    """

    path: Path
    conversations: tuple[tuple[tuple[str, str], ...], ...]
    mask_specs: tuple[Any, ...]
    ignore_spec: Any
    dataset: str
    folder: Path
    where: str

    def regions(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns a mask per `[SEG]`, uint8 [N, H, W] in {0, 1}, and the pixels that do not count, bool [H, W] or None.

        Raises `BadEntry` where no pixel of a mask counts.
        """
        masks = np.zeros((len(self.mask_specs), height, width), np.uint8)
        ignore = None
        if self.ignore_spec is not None:
            ignore = self._draw(self.ignore_spec, height, width, f"{self.where}, 'ignore'").astype(bool)
        for number, mask in enumerate(self.mask_specs):
            where = f"{self.where}, mask {number}"
            masks[number] = self._draw(mask, height, width, where)
            if not masks[number].any():
                raise BadEntry.at(where, f"{NO_PIXEL}; write {REJ} for what is not in the image")
            if ignore is not None and not masks[number][~ignore].any():
                raise BadEntry.at(where, "is entirely inside 'ignore', so that none of its pixels count")
        return masks, ignore

    @property
    def target_kinds(self) -> np.ndarray:
        """For every target of all answers in order whether it is a `[SEG]`, bool [N]."""
        return target_kinds(" ".join(answer for turns in self.conversations for _, answer in turns))

    def _draw(self, mask: Any, height: int, width: int, where: str) -> np.ndarray:
        if isinstance(mask, str):
            drawn = read_mask(self.folder / mask)
            if drawn.shape != (height, width):
                raise BadEntry.at(where, f"{mask} is {drawn.shape} (height, width), the image is {(height, width)}")
            return drawn
        return decode_segmentation(mask.get("polygons", mask), height, width, where)


def custom_path(dataset_dir: Path, name: str) -> Path:
    """Returns the path of a file of own data."""
    return dataset_dir / "custom" / f"{name}.jsonl"


class CustomFile(Sequence):
    """The entries of `custom/<name>.jsonl`; paths in it start from its folder."""

    def __init__(self, dataset_dir: Path, name: str, *, bad_samples: BadSamples | None = None):
        if "/" in name or name.startswith("."):
            raise UserError(
                f"own data are files of {dataset_dir / 'custom'}, named without .jsonl, which {name!r} is not"
            )
        self.name = name
        self.path = custom_path(dataset_dir, name)
        self._folder = self.path.parent
        tables = open_index(dataset_dir, f"custom/{name}", [self.path], self._parse)
        settle(f"custom/{name}", list(tables["problems"]), len(tables["entries"]), bad_samples)
        self._entries = tables["entries"]
        require_some(self._entries, str(self.path))

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> CustomEntry:
        record = self._entries[index]
        conversations = tuple(tuple(map(tuple, turns)) for turns in record["conversations"])
        where = f"{self.path}: line {record['line']}"
        masks = tuple(record["masks"])
        image = self._folder / record["image"]
        return CustomEntry(image, conversations, masks, record["ignore"], self.name, self._folder, where)

    def _parse(self) -> dict[str, Any]:
        lines = read_lines(self.path, missing=_REMEDY)
        entries, problems = read_each(lines, lambda numbered, _: self._read_line(*numbered))
        return {"entries": entries, "problems": problems}

    def _read_line(self, number: int, line: str) -> dict:
        where = f"{self.path}: line {number}"
        item = parse_json(line, where, remedy=_REMEDY)
        image = require_path(item, "image", where, remedy=_REMEDY)
        conversations = require_list(item, "conversations", where, remedy=_REMEDY)
        conversations = [_read_turns(turns, where) for turns in conversations]
        if not conversations:
            raise UserError(f"{where} has no conversation; {_REMEDY}")
        masks = [] if item.get("masks") is None else require_list(item, "masks", where, remedy=_REMEDY)
        masks = [_check_mask(mask, where) for mask in masks]
        targets = sum(answer.count(SEG) for turns in conversations for _, answer in turns)
        if targets != len(masks):
            raise BadEntry.at(
                where, f"the answers contain {targets} {SEG}, but there are {len(masks)} masks; {_REMEDY}"
            )
        ignore = item.get("ignore")
        return {
            "line": number,
            "image": image,
            "conversations": conversations,
            "masks": masks,
            "ignore": None if ignore is None else _check_mask(ignore, where),
        }


def _read_turns(turns: Any, where: str) -> list[tuple[str, str]]:
    """Returns question and answer of every turn of a conversation."""
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{where}: a conversation is a list of turns, not {shown(turns)}; {_REMEDY}")
    read = []
    for turn in turns:
        question = require_text(turn, "question", where, remedy=_REMEDY)
        answer = require_text(turn, "answer", where, remedy=_REMEDY)
        refuse_targets(question, f"{where}, a question")
        read.append((question.replace(IMAGE_PLACEHOLDER, "").strip(), answer.strip()))
    return read


def _check_mask(mask: Any, where: str) -> Any:
    if isinstance(mask, str):
        return require_path({"mask": mask}, "mask", where, remedy=_REMEDY)
    if not isinstance(mask, dict) or not ("polygons" in mask or {"size", "counts"} <= mask.keys()):
        raise UserError(
            f"{where}: a mask is {{'polygons': …}}, an RLE {{'size': …, 'counts': …}} or the path of a PNG, "
            f"not {shown(mask)}; {_REMEDY}"
        )
    if "polygons" in mask:
        polygons = require_list(mask, "polygons", where, remedy=_REMEDY)
        return {"polygons": check_segmentation(polygons, f"{where}: 'polygons'", remedy=_REMEDY)}
    return check_segmentation({"size": mask["size"], "counts": mask["counts"]}, f"{where}: a mask", remedy=_REMEDY)
