"""Items of a mixture depend on seed, epoch and number; names and rates are checked."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from dataloaders.mixture import Mixture, build_mixture
from dataloaders.settings import ALL_FAMILIES
from groundscore.annotations.bad_entries import describe_bad_samples
from groundscore.errors import UserError


class Numbers:
    """Stands in for a family: its samples are random numbers."""

    def __init__(self, offset: int = 0):
        self.offset = offset

    def draw(self, rng):
        return self.offset + rng.random()


def mixture_of(*rates, seed=1, length=8):
    return Mixture([Numbers(10 * index) for index in range(len(rates))], rates, seed, samples_per_epoch=length)


def test_an_item_depends_on_seed_epoch_and_number_alone():
    mixture = mixture_of(1, 1)
    forwards = [mixture[index] for index in range(8)]

    assert [mixture[index] for index in reversed(range(8))] == forwards[::-1]
    assert [mixture_of(1, 1)[0, index] for index in range(8)] == forwards
    assert [mixture[1, index] for index in range(8)] != forwards
    assert [mixture_of(1, 1, seed=2)[index] for index in range(8)] != forwards
    assert len(set(forwards)) == 8
    assert list(mixture) == forwards


def test_workers_see_the_epoch_and_give_the_same_items():
    mixture = mixture_of(1)
    loader = DataLoader(mixture, batch_size=None, num_workers=2, persistent_workers=True)

    epochs = []
    for epoch in range(2):
        mixture.set_epoch(epoch)
        epochs.append([float(item) for item in loader])

    assert epochs[0] == [mixture[0, index] for index in range(8)]
    assert epochs[1] == [mixture[1, index] for index in range(8)]


def test_rates_say_how_often_a_family_is_drawn_from():
    mixture = mixture_of(3, 0, 1, length=2000)

    families = [int(item) // 10 for item in mixture]

    assert families.count(1) == 0
    assert 0.7 < families.count(0) / len(families) < 0.8


def test_a_family_with_rate_0_is_not_touched(tmp_path, data_root):
    mixture = build_mixture(
        data_root,
        dataset="correct_refer_seg||refer_seg||neg_refer_seg||vqa",
        sample_rates="0,12,0,0",
        refer_seg_data="refcoco",
        vqa_data="no_such_file",
        samples_per_epoch=3,
    )

    assert [sample.family for sample in mixture] == ["refer_seg"] * 3


def test_all_families_together(data_root):
    mixture = build_mixture(
        data_root,
        dataset=f"{ALL_FAMILIES}||custom",
        sample_rates="12,9,3,3,3,3,3,3,3",
        custom_data="mine",
        num_classes_per_question=3,
        samples_per_epoch=90,
    )

    samples = list(mixture)

    assert {sample.family for sample in samples} == {*ALL_FAMILIES.split("||"), "custom"}
    assert all(np.array_equal(one.masks, other.masks) for one, other in zip(samples, mixture))


def test_questions_follow_one_another_in_a_share_of_the_samples(data_root):
    settings = {"dataset": "refer_seg", "sample_rates": "1", "refer_seg_data": "refcoco", "num_classes_per_sample": 5}
    plain = build_mixture(data_root, samples_per_epoch=60, **settings)
    mixed = build_mixture(data_root, samples_per_epoch=60, multi_turn_share=0.5, **settings)

    joined = 0
    for index in range(60):
        one, other = plain[index], mixed[index]
        turns = [turn for conversation in one.conversations for turn in conversation]
        assert [turn for conversation in other.conversations for turn in conversation] == turns
        assert np.array_equal(one.masks, other.masks)
        assert all(len(conversation) == 1 for conversation in one.conversations)
        assert max(len(conversation) for conversation in other.conversations) <= 3
        joined += len(turns) > 1 and len(other.conversations) < len(one.conversations)
    several = sum(len(plain[index].conversations) > 1 for index in range(60))
    assert several >= 20 and 0.3 * several < joined < 0.7 * several
    always = build_mixture(data_root, samples_per_epoch=60, multi_turn_share=1, **settings)
    assert sum(len(always[index].conversations) < len(plain[index].conversations) for index in range(60)) == several


def test_the_mixture_can_leave_out_what_is_tested_on(data_root):
    settings = {"dataset": "refer_seg||multi_reason_seg", "sample_rates": "1,1", "refer_seg_data": "refcoco"}
    path = data_root / "refer_seg/refcoco/instances.json"
    instances = json.loads(path.read_text())
    for image in instances["images"]:
        if image["id"] == 12:  # an image of testA
            image["file_name"] = "COCO_train2014_000000000040.jpg"
    path.write_text(json.dumps(instances))

    images = [
        {
            sample.image_path.name
            for sample in build_mixture(data_root, **settings, exclude_val=held, samples_per_epoch=40)
        }
        for held in (False, True)
    ]

    assert images[0] - images[1] == {"COCO_train2014_000000000040.jpg"}


def test_a_set_that_is_left_out_whole_is_an_error(data_root):
    (data_root / "coco/train2017/000000000012.jpg").rename(data_root / "coco/train2017/000000000011.jpg")
    (data_root / "cocostuff/train2017/000000000012.png").rename(data_root / "cocostuff/train2017/000000000011.png")
    settings = {"sem_seg_data": "cocostuff", "refer_seg_data": "refcoco", "exclude_val": True}

    with pytest.raises(UserError, match="cocostuff/train2017 without the images to leave out: no files found"):
        build_mixture(data_root, dataset="sem_seg||refer_seg", sample_rates="1,1", **settings)


def test_bad_draws_are_skipped_and_recorded_until_they_are_too_many(tmp_path, data_root):
    (data_root / "ade20k/images/training/ADE_train_00000001.jpg").write_bytes(b"not an image")
    settings = {"dataset": "sem_seg", "sample_rates": "1", "sem_seg_data": "ade20k", "samples_per_epoch": 40}
    record = tmp_path / "runs/bad_samples.jsonl"

    for strict in ({}, {"skip_bad_samples": 0.0}):
        with pytest.raises(UserError, match="ADE_train_00000001.jpg is not an image"):
            list(build_mixture(data_root, **settings, **strict))
    lenient = build_mixture(data_root, **settings, skip_bad_samples=0.9, bad_samples_file=record)
    samples = list(lenient)
    (line,) = record.read_text().splitlines()

    assert {sample.image_path.name for sample in samples} == {"ADE_train_00000002.jpg"}
    entry = json.loads(line)
    assert (entry["kind"], entry["source"]) == ("left_out", "sem_seg")
    assert Path(entry["file"]).name == "ADE_train_00000001.jpg"
    assert "is not an image" in entry["reason"]
    assert lenient.bad_samples.skipped > 5
    with pytest.raises(UserError, match="more than --skip_bad_samples 0.05 allows"):
        list(build_mixture(data_root, **settings, skip_bad_samples=0.05, bad_samples_file=record))


def test_bad_entries_of_an_annotation_file_are_skipped_and_recorded(tmp_path, data_root):
    path = data_root / "multi_reason_seg/MultiReasonSeg/MUSE_train.json"
    entries = json.loads(path.read_text())
    entries[0]["text_answers"][0] = "It is {seg} and {seg}."
    path.write_text(json.dumps(entries))
    settings = {"dataset": "multi_reason_seg", "sample_rates": "1", "samples_per_epoch": 5}
    record = tmp_path / "bad.jsonl"

    with pytest.raises(UserError, match="entry 0, question 0: its text answer has 2"):
        build_mixture(data_root, **settings)
    with pytest.raises(UserError, match="1 of 3 entries are bad"):
        build_mixture(data_root, **settings, skip_bad_samples=0.1, bad_samples_file=record)
    assert len(list(build_mixture(data_root, **settings, skip_bad_samples=0.5, bad_samples_file=record))) == 5
    assert "entry 0, question 0" in record.read_text()


def read_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_custom(root, masks: list) -> dict:
    """Own data with an image for each of `masks`; returns the settings to draw from it."""
    folder = root / "custom"
    folder.mkdir(exist_ok=True)
    lines = []
    for number, mask in enumerate(masks):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(folder / f"{number}.png")
        turn = {"question": "Where?", "answer": "[SEG]"}
        lines.append(json.dumps({"image": f"{number}.png", "conversations": [[turn]], "masks": [{"polygons": mask}]}))
    (folder / "own.jsonl").write_text("\n".join(lines))
    return {"dataset": "custom", "custom_data": "own", "sample_rates": "1", "samples_per_epoch": 40}


GOOD, TWO_POINTS, OUTSIDE = [[5, 5, 15, 5, 15, 15]], [[1, 1, 5, 5]], [[5, 5, 45, 5, 15, 15], [1, 1, 5, 5]]


def test_worker_processes_list_every_bad_entry_and_repair_once(tmp_path, data_root):
    settings = write_custom(data_root, [GOOD] * 6 + [TWO_POINTS, OUTSIDE])
    record = tmp_path / "run/bad_samples.jsonl"

    for _ in range(2):  # a run that goes on lists nothing again
        mixture = build_mixture(data_root, **settings, bad_samples_file=record)
        samples = list(DataLoader(mixture, batch_size=None, num_workers=2))
        assert mixture.bad_samples.skipped > 2

    assert all(sample.masks[0].any() for sample in samples)
    listed = sorted((entry["kind"], entry["id"], entry["reason"].split(":")[0]) for entry in read_lines(record))
    assert [one[:2] for one in listed] == [
        ("left_out", "line 7, mask 0"),
        ("repaired", "line 8, mask 0"),
        ("repaired", "line 8, mask 0"),
    ]
    assert [one[2] for one in listed[1:]] == ["1 of 2 parts dropped", "cropped to the image of 30 × 20"]
    assert describe_bad_samples(record) == f"1 left out, 2 repaired, all listed in {record}"


def test_what_is_drawn_instead_of_a_bad_entry_depends_on_seed_and_place_alone(data_root):
    settings = write_custom(data_root, [GOOD] * 7 + [TWO_POINTS])

    whole = [sample.image_path for sample in build_mixture(data_root, **settings)]
    mixture = build_mixture(data_root, **settings)

    assert mixture[0, 30].image_path == whole[30]
    assert [mixture[item].image_path for item in reversed(range(40))] == whole[::-1]


@pytest.mark.parametrize("bad", [4, 8], ids=["half", "all"])
def test_a_wrong_download_stops_by_default(data_root, bad):
    settings = write_custom(data_root, [GOOD] * (8 - bad) + [TWO_POINTS] * bad)

    with pytest.raises(UserError, match="draws were bad.* encloses no pixel"):
        list(build_mixture(data_root, **settings))


def test_zero_stops_at_the_first_bad_entry(data_root):
    settings = write_custom(data_root, [GOOD] * 7 + [TWO_POINTS])

    with pytest.raises(UserError, match="own.jsonl: line 8, mask 0: encloses no pixel"):
        list(build_mixture(data_root, **settings, skip_bad_samples=0.0))


def test_files_that_are_not_built_as_they_should_be_are_never_skipped(data_root):
    path = data_root / "llava_dataset/llava_instruct_150k.json"
    (good,) = json.loads(path.read_text())
    path.write_text(json.dumps([good, {**good, "id": "x", "image": "../../secret.jpg"}]))

    with pytest.raises(UserError, match="dialogue 'x': the path .* leaves its folder"):
        build_mixture(data_root, dataset="vqa", sample_rates="1", samples_per_epoch=5, skip_bad_samples=0.9)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"dataset": "sem_seg||semseg"}, "unknown family 'semseg'; known are .*reason_seg"),
        ({"dataset": "sem_seg||vqa", "sample_rates": "1"}, "has 1 numbers, but --dataset sem_seg..vqa has 2 families"),
        ({"dataset": "sem_seg", "sample_rates": "x"}, "joined by commas"),
        ({"dataset": "sem_seg", "sample_rates": "-1"}, "must not be negative"),
        ({"dataset": "sem_seg", "sample_rates": "0"}, "one must be above 0"),
        ({"dataset": "sem_seg", "sample_rates": "1", "sem_seg_data": "ade"}, "unknown sem_seg data set 'ade'.*ade20k"),
        ({"dataset": "refer_seg", "sample_rates": "1", "refer_seg_data": "ref"}, "known are .*refcoco"),
        ({"dataset": "reason_seg", "sample_rates": "1", "reason_seg_data": "ReasonSeg"}, "ReasonSeg|train_val"),
        ({"dataset": "vqa", "sample_rates": "1", "vqa_data": "a||b"}, "one file"),
        ({"dataset": "vqa", "sample_rates": "1"}, "missing"),
        ({"dataset": "", "sample_rates": "1"}, "names no family"),
        ({"dataset": "vqa", "sample_rates": "1", "num_classes_per_sample": 0}, "num_classes_per_sample"),
        ({"dataset": "multi_reason_seg", "sample_rates": "1"}, "MUSE_train.json is missing"),
        ({"dataset": "custom", "sample_rates": "1"}, "--custom_data"),
        ({"dataset": "custom", "sample_rates": "1", "custom_data": "../x"}, "names files of"),
        ({"dataset": "vqa", "sample_rates": "1", "vqa_data": "../x"}, "one file"),
        ({"dataset": "vqa", "sample_rates": "1", "skip_bad_samples": 1.5}, "--skip_bad_samples 1.5: a share"),
        ({"dataset": "reason_seg_plus", "sample_rates": "1", "reason_seg_plus_data": "cots"}, "known are .*cot"),
    ],
)
def test_bad_settings_say_what_is_wrong(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        build_mixture(tmp_path, **arguments)
