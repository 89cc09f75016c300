"""Reasoning beside ReasonSeg: the four files of LISA++, and MUSE (see `dataloaders/README.md`)."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from miniature.files import (
    edge_polygons,
    large_enough,
    overlapping_polygons,
    pixel_polygons,
    plain_lengths,
    write_json,
    write_odd_image,
)
from miniature.language import absent_expressions, explanation, group_expressions, pick_referring, reasoning
from miniature.scenes import Scene
from miniature.vocabulary import CATEGORIES

COCO = Path("refer_seg/images/mscoco/images")
Splits = Mapping[str, Iterator[Scene]]

LISA_FILES = {
    "instance_seg": ("LISA_Plus_Instance_Seg.json", 3_000_000),
    "cot": ("LISA_Plus_COT.json", 3_100_000),
    "conversations": ("LISA_Plus_Conversations.json", 3_200_000),
    "caption": ("LISA_Plus_Caption.json", 3_300_000),
}
# How a text names an object with its mask.
MARKS = ("[<{id}|{name}>]", "<{id}|{name}>", "《{id}|{name}》", "[{name} <{id}>]")


def write_lisa_plus(root: Path, splits: Splits, rng: np.random.Generator) -> None:
    """A file for every part; each image has a mask for every object, and some an empty one in addition."""
    writers: dict[str, Callable[[str, Scene, np.random.Generator], dict]] = {
        "instance_seg": _instances,
        "cot": _steps,
        "conversations": _conversation,
        "caption": _caption,
    }
    for part, scenes in splits.items():
        file, first = LISA_FILES[part]
        entries = []
        for number, scene in enumerate(scenes, start=1):
            name = f"{first + number:012d}.jpg"
            write_odd_image(root / COCO / "train2017" / name, scene, number)
            entries.append(writers[part](name, scene, rng))
        write_json(root / "reason_seg_plus" / file, entries)


def _id(index: int) -> str:
    return str(340 + 8 * index)


def _called(scene: Scene, index: int) -> str:
    thing = scene.objects[index]
    return f"{thing.colour} {thing.category}"


def _masks(scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """Masks by id: under one key or another, as one polygon or several; "9" has none."""
    masks: dict[str, Any] = {}
    for index in range(len(scene.objects)):
        polygons: list = large_enough(pixel_polygons(scene.mask(index)))
        points = polygons[0] if len(polygons) == 1 and rng.random() < 0.5 else polygons
        masks[_id(index)] = [{"polygon": points}, {"points": points}, points][int(rng.integers(3))]
    if rng.random() < 0.3:
        masks["9"] = []
    return masks


def _mark(scene: Scene, index: int, rng: np.random.Generator) -> str:
    mark = MARKS[int(rng.integers(len(MARKS)))]
    name = scene.objects[index].category if mark == MARKS[-1] else _called(scene, index)
    return mark.format(id=_id(index), name=name)


def _instances(name: str, scene: Scene, rng: np.random.Generator) -> dict:
    masks = _masks(scene, rng)
    named = {
        _id(index): {**_as_dict(masks[_id(index)]), "label name": _called(scene, index)}
        for index in range(len(scene.objects))
    }
    question = f"Which things are on the {scene.lower}? Please segment each of them."
    return {"img_path": name, "points": named, "English Question": question, "ID": list(named)}


def _as_dict(mask: Any) -> dict:
    return mask if isinstance(mask, dict) else {"polygon": mask}


def _steps(name: str, scene: Scene, rng: np.random.Generator) -> dict:
    asked = reasoning(scene, rng, is_sentence=True, held_out=False)
    answer = f"{explanation(scene, asked, rng)} So it is {' and '.join(_mark(scene, i, rng) for i in asked.targets)}."
    masks = _masks(scene, rng)
    if "9" in masks:
        answer += " I see no <9|zebra>."
    return {"image_path": name, "info": masks, "English Question": asked.text, "English Answer": answer}


def _conversation(name: str, scene: Scene, rng: np.random.Generator) -> dict:
    turns = []
    for index, thing in enumerate(scene.objects):
        turns.append(f"<person>: Where is the {_called(scene, index)}? <robot>: It is {_mark(scene, index, rng)}.")
        turns.append(f"<person>: What colour is {_mark(scene, index, rng)}? <robot>: It is {thing.colour}.")
    if rng.random() < 0.2:
        turns.append("<person>: And what is missing?")  # nobody answers
    return {"img_pth": name, "info": _masks(scene, rng), "output": " ".join(turns)}


def _caption(name: str, scene: Scene, rng: np.random.Generator) -> dict:
    marks = [f"a {_mark(scene, index, rng)}" for index in range(len(scene.objects))]
    answer = f"The picture shows {', '.join(marks[:-1])} and {marks[-1]} in front of the {scene.upper}."
    question = "Describe the picture with masks."
    return {"image_path": name, "info": _masks(scene, rng), "English Question": question, "English Answer": answer}


def write_muse(root: Path, splits: Splits, rng: np.random.Generator) -> None:
    """Questions with one target or several; test_many asks for more at once than test_less."""
    number = 4_000_000
    for split, scenes in splits.items():
        entries = []
        for scene in scenes:
            number += 1
            folder = ("train2014", "train2017", "val2017")[number % 3]
            name = f"COCO_train2014_{number:012d}.jpg" if folder == "train2014" else f"{number:012d}.jpg"
            write_odd_image(root / COCO / folder / name, scene, number, may_ignore_exif=True)
            url = {"coco_url": f"http://images.cocodataset.org/{folder}/{name}"}
            place = {"file_name": name} if folder == "train2014" else url
            entries.append({**place, **_muse_entry(scene, split, rng)})
        write_json(root / f"multi_reason_seg/MultiReasonSeg/MUSE_{split}.json", entries)


def _muse_entry(scene: Scene, split: str, rng: np.random.Generator) -> dict:
    objects = [_muse_object(scene, index, rng) for index in range(len(scene.objects))]
    asked = reasoning(scene, rng, is_sentence=True, held_out=False if split == "train" else None)
    questions = [(asked.text, asked.targets)]
    groups = group_expressions(scene)
    if groups:
        text, members = groups[int(rng.integers(len(groups)))]
        questions.append((f"Where are {text}?", members))
    if split != "test_less":
        everything = tuple(range(len(objects)))
        questions.append((f"What can be found on the {scene.lower}, beside no {_absent(scene, rng)}?", everything))
    # From left to right: an order that follows from nothing could only be guessed.
    questions = [(text, tuple(sorted(targets, key=lambda i: scene.objects[i].x))) for text, targets in questions]
    texts = [_muse_answer(scene, targets) if rng.random() < 0.5 else None for _, targets in questions]
    return {
        "height": scene.height,
        "width": scene.width,
        "ann_list": objects,
        "questions": [text for text, _ in questions],
        "answers": [[objects[index] for index in targets] for _, targets in questions],
        **({"text_answers": texts} if any(texts) else {}),
    }


def _absent(scene: Scene, rng: np.random.Generator) -> str:
    return absent_expressions(scene, 1, rng)[0].removeprefix("the ")


def _muse_answer(scene: Scene, targets: tuple[int, ...]) -> str:
    return f"You are looking for {', '.join(f'the {_called(scene, index)} {{seg}}' for index in targets)}."


def _muse_object(scene: Scene, index: int, rng: np.random.Generator) -> dict:
    mask = scene.mask(index)
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(rows.min())
    category = scene.objects[index].category
    form = (edge_polygons, overlapping_polygons, plain_lengths)[int(rng.integers(3))]
    described = {
        "category_name": category,
        "category_id": [each.name for each in CATEGORIES].index(category) + 1,
        "bbox": [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
        "segmentation": form(mask),
    }
    names = pick_referring(scene, index, 1, rng)
    return {**described, "rephrased_name": names[0]} if names and rng.random() < 0.9 else described
