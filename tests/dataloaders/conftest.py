"""What the tests of the data layer share: a tokenizer, a processor and small pictures."""

import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataloaders.processing import GroundingProcessor, ImageSettings
from dataloaders.tokenization import GroundingTokenizer


@pytest.fixture(scope="session")
def vocabulary() -> bytes:
    package = importlib.util.find_spec("mistral_common")
    if package is None:
        pytest.skip("needs a vocabulary: pip install --no-deps mistral-common")
    return (Path(package.origin).parent / "data" / "tokenizer.model.v1").read_bytes()


@pytest.fixture(scope="session")
def make_processor(vocabulary):
    """A function (tokens_per_target) -> processor with four image tokens."""

    def make(tokens_per_target: int = 1) -> GroundingProcessor:
        tokenizer = GroundingTokenizer(vocabulary)
        tokenizer.add_grounding_tokens(tokens_per_target)
        return GroundingProcessor(ImageSettings(32, 16, num_image_tokens=4), tokenizer)

    return make


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
    """A folder with a few pictures of every data set in its official layout."""
    write_ade20k(tmp_path, picture(HEIGHT, WIDTH))
    write_reason_seg(tmp_path, picture(HEIGHT, WIDTH))
    write_llava(tmp_path, picture(HEIGHT, WIDTH))
    for name in ("refcoco", "refcoco+", "refcocog", "refclef", "grefcoco"):
        write_refer(tmp_path, name, picture(HEIGHT, WIDTH))
    return tmp_path


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_ade20k(root: Path, image: np.ndarray) -> None:
    """Two pictures with classes 1 (wall), 3 (sky) and 150 (flag); the rest is unlabelled."""
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


def refs_of(name: str) -> list[dict]:
    """For the splits train, val and testA: an image with two refs, and for grefcoco one more that means nothing."""
    refs = []
    for number, split in enumerate(("train", "val", "testA")):
        image = 10 + number
        for place, (text, annotation) in enumerate([("The Left one.", 1), ("right one", 2)]):
            ref_id = 10 * number + place
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
    return refs


def write_refer(root: Path, name: str, image: np.ndarray, refs: list[dict] | None = None) -> None:
    refs = refs_of(name) if refs is None else refs
    folder = root / "refer_seg" / name
    folder.mkdir(parents=True, exist_ok=True)
    file = {"refcocog": "refs(umd).p", "grefcoco": "grefs(unc).p"}.get(name, "refs(unc).p")
    (folder / file).write_bytes(pickle.dumps(refs, protocol=2))
    pictures = root / "refer_seg/images" / ("saiapr_tc-12" if name == "refclef" else "mscoco/images/train2014")
    images, annotations = [], []
    for image_id in sorted({ref["image_id"] for ref in refs}, reverse=True):
        file_name = f"COCO_train2014_{image_id:012}.jpg"
        save(pictures / file_name, image)
        images.append({"id": image_id, "file_name": file_name, "height": HEIGHT, "width": WIDTH})
        for number, polygon in enumerate((SQUARE, OTHER), start=1):
            annotations.append({"id": 100 * image_id + number, "image_id": image_id, "segmentation": [polygon]})
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    write_json(folder / "instances.json", instances)
