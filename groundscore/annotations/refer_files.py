"""The annotation files of the referring data sets, parsed once for all their splits.

All have a `refs` file (which sentences describe which annotations) and COCO's `instances.json` (images and
annotations). Of the annotations only those are kept that a ref names.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from groundscore.annotations.bad_entries import BadEntry
from groundscore.annotations.image_files import check_size
from groundscore.annotations.images import coco_number
from groundscore.annotations.index_cache import open_index
from groundscore.annotations.json_files import (
    NOT_OFFICIAL,
    by_id,
    check_boolean,
    check_integer,
    check_text,
    read_each,
    read_each_by_id,
    require,
    require_integer,
    require_list,
    require_path,
    require_segmentation,
    require_text,
)
from groundscore.annotations.records import NO_KEY, Encoded, KeyedRecords, PackedRecords, encode
from groundscore.annotations.restricted_pickle import restricted_unpickle
from groundscore.errors import UserError, shown
from groundscore.json_items import read_members
from groundscore.names import look_up
from groundscore.reading import MISSING, read_json
from groundscore.targets import refuse_targets


@dataclass(frozen=True)
class ReferFiles:
    """Where a referring data set lies.

    refs: possible names of its refs file, the first that exists is read.
    annotator: who wrote the refs, as evaluation sets name it.
    images: folders of its images under `refer_seg/`; an image may lie in any of them.
    exact_splits: splits are taken by their exact name; else "test" and its letters mean all splits that hold them.
    no_target: a ref may have no annotation; it is then a no-target expression.
    """

    refs: tuple[str, ...]
    annotator: str
    images: tuple[str, ...] = ("images/mscoco/images/train2014",)
    exact_splits: bool = False
    no_target: bool = False


_SAIAPR = ("images/saiapr_tc-12",)
_REFZOM = ("refzom/trainval2014", "refzom/train2014", "refzom/val2014")
REFER_SETS = {
    "refclef": ReferFiles(("refs(unc).p",), "unc", images=_SAIAPR),
    "refcoco": ReferFiles(("refs(unc).p",), "unc"),
    "refcoco+": ReferFiles(("refs(unc).p",), "unc"),
    "refcocog": ReferFiles(("refs(umd).p",), "umd"),
    "refzom": ReferFiles(("Ref_ZOM.p",), "final", images=_REFZOM, no_target=True),
    "grefcoco": ReferFiles(("grefs(unc).p", "grefs(unc).json"), "unc", exact_splits=True, no_target=True),
}
# The sets with false premises, and the plain ones without the images that any of them is tested on.
FALSE_PREMISE_SETS = {
    "refclef": REFER_SETS["refclef"],
    "refcoco": ReferFiles(("refs(unc_exclude_unified).p",), "unc"),
    "refcoco+": ReferFiles(("refs(unc_exclude_unified).p",), "unc"),
    "refcocog": ReferFiles(("refs(umd_exclude_unified).p",), "umd"),
    "R-refcoco": ReferFiles(("refs(unc_exclude_unified).p",), "unc"),
    "R-refcoco+": ReferFiles(("refs(unc_exclude_unified).p",), "unc"),
    "R-refcocog": ReferFiles(("refs(umd_exclude_unified).p",), "umd"),
    "fprefcoco": ReferFiles(("refs(berkeley_exclude_unified).p",), "berkeley"),
    "fprefcoco+": ReferFiles(("refs(berkeley_exclude_unified).p",), "berkeley"),
    "fprefcocog": ReferFiles(("refs(berkeley_exclude_unified).p",), "berkeley"),
}
# Sets that answer a false premise with what may have been meant; the others only deny it.
CORRECTED = ("fprefcoco", "fprefcoco+", "fprefcocog")


class Annotation(NamedTuple):
    """What an index needs of an annotation: the image, if it names one, and the text of its segmentation."""

    image_id: int | None
    segmentation: Encoded


class ReferTables:
    """The content of a referring data set.

    images: records of images with the expressions about them, by COCO number, sorted by file name.
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
        self._corrected = name in CORRECTED
        tables = open_index(dataset_dir, f"refer_seg/{name}", sources, self._parse)
        self.images: PackedRecords = tables["images"]
        self.splits: dict[str, list[int]] = tables["splits"][0]
        self.segmentations: KeyedRecords = tables["segmentations"]
        self.problems: list[tuple[str | None, str]] = list(tables["problems"])

    def held_out(self) -> set[int]:
        """Returns the COCO numbers of the images of all splits but "train"."""
        rows = {row for split, rows in self.splits.items() if split != "train" for row in rows}
        return set(self.images.keys[sorted(rows)].tolist()) - {NO_KEY}

    def _parse(self) -> dict[str, Any]:
        refs, problems = _read_refs(self.refs_path, self.files.no_target, self._corrected)
        images, annotations = self._read_instances({number for ref in refs for number in ref["annotation_ids"]})
        records: dict[int, dict] = {}
        segmentations: dict[int, Encoded] = {}

        def add(ref: dict, number: int) -> None:
            record = records.get(ref["image_id"]) or self._image_record(ref, images)
            segmentations.update({i: self._segmentation(ref, i, annotations) for i in ref["annotation_ids"]})
            records[ref["image_id"]] = record
            record["expressions"] += [
                [text, ref["annotation_ids"], ref["ref_id"], sentence_id, exists, correction, ref["split"]]
                for text, sentence_id, exists, correction in ref["sentences"]
            ]

        read_each(refs, add)
        ordered = sorted(records.values(), key=lambda record: (record["file_name"], record["id"]))
        rows: dict[str, list[int]] = {ref["split"]: [] for ref in refs}
        for row, record in enumerate(ordered):
            for split in {expression[-1] for expression in record["expressions"]}:
                rows[split].append(row)
        return {
            "images": PackedRecords(ordered, [coco_number(record["file_name"]) for record in ordered]),
            "splits": [rows],
            "segmentations": segmentations,
            "problems": problems,
        }

    def _read_instances(self, wanted: Collection[int]) -> tuple[dict[int, dict], dict[int, Annotation | dict]]:
        """Returns images and the `wanted` annotations by their ids; as it is in the file what is not well formed."""
        where = str(self.instances_path)
        instances = read_members(self.instances_path)
        images = by_id(require_list(instances, "images", where), f"{where}: image")
        found: dict[int, Annotation | dict] = {}

        def keep(annotation_id: int, annotation: dict) -> None:
            if annotation_id in wanted:
                try:
                    segmentation = encode(require_segmentation(annotation, where))
                    found[annotation_id] = Annotation(_image_of(annotation, where), segmentation)
                except UserError:
                    found[annotation_id] = annotation

        read_each_by_id(require_list(instances, "annotations", where), f"{where}: annotation", keep)
        return images, found

    def _image_record(self, ref: dict, images: dict[int, dict]) -> dict:
        image_id = ref["image_id"]
        if image_id not in images:
            raise UserError(
                f"{self.refs_path}: ref {ref['ref_id']} names image {image_id}, which {self.instances_path} does not "
                f"have; {NOT_OFFICIAL}"
            )
        where = f"{self.instances_path}: image {image_id}"
        height, width = (require_integer(images[image_id], key, where) for key in ("height", "width"))
        check_size(height, width, where)
        name = require_path(images[image_id], "file_name", where)
        return {"id": image_id, "file_name": name, "height": height, "width": width, "expressions": []}

    def _segmentation(self, ref: dict, annotation_id: int, annotations: dict[int, Annotation | dict]) -> Encoded:
        where = f"{self.instances_path}: annotation {annotation_id}"
        annotation = annotations.get(annotation_id)
        if annotation is None:
            raise UserError(
                f"{self.refs_path}: ref {ref['ref_id']} names annotation {annotation_id}, which "
                f"{self.instances_path} does not have; {NOT_OFFICIAL}"
            )
        whole = isinstance(annotation, Annotation)
        image_id = annotation.image_id if whole else _image_of(annotation, where)
        if image_id not in (None, ref["image_id"]):
            raise UserError(
                f"{self.refs_path}: ref {ref['ref_id']} refers to image {ref['image_id']}, but {where} belongs to "
                f"image {image_id}; {NOT_OFFICIAL}"
            )
        return annotation.segmentation if whole else encode(require_segmentation(annotation, where))


