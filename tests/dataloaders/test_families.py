"""Each family draws samples that say what their masks show."""

import contextlib
import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from dataloaders.batching.collate import Collator
from dataloaders.families import FAMILIES
from dataloaders.families.sem_seg import Ade20k, draw_scene
from dataloaders.settings import data_settings
from groundscore.annotations.bad_entries import BadEntry
from groundscore.annotations.refer_index import ReferIndex
from groundscore.errors import UserError
from groundscore.targets import REJ, SEG

DRAWS = 60


def draws(family, count: int = DRAWS):
    return [family.draw(np.random.default_rng([7, number])) for number in range(count)]


def targets_of(sample) -> list[str]:
    answers = " ".join(turn.answer for turns in sample.conversations for turn in turns)
    return re.findall(r"\[SEG\]|\[REJ\]", answers)


def family_of(name: str, root, **settings):
    return FAMILIES[name](root, data_settings(**settings))


def families(root, **more) -> dict:
    given = {
        "sem_seg": {"num_classes_per_question": 2, "negative_sampling_weight": 0.5, "use_expand_question_list": True},
        "refer_seg": {"num_classes_per_question": 2},
        "reason_seg": {"reason_seg_data": "ReasonSeg|train_val"},
        "multi_reason_seg": {"use_expand_question_list": True},
        "custom": {"custom_data": "mine"},
    }
    return {name: family_of(name, root, **given.get(name, {}), **more) for name in NAMES}


