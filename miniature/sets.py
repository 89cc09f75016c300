"""One writer per data set: scenes in, the files of its official layout out (see `dataloaders/README.md`)."""

import pickle
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from groundscore.reading import read_json
from miniature.files import CocoRecords, pixel_polygons, write_image, write_json
from miniature.language import (
    Reasoning,
    absent_expressions,
    dialogue,
    explanation,
    group_expressions,
    pick_referring,
    reasoning,
)
from miniature.scenes import Scene
from miniature.vocabulary import CATEGORIES, LONG_TEMPLATES, SHORT_TEMPLATES

DIALOGUES, SINGLE_QUESTIONS = 2, 16  # about every image of the LLaVA set
REFER_IMAGES = Path("refer_seg/images/mscoco/images/train2014")
ADE_CLASSES = Path(__file__).parent.parent / "groundscore/annotations/ade20k_classes.json"

Splits = Mapping[str, Iterator[Scene]]


def write_ade20k(root: Path, scenes: Iterator[Scene], rng: np.random.Generator) -> None:
    """Images and label maps: 0 unlabelled, class index + 1 elsewhere."""
    indices = {name: index + 1 for index, name in enumerate(read_json(ADE_CLASSES, list))}
    for number, scene in enumerate(scenes, start=1):
        labels = np.full((scene.height, scene.width), indices[scene.lower], dtype=np.uint8)
        labels[: scene.horizon] = indices[scene.upper]
        for index, thing in enumerate(scene.objects):
            labels[scene.mask(index)] = indices[thing.category]
        labels[:1] = 0  # real maps have unlabelled borders
        name = f"ADE_train_{number:08d}"
        write_image(root / "ade20k/images/training" / f"{name}.jpg", scene)
        path = root / "ade20k/annotations/training" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(path)


def write_refcoco(root: Path, splits: Splits, rng: np.random.Generator, kinds: Collection[str]) -> None:
    """Two or three expressions of the given kinds for every object that something singles out."""
    records, refs = CocoRecords("COCO_train2014_{:012d}.jpg"), []
    sentences = 0
    for split, scenes in splits.items():
        for scene in scenes:
            image_id, annotation_ids = records.add(scene)
            write_image(root / REFER_IMAGES / records.name_of(image_id), scene)
            for index, annotation_id in enumerate(annotation_ids):
                texts = pick_referring(scene, index, int(rng.integers(2, 4)), rng, kinds)
                if not texts:
                    continue
                ref = _ref(records, scene, len(refs) + 1, image_id, split, texts, sentences)
                refs.append(
                    {**ref, "ann_id": annotation_id, "category_id": records.category_id(scene.objects[index].category)}
                )
                sentences += len(texts)
    folder = root / "refer_seg/refcoco"
    write_json(folder / "instances.json", records.content())
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=4))


def write_grefcoco(root: Path, splits: Splits, rng: np.random.Generator) -> None:
    """Expressions with one target, several, or none."""
    records, refs = CocoRecords("COCO_train2014_1{:011d}.jpg"), []
    sentences = 0
    for split, scenes in splits.items():
        for scene in scenes:
            image_id, annotation_ids = records.add(scene)
            write_image(root / REFER_IMAGES / records.name_of(image_id), scene)
            chosen: list[tuple[str, tuple[int, ...]]] = []
            groups = group_expressions(scene)
            for _ in range(min(2, len(groups))):
                chosen.append(groups.pop(int(rng.integers(len(groups)))))
            single = int(rng.integers(len(annotation_ids)))
            chosen += [(text, (single,)) for text in pick_referring(scene, single, 1, rng)]
            chosen += [(text, ()) for text in absent_expressions(scene, 1, rng)]
            for text, members in chosen:
                ref = _ref(records, scene, len(refs) + 1, image_id, split, [text], sentences)
                ids = [annotation_ids[i] for i in members] or [-1]
                categories = [records.category_id(scene.objects[i].category) for i in members] or [-1]
                refs.append({**ref, "ann_id": ids, "category_id": categories, "no_target": not members})
                sentences += 1
    folder = root / "refer_seg/grefcoco"
    write_json(folder / "instances.json", records.content())
    write_json(folder / "grefs(unc).json", refs)


def _ref(
    records: CocoRecords, scene: Scene, ref_id: int, image_id: int, split: str, texts: list[str], first: int
) -> dict:
    sentences = [
        {"sent_id": first + number, "sent": text, "raw": text, "tokens": text.split()}
        for number, text in enumerate(texts)
    ]
    return {
        "ref_id": ref_id,
        "image_id": image_id,
        "file_name": records.name_of(image_id),
        "split": split,
        "sentences": sentences,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
    }


