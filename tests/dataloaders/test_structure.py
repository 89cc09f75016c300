"""One fault in one file of a data folder: the check names the file, what is wrong, and no other set."""

import base64
import io
import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from dataloaders.data_checks import check_data
from dataloaders.mixture import build_mixture
from groundscore.errors import UserError
from groundscore.splits import evaluation_set

COCO = "refer_seg/refcoco/instances.json"
REFS = "refer_seg/refcoco/refs(unc).p"
GREFS = "refer_seg/grefcoco/grefs(unc).p"
FALSE = "refer_seg/fprefcoco/refs(berkeley_exclude_unified).p"
ABSENT = "refer_seg/R-refcocog/refs(umd_exclude_unified).p"
PARTS = "vlpart/pascal_part/train.json"
MUSE = "multi_reason_seg/MultiReasonSeg/MUSE_val.json"
COT = "reason_seg_plus/LISA_Plus_COT.json"
INSTANCES = "reason_seg_plus/LISA_Plus_Instance_Seg.json"
DIALOGUES = "llava_dataset/llava_instruct_150k.json"
REASON = "reason_seg/ReasonSeg/val/a_short.json"
EXPLANATIONS = "reason_seg/ReasonSeg/explanatory/train.json"
OWN = "custom/mine.jsonl"
STREETS = "mapillary/config_v2.0.json"
SQUARE = [[4, 4], [12, 4], [12, 12], [4, 12]]


def read(path):
    if path.suffix == ".p":
        return pickle.loads(path.read_bytes())
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    values = [json.loads(line) for line in lines]
    return values if path.suffix == ".jsonl" else values[0]


def write(path, value) -> None:
    if path.suffix == ".p":
        path.write_bytes(pickle.dumps(value, protocol=2))
    else:
        path.write_text("\n".join(map(json.dumps, value)) if path.suffix == ".jsonl" else json.dumps(value))


def problems_of(root, *, bad: str) -> list[str]:
    """The problems of the one set that is bad."""
    reports = [report for report in check_data(root) if report.state == "bad"]
    assert [report.name for report in reports] == [bad]
    assert all(problem.remedy for problem in reports[0].problems)
    return [problem.text for problem in reports[0].problems]


def twin(record: dict, **changes) -> dict:
    return {**record, **changes}


