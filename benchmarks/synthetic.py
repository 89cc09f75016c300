"""A data root of any size in the official layouts, for measuring; its annotations are meaningless.

All files exist, but are links to a few images and label maps, so that 100,000 images take little space.
"""

import argparse
import itertools
import json
import os
import pickle
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from groundscore.annotations.lisa_plus import SUBSETS
from groundscore.annotations.muse import MUSE_SPLITS
from groundscore.annotations.refer_files import FALSE_PREMISE_SETS, REFER_SETS

HEIGHT, WIDTH = 480, 640
DISTINCT = 24  # images, label maps and polygons
CLASSES = 60  # in a label map
ANNOTATIONS = 8  # objects per image
POINTS = 24  # per polygon
TURNS = 3  # per dialogue
REASON_IMAGES = 240
PHOTOS = "photos"  # of `custom/`
MSCOCO = "refer_seg/images/mscoco/images"
IMAGE_FOLDERS = (
    "ade20k/images/training",
    "coco/train2017",
    "mapillary/training/images",
    "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages",
    f"{MSCOCO}/train2014",
    f"{MSCOCO}/train2017",
    f"{MSCOCO}/val2017",
    "refer_seg/images/saiapr_tc-12",
    "refer_seg/refzom/train2014",
)
LABEL_FOLDERS = ("ade20k/annotations/training", "cocostuff/train2017", "mapillary/training/v2.0/labels")