NAMES = list(FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_every_family_make_batches(data_root, make_processor, name):
    collator = Collator(make_processor())

    for sample in draws(families(data_root)[name]):
        batch = collator([sample])
        assert sample.family == name
        assert sample.masks.dtype == np.uint8
        assert len(batch.seg_positions) == len(batch.masks[0]) == targets_of(sample).count(SEG)
        assert len(sample.expressions) == len(sample.masks) or name == "custom"
        assert not any("[" in turn.question for turns in sample.conversations for turn in turns)
        assert not any("{" in turn.question + turn.answer for turns in sample.conversations for turn in turns)


@pytest.mark.parametrize("name", NAMES)
def test_a_draw_depends_on_its_generator_only(data_root, name):
    first = draws(families(data_root)[name], 10)
    family = families(data_root)[name]
    second = [family.draw(np.random.default_rng([7, number])) for number in reversed(range(10))][::-1]

    for one, other in zip(first, second):
        assert one.conversations == other.conversations
        assert np.array_equal(one.masks, other.masks)
        assert one.image_path == other.image_path


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_is_decoded_smaller_changes_nothing_else(data_root, make_processor, name):
    family, smaller = (families(data_root, fast_decode=least)[name] for least in (0, 8))
    shapes = set()
    for one, other in zip(draws(family, 10), draws(smaller, 10), strict=True):
        assert one.conversations == other.conversations and np.array_equal(one.masks, other.masks)
        assert one.size == other.size == one.image.shape[:2] and one.masks.shape[1:] == other.masks.shape[1:]
        shapes.add((one.image.shape, other.image.shape))
        batch = Collator(make_processor())([other])
        assert batch.original_sizes == [one.size] and batch.masks[0].shape[1:] == one.masks.shape[1:]
    assert any(full[0] >= 2 * half[0] for full, half in shapes)


def test_ade20k_classes_count_from_the_first_grey_value(data_root):
    scene = draw_scene(Ade20k(data_root), np.random.default_rng(0), 9)

    assert scene.names == ["wall", "sky", "flag"]
    assert scene.masks.sum((1, 2)).tolist() == [8 * 32, 2 * 32, 2 * 32]
    assert len(scene.absent) == 147


def test_masks_stand_in_the_order_of_the_answers(data_root):
    areas = {"wall": 8 * 32, "sky": 2 * 32, "flag": 2 * 32}
    family = family_of(
        "sem_seg", data_root, sem_seg_data="ade20k", num_classes_per_sample=2, num_classes_per_question=3
    )

    seen = set()
    for sample in draws(family):
        asked = " ".join(turn.question.lower() for turns in sample.conversations for turn in turns)
        assert [areas[name] for name in sample.expressions] == sample.masks.sum((1, 2)).tolist()
        assert all(name in asked for name in sample.expressions)
        seen.add(len(sample.conversations))
    assert seen == {2}


def test_absent_classes_are_denied_or_corrected_without_targets(data_root):
    samples = draws(
        family_of(
            "sem_seg", data_root, sem_seg_data="ade20k", negative_sampling_weight=1.0, use_expand_question_list=True
        )
    )

    assert all(sample.masks.shape == (0, 24, 32) for sample in samples)
    assert all(targets_of(sample) == [] for sample in samples)
    corrected = sum(
        any(name in sample.conversations[0][0].answer for name in ("wall", "sky", "flag")) for sample in samples
    )
    assert DRAWS // 5 < corrected < DRAWS


def test_a_label_map_with_an_unknown_class_is_named(data_root):
    for path in (data_root / "ade20k/annotations/training").iterdir():
        Image.fromarray(np.full((24, 32), 200, np.uint8)).save(path)

    with pytest.raises(UserError, match="has class 199"):
        draws(family_of("sem_seg", data_root, sem_seg_data="ade20k"), 1)


def test_an_unlabelled_data_set_is_an_error_and_not_an_endless_loop(data_root):
    for path in (data_root / "ade20k/annotations/training").iterdir():
        Image.fromarray(np.zeros((24, 32), np.uint8)).save(path)

    with pytest.raises(UserError, match="nothing to segment"):
        draws(family_of("sem_seg", data_root, sem_seg_data="ade20k"), 1)


def test_absent_expressions_are_rejected_and_several_targets_united(data_root):
    samples = draws(
        family_of(
            "refer_seg", data_root, refer_seg_data="grefcoco", num_classes_per_sample=2, num_classes_per_question=2
        )
    )

    single = {"the left one", "right one"}
    for sample in samples:
        kinds = dict(zip(sample.expressions, targets_of(sample)))
        areas = dict(zip(sample.expressions, sample.masks.sum((1, 2)).tolist()))
        assert kinds == {"the left one": SEG, "right one": SEG, "both": SEG, "the zebra": REJ}
        assert areas["both"] == sum(areas[name] for name in single)
        assert areas["the zebra"] == 0
        assert sample.masks.max() == 1


def test_grefs_are_read_from_json_too(data_root):
    folder = data_root / "refer_seg/grefcoco"
    refs = pickle.loads((folder / "grefs(unc).p").read_bytes())
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    (folder / "grefs(unc).p").unlink()

    index = ReferIndex(data_root, "grefcoco", "train")

    assert [e.annotation_ids for e in index[0].expressions] == [(1001,), (1002,), (1001, 1002), ()]


@pytest.mark.parametrize("split,count", [("train", 1), ("val", 1), ("testA", 1), ("test", 1)])
def test_splits_choose_their_images(data_root, split, count):
    assert len(ReferIndex(data_root, "refcoco", split)) == count


def test_an_unknown_split_lists_those_there_are(data_root):
    with pytest.raises(UserError, match="testA, train, val"):
        ReferIndex(data_root, "refcoco", "testB")


def change_instances(root, name, change):
    path = root / "refer_seg" / name / "instances.json"
    instances = json.loads(path.read_text())
    change(instances)
    path.write_text(json.dumps(instances))


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda i: i["images"].clear(), r"refs\(unc\)\.p: ref 0 names image 10, which .*instances\.json does not have"),
        (lambda i: i["annotations"].clear(), r"ref 0 names annotation 1001, which .*instances\.json does not have"),
        (lambda i: i.pop("images"), r"instances\.json has no 'images'"),
        (lambda i: [a.pop("segmentation") for a in i["annotations"]], r"annotation 1001 has no 'segmentation'"),
        (lambda i: [a.update(image_id=99) for a in i["annotations"]], "belongs to image 99"),
        (lambda i: [image.pop("height") for image in i["images"]], "image 10 has no 'height'"),
    ],
)
def test_instances_that_do_not_fit_the_refs_are_named(data_root, change, message):
    change_instances(data_root, "refcoco", change)

    with pytest.raises(UserError, match=message):
        family_of("refer_seg", data_root, refer_seg_data="refcoco")


@pytest.mark.parametrize(
    "polygon", [[5, 5, 6, 6], [5, 5, 6, 5, 7, 5], [500, 5, 600, 5, 700, 9]], ids=["two points", "a line", "outside"]
)
def test_an_annotation_without_pixels_is_named(data_root, polygon):
    def spoil(instances):
        for annotation in instances["annotations"]:
            annotation["segmentation"] = [polygon]

    change_instances(data_root, "refcoco", spoil)

    with pytest.raises(BadEntry, match="annotation 100[12] of image 10: encloses no pixel") as caught:
        draws(family_of("refer_seg", data_root, refer_seg_data="refcoco"), 1)
    assert "refcoco/instances.json" in caught.value.file


def test_a_ref_without_a_key_is_named(data_root):
    path = data_root / "refer_seg/refcoco/refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    del refs[3]["ann_id"]
    path.write_bytes(pickle.dumps(refs))

    for split in ("val", "train"):
        with pytest.raises(UserError, match=r"ref 11 has no 'ann_id'"):
            ReferIndex(data_root, "refcoco", split)