FAULTS = [
    ("refcoco", COCO, lambda c: c["images"].append(twin(c["images"][0], height=99)), "image 12 occurs twice"),
    ("refcoco", COCO, lambda c: c["annotations"].append(twin(c["annotations"][0], segmentation=[])), "occurs twice"),
    ("refcoco", COCO, lambda c: c["annotations"][0].update(id=True), "'id' is not a whole number but True"),
    ("refcoco", COCO, lambda c: c["annotations"][0].update(id="1201"), "'id' is not a whole number but '1201'"),
    ("refcoco", COCO, lambda c: c["annotations"][0].update(id=1201.5), "is not a whole number but 1201.5"),
    ("refcoco", COCO, lambda c: c["annotations"][0].update(id=2**70), "is too large a number"),
    ("refcoco", COCO, lambda c: c["annotations"][0].update(iscrowd="False"), "'iscrowd' should be 0 or 1"),
    (
        "refcoco",
        COCO,
        lambda c: c["annotations"][0].update(segmentation=None),
        "polygons or an RLE, it is None",
    ),
    ("refcoco", COCO, lambda c: c["annotations"][0].update(segmentation=[[1, 2, "3", 4, 5, 6]]), "finite numbers"),
    ("refcoco", COCO, lambda c: c["annotations"][0].update(image_id=11), "belongs to image 11"),
    ("refcoco", COCO, lambda c: c["images"].pop(), "names image 10, which"),
    ("refcoco", COCO, lambda c: c.update(images=None), "'images' should be a list, it is None"),
    ("refcoco", REFS, lambda r: r.append(twin(r[0], image_id=11)), "ref 0 occurs twice"),
    ("refcoco", REFS, lambda r: r.clear(), "contains no ref"),
    ("refcoco", REFS, lambda r: r[0].update(ann_id=[]), "names no annotation"),
    ("refcoco", REFS, lambda r: r[0].update(sentences=None), "'sentences' should be a list"),
    ("refcoco", REFS, lambda r: r[0].update(sentences=[]), "has no sentence"),
    ("refcoco", REFS, lambda r: r[0]["sentences"][0].pop("sent"), "sentence 0 has no 'sent'"),
    ("refcoco", REFS, lambda r: r[0]["sentences"][0].update(sent=" "), "its text is empty"),
    ("refcoco", REFS, lambda r: r[0]["sentences"][0].update(sent=7), "'sent' should be text, it is 7"),
    ("refcoco", REFS, lambda r: r[0].update(split=""), "'split' should be text"),
    ("refcoco", REFS, lambda r: r[0].update(ann_id=float("inf")), "is not a whole number but inf"),
    ("grefcoco", GREFS, lambda r: r[3].update(ann_id=[-1, 1001]), "mixes -1"),
    ("grefcoco", GREFS, lambda r: r[3].update(no_target="False"), "'no_target' should be true or false"),
    ("grefcoco", GREFS, lambda r: r[3].update(no_target=False), "'no_target' is False, but 'ann_id' is"),
    ("fprefcoco", FALSE, lambda r: r[1]["sentences"][1].update(is_false_premise="True"), "is_false_premise' should be"),
    ("fprefcoco", FALSE, lambda r: r[1]["sentences"][1].update(is_false_premise=1), "is_false_premise' should be"),
    ("fprefcoco", FALSE, lambda r: r[1]["sentences"][1].update(gt_sent=""), "without 'gt_sent'"),
    ("R-refcocog", ABSENT, lambda r: r[1]["sentences"][1].update(exist="False"), "'exist' should be true or false"),
    ("R-refcocog", ABSENT, lambda r: r[1]["sentences"][1].update(exist=None), "'exist' should be true or false"),
    ("pascal_part", PARTS, lambda c: c.pop("categories"), "has no 'categories'"),
    (
        "pascal_part",
        PARTS,
        lambda c: c["categories"].append({"id": 1, "name": "cow:horn"}),
        "category 1 occurs twice",
    ),
    ("pascal_part", PARTS, lambda c: c["annotations"].append(twin(c["annotations"][0], category_id=2)), "occurs twice"),
    ("pascal_part", PARTS, lambda c: c["annotations"][0].update(category_id=None), "'category_id' is not a whole"),
    ("pascal_part", PARTS, lambda c: c["images"][0].update(height="24"), "'height' is not a whole number but '24'"),
    ("pascal_part", PARTS, lambda c: c["images"][0].update(file_name="C:\\a.jpg"), "is an absolute path"),
    ("MultiReasonSeg|val", MUSE, lambda e: e[0].update(ann_list=None), "'ann_list' should be a list"),
    ("MultiReasonSeg|val", MUSE, lambda e: e[0]["questions"].__setitem__(0, ""), "question 0 should be text"),
    ("MultiReasonSeg|val", MUSE, lambda e: e[0].update(answers=None), "'answers' should be a list"),
    ("MultiReasonSeg|val", MUSE, lambda e: e[0]["answers"][0][0].update(rephrased_name=5), "'rephrased_name' should"),
    ("MultiReasonSeg|val", MUSE, lambda e: e[0]["answers"][0][0].update(category_name=""), "'category_name' should be"),
    ("MultiReasonSeg|val", MUSE, lambda e: e[0].update(width=32.5), "'width' is not a whole number"),
    (
        "cot",
        COT,
        lambda e: e[0]["info"].update({"348": [["1", "2"], ["3", "4"], ["5", "6"]]}),
        "pairs of finite numbers",
    ),
    ("cot", COT, lambda e: e[0]["info"].update({"348": None}), "a mask is a list"),
    ("cot", COT, lambda e: e[0].update({"English Answer": ""}), "'English Answer' should be text"),
    ("instance_seg", INSTANCES, lambda e: e[0].update(ID=[]), "'ID' names no mask"),
    ("instance_seg", INSTANCES, lambda e: e[0].update(ID=None), "'ID' names mask 'None'"),
    ("instance_seg", INSTANCES, lambda e: e[0]["ID"].append(True), "'ID' names mask 'True'"),
    ("llava_instruct_150k", DIALOGUES, lambda d: d.append({}), "has no 'conversations'"),
    ("llava_instruct_150k", DIALOGUES, lambda d: d[0].update(image=None), "'image' should be text"),
    ("llava_instruct_150k", DIALOGUES, lambda d: d[0].update(conversations=None), "'conversations' should be a list"),
    ("llava_instruct_150k", DIALOGUES, lambda d: d[0]["conversations"][1].update(value=None), "'value' should be text"),
    ("ReasonSeg|val", REASON, lambda a: a.update(is_sentence="False"), "'is_sentence' should be true or false"),
    ("ReasonSeg|val", REASON, lambda a: a.update(is_sentence=0), "'is_sentence' should be true or false"),
    ("ReasonSeg|val", REASON, lambda a: a.update(text=[""]), "sentence 0 of 'text' should be text"),
    ("ReasonSeg|val", REASON, lambda a: a.update(shapes=[]), "marks no target"),
    ("ReasonSeg|val", REASON, lambda a: a.update(shapes=None), "'shapes' should be a list"),
    ("ReasonSeg|val", REASON, lambda a: a["shapes"][0].update(points=[["4", "4"]] * 3), "pairs of finite numbers"),
    ("ReasonSeg|val", REASON, lambda a: a["shapes"][0].update(shape_type="line"), "shape_type 'line' has no area"),
    ("ReasonSeg|val", REASON, lambda a: a["shapes"][0].update(shape_type="spline"), "unknown shape_type 'spline'"),
    ("ReasonSeg|val", REASON, lambda a: a["shapes"][0].pop("label"), "shape 0 has no 'label'"),
    ("ReasonSeg|val", REASON, lambda a: a.update(imageWidth=24, imageHeight=32), "its annotations are for 32 × 24"),
    ("ReasonSeg|val", REASON, lambda a: a.update(false_premise_QA=[["a?", "True", "No."]]), "is_sentence in 'false_"),
    ("ReasonSeg|train", EXPLANATIONS, lambda e: e.append(twin(e[0], outputs="No.")), "has another explanation"),
    ("mine", OWN, lambda e: e[0].update(masks=[{"polygons": None}, "masks/stripe.png", "a"]), "'polygons' should be"),
    ("mine", OWN, lambda e: e[0]["conversations"][0][0].update(answer=None), "'answer' should be text"),
    ("mine", OWN, lambda e: e[0].update(image="/data/one.jpg"), "is an absolute path, '/data/one.jpg'"),
    (
        "mapillary",
        STREETS,
        lambda c: c["labels"][0].update(evaluate="False"),
        "label 0: 'evaluate' should be true or false",
    ),
    ("mapillary", STREETS, lambda c: c.update(labels=[]), "'labels' is empty"),
    ("mapillary", STREETS, lambda c: c["labels"][0].update(readable=None), "label 0: 'readable' should be text"),
]


