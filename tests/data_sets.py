"""A few images of every data set in its official layout, and the fixtures that write them."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture():
    """A function (height, width) -> uint8 RGB noise, the same for the same size."""

    def make(height: int, width: int) -> np.ndarray:
        return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


HEIGHT, WIDTH = 24, 32
SQUARE = [4, 4, 12, 4, 12, 12, 4, 12]
OTHER = [16, 8, 28, 8, 28, 20, 16, 20]


@pytest.fixture
def data_root(tmp_path, picture):
    """A folder with a few images of every data set in its official layout."""
    write_ade20k(tmp_path, picture(HEIGHT, WIDTH))
    write_reason_seg(tmp_path, picture(HEIGHT, WIDTH))
    write_llava(tmp_path, picture(HEIGHT, WIDTH))
    for name in ("refcoco", "refcoco+", "refcocog", "refclef", "grefcoco", "refzom", *FALSE_PREMISE_REFS):
        write_refer(tmp_path, name, picture(HEIGHT, WIDTH))
    write_label_maps(tmp_path, picture(HEIGHT, WIDTH))
    write_parts(tmp_path, picture(HEIGHT, WIDTH))
    write_lisa_plus(tmp_path, picture(HEIGHT, WIDTH))
    write_muse(tmp_path, picture(HEIGHT, WIDTH))
    write_custom(tmp_path, picture(HEIGHT, WIDTH))
    return tmp_path


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_ade20k(root: Path, image: np.ndarray) -> None:
    """Two images with classes 1 (wall), 3 (sky) and 150 (flag); the rest is unlabelled."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:8], labels[8:10], labels[10:12], labels[12] = 1, 3, 150, 255
    for stem in ("ADE_train_00000001", "ADE_train_00000002"):
        save(root / "ade20k/images/training" / f"{stem}.jpg", image)
        save(root / "ade20k/annotations/training" / f"{stem}.png", labels)


def write_reason_seg(root: Path, image: np.ndarray) -> None:
    """Splits train and val: a long question with two sentences, and a short one with a region to ignore."""
    base = root / "reason_seg" / "ReasonSeg"
    target = {"label": "target", "points": [[4.9, 4.9], [12, 4], [12, 12], [4, 12]]}
    ignored = {"label": "Ignore", "points": [[20, 2], [26, 2], [26, 8], [20, 8]]}
    flag = {"label": "flag", "points": [[0, 0], [31, 0], [31, 23]]}
    for split in ("train", "val"):
        for stem, text, is_sentence, shapes in [
            ("b_long", ["Where can one sit?", "What carries a person?"], True, [target, flag]),
            ("a_short", ["The Seat"], False, [target, ignored]),
        ]:
            save(base / split / f"{stem}.jpg", image)
            write_json(base / split / f"{stem}.json", {"text": text, "is_sentence": is_sentence, "shapes": shapes})
    explanation = {"image": "b_long.jpg", "query": "Where can one sit?", "outputs": "A chair is made for sitting."}
    write_json(base / "explanatory/train.json", [explanation])


def write_llava(root: Path, image: np.ndarray) -> None:
    save(root / "coco/train2017/000000000001.jpg", image)
    turns = [("human", "What is it?\n<image>"), ("gpt", "A cat."), ("human", "Sure?"), ("gpt", "Yes.")]
    dialogue = {"id": "1", "image": "000000000001.jpg", "conversations": [{"from": f, "value": v} for f, v in turns]}
    write_json(root / "llava_dataset/llava_instruct_150k.json", [dialogue])


FALSE_PREMISE_REFS = {
    "R-refcoco": "refs(unc_exclude_unified).p",
    "R-refcoco+": "refs(unc_exclude_unified).p",
    "R-refcocog": "refs(umd_exclude_unified).p",
    "fprefcoco": "refs(berkeley_exclude_unified).p",
    "fprefcoco+": "refs(berkeley_exclude_unified).p",
    "fprefcocog": "refs(berkeley_exclude_unified).p",
}
REFS_FILES = {"refcocog": "refs(umd).p", "grefcoco": "grefs(unc).p", "refzom": "Ref_ZOM.p", **FALSE_PREMISE_REFS}