def _image_of(annotation: dict, where: str) -> int | None:
    return require_integer(annotation, "image_id", where) if "image_id" in annotation else None


def _first_existing(paths: list[Path]) -> Path:
    for path in paths:
        if path.exists():
            return path
    names = " or ".join(map(str, paths))
    raise UserError(f"annotation file {names} is missing; {MISSING}")


def _read_refs(path: Path, no_target: bool, corrected: bool) -> tuple[list[dict], list[tuple[str | None, str]]]:
    """Returns every ref under one set of keys, ids as Python integers; and the bad sentences, with their splits."""
    refs = read_json(path, list) if path.suffix == ".json" else restricted_unpickle(path)
    if not isinstance(refs, list):
        raise UserError(f"{path} must contain a list of refs, but contains a {type(refs).__name__}; {NOT_OFFICIAL}")
    if not refs:
        raise UserError(f"{path} contains no ref; {NOT_OFFICIAL}")
    problems: list[tuple[str | None, str]] = []
    known: dict[int, dict] = {}

    def read(ref: Any, number: int) -> dict | None:
        ref_id = require_integer(ref, "ref_id", f"{path}: ref number {number}")
        where = f"{path}: ref {ref_id}"
        if ref_id in known:
            if known[ref_id] != ref:
                raise UserError(f"{where} occurs twice with different content; {NOT_OFFICIAL}")
            return None
        known[ref_id] = ref
        found, bad_sentences = _read_ref(ref, ref_id, where, no_target, corrected)
        problems.extend((found["split"], problem) for problem in bad_sentences)
        return found

    return read_each(refs, read)[0], problems


