"""Referring sets beside refcoco and grefcoco, those with false premises among them (see `dataloaders/README.md`)."""

import pickle
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from miniature.files import ALL_FORMS, POLYGONS, Form, lengths_in_a_list, write_json, write_odd_image
from miniature.language import KIND_WEIGHTS, absent_expressions, group_expressions, pick_referring
from miniature.scenes import Scene
from miniature.vocabulary import CATEGORIES

Splits = Mapping[str, Iterator[Scene]]

UNIFIED = {
    "refcoco": "refs(unc_exclude_unified).p",
    "refcoco+": "refs(unc_exclude_unified).p",
    "refcocog": "refs(umd_exclude_unified).p",
}
_TRAIN2014 = "images/mscoco/images/train2014/COCO_train2014_{:012d}.jpg"


@dataclass(frozen=True)
class ReferSet:
    """How a referring set is written.

    refs: its refs files, all alike. first_id: of its images, where sets share a folder.
    image: path of an image below `refer_seg/`, given its id; file names in `instances.json` start from the folder
        of `folder_parts` parts.
    kinds: of expressions. forms: of segmentations, used in turn.
    """

    refs: tuple[str, ...]
    first_id: int = 0
    image: str = _TRAIN2014
    folder_parts: int = 4
    kinds: Collection[str] = tuple(KIND_WEIGHTS)
    forms: tuple[Form, ...] = POLYGONS


SETS = {
    "refcoco+": ReferSet(("refs(unc).p", UNIFIED["refcoco+"]), 300_000, kinds=("name", "size"), forms=ALL_FORMS),
    "refcocog": ReferSet(("refs(umd).p", UNIFIED["refcocog"]), 310_000, kinds=("relation", "name")),
    "refclef": ReferSet(
        ("refs(unc).p",), image="images/saiapr_tc-12/00/images/{}.jpg", folder_parts=2, forms=(lengths_in_a_list,)
    ),
    "R-refcoco": ReferSet(("refs(unc_exclude_unified).p",), 320_000),
    "R-refcoco+": ReferSet(("refs(unc_exclude_unified).p",), 330_000, kinds=("name", "size")),
    "R-refcocog": ReferSet(("refs(umd_exclude_unified).p",), 340_000, kinds=("relation", "name")),
    "fprefcoco": ReferSet(("refs(berkeley_exclude_unified).p",), 350_000),
    "fprefcoco+": ReferSet(("refs(berkeley_exclude_unified).p",), 360_000, kinds=("name", "size")),
    "fprefcocog": ReferSet(("refs(berkeley_exclude_unified).p",), 370_000, kinds=("relation", "name")),
}
_ZOM = ReferSet(("Ref_ZOM.p",), 380_000, forms=ALL_FORMS)


def write_refer(root: Path, name: str, splits: Splits, rng: np.random.Generator) -> None:
    """One or two expressions for an object; in the sets with false premises some that are true of nothing there."""
    described = SETS[name]
    writer = _Writer(root / "refer_seg", described)
    for split, scenes in splits.items():
        for scene in scenes:
            image_id, annotation_ids = writer.add_image(scene)
            for index, texts in _describe(scene, described.kinds, rng).items():
                sentences = [{"sent": _as_typed(text, rng)} for text in texts]
                if name.startswith("R-"):
                    sentences = [{**sentence, "exist": True} for sentence in sentences]
                    sentences += [{"sent": text, "exist": False} for text in absent_expressions(scene, 1, rng)]
                elif name.startswith("fp"):
                    wrong = absent_expressions(scene, 1, rng)[0]
                    sentences = [{**sentence, "is_false_premise": False} for sentence in sentences]
                    sentences.append({"sent": wrong, "is_false_premise": True, "gt_sent": texts[0]})
                category_id = writer.category_id(scene.objects[index].category)
                writer.add_ref(image_id, split, sentences, ann_id=annotation_ids[index], category_id=category_id)
    writer.finish(root / "refer_seg" / name)