def test_dialogues_are_taken_over_turn_by_turn(data_root):
    sample = family_of("vqa", data_root, vqa_data="llava_instruct_150k").draw(np.random.default_rng(0))

    ((first, second),) = sample.conversations
    assert (first.question, first.answer, second.question, second.answer) == ("What is it?", "A cat.", "Sure?", "Yes.")
    assert sample.masks.shape == (0, 24, 32)


def test_dialogues_about_one_image_are_drawn_together(data_root):
    def about(image: str, question: str) -> dict:
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "Yes."}]
        return {"id": "1", "image": image, "conversations": turns}

    path, name = data_root / "llava_dataset/llava_instruct_150k.json", "000000000001.jpg"
    items = [about(name, f"Is it {number}?") for number in range(5)]
    path.write_text(json.dumps([items[0], about(f"other/{name}", "Who?"), *items[1:], about("z.jpg", "No number?")]))

    def drawn(most: int) -> list[set[str]]:
        family = family_of("vqa", data_root, vqa_data="llava_instruct_150k", vqa_conversations=most)
        rng, found = np.random.default_rng(0), []
        while len(found) < 20:
            with contextlib.suppress(UserError):  # the other images do not exist
                conversations = family.draw(rng).conversations
                found.append({turn.question for (turn,) in conversations})
                assert len(found[-1]) == len(conversations)
        return found

    assert {len(questions) for questions in drawn(1)} == {1}
    assert {len(questions) for questions in drawn(3)} == {3}
    assert drawn(9)[0] == {f"Is it {number}?" for number in range(5)}
    assert set().union(*drawn(3)) == set().union(*drawn(1)) == drawn(9)[0]


@pytest.mark.parametrize(
    "speakers,message",
    [(["human", "human"], "take turns"), (["human"], "without an answer"), (["gpt"], "without an answer")],
)
def test_dialogues_out_of_turn_are_named(data_root, speakers, message):
    path = data_root / "llava_dataset/llava_instruct_150k.json"
    turns = [{"from": speaker, "value": "Hm."} for speaker in speakers]
    path.write_text(json.dumps([{"id": "x17", "image": "a.jpg", "conversations": turns}]))

    with pytest.raises(UserError, match=message) as caught:
        family_of("vqa", data_root, vqa_data="llava_instruct_150k")
    assert "x17" in str(caught.value)


def test_the_first_turn_of_the_machine_is_left_out(data_root):
    path = data_root / "llava_dataset/llava_instruct_150k.json"
    turns = [{"from": speaker, "value": speaker} for speaker in ("gpt", "human", "gpt", "human")]
    path.write_text(json.dumps([{"id": "1", "image": "000000000001.jpg", "conversations": turns}]))

    sample = family_of("vqa", data_root, vqa_data="llava_instruct_150k").draw(np.random.default_rng(0))

    assert [turn.question for turn in sample.conversations[0]] == ["human"]


def test_sentences_about_an_image_share_its_target(data_root):
    samples = draws(family_of("reason_seg", data_root, reason_seg_data="ReasonSeg|train", explanatory=-1))

    for sample in samples:
        expected = 2 if sample.image_path.stem == "b_long" else 1
        assert len(sample.conversations) == len(sample.masks) == expected
        assert (sample.masks == sample.masks[:1]).all()
        assert (sample.ignore is not None) == (expected == 1)
    assert {sample.image_path.stem for sample in samples} == {"a_short", "b_long"}


def test_explanations_replace_or_follow_the_mask(data_root):
    samples = [
        s
        for s in draws(family_of("reason_seg", data_root, reason_seg_data="ReasonSeg|train", explanatory=0.3), 200)
        if "b_" in s.image_path.stem
    ]

    kinds = []
    for sample in samples:
        answer = sample.conversations[0][0].answer
        kinds.append((SEG in answer, "A chair is made for sitting." in answer))
        assert len(sample.masks) == (2 if SEG in answer else 0)
    share = {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}
    assert share.keys() == {(True, False), (True, True), (False, True)}
    assert 0.15 < share[False, True] < 0.45


def test_missing_parts_of_reason_seg_are_named(data_root):
    (data_root / "reason_seg/ReasonSeg/explanatory/train.json").unlink()
    (data_root / "reason_seg/ReasonSeg/val/a_short.json").unlink()

    with pytest.raises(UserError, match="--explanatory -1"):
        family_of("reason_seg", data_root, reason_seg_data="ReasonSeg|train")
    with pytest.raises(UserError, match="siblings are train, val"):
        family_of("reason_seg", data_root, reason_seg_data="ReasonSeg|test")
    with pytest.raises(UserError, match=r"a_short\.json is missing"):
        draws(family_of("reason_seg", data_root, reason_seg_data="ReasonSeg|val", explanatory=-1))