def refs_of(name: str) -> list[dict]:
    """For the splits train, val and testA: an image with two refs, and for grefcoco a no-target expression besides."""
    refs = []
    for number, split in enumerate(("train", "val", "testA")):
        image = 10 + number
        for index, (text, annotation) in enumerate([("The Left one.", 1), ("right one", 2)]):
            ref_id = 10 * number + index
            sentence = {"sent_id": ref_id, "sent": text, "tokens": text.split()}
            ann_id = 100 * image + annotation
            ref = {"ref_id": ref_id, "ann_id": ann_id, "image_id": image, "category_id": 1, "split": split}
            refs.append({**ref, "sentences": [sentence]})
        if name == "grefcoco":
            for ref in refs[-2:]:
                ref["ann_id"] = [ref["ann_id"]]
            both = {**refs[-1], "ref_id": 10 * number + 8, "ann_id": [100 * image + 1, 100 * image + 2]}
            none = {**refs[-1], "ref_id": 10 * number + 9, "ann_id": [-1]}
            both["sentences"] = [{"sent_id": 80 + number, "sent": "both", "tokens": []}]
            none["sentences"] = [{"sent_id": 90 + number, "sent": "the zebra", "tokens": []}]
            refs += [both, none]
        if name == "refzom":
            refs[-1]["ann_id"] = [100 * image + 1, 100 * image + 2]
            nothing = {**refs[-1], "ref_id": 10 * number + 9, "ann_id": [], "source": "zero"}
            nothing["sentences"] = [{"sent_id": 90 + number, "sent": "the zebra", "tokens": []}]
            refs.append(nothing)
        if name in FALSE_PREMISE_REFS:
            wrong = {"sent_id": 70 + number, "sent": "The Zebra", "tokens": []}
            right = {"is_false_premise": True, "gt_sent": "The Horse."} if name.startswith("fp") else {"exist": False}
            refs[-1]["sentences"].append({**wrong, **right})
    return refs


def write_refer(root: Path, name: str, image: np.ndarray, refs: list[dict] | None = None) -> None:
    refs = refs_of(name) if refs is None else refs
    folder = root / "refer_seg" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REFS_FILES.get(name, "refs(unc).p")).write_bytes(pickle.dumps(refs, protocol=2))
    folders = {"refclef": "images/saiapr_tc-12", "refzom": "refzom/val2014"}
    photos = root / "refer_seg" / folders.get(name, "images/mscoco/images/train2014")
    images, annotations = [], []
    for image_id in sorted({ref["image_id"] for ref in refs}, reverse=True):
        file_name = f"COCO_train2014_{image_id:012}.jpg"
        save(photos / file_name, image)
        images.append({"id": image_id, "file_name": file_name, "height": HEIGHT, "width": WIDTH})
        for number, polygon in enumerate((SQUARE, OTHER), start=1):
            annotations.append({"id": 100 * image_id + number, "image_id": image_id, "segmentation": [polygon]})
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    write_json(folder / "instances.json", instances)


def write_label_maps(root: Path, image: np.ndarray) -> None:
    """cocostuff: 0 (person), 156 (sky) and 171 (wall-concrete, not asked for). mapillary: a palette of three labels."""
    labels = np.full((HEIGHT, WIDTH), 255, np.uint8)
    labels[:5], labels[5:7], labels[7:10] = 0, 156, 171
    save(root / "coco/train2017/000000000012.jpg", image)
    save(root / "cocostuff/train2017/000000000012.png", labels)
    names = [("Bird", True), ("Ground Animal", True), ("Ego Vehicle", False)]
    config = {"labels": [{"name": name.lower(), "readable": name, "evaluate": used} for name, used in names]}
    write_json(root / "mapillary/config_v2.0.json", config)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[3:], labels[20:] = 1, 2
    save(root / "mapillary/training/images/street.jpg", image)
    path = root / "mapillary/training/v2.0/labels/street.png"
    path.parent.mkdir(parents=True)
    with_palette = Image.fromarray(labels, mode="P")
    with_palette.putpalette([7, 7, 7, 90, 90, 90, 200, 200, 200])
    with_palette.save(path)