def _read_ref(ref: dict, ref_id: int, where: str, no_target: bool, corrected: bool) -> tuple[dict, list[str]]:
    """Returns a ref with its good sentences, and what is wrong with the others."""
    sentences = require_list(ref, "sentences", where)
    if not sentences:
        raise UserError(f"{where} has no sentence; {NOT_OFFICIAL}")
    annotation_ids = _annotation_ids(ref, where, no_target)
    good, problems = read_each(sentences, lambda sentence, number: _read_sentence(sentence, number, where, corrected))
    return {
        "ref_id": ref_id,
        "image_id": require_integer(ref, "image_id", where),
        "split": require_text(ref, "split", where),
        "annotation_ids": annotation_ids,
        "sentences": good,
    }, problems


def _read_sentence(sentence: Any, number: int, where: str, corrected: bool) -> tuple[str, int, bool, str]:
    """Returns text, id, whether its target is in the image, and the right sentence if it is not.

    corrected: the data set has that sentence.
    """
    sentence_id = require_integer(sentence, "sent_id", f"{where}, sentence number {number}")
    where = f"{where}, sentence {sentence_id}"
    text = check_text(require(sentence, "sent", where), f"{where}: 'sent'", empty=True)
    if not text.strip().strip("."):
        raise BadEntry.at(where, f"its text is empty; {NOT_OFFICIAL}")
    exists = True
    if "exist" in sentence:
        exists = check_boolean(sentence["exist"], f"{where}: 'exist'")
    if "is_false_premise" in sentence:
        exists = not check_boolean(sentence["is_false_premise"], f"{where}: 'is_false_premise'")
    correction = sentence.get("gt_sent")
    correction = "" if correction is None else check_text(correction, f"{where}: 'gt_sent'", empty=True)
    if corrected and not exists and not correction.strip().strip("."):
        raise BadEntry.at(where, "a false premise without 'gt_sent', the sentence that would have been right")
    return refuse_targets(text, where), sentence_id, exists, refuse_targets(correction, where)


def _annotation_ids(ref: dict, where: str, no_target: bool) -> list[int]:
    """Returns the ids of a ref's targets, each once; none where it is marked as a no-target expression.

    The mark is -1 or [-1] in gRefCOCO, whose refs may say 'no_target' besides, and [] in Ref-ZOM.
    """
    value = require(ref, "ann_id", where)
    items = value if isinstance(value, list | tuple | np.ndarray) else [value]
    ids = list(dict.fromkeys(check_integer(item, f"{where}: 'ann_id'") for item in items))
    marked = ids in ([], [-1])
    if not marked and -1 in ids:
        raise UserError(f"{where}: 'ann_id' mixes -1 (no target) with ids of targets: {shown(ids)}; {NOT_OFFICIAL}")
    if marked and not no_target:
        raise UserError(f"{where} names no annotation; only gRefCOCO and Ref-ZOM have refs without; {NOT_OFFICIAL}")
    if "no_target" in ref and check_boolean(ref["no_target"], f"{where}: 'no_target'") is not marked:
        raise UserError(f"{where}: 'no_target' is {ref['no_target']}, but 'ann_id' is {shown(value)}; {NOT_OFFICIAL}")
    return [] if marked else ids