def write_refzom(root: Path, splits: Splits, rng: np.random.Generator) -> None:
    """Expressions with one target, several, or none; images from both of COCO's folders of 2014."""
    writer = _Writer(root / "refer_seg", _ZOM)
    for split, scenes in splits.items():
        for scene in scenes:
            folder = ("train2014", "val2014")[int(rng.integers(2))]
            image_id, ids = writer.add_image(scene, f"refzom/{folder}/COCO_{folder}_{{:012d}}.jpg", 2)
            single = int(rng.integers(len(ids)))
            said = [("one", text, (single,)) for text in pick_referring(scene, single, 1, rng)]
            said += [("many", text, members) for text, members in group_expressions(scene)[:2]]
            said += [("zero", text, ()) for text in absent_expressions(scene, 1, rng)]
            for source, text, members in said:
                writer.add_ref(image_id, split, [{"sent": text}], ann_id=[ids[i] for i in members], source=source)
    writer.finish(root / "refer_seg/refzom")


def write_unified_refs(root: Path, name: str) -> None:
    """The refs of an existing plain set under the file name that the false-premise protocol reads."""
    folder = root / "refer_seg" / name
    plain = folder / "refs(unc).p"
    if plain.is_file():
        (folder / UNIFIED[name]).write_bytes(plain.read_bytes())


def _describe(scene: Scene, kinds: Collection[str], rng: np.random.Generator) -> dict[int, list[str]]:
    """One or two expressions for every object that one of `kinds` singles out; where none is, of any kind."""
    for allowed in (kinds, tuple(KIND_WEIGHTS)):
        counts = rng.integers(1, 3, len(scene.objects)).tolist()
        found = {index: pick_referring(scene, index, count, rng, allowed) for index, count in enumerate(counts)}
        found = {index: texts for index, texts in found.items() if texts}
        if found:
            break
    return found


def _as_typed(text: str, rng: np.random.Generator) -> str:
    """People begin with a capital now and then, or end with a full stop."""
    chance = rng.random()
    return text.capitalize() if chance < 0.1 else f"{text}." if chance < 0.2 else text


class _Writer:
    """Collects a set's images, annotations and refs."""

    def __init__(self, root: Path, described: ReferSet):
        self._root = root
        self._set = described
        self._images: list[dict] = []
        self._annotations: list[dict] = []
        self._refs: list[dict] = []
        self._sentences = 0

    def category_id(self, name: str) -> int:
        """Id of a category."""
        return [category.name for category in CATEGORIES].index(name) + 1

    def add_image(self, scene: Scene, place: str = "", folder_parts: int = 0) -> tuple[int, list[int]]:
        """Writes an image; returns its id and its annotations' ids. place: its path if it differs from the set's."""
        number = len(self._images) + 1
        image_id = self._set.first_id + number
        path = Path((place or self._set.image).format(image_id))
        file_name = Path(*path.parts[folder_parts or self._set.folder_parts :]).as_posix()
        write_odd_image(self._root / path, scene, number, may_ignore_exif=True)
        self._images.append({"id": image_id, "file_name": file_name, "height": scene.height, "width": scene.width})
        return image_id, [self._annotate(scene, index, image_id) for index in range(len(scene.objects))]

    def _annotate(self, scene: Scene, index: int, image_id: int) -> int:
        annotation_id = len(self._annotations) + 1
        mask = scene.mask(index)
        annotation = {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": self.category_id(scene.objects[index].category),
            "segmentation": self._set.forms[annotation_id % len(self._set.forms)](mask),
            "area": int(mask.sum()),
        }
        self._annotations.append(annotation)
        return annotation_id

    def add_ref(self, image_id: int, split: str, sentences: list[dict], **keys) -> None:
        """Adds a ref with its sentences."""
        numbered = []
        for sentence in sentences:
            text = sentence["sent"]
            numbered.append({"sent_id": self._sentences, **sentence, "raw": text, "tokens": text.lower().split()})
            self._sentences += 1
        ref = {"ref_id": len(self._refs) + 1, "image_id": image_id, "split": split, "sentences": numbered}
        self._refs.append({**ref, "sent_ids": [sentence["sent_id"] for sentence in numbered], **keys})

    def finish(self, folder: Path) -> None:
        """Writes the refs and the instances."""
        categories = [{"id": self.category_id(category.name), "name": category.name} for category in CATEGORIES]
        content = {"images": self._images, "annotations": self._annotations, "categories": categories}
        write_json(folder / "instances.json", content)
        for file in self._set.refs:
            (folder / file).write_bytes(pickle.dumps(self._refs, protocol=2))