def write_parts(root: Path, image: np.ndarray) -> None:
    """Two heads of one dog or cat, its tail, and (paco) a can with a name that is explained."""
    for path, file_name, names in [
        ("vlpart/pascal_part/train.json", "2008_000002.jpg", ["dog:head", "dog:tail", "cat:head"]),
        (
            "vlpart/paco/annotations/paco_lvis_v1_train.json",
            "train2017/000000000021.jpg",
            ["trash_can:lid_(cover)", "trash_can_(bin)", "mug"],
        ),
    ]:
        first = root / ("vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages" if "pascal" in path else "coco")
        save(first / file_name, image)
        annotations = [
            {"id": 1, "image_id": 5, "category_id": 1, "segmentation": [SQUARE]},
            {"id": 2, "image_id": 5, "category_id": 1, "segmentation": [OTHER]},
            {"id": 3, "image_id": 5, "category_id": 2, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
        ]
        content = {
            "images": [
                {"id": 5, "file_name": file_name, "height": HEIGHT, "width": WIDTH},
                {"id": 6, "file_name": "bare.jpg", "height": HEIGHT, "width": WIDTH},
            ],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        }
        write_json(root / path, content)


def points(polygon: list[int]) -> list[list[int]]:
    return [list(pair) for pair in zip(polygon[::2], polygon[1::2])]


def write_lisa_plus(root: Path, image: np.ndarray) -> None:
    """Masks 380 (a list of points), 348 (a polygon in a list) and 9 (empty)."""
    name = "000000000031.jpg"
    save(root / "refer_seg/images/mscoco/images/train2017" / name, image)
    masks = {"380": {"polygon": points(SQUARE)}, "348": {"points": [points(OTHER)]}, "9": []}
    folder = root / "reason_seg_plus"
    named = {"380": {**masks["380"], "label name": "Cup"}, "348": {**masks["348"], "label name": "plate"}}
    instance = {"img_path": name, "points": named, "English Question": "What is on <348|the table>?"}
    write_json(folder / "LISA_Plus_Instance_Seg.json", [{**instance, "ID": ["348", "380"]}])
    cot = {"image_path": name, "info": masks, "English Question": "Why is it there?"}
    answer = "First <348| plate>, then [<380| cup>, <9|cat>]."
    write_json(folder / "LISA_Plus_COT.json", [{**cot, "English Answer": answer}])
    output = (
        "<person>: Is [<380|cup>] full? <robot>: No, <380|it> is not. <person>: And <robot>: 《348|a》 <person>: so?"
    )
    write_json(folder / "LISA_Plus_Conversations.json", [{"img_pth": name, "info": masks, "output": output}])
    caption = {**cot, "English Question": "Describe it.", "English Answer": "A cup《380|cup》 on a plate <348|plate>."}
    write_json(folder / "LISA_Plus_Caption.json", [caption])


def write_muse(root: Path, image: np.ndarray) -> None:
    """Images in all three folders; the first entry has a text answer and the second has none."""
    run_lengths = {"size": [HEIGHT, WIDTH], "counts": [0, 2 * HEIGHT, (WIDTH - 2) * HEIGHT]}
    cup = {"category_name": "cup", "rephrased_name": "The blue Cup", "segmentation": [SQUARE], "bbox": [4, 4, 8, 8]}
    plate = {"category_name": "plate", "segmentation": run_lengths, "bbox": [0, 0, 2, 24], "category_id": 2}
    size = {"height": HEIGHT, "width": WIDTH, "ann_list": [cup, plate]}
    questions = ["What holds the tea?", "What is on the table?"]
    answers = [[cup], [plate, cup]]
    url = "http://images.cocodataset.org/{}/000000000041.jpg"
    entries = [
        {"file_name": "COCO_train2014_000000000040.jpg", "text_answers": ["It is {seg}.", None]},
        {"coco_url": url.format("train2017")},
        {"coco_url": url.format("val2017")},
    ]
    entries = [{**size, "questions": questions, "answers": answers, **entry} for entry in entries]
    for split in ("train", "val", "test_less", "test_many"):
        write_json(root / f"multi_reason_seg/MultiReasonSeg/MUSE_{split}.json", entries)
    photos = root / "refer_seg/images/mscoco/images"
    save(photos / "train2014/COCO_train2014_000000000040.jpg", image)
    for folder in ("train2017", "val2017"):
        save(photos / folder / "000000000041.jpg", image)


def write_custom(root: Path, image: np.ndarray) -> None:
    """Masks as polygons, as a PNG and as RLE; an image with a dialogue only."""
    folder = root / "custom"
    save(folder / "images/one.jpg", image)
    stripe = np.zeros((HEIGHT, WIDTH), np.uint8)
    stripe[:2] = 255
    save(folder / "masks/stripe.png", stripe)
    both = [
        [
            {"question": "Where is it?", "answer": "Here: [SEG]."},
            {"question": "And the rest?", "answer": "[SEG], [SEG]"},
        ],
        [{"question": "Where is the cat?", "answer": "It is [REJ]."}],
    ]
    lengths = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT, (WIDTH - 1) * HEIGHT]}
    words = [[{"question": "What is it?", "answer": "Noise."}]]
    lines = [
        {
            "image": "images/one.jpg",
            "conversations": both,
            "masks": [{"polygons": [SQUARE]}, "masks/stripe.png", lengths],
        },
        {"image": "images/one.jpg", "conversations": words},
    ]
    (folder / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