@pytest.mark.parametrize("name,file,change,message", FAULTS, ids=[f"{fault[0]}: {fault[3]}" for fault in FAULTS])
def test_a_fault_in_a_file_is_named(data_root, name, file, change, message):
    value = read(data_root / file)
    change(value)
    write(data_root / file, value)

    problems = problems_of(data_root, bad=name)

    assert any(message in problem and (data_root / file).stem in problem for problem in problems), problems


@pytest.mark.parametrize(
    "file,content,message",
    [
        (COCO, b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (REASON, '{"text": ["红色的盒子"], "is_sentence": false, "shapes": []}'.encode("gbk"), "It may be GBK"),
        (STREETS, '{"labels": []}'.encode("utf-16"), "is UTF-16 text"),
        (DIALOGUES, '[{"id": "caf\xe9"}]'.encode("cp1252"), "is not UTF-8 text"),
        (OWN, '{"image": "caf\xe9.jpg"}'.encode("cp1252"), "is not UTF-8 text"),
        (COT, b'[{"info": {"9": [], "9": [[1, 2], [3, 4], [5, 6]]}}]', "'9' twice"),
        ("ade20k/annotations/training/ADE_train_00000001.png", "JPEG", "is no PNG file"),
        ("custom/masks/stripe.png", "JPEG", "is no PNG file"),
        ("coco/train2017/000000000021.jpg", b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
    ],
)
def test_a_file_that_is_something_else_is_named(data_root, file, content, message):
    if content == "JPEG":
        with Image.open(data_root / file) as image:
            image.convert("L").save(data_root / file, "JPEG")
    else:
        (data_root / file).write_bytes(content)

    told = [problem.text for report in check_data(data_root) for problem in report.problems]

    assert any(message in problem and file in problem for problem in told), told


@pytest.mark.parametrize(
    "name,gone,message",
    [
        ("ade20k", "ade20k/annotations/training/ADE_train_00000001.png", "1 of 2 images have no label map: "),
        ("ade20k", "ade20k/images/training/ADE_train_00000001.jpg", "1 of 2 label maps have no image: "),
        ("cocostuff", "coco/train2017/000000000012.jpg", "1 of 1 images are missing: "),
        ("ReasonSeg|val", "reason_seg/ReasonSeg/val/a_short.jpg", "1 of 2 annotations have no image: "),
        ("ReasonSeg|val", "reason_seg/ReasonSeg/val/a_short.json", "1 of 2 images have no annotation: "),
        ("mine", "custom/masks/stripe.png", "1 of 1 masks are missing: "),
        ("mine", "custom/images/one.jpg", "1 of 1 images are missing: "),
    ],
)
def test_what_has_no_counterpart_is_counted_and_named(data_root, name, gone, message):
    (data_root / gone).unlink()

    (problem,) = problems_of(data_root, bad=name)

    assert message in problem
    assert (data_root / gone).stem in problem


def test_repetition_without_a_difference_and_numpy_ids_are_allowed(data_root):
    content, refs = read(data_root / COCO), read(data_root / REFS)
    content["images"].append(content["images"][0])
    content["annotations"] += [{**annotation, "id": float(annotation["id"])} for annotation in content["annotations"]]
    refs.append(refs[0])
    refs[0]["ann_id"] = np.int64(refs[0]["ann_id"])
    expected = [item.expressions for item in evaluation_set("refcoco|unc|train", data_root)]

    write(data_root / COCO, content)
    write(data_root / REFS, refs)

    assert [item.expressions for item in evaluation_set("refcoco|unc|train", data_root)] == expected


# --- LabelMe ----------------------------------------------------------------------------------------------------------


def png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    "shape,area",
    [
        ({"points": SQUARE}, 81),
        ({"points": SQUARE, "shape_type": None}, 81),
        ({"points": [[12, 4], [4, 12]], "shape_type": "rectangle"}, 81),
        ({"points": SQUARE, "shape_type": "rectangle"}, 81),
        ({"points": [[4, 4], [12, 12]], "shape_type": "mask", "mask": png(np.eye(9, dtype=bool))}, 9),
        ({"points": [[-4, 20], [4, 28]], "shape_type": "mask", "mask": png(np.ones((9, 9), bool))}, 20),
    ],
)
def test_every_shape_of_labelme_is_drawn(data_root, shape, area):
    annotation = read(data_root / REASON)
    write(data_root / REASON, {**annotation, "shapes": [{"label": "target", **shape}], "imageData": "…"})

    item = evaluation_set("ReasonSeg|val", data_root)[0]

    assert item.masks.sum() == area


def test_a_circle_is_round(data_root):
    annotation = read(data_root / REASON)
    circle = {"label": "target", "shape_type": "circle", "points": [[16, 12], [16, 20]]}
    write(data_root / REASON, {**annotation, "shapes": [circle]})

    (mask,) = evaluation_set("ReasonSeg|val", data_root)[0].masks

    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 20, 8, 24)
    assert np.hypot(rows - 12, columns - 16).max() < 8.8
    assert abs(mask.sum() - np.pi * 8.5**2) < 12


