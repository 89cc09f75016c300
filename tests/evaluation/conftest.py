"""A tiny checkpoint and a tiny data root on disk."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from checkpoints import save_model
from tests.tiny import tiny_model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "tiny"
    model, processor = tiny_model()
    model.lm_head.weight.data[processor.tokenizer.seg_token_ids[0]] *= 20  # it says [SEG], or nothing at all like it
    save_model(model, processor, directory)
    return directory


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two images as ReasonSeg; one as refcoco; three with present and absent things as grefcoco."""
    root = tmp_path_factory.mktemp("data")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    reason = root / "reason_seg" / "ReasonSeg" / "val"
    reason.mkdir(parents=True)
    for number in range(2):
        Image.fromarray(pixels).save(reason / f"{number}.jpg")
        shapes = [
            {"label": "target", "points": [[5, 5], [30, 5], [30, 30], [5, 30]]},
            {"label": "ignore", "points": [[40, 0], [49, 0], [49, 9], [40, 9]]},
        ]
        content = {"shapes": shapes, "text": ["the red kite"], "is_sentence": False}
        (reason / f"{number}.json").write_text(json.dumps(content))

    images = root / "refer_seg" / "images" / "mscoco" / "images" / "train2014"
    images.mkdir(parents=True)
    for number in range(3):
        Image.fromarray(np.roll(pixels, number, 0)).save(images / f"{number}.jpg")
    instances = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 50} for n in range(3)],
        "annotations": [
            {
                "id": n,
                "image_id": n,
                "category_id": 1,
                "segmentation": [[5, 5, 30, 5, 30, 30, 5, 30]],
                "bbox": [5, 5, 25, 25],
            }
            for n in range(3)
        ],
        "categories": [{"id": 1, "name": "ball"}],
    }

    def ref(number, image, annotation, category, *texts):
        sentences = [
            {"sent_id": 10 * number + i, "sent": text, "raw": text, "tokens": text.split()}
            for i, text in enumerate(texts)
        ]
        shared = {"ref_id": number, "image_id": image, "split": "val", "sentences": sentences}
        return {**shared, "ann_id": annotation, "category_id": category}

    present = [ref(n, n, [n], [1], "ball", "box") for n in range(3)]
    absent = [ref(3 + n, n, [-1], [-1], "tree") for n in range(2)]
    for name, file, refs in (
        ("refcoco", "refs(unc).p", [ref(0, 0, 0, 1, "ball", "box")]),
        ("grefcoco", "grefs(unc).p", present + absent),
    ):
        directory = root / "refer_seg" / name
        directory.mkdir()
        (directory / file).write_bytes(pickle.dumps(refs, protocol=2))
        (directory / "instances.json").write_text(json.dumps(instances))
    return root