def write_reason_seg(root: Path, splits: Splits, rng: np.random.Generator) -> None:
    """Half of the images have short phrases and half sentences; the training images have explanations.

    In `test` every other question is worded as no training question is. Images of `val` and `test` also have a
    question with a false premise, as in SESAME's version.
    """
    explanations = []
    for split, scenes in splits.items():
        folder = root / "reason_seg/ReasonSeg" / split
        for number, scene in enumerate(scenes, start=1):
            held_out = split == "test" and number % 4 >= 2
            first = reasoning(scene, rng, is_sentence=number % 2 == 0, held_out=held_out)
            questions = [first, *_rephrased(scene, first, held_out, rng)] if split == "train" else [first]
            name = f"{split}_{number:05d}"
            write_image(folder / f"{name}.jpg", scene)
            record = _labelme(scene, questions, rng)
            if split != "train":
                record["false_premise_QA"] = [_false_premise(scene, first.is_sentence)]
            is_old = split == "val" and number % 5 == 0  # old annotations are in Windows-1252
            write_json(folder / f"{name}.json", record, encoding="cp1252" if is_old else "utf-8")
            if split == "train" and rng.random() < 0.5:
                text = explanation(scene, first, rng)
                explanations.append({"image": f"{name}.jpg", "query": first.text, "outputs": text})
    write_json(root / "reason_seg/ReasonSeg/explanatory/train.json", explanations)


def _false_premise(scene: Scene, is_sentence: bool) -> tuple[str, bool, str]:
    """A question about something that the scene lacks, whether it is a sentence, and the answer in words."""
    rng = np.random.default_rng([scene.seed, 1])  # of its own, so that all else stays as it is without it
    present = {thing.category for thing in scene.objects}
    missing = [category for category in CATEGORIES if category.name not in present]
    category = missing[int(rng.integers(len(missing)))]
    templates = LONG_TEMPLATES if is_sentence else SHORT_TEMPLATES
    question = str(rng.choice(templates)).format(use=str(rng.choice(category.uses)))
    return question, is_sentence, f"There isn’t any {category.name} in the picture."


def _rephrased(scene: Scene, first: Reasoning, held_out: bool, rng: np.random.Generator) -> list[Reasoning]:
    """Up to two other questions with the same targets."""
    others: list[Reasoning] = []
    for _ in range(40):
        other = reasoning(scene, rng, is_sentence=first.is_sentence, held_out=held_out)
        if other.targets == first.targets and other.text not in [first.text, *(each.text for each in others)]:
            others.append(other)
        if len(others) == 2:
            break
    return others


def _labelme(scene: Scene, questions: list[Reasoning], rng: np.random.Generator) -> dict:
    shapes = []
    targets = questions[0].targets
    for polygon in pixel_polygons(scene.mask(*targets)):
        shapes.append({"label": "target", "points": polygon, "shape_type": "polygon"})
    others = [index for index in range(len(scene.objects)) if index not in targets]
    if others and rng.random() < 0.1:
        for polygon in pixel_polygons(scene.mask(others[0])):
            shapes.append({"label": "ignore", "points": polygon, "shape_type": "polygon"})
    return {
        "shapes": shapes,
        "text": [question.text for question in questions],
        "is_sentence": questions[0].is_sentence,
        "imageHeight": scene.height,
        "imageWidth": scene.width,
    }


def write_llava_instruct(root: Path, scenes: Iterator[Scene], rng: np.random.Generator) -> None:
    """Dialogues in words about every image, some of several turns.

    Most have one turn: what an earlier answer tells, nobody learns to see.
    """
    items = []
    for number, scene in enumerate(scenes, start=1):
        name = f"{number:012d}.jpg"
        write_image(root / "coco/train2017" / name, scene)
        dialogues = [dialogue(scene, int(rng.integers(4, 9)), rng) for _ in range(DIALOGUES)]
        dialogues += [[pair] for pair in dialogue(scene, SINGLE_QUESTIONS, rng)]
        for pairs in dialogues:
            conversations = []
            for turn, (question, answer) in enumerate(pairs):
                value = f"<image>\n{question}" if turn == 0 else question
                conversations += [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
            items.append({"id": name[:-4], "image": name, "conversations": conversations})
    write_json(root / "llava_dataset/llava_instruct_150k.json", items)