def add_source_flags(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """--dataset_dir or --synthetic, one of them; returns their group."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset_dir", type=Path, metavar="DIR", help="measure this data set")
    source.add_argument(
        "--synthetic", type=int, metavar="IMAGES", help="generate annotations for this number of images"
    )
    return source


@contextmanager
def data_root(flags: argparse.Namespace) -> Iterator[Path]:
    """The data root that these flags name, or a generated one that is removed afterwards."""
    if flags.synthetic is None:
        yield flags.dataset_dir.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="uground_synthetic_") as folder:
        root = Path(folder) / "data"
        root.mkdir()
        began = time.monotonic()
        write_synthetic(root, flags.synthetic)
        files = (path for suffix in ("json", "p") for path in root.rglob(f"*.{suffix}"))
        print(
            f"{flags.synthetic} images, {sum(path.stat().st_size for path in files) / 2**20:.0f} MB of annotation "
            f"files, written in {time.monotonic() - began:.0f} s"
        )
        yield root


def write_synthetic(root: Path, images: int) -> None:
    """All sets. Label maps, paco_lvis and vqa have `images` images each, the other sets a share of that."""
    rng = np.random.default_rng(0)
    _write_images(root, images, rng)
    polygons = [json.dumps([_polygon(rng)]) for _ in range(DISTINCT)]
    labels = [{"name": f"class-{k}", "readable": f"Class {k}", "evaluate": True} for k in range(CLASSES)]
    _write_json(root / "mapillary/config_v2.0.json", {"labels": labels})
    parts = [f"thing_{k // 5}:part_{k % 5}" for k in range(100)]
    _write_instances(root / "vlpart/paco/annotations/paco_lvis_v1_train.json", images, polygons, parts, "train2017/")
    _write_instances(root / "vlpart/pascal_part/train.json", images // 10 + 1, polygons, parts)
    for name in {**REFER_SETS, **FALSE_PREMISE_SETS}:
        _write_refer(root / "refer_seg" / name, name, images // 5 + 1, polygons)
    _write_dialogues(root / "llava_dataset/llava_instruct_150k.json", images)
    _write_reason_seg(root / "reason_seg/ReasonSeg", rng)
    for name in SUBSETS:
        _write_lisa(root / "reason_seg_plus", name, images // 4 + 1, polygons)
    for split in MUSE_SPLITS:
        count = images // 2 if split == "train" else images // 100
        _write_muse(root / f"multi_reason_seg/MultiReasonSeg/MUSE_{split}.json", count + 1, polygons)


def write_photos(root: Path, megapixels: float, count: int = 4) -> None:
    """`custom/photos.jsonl`: JPEGs of so many pixels, 4 : 3, each with three masks in three conversations."""
    import cv2

    rng = np.random.default_rng(0)
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    scale = np.tile([width / WIDTH, height / HEIGHT], POINTS)
    folder = root / "custom"
    folder.mkdir(parents=True)
    turn = [{"question": "What is it?", "answer": "It is [SEG]."}]
    with (folder / f"{PHOTOS}.jsonl").open("w") as file:
        for number in range(count):
            cv2.imwrite(str(folder / f"{number}.jpg"), _image(rng, height, width), [cv2.IMWRITE_JPEG_QUALITY, 90])
            masks = [{"polygons": [(scale * _polygon(rng)).tolist()]} for _ in range(3)]
            file.write(json.dumps({"image": f"{number}.jpg", "conversations": [turn] * 3, "masks": masks}) + "\n")


def _image(rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Uint8 [H, W, 3] that a JPEG needs about as many bytes for as for a photograph."""
    import cv2

    coarse = rng.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def _label_map(rng: np.random.Generator) -> np.ndarray:
    import cv2

    coarse = rng.integers(0, CLASSES, (4, 5), dtype=np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)


def _write_images(root: Path, images: int, rng: np.random.Generator) -> None:
    import cv2

    originals = root / "originals"
    originals.mkdir(parents=True)
    for number in range(DISTINCT):
        cv2.imwrite(str(originals / f"{number}.jpg"), _image(rng), [cv2.IMWRITE_JPEG_QUALITY, 85])
        cv2.imwrite(str(originals / f"{number}.png"), _label_map(rng))
    for folder, suffix, links in (("images", ".jpg", IMAGE_FOLDERS), ("labels", ".png", LABEL_FOLDERS)):
        (root / folder).mkdir()
        for number in range(images):
            os.link(originals / f"{number % DISTINCT}{suffix}", root / folder / f"{_stem(number)}{suffix}")
        for link in links:
            (root / link).parent.mkdir(parents=True, exist_ok=True)
            (root / link).symlink_to(root.resolve() / folder)


def _stem(number: int) -> str:
    return f"{number:012d}"


def _polygon(rng: np.random.Generator) -> list[float]:
    """A star around a random point."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, POINTS))
    radius = rng.uniform(20, 90, POINTS)
    x = rng.uniform(100, WIDTH - 100) + radius * np.cos(angles)
    y = rng.uniform(100, HEIGHT - 100) + radius * np.sin(angles)
    return np.round(np.stack([x, y], 1).ravel(), 2).tolist()


def _write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _write_list(path: Path, items: Iterable[str]) -> None:
    """A JSON list of items that are JSON already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.write("[")
        for number, item in enumerate(items):
            file.write(f",{item}" if number else item)
        file.write("]")


def _write_instances(path: Path, images: int, polygons: list[str], categories: list[str], prefix: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = itertools.count(1)
    with path.open("w") as file:
        file.write('{"images":[')
        size = f'"height":{HEIGHT},"width":{WIDTH}'
        file.write(",".join(f'{{"id":{i},"file_name":"{prefix}{_stem(i)}.jpg",{size}}}' for i in range(images)))
        file.write('],"annotations":[')
        for image in range(images):
            file.write("," if image else "")
            file.write(
                ",".join(
                    f'{{"id":{n},"image_id":{image},"category_id":{n % len(categories) + 1},"iscrowd":0,"area":9000.5,'
                    f'"bbox":[1.5,2.5,100.0,80.0],"segmentation":{polygons[n % DISTINCT]}}}'
                    for n in itertools.islice(numbers, ANNOTATIONS)
                )
            )
        names = [{"id": number, "name": name} for number, name in enumerate(categories, start=1)]
        file.write(f'],"categories":{json.dumps(names)}}}')


def _write_refer(folder: Path, name: str, images: int, polygons: list[str]) -> None:
    """Refs for half of the annotations, of three sentences each; one image in ten is in the split val."""
    _write_instances(folder / "instances.json", images, polygons, ["thing"])
    refs = list(_refs(name, images))
    files = {file for sets in (REFER_SETS, FALSE_PREMISE_SETS) if name in sets for file in sets[name].refs}
    for file in files:
        if not file.endswith(".json"):
            (folder / file).write_bytes(pickle.dumps(refs, protocol=2))


def _refs(name: str, images: int) -> Iterator[dict]:
    extra = {"is_false_premise": True, "gt_sent": "the thing"} if name.startswith("fp") else {"exist": False}
    as_list = name in ("grefcoco", "refzom")
    for image in range(images):
        for index in range(0, ANNOTATIONS, 2):
            number = ANNOTATIONS * image + index
            sentences = [
                {"sent_id": 3 * number + k, "sent": f"the thing {k} beside number {number}", "tokens": []}
                for k in range(3)
            ]
            if name not in REFER_SETS:
                sentences[2].update(extra)
            yield {
                "ref_id": number,
                "ann_id": [number + 1] if as_list else number + 1,
                "image_id": image,
                "category_id": 1,
                "split": "val" if image % 10 == 9 else "train",
                "sentences": sentences,
            }


def _write_dialogues(path: Path, images: int) -> None:
    words = "there is a long answer about what the image shows and where it is " * 5
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": words}] * TURNS
    text = json.dumps(turns)
    _write_list(path, (f'{{"id":"{i}","image":"{_stem(i)}.jpg","conversations":{text}}}' for i in range(images)))


def _write_reason_seg(folder: Path, rng: np.random.Generator) -> None:
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        for number in range(REASON_IMAGES):
            os.link(folder.parents[1] / f"originals/{number % DISTINCT}.jpg", folder / split / f"{number}.jpg")
            points = np.reshape(_polygon(rng), (-1, 2)).tolist()
            shapes = [{"label": "target", "points": points}]
            record = {"text": ["Where could one sit?"], "is_sentence": True, "shapes": shapes}
            _write_json(folder / split / f"{number}.json", record)
    _write_json(folder / "explanatory/train.json", [])


def _write_lisa(folder: Path, name: str, images: int, polygons: list[str]) -> None:
    subset = SUBSETS[name]
    texts = {
        "English Question": "What is on the table? Please segment it.",
        "English Answer": "It is <1|a cup> and [<2|plate>].",
        "output": "<person>: What is it? <robot>: It is <1|a cup>. <person>: And? <robot>: A plate <2|plate>.",
    }
    said = json.dumps({**{key: texts[key] for key in subset.text_keys}, "ID": ["1", "2", "3"]})[1:]

    def entries() -> Iterator[str]:
        for i in range(images):
            masks = ",".join(
                f'"{k}":{{"polygon":{polygons[(i + k) % DISTINCT]},"label name":"cup {k}"}}' for k in (1, 2, 3)
            )
            yield f'{{"{subset.image_key}":"{_stem(i)}.jpg","{subset.masks_key}":{{{masks}}},{said}'

    _write_list(folder / subset.file, entries())


def _write_muse(path: Path, images: int, polygons: list[str]) -> None:
    def entries() -> Iterator[str]:
        for i in range(images):
            one, two = (
                f'{{"category_name":"cup","rephrased_name":"blue cup","segmentation":{polygons[(i + k) % DISTINCT]}}}'
                for k in range(2)
            )
            yield (
                f'{{"file_name":"{_stem(i)}.jpg","height":{HEIGHT},"width":{WIDTH},"ann_list":[{one},{two}],'
                f'"questions":["What holds the tea?","What is there?"],"answers":[[{one}],[{one},{two}]]}}'
            )

    _write_list(path, entries())
