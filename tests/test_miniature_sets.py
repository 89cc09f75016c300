"""The whole miniature: every set and split in its official layout, odd files among them, right to the pixel."""

import json

import pytest
from PIL import Image

from dataloaders import inspect
from dataloaders.data_checks import check_data
from dataloaders.mixture import build_mixture
from dataloaders.settings import ALL_FAMILIES
from groundscore.annotations.segmentations import decode_segmentation
from groundscore.scoring.masks import encode_mask
from groundscore.splits import evaluation_set
from miniature import data
from miniature.files import ORIENTATION, overlapping_polygons, plain_lengths
from miniature.scenes import part_masks, random_scene

SPLITS = [
    *("ReasonSeg|val", "ReasonSeg|test", "ReasonSeg|test_overall", "ReasonSeg|test_shortquery"),
    *("ReasonSeg|test_longquery", "fpReasonSeg|val", "fpReasonSeg|test"),
    *(f"refclef|unc|{split}" for split in ("val", "testA", "testB", "testC")),
    *(f"{name}|unc|{split}" for name in ("refcoco", "refcoco+", "grefcoco") for split in ("val", "testA", "testB")),
    *("refcocog|umd|val", "refcocog|umd|test", "refzom|final|val", "refzom|final|test"),
    *("multirefcoco|unc|val", "multirefcoco+|unc|testA", "multirefcocog|umd|test"),
    *("refcoco|val", "refcoco+|testA", "refcocog|test"),
    *("R-refcoco|val", "R-refcoco|testA", "R-refcoco+|testB", "R-refcocog|test"),
    *("fprefcoco|val", "fprefcoco+|val", "fprefcocog|test"),
    *("MultiReasonSeg|val", "MultiReasonSeg|test_less", "MultiReasonSeg|test_many", "MultiReasonSeg|test"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "miniature"
    data.write(root, seed=3, scale=0.05)
    return root


def saturation(pixels):
    return (pixels.max(-1).astype(int) - pixels.min(-1)).mean()


def assert_coloured(image, mask):
    """The mask lies on a coloured object, not on the muted ground; grey pictures tell nothing."""
    if saturation(image) > 0:
        assert saturation(image[mask]) > saturation(image)


def test_inspection_finds_every_set_complete(world, capsys):
    assert inspect.main(["--dataset_dir", str(world), "--decode"]) == 0
    assert " 0 bad, 0 missing" in capsys.readouterr().out
    splits = {report.name: set(report.counts) for report in check_data(world)}
    assert splits["refclef"] == {"train", "val", "testA", "testB", "testC"}
    assert splits["refcocog"] == splits["fprefcoco"] == {"train", "val", "test"}


@pytest.mark.parametrize("split", SPLITS)
def test_masks_of_every_evaluation_split_lie_on_objects(world, split):
    items = evaluation_set(split, world)
    assert len(items)
    for item in items:
        assert item.masks.shape == (len(item.expressions), *item.image.shape[:2])
        for mask, exists in zip(item.masks, item.exists):
            assert bool(mask.any()) == exists
            if exists:
                assert_coloured(item.image, mask != 0)


def test_false_premises_and_targets_that_are_not_there_occur(world):
    for split in ("grefcoco|unc|val", "refzom|final|test", "R-refcoco|val", "fprefcoco+|val", "fpReasonSeg|test"):
        exists = [there for item in evaluation_set(split, world) for there in item.exists]
        assert True in exists and False in exists, split


def test_every_training_set_can_be_drawn(world):
    mixture = build_mixture(
        world, dataset=ALL_FAMILIES, sample_rates="1,1,1,1,1,1,1,1", negative_sampling_weight=0.2, samples_per_epoch=300
    )
    samples = [mixture[index] for index in range(300)]
    assert {sample.dataset for sample in samples} == {
        *("ade20k", "cocostuff", "pascal_part", "paco_lvis", "mapillary"),
        *("refclef", "refcoco", "refcoco+", "refcocog", "refzom", "grefcoco"),
        *("R-refcoco", "R-refcoco+", "R-refcocog", "fprefcoco", "fprefcoco+", "fprefcocog"),
        *("llava_instruct_150k", "ReasonSeg", "instance_seg", "cot", "conversations", "caption", "MultiReasonSeg"),
    }
    for sample in samples:
        if sample.family not in ("sem_seg", "vqa"):
            for mask in sample.masks[sample.masks.any((1, 2))]:
                assert_coloured(sample.image, mask != 0)
    answers = " ".join(turn.answer for sample in samples for turns in sample.conversations for turn in turns)
    assert "[SEG]" in answers and "[REJ]" in answers


def test_files_are_as_odd_as_real_ones(world):
    pictures = [Image.open(path) for path in (world / "coco/train2017").glob("*.jpg")]
    assert {picture.mode for picture in pictures} == {"L", "RGB"}
    assert any(picture.getexif().get(ORIENTATION, 1) != 1 for picture in pictures)
    annotations = json.loads((world / "refer_seg/refcoco+/instances.json").read_text())["annotations"]
    kinds = {
        type(one["counts"]) if isinstance(one, dict) else len(one) > 1
        for one in (annotation["segmentation"] for annotation in annotations)
    }
    assert kinds == {str, list, True, False}


def test_old_annotations_are_in_windows_1252(tmp_path):
    data.write(tmp_path / "out", seed=0, scale=0.07, sets=("reason_seg",))
    raw = (tmp_path / "out/reason_seg/ReasonSeg/val/val_00005.json").read_bytes()
    with pytest.raises(UnicodeDecodeError):
        raw.decode()
    assert len(evaluation_set("fpReasonSeg|val", tmp_path / "out")[4].expressions) == 2


def test_the_first_sets_are_the_same_without_the_others(world, tmp_path):
    first = ("ade20k", "refcoco", "grefcoco", "reason_seg", "llava")
    data.write(tmp_path / "few", seed=3, scale=0.05, sets=first)
    for path in (tmp_path / "few").rglob("*"):
        if path.is_file() and path.name != data.MARKER:
            assert path.read_bytes() == (world / path.relative_to(tmp_path / "few")).read_bytes(), path


@pytest.mark.parametrize("seed", range(5))
def test_all_forms_of_a_segmentation_mean_the_same(seed):
    scene = random_scene(seed)
    mask = scene.mask(0)
    size = mask.shape
    assert (decode_segmentation(plain_lengths(mask), *size, "plain") == mask).all()
    assert (decode_segmentation(encode_mask(mask), *size, "compressed") == mask).all()
    drawn = decode_segmentation(overlapping_polygons(mask), *size, "polygons") != 0
    assert (drawn & mask).sum() > 0.9 * (drawn | mask).sum()


def test_parts_lie_on_their_object():
    for seed in range(20):
        scene = random_scene(seed)
        for index in range(len(scene.objects)):
            for mask in part_masks(scene, index).values():
                assert mask.any() and not (mask & ~scene.mask(index)).any()
