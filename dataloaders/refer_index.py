"""The referring data sets as an index: the expressions about every picture of a split, and what they mean.

All have a `refs` file (which sentences describe which annotations) and COCO's `instances.json` (pictures and
annotations). Of the latter only what the split refers to is kept.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.families import look_up, require_some
from dataloaders.json_files import read_json, require
from dataloaders.records import KeyedRecords, PackedRecords
from dataloaders.restricted_pickle import restricted_unpickle
from dataloaders.segmentations import decode_segmentation
from utils.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferFiles:
    """Where a referring data set lies.

    refs: possible names of its refs file, the first that exists is read.
    images: folder of its pictures under `refer_seg/`.
    exact_splits: splits are taken by their exact name; else "test" and its letters mean all splits that hold them.
    """

    refs: tuple[str, ...]
    images: str = "images/mscoco/images/train2014"
    exact_splits: bool = False


REFER_SETS = {
    "refclef": ReferFiles(("refs(unc).p",), images="images/saiapr_tc-12"),
    "refcoco": ReferFiles(("refs(unc).p",)),
    "refcoco+": ReferFiles(("refs(unc).p",)),
    "refcocog": ReferFiles(("refs(umd).p",)),
    "grefcoco": ReferFiles(("grefs(unc).p", "grefs(unc).json"), exact_splits=True),
}


@dataclass(frozen=True)
class Expression:
    """A sentence, and the annotations that it means; none where it means nothing in the picture."""

    text: str
    annotation_ids: tuple[int, ...]
    ref_id: int
    sentence_id: int


@dataclass(frozen=True)
class ReferImage:
    """A picture and all that is said about it in the split."""

    id: int
    path: Path
    height: int
    width: int
    expressions: tuple[Expression, ...]


class ReferIndex:
    """A sequence of `ReferImage`, sorted by file name."""

    def __init__(self, dataset_dir: Path, name: str, split: str):
        files = look_up(name, REFER_SETS, "referring data set")
        self.name = name
        self.split = split
        self._warned: set[tuple[int, ...]] = set()
        root = dataset_dir / "refer_seg"
        self._image_folder = root / files.images
        self._instances_path = root / name / "instances.json"
        refs_path = _first_existing([root / name / file for file in files.refs])
        refs = _refs_of_split(_read_refs(refs_path), split, files, refs_path)
        self._read_instances(refs, refs_path)

    def _read_instances(self, refs: list[dict], refs_path: Path) -> None:
        instances = read_json(self._instances_path, dict)
        where = str(self._instances_path)
        images = {require(image, "id", f"{where}: an image"): image for image in require(instances, "images", where)}
        annotations = {
            require(annotation, "id", f"{where}: an annotation"): annotation
            for annotation in require(instances, "annotations", where)
        }
        records: dict[int, dict] = {}
        used: dict[int, Any] = {}
        for ref in refs:
            image_id, ref_id = ref["image_id"], ref["ref_id"]
            if image_id not in images:
                raise UserError(f"{refs_path}: ref {ref_id} names image {image_id}, which {where} does not have")
            for annotation_id in ref["annotation_ids"]:
                annotation = annotations.get(annotation_id)
                if annotation is None:
                    raise UserError(
                        f"{refs_path}: ref {ref_id} names annotation {annotation_id}, which {where} does not have"
                    )
                if annotation.get("image_id", image_id) != image_id:
                    raise UserError(
                        f"{refs_path}: ref {ref_id} is about image {image_id}, but annotation {annotation_id} of "
                        f"{where} belongs to image {annotation['image_id']}"
                    )
                used[annotation_id] = require(annotation, "segmentation", f"{where}: annotation {annotation_id}")
            record = records.setdefault(image_id, _image_record(images[image_id], where))
            record["said"] += [[text, ref["annotation_ids"], ref_id, sent_id] for text, sent_id in ref["sentences"]]
        ordered = sorted(records.values(), key=lambda record: (record["file_name"], record["id"]))
        self._images = PackedRecords(ordered)
        self._segmentations = KeyedRecords(used)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> ReferImage:
        record = self._images[index]
        return ReferImage(
            id=record["id"],
            path=self._image_folder / record["file_name"],
            height=record["height"],
            width=record["width"],
            expressions=tuple(
                Expression(text, tuple(annotation_ids), ref_id, sentence_id)
                for text, annotation_ids, ref_id, sentence_id in record["said"]
            ),
        )

    def mask(self, image: ReferImage, expression: Expression) -> np.ndarray:
        """The union of what the expression means, uint8 [H, W] in {0, 1}.

        Empty where it means nothing, and, with a warning, where no pixel is inside the polygons of what it means.
        """
        mask = np.zeros((image.height, image.width), np.uint8)
        for annotation_id in expression.annotation_ids:
            where = f"{self._instances_path}: annotation {annotation_id}"
            mask |= decode_segmentation(self._segmentations[annotation_id], image.height, image.width, where)
        if expression.annotation_ids and not mask.any() and expression.annotation_ids not in self._warned:
            self._warned.add(expression.annotation_ids)
            logger.warning(
                "%s: annotations %s of image %d enclose no pixel, though %r means them",
                self._instances_path,
                list(expression.annotation_ids),
                image.id,
                expression.text,
            )
        return mask


def _first_existing(paths: list[Path]) -> Path:
    for path in paths:
        if path.is_file():
            return path
    names = " or ".join(map(str, paths))
    raise UserError(f"annotation file {names} is missing; see dataloaders/README.md for where files go")


def _read_refs(path: Path) -> list[dict]:
    """Every ref with its ids as Python integers, under one set of keys."""
    refs = read_json(path, list) if path.suffix == ".json" else restricted_unpickle(path)
    if not isinstance(refs, list):
        raise UserError(f"{path} should hold a list of refs, it holds a {type(refs).__name__}")
    read = []
    for number, ref in enumerate(refs):
        where = f"{path}: ref {ref.get('ref_id', f'number {number}') if isinstance(ref, dict) else number}"
        sentences = require(ref, "sentences", where)
        try:
            read.append(
                {
                    "ref_id": int(require(ref, "ref_id", where)),
                    "image_id": int(require(ref, "image_id", where)),
                    "split": str(require(ref, "split", where)),
                    "annotation_ids": _annotation_ids(require(ref, "ann_id", where)),
                    "sentences": [
                        (str(require(sentence, "sent", where)), int(require(sentence, "sent_id", where)))
                        for sentence in sentences
                    ],
                }
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: an id is not a number ({error})") from error
    return read


def _annotation_ids(value: Any) -> list[int]:
    """One id, a list of ids, or -1 for nothing."""
    ids = [int(item) for item in (value if isinstance(value, list | tuple | np.ndarray) else [value])]
    return [] if -1 in ids else ids


def _refs_of_split(refs: list[dict], split: str, files: ReferFiles, path: Path) -> list[dict]:
    """The refs of a split; "testA" also means a split "testAB" where the data set names splits so."""

    def belongs(name: str) -> bool:
        if files.exact_splits or split in ("train", "val", "testAB", "testBC", "testAC"):
            return name == split
        if split == "test":
            return "test" in name
        return name.startswith("test") and split[-1] in name[len("test") :]

    lettered = ("train", "val", "test", "testA", "testB", "testC", "testAB", "testBC", "testAC")
    available = sorted({ref["split"] for ref in refs})
    chosen = [ref for ref in refs if belongs(ref["split"])] if files.exact_splits or split in lettered else []
    if not chosen:
        raise UserError(f"{path} has no refs of split {split!r}; its splits are {', '.join(available)}")
    return chosen


def _image_record(image: dict, where: str) -> dict:
    """What is kept of a picture in `instances.json`."""
    where = f"{where}: image {image['id']}"
    record = {key: require(image, key, where) for key in ("id", "file_name", "height", "width")}
    return {**record, "said": []}


def open_indices(dataset_dir: Path, names: list[str], split: str) -> list[ReferIndex]:
    """An index for each of several data sets."""
    require_some(names, "the list of referring data sets")
    for name in names:
        look_up(name, REFER_SETS, "referring data set")
    return [ReferIndex(dataset_dir, name, split) for name in names]
