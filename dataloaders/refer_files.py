"""The annotation files of the referring data sets, parsed once for all their splits.

All have a `refs` file (which sentences describe which annotations) and COCO's `instances.json` (pictures and
annotations). Of the annotations only those are kept that a ref names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.families import look_up
from dataloaders.images import check_size, coco_number
from dataloaders.index_cache import open_index
from dataloaders.json_files import read_json, require, require_integer, require_list, require_path, require_text
from dataloaders.records import NO_KEY, KeyedRecords, PackedRecords
from dataloaders.restricted_pickle import restricted_unpickle
from dataloaders.sample import refuse_targets
from utils.errors import UserError, shown


@dataclass(frozen=True)
class ReferFiles:
    """Where a referring data set lies.

    refs: possible names of its refs file, the first that exists is read.
    images: folders of its pictures under `refer_seg/`; a picture may lie in any of them.
    exact_splits: splits are taken by their exact name; else "test" and its letters mean all splits that hold them.
    """

    refs: tuple[str, ...]
    images: tuple[str, ...] = ("images/mscoco/images/train2014",)
    exact_splits: bool = False


_SAIAPR = ("images/saiapr_tc-12",)
REFER_SETS = {
    "refclef": ReferFiles(("refs(unc).p",), images=_SAIAPR),
    "refcoco": ReferFiles(("refs(unc).p",)),
    "refcoco+": ReferFiles(("refs(unc).p",)),
    "refcocog": ReferFiles(("refs(umd).p",)),
    "refzom": ReferFiles(("Ref_ZOM.p",), images=("refzom/trainval2014", "refzom/train2014", "refzom/val2014")),
    "grefcoco": ReferFiles(("grefs(unc).p", "grefs(unc).json"), exact_splits=True),
}
# The sets with false premises, and the plain ones without the pictures that any of them is tested on.
FALSE_PREMISE_SETS = {
    "refclef": REFER_SETS["refclef"],
    "refcoco": ReferFiles(("refs(unc_exclude_unified).p",)),
    "refcoco+": ReferFiles(("refs(unc_exclude_unified).p",)),
    "refcocog": ReferFiles(("refs(umd_exclude_unified).p",)),
    "R-refcoco": ReferFiles(("refs(unc_exclude_unified).p",)),
    "R-refcoco+": ReferFiles(("refs(unc_exclude_unified).p",)),
    "R-refcocog": ReferFiles(("refs(umd_exclude_unified).p",)),
    "fprefcoco": ReferFiles(("refs(berkeley_exclude_unified).p",)),
    "fprefcoco+": ReferFiles(("refs(berkeley_exclude_unified).p",)),
    "fprefcocog": ReferFiles(("refs(berkeley_exclude_unified).p",)),
}
# Sets that answer a false premise with what may have been meant; the others only deny it.
CORRECTED = ("fprefcoco", "fprefcoco+", "fprefcocog")


class ReferTables:
    """The content of a referring data set.

    images: records of pictures with what is said about them, by COCO number, sorted by file name.
    splits: the rows of `images` that belong to every split.
    segmentations: by annotation id.
    problems: (split, or None where it is unknown; what is wrong with a ref).
    """

    def __init__(self, dataset_dir: Path, name: str, sets: Mapping[str, ReferFiles] = REFER_SETS):
        self.files = look_up(name, sets, "referring data set")
        root = dataset_dir / "refer_seg"
        self.folders = [root / folder for folder in self.files.images]
        self.refs_path = _first_existing([root / name / file for file in self.files.refs])
        self.instances_path = root / name / "instances.json"
        sources = [self.refs_path, self.instances_path]
        tables = open_index(dataset_dir, f"refer_seg/{name}", sources, self._parse)
        self.images: PackedRecords = tables["images"]
        self.splits: dict[str, list[int]] = tables["splits"][0]
        self.segmentations: KeyedRecords = tables["segmentations"]
        self.problems: list[tuple[str | None, str]] = list(tables["problems"])

    def held_out(self) -> set[int]:
        """COCO numbers of the pictures of all splits but "train"."""
        rows = {row for split, rows in self.splits.items() if split != "train" for row in rows}
        return set(self.images.keys[sorted(rows)].tolist()) - {NO_KEY}

    def _parse(self) -> dict[str, Any]:
        refs, problems = _read_refs(self.refs_path)
        instances = read_json(self.instances_path, dict)
        where = str(self.instances_path)
        images = _by_id(require_list(instances, "images", where), f"{where}: an image")
        annotations = _by_id(require_list(instances, "annotations", where), f"{where}: an annotation")
        records: dict[int, dict] = {}
        segmentations: dict[int, Any] = {}
        for ref in refs:
            try:
                record = records.get(ref["image_id"]) or self._image_record(ref, images)
                found = {i: self._segmentation(ref, i, annotations) for i in ref["annotation_ids"]}
            except UserError as error:
                problems.append((ref["split"], str(error)))
                continue
            segmentations |= found
            records[ref["image_id"]] = record
            record["said"] += [
                [text, ref["annotation_ids"], ref["ref_id"], sentence_id, exists, correction, ref["split"]]
                for text, sentence_id, exists, correction in ref["sentences"]
            ]
        ordered = sorted(records.values(), key=lambda record: (record["file_name"], record["id"]))
        rows: dict[str, list[int]] = {ref["split"]: [] for ref in refs}
        for row, record in enumerate(ordered):
            for split in {said[-1] for said in record["said"]}:
                rows[split].append(row)
        return {
            "images": PackedRecords(ordered, [coco_number(record["file_name"]) for record in ordered]),
            "splits": [rows],
            "segmentations": segmentations,
            "problems": problems,
        }

    def _image_record(self, ref: dict, images: dict[int, dict]) -> dict:
        image_id = ref["image_id"]
        if image_id not in images:
            raise UserError(
                f"{self.refs_path}: ref {ref['ref_id']} names image {image_id}, which {self.instances_path} does not "
                "have"
            )
        where = f"{self.instances_path}: image {image_id}"
        height, width = (require_integer(images[image_id], key, where) for key in ("height", "width"))
        check_size(height, width, where)
        name = require_path(images[image_id], "file_name", where)
        return {"id": image_id, "file_name": name, "height": height, "width": width, "said": []}

    def _segmentation(self, ref: dict, annotation_id: int, annotations: dict[int, dict]) -> Any:
        where = f"{self.instances_path}: annotation {annotation_id}"
        annotation = annotations.get(annotation_id)
        if annotation is None:
            raise UserError(
                f"{self.refs_path}: ref {ref['ref_id']} names annotation {annotation_id}, which "
                f"{self.instances_path} does not have"
            )
        if annotation.get("image_id", ref["image_id"]) != ref["image_id"]:
            raise UserError(
                f"{self.refs_path}: ref {ref['ref_id']} is about image {ref['image_id']}, but {where} belongs to "
                f"image {annotation['image_id']}"
            )
        return require(annotation, "segmentation", where)


def _first_existing(paths: list[Path]) -> Path:
    for path in paths:
        if path.is_file():
            return path
    names = " or ".join(map(str, paths))
    raise UserError(f"annotation file {names} is missing; see dataloaders/README.md for where files go")


def _by_id(items: list, what: str) -> dict[int, dict]:
    return {require_integer(item, "id", what): item for item in items}


def _read_refs(path: Path) -> tuple[list[dict], list[tuple[str | None, str]]]:
    """Every ref with its ids as Python integers, under one set of keys; and what is wrong, with its split."""
    refs = read_json(path, list) if path.suffix == ".json" else restricted_unpickle(path)
    if not isinstance(refs, list):
        raise UserError(f"{path} should hold a list of refs, it holds a {type(refs).__name__}")
    read, problems = [], []
    for number, ref in enumerate(refs):
        known = isinstance(ref, dict)
        where = f"{path}: ref {ref.get('ref_id', f'number {number}') if known else f'number {number}'}"
        try:
            read.append(_read_ref(ref, where))
        except UserError as error:
            split = ref.get("split") if known else None
            problems.append((split if isinstance(split, str) else None, str(error)))
    return read, problems


def _read_ref(ref: Any, where: str) -> dict:
    sentences = require_list(ref, "sentences", where)
    return {
        "ref_id": require_integer(ref, "ref_id", where),
        "image_id": require_integer(ref, "image_id", where),
        "split": require_text(ref, "split", where),
        "annotation_ids": _annotation_ids(require(ref, "ann_id", where), where),
        "sentences": [_read_sentence(sentence, where) for sentence in sentences],
    }


def _read_sentence(sentence: Any, where: str) -> tuple[str, int, bool, str]:
    """Text, id, whether what it speaks of is there, and the right sentence if it is not."""
    text, sentence_id = require(sentence, "sent", where), require_integer(sentence, "sent_id", where)
    if not isinstance(text, str):
        raise UserError(f"{where}: sentence {sentence_id} is not text but {shown(text)}")
    exists = not sentence["is_false_premise"] if "is_false_premise" in sentence else bool(sentence.get("exist", True))
    correction = sentence.get("gt_sent") or ""
    return refuse_targets(text, where), sentence_id, exists, refuse_targets(str(correction), where)


def _annotation_ids(value: Any, where: str) -> list[int]:
    """One id, a list of ids, or -1 for nothing."""
    try:
        ids = [int(item) for item in (value if isinstance(value, list | tuple | np.ndarray) else [value])]
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: an id is not a number ({error})") from error
    return [] if -1 in ids else ids
