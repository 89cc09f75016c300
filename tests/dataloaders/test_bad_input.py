"""What is wrong with data is named, file and entry, in every family; nothing becomes an empty mask."""

import json
import pickle
import zlib

import numpy as np
import pytest
from PIL import Image

from dataloaders.mixture import build_mixture
from groundscore.errors import UserError
from groundscore.splits import evaluation_set

REFERS = "refer_seg/images/mscoco/images"
MUSE = "multi_reason_seg/MultiReasonSeg/MUSE_train.json"
PACO = "vlpart/paco/annotations/paco_lvis_v1_train.json"


def draw_all(root, family: str, **data) -> None:
    list(build_mixture(root, dataset=family, sample_rates="1", samples_per_epoch=20, **data))


def change_json(path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def huge_png() -> bytes:
    """A header that declares 100000 × 100000 pixels, and no content."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = (100_000).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size * 2 + bytes([8, 2, 0, 0, 0])) + chunk(b"IDAT", b"")


@pytest.mark.parametrize("content", [b"", b"text", "cut", "huge", None], ids=str)
@pytest.mark.parametrize(
    "family,data,image",
    [
        ("vqa", {}, "coco/train2017/000000000001.jpg"),
        ("sem_seg", {"sem_seg_data": "cocostuff"}, "coco/train2017/000000000012.jpg"),
        ("reason_seg_plus", {}, f"{REFERS}/train2017/000000000031.jpg"),
        ("correct_refer_seg", {}, f"{REFERS}/train2014/COCO_train2014_000000000010.jpg"),
        ("custom", {"custom_data": "mine"}, "custom/images/one.jpg"),
    ],
)
def test_a_bad_image_is_named(data_root, family, data, image, content):
    path = data_root / image
    if content is None:
        path.unlink()
    else:
        path.write_bytes({"cut": path.read_bytes()[:-200], "huge": huge_png()}.get(content, content))

    with pytest.raises(UserError, match=path.name):
        draw_all(data_root, family, **data)


@pytest.mark.parametrize("path", ["cocostuff/train2017/000000000012.png", "mapillary/training/v2.0/labels/street.png"])
def test_a_label_map_of_another_size_is_named(data_root, path):
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(data_root / path)

    with pytest.raises(UserError, match="its annotations are for 5 × 6"):
        draw_all(data_root, "sem_seg", sem_seg_data=path.split("/")[0])


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda c: c["annotations"][0].update(image_id=77), "annotation 1 refers to image 77"),
        (lambda c: c["annotations"][0].update(category_id=9), "annotation 1 has category 9"),
        (lambda c: c["annotations"][1].pop("segmentation"), "annotation 2 has no 'segmentation'"),
        (
            lambda c: c["annotations"][0].update(segmentation=[[1, "2", 3, 4]]),
            "annotation 1: 'segmentation': a polygon is a flat",
        ),
        (lambda c: c["images"][0].update(file_name="../x.jpg"), "image 5: the path '../x.jpg' leaves"),
        (lambda c: c["images"][0].update(height=10**6, width=10**6), "image 5 has 1000000 × 1000000 pixels"),
        (lambda c: c["images"][0].update(height="many"), "'height' is not a whole number but 'many'"),
        (lambda c: c["annotations"].clear(), "no image there has an annotation"),
    ],
)
def test_bad_part_annotations_are_named(data_root, change, message):
    change_json(data_root / PACO, change)

    with pytest.raises(UserError, match=message) as caught:
        draw_all(data_root, "sem_seg", sem_seg_data="paco_lvis")
    assert "paco_lvis_v1_train.json" in str(caught.value)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda e: e.update(text_answers=["{seg} and {seg}", None]), "question 0: its text answer has 2 {seg} for 1"),
        (lambda e: e["questions"].pop(), "has 1 questions, but 2 answers"),
        (lambda e: e["answers"][0].clear(), "question 0: its text answer has 1 {seg} for 0 targets"),
        (lambda e: e["answers"][1][0].update(segmentation={"size": [3, 3], "counts": [9]}), "target 0: an RLE for"),
        (lambda e: e["answers"][1][1].update(segmentation=[]), "target 1: encloses no pixel"),
        (lambda e: e.update(file_name="/etc/x.jpg"), "'file_name' is an absolute path, '/etc/x.jpg'"),
        (lambda e: e.update(height=9), "its annotations are for 9 × 32"),
        (lambda e: e["questions"].__setitem__(0, "What is [SEG]?"), "may not be written out"),
        (lambda e: [e.pop("file_name")], "entry 0 has no 'coco_url'"),
        (lambda e: e.update(text_answers=5), "entry 0: 'text_answers' should be a list, it is 5; the file is not"),
    ],
)
def test_bad_muse_entries_are_named(data_root, change, message):
    change_json(data_root / MUSE, lambda entries: change(entries[0]))

    with pytest.raises(UserError, match=message):
        draw_all(data_root, "multi_reason_seg")


@pytest.mark.parametrize(
    "line,message",
    [
        ("{", "line 3 is not valid JSON"),
        ("[" * 200_000, "line 3 is not valid JSON"),
        ({"conversations": []}, "line 3 has no 'image'; `python -m groundscore layout` describes the format"),
        ({"masks": 5}, "'masks' should be a list, it is 5; `python -m groundscore layout` describes"),
        ({"masks": True}, "'masks' should be a list, it is True"),
        ({"masks": {"polygons": [[0, 0, 9, 0, 9, 9]]}}, "'masks' should be a list, it is {'polygons'"),
        ({"conversations": [[{"question": "a", "answer": "[SEG]"}]]}, "contain 1 .SEG., but there are 0 masks"),
        ({"conversations": [[{"question": "[SEG]?", "answer": "b"}]]}, "may not be written out"),
        ({"masks": ["../../x.png"]}, "leaves its folder"),
        ({"masks": [[1, 2]]}, "a mask is"),
        ({"conversations": [[]]}, "a list of turns"),
        ({"conversations": []}, "no conversation"),
    ],
)
def test_bad_lines_of_own_data_are_named(data_root, line, message):
    if isinstance(line, dict):
        default = {"conversations": [[{"question": "a", "answer": "b"}]]}
        line = json.dumps({**default, **({} if "image" in message else {"image": "images/one.jpg"}), **line})
    with (data_root / "custom/mine.jsonl").open("a") as file:
        file.write(line + "\n")

    with pytest.raises(UserError, match=message) as caught:
        draw_all(data_root, "custom", custom_data="mine")
    assert "mine.jsonl: line 3" in str(caught.value)


def test_a_false_premise_without_its_correction_is_named(data_root):
    path = data_root / "refer_seg/fprefcoco/refs(berkeley_exclude_unified).p"
    refs = pickle.loads(path.read_bytes())
    for ref in refs:
        for sentence in ref["sentences"]:
            sentence.pop("gt_sent", None)
    path.write_bytes(pickle.dumps(refs))

    with pytest.raises(UserError, match="refs.berkeley.*: ref 1, sentence 70: a false premise without 'gt_sent'"):
        draw_all(data_root, "correct_refer_seg", correct_refer_seg_data="fprefcoco")


def test_an_expression_whose_mask_is_lost_is_no_absent_one_in_evaluation(data_root):
    def thin(instances):
        for annotation in instances["annotations"]:
            annotation["segmentation"] = [[5, 5, 6, 5, 7, 5]]

    change_json(data_root / "refer_seg/grefcoco/instances.json", thin)

    with pytest.raises(UserError, match="encloses no pixel .*, though 'The Left one.' means it"):
        [item.masks for item in evaluation_set("grefcoco|unc|val", data_root)]
