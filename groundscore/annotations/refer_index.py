"""The referring data sets as an index: the expressions about every image of a split, and their targets."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.annotations.bad_entries import BadEntry, BadSamples, note_repair, settle
from groundscore.annotations.refer_files import REFER_SETS, ReferFiles, ReferTables
from groundscore.annotations.segmentations import NO_PIXEL, encode_segmentation
from groundscore.errors import UserError
from groundscore.names import did_you_mean, look_up, require_some
from groundscore.rle import Rle, area, decode, union

_LETTERED = ("train", "val", "test", "testA", "testB", "testC", "testAB", "testBC", "testAC")


@dataclass(frozen=True)
class Expression:
    """A sentence, and the annotations of its targets; none for a no-target expression.

    exists: its target is in the image. A sentence with a false premise has none, though its ref names an annotation.
    correction: for a false premise, the sentence that would have been right; empty where the data tell none.
    """

    text: str
    annotation_ids: tuple[int, ...]
    ref_id: int
    sentence_id: int
    exists: bool = True
    correction: str = ""

    @property
    def words(self) -> str:
        """The text as it is written into prompts."""
        return clean(self.text)


@dataclass(frozen=True)
class ReferImage:
    """An image and all expressions about it in the split."""

    id: int
    path: Path
    height: int
    width: int
    expressions: tuple[Expression, ...]


class ReferIndex:
    """A sequence of `ReferImage`, sorted by file name.

    sets: where `name` is looked up.
    excluded: COCO numbers of images to leave out.
    bad_samples: what to do about refs that lead nowhere.
    """

    def __init__(
        self,
        dataset_dir: Path,
        name: str,
        split: str,
        *,
        sets: Mapping[str, ReferFiles] = REFER_SETS,
        excluded: Collection[int] = (),
        bad_samples: BadSamples | None = None,
    ):
        tables = ReferTables(dataset_dir, name, sets)
        self.name = name
        self.split = split
        self._folders = tables.folders
        self._instances_path = tables.instances_path
        self._segmentations = tables.segmentations
        self._splits = _chosen_splits(tables, split)
        rows = sorted({row for chosen in self._splits for row in tables.splits[chosen]})
        problems = [text for bad_split, text in tables.problems if bad_split is None or bad_split in self._splits]
        settle(f"{name}/{split}", problems, len(rows), bad_samples)
        self._images = tables.images.take(np.array(rows, np.int64)).without(excluded)
        if not self._images:
            raise UserError(f"{tables.refs_path}: split {split!r} has no usable ref")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> ReferImage:
        record = self._images[index]
        return ReferImage(
            id=record["id"],
            path=find_file(self._folders, record["file_name"]),
            height=record["height"],
            width=record["width"],
            expressions=tuple(
                Expression(text, tuple(annotation_ids), *rest)
                for text, annotation_ids, *rest, split in record["expressions"]
                if split in self._splits
            ),
        )

    def mask(self, image: ReferImage, expression: Expression) -> np.ndarray:
        """Returns the union of the targets, uint8 [H, W] in {0, 1}; empty only for a no-target expression."""
        return decode(self.masks(image, [expression])[0])

    def masks(self, image: ReferImage, expressions: Sequence[Expression]) -> list[Rle]:
        """Returns the union of the targets of each expression; empty only for a no-target expression."""
        size = (image.height, image.width)
        drawn: dict[int, Rle] = {}  # several expressions are about one annotation
        return [self._union(image.id, size, expression, drawn) for expression in expressions]

    def _union(self, image_id: int, size: tuple[int, int], expression: Expression, drawn: dict[int, Rle]) -> Rle:
        ids = expression.annotation_ids if expression.exists else ()
        for annotation_id in ids:
            if annotation_id not in drawn:
                where = self._where(annotation_id)
                drawn[annotation_id] = encode_segmentation(self._segmentations[annotation_id], *size, where)
        filled = [drawn[annotation_id] for annotation_id in ids if area(drawn[annotation_id])]
        if ids and not filled:
            where = f"{self._where(', '.join(map(str, ids)))} of image {image_id}"
            raise BadEntry.at(where, f"{NO_PIXEL}, though {expression.text!r} means it")
        for annotation_id in ids:
            if not area(drawn[annotation_id]):
                note_repair(self._where(annotation_id), f"{NO_PIXEL}; {expression.text!r} means others beside it")
        return union(filled, size)

    def _where(self, annotation_id: int | str) -> str:
        return f"{self._instances_path}: annotation {annotation_id}"


def clean(text: str) -> str:
    """Returns an expression as it is written into prompts: trimmed, lower case, no full stop around it."""
    return text.strip().strip(".").lower()


def find_file(folders: Sequence[Path], name: str) -> Path:
    """Returns the file where it lies, or where it should lie first if it is missing."""
    if len(folders) > 1:
        for folder in folders:
            if (folder / name).exists():
                return folder / name
    return folders[0] / name


def held_out_images(dataset_dir: Path, names: Sequence[str], sets: Mapping[str, ReferFiles]) -> set[int]:
    """Returns the COCO numbers of the images that referring data sets have in other splits than "train"."""
    return {number for name in names for number in ReferTables(dataset_dir, name, sets).held_out()}


def _chosen_splits(tables: ReferTables, split: str) -> list[str]:
    """Returns the splits that are meant; "testA" also means a split "testAB" where the data set names splits so."""

    def belongs(name: str) -> bool:
        if tables.files.exact_splits or split in ("train", "val", "testAB", "testBC", "testAC"):
            return name == split
        if split == "test":
            return "test" in name
        return name.startswith("test") and split[-1] in name[len("test") :]

    chosen = [name for name in tables.splits if belongs(name)]
    if not chosen or not (tables.files.exact_splits or split in _LETTERED):
        available = ", ".join(sorted(tables.splits))
        raise UserError(
            f"{tables.refs_path} has no refs of split {split!r}; its splits are {available}"
            f"{did_you_mean(split, tables.splits)}"
        )
    return chosen


def check_names(names: list[str], sets: Mapping[str, ReferFiles]) -> None:
    """Raises `UserError` for no name, and for one that no referring data set has."""
    require_some(names, "the list of referring data sets")
    for name in names:
        look_up(name, sets, "referring data set")


def open_indices(
    dataset_dir: Path, names: list[str], split: str, *, sets: Mapping[str, ReferFiles] = REFER_SETS, **options: Any
) -> list[ReferIndex]:
    """Returns an index for each of several data sets; all names are looked up before any file is read."""
    check_names(names, sets)
    return [ReferIndex(dataset_dir, name, split, sets=sets, **options) for name in names]