def test_images_of_any_suffix_are_listed_and_hidden_files_are_not(data_root):
    folder = data_root / "reason_seg/ReasonSeg/val"
    for stem, suffix in (("a_short", ".JPG"), ("b_long", ".jpeg")):
        (folder / f"{stem}.jpg").rename(folder / f"{stem}{suffix}")
    for name in ("._a_short.JPG", "._a_short.json", ".hidden.jpg"):
        (folder / name).write_bytes(b"\0\5\x16\7")

    items = list(evaluation_set("ReasonSeg|val", data_root))

    assert [item.image_path.name for item in items] == ["a_short.JPG", "b_long.jpeg"]


def test_text_of_python_2_in_another_encoding_is_named(data_root):
    content = pickle.dumps(read(data_root / REFS), protocol=0).replace(b"Vright one\n", b"S'caf\\xe9'\n")
    assert b"\\xe9" in content
    (data_root / REFS).write_bytes(content)

    problems = problems_of(data_root, bad="refcoco")

    assert all("'sent' should be UTF-8 text, it is the bytes b'caf\\xe9'" in problem for problem in problems)


@pytest.mark.parametrize(
    "file",
    [REFS, COCO, GREFS, PARTS, MUSE, COT, DIALOGUES, REASON, EXPLANATIONS, STREETS, "custom/masks/stripe.png"],
)
def test_a_fifo_in_place_of_a_file_is_called_one(data_root, file):
    (data_root / file).unlink()
    os.mkfifo(data_root / file)

    told = [problem.text for report in check_data(data_root) for problem in report.problems]

    assert any(f"{data_root / file} is a FIFO" in problem for problem in told), told


def test_structural_faults_of_reason_seg_stop_before_anything_is_drawn(data_root):
    annotation = next((data_root / "reason_seg/ReasonSeg/train").glob("*.json"))
    write(annotation, twin(read(annotation), is_sentence="False"))

    with pytest.raises(UserError, match=f"{annotation.name}: 'is_sentence' should be true or false"):
        build_mixture(data_root, dataset="reason_seg", sample_rates="1")


def test_images_that_no_part_annotation_is_about_are_noted(data_root):
    content = read(data_root / PARTS)
    content["images"].append(twin(content["images"][0], id=99, file_name="unannotated.jpg"))
    write(data_root / PARTS, content)
    folder = data_root / "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages"
    Image.new("RGB", (8, 8)).save(folder / "stray.jpg")

    (report,) = [report for report in check_data(data_root) if report.name == "pascal_part"]

    assert report.state == "present"
    assert any("images of the file have no annotation" in note and "unannotated.jpg" in note for note in report.notes)
    assert any("images are not in the file" in note and "stray.jpg" in note for note in report.notes)
