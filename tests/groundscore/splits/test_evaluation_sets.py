"""Evaluation sets hold their images in a fixed order, with expressions, true masks and what is known of them."""

import json

import pytest

from groundscore.errors import UserError
from groundscore.splits import QUERY_KINDS, evaluation_set, evaluation_sets


def test_reason_seg_takes_the_first_sentence(data_root):
    short, long = evaluation_set("ReasonSeg|val", data_root)

    assert (short.image_path.name, long.image_path.name) == ("a_short.jpg", "b_long.jpg")
    assert (short.expressions, short.is_sentence) == (["The Seat"], [False])
    assert (long.expressions, long.is_sentence) == (["Where can one sit?"], [True])
    assert short.ignore.sum() == 49
    assert long.ignore is None
    assert short.masks.shape == (1, 24, 32)
    assert short.masks.max() == 1


@pytest.mark.parametrize(
    "split,stems",
    [
        ("val_overall", ["a_short", "b_long"]),
        ("val_longquery", ["b_long"]),
        ("val_shortquery", ["a_short"]),
    ],
)
def test_reason_seg_splits_by_kind_of_question(data_root, split, stems):
    assert [item.image_path.stem for item in evaluation_set(f"ReasonSeg|{split}", data_root)] == stems


@pytest.mark.parametrize("spec", ["refcoco|unc|val", "refcocog|umd|val", "refclef|unc|testA", "refcoco+|unc|test"])
def test_referring_sets_hold_all_expressions_of_an_image(data_root, spec):
    (item,) = evaluation_set(spec, data_root)

    assert item.expressions == ["The Left one.", "right one"]
    assert item.exists == [True, True]
    assert item.masks.sum((1, 2)).tolist() == [64, 144]


def test_absent_expressions_have_an_empty_mask(data_root):
    (item,) = evaluation_set("grefcoco|unc|testA", data_root)

    assert item.exists == [True, True, True, False]
    assert item.masks[2].sum() == 64 + 144


def test_multi_sets_are_about_asking_for_all_expressions_together(data_root):
    (plain,) = evaluation_set("refcoco|unc|testA", data_root)
    (item,) = evaluation_set("multirefcoco|unc|testA", data_root)

    assert (plain.together, item.together) == (False, True)
    assert item.expressions == plain.expressions
    assert (item.masks == plain.masks).all()


def test_refzom_images_are_found_in_either_folder(data_root):
    (item,) = evaluation_set("refzom|final|val", data_root)

    assert item.image_path.parent.name == "val2014"
    assert item.expressions == ["The Left one.", "right one", "the zebra"]
    assert item.exists == [True, True, False]
    assert item.masks[1].sum() == 64 + 144


@pytest.mark.parametrize("spec", ["fprefcoco|val", "R-refcocog|val", "R-refcoco+|unc|testA"])
def test_false_premises_have_no_mask_though_their_ref_has_one(data_root, spec):
    (item,) = evaluation_set(spec, data_root)

    assert item.expressions == ["The Left one.", "right one", "The Zebra"]
    assert item.exists == [True, True, False]
    assert item.masks.sum((1, 2)).tolist() == [64, 144, 0]
    assert item.ref_ids[1] == item.ref_ids[2] != item.ref_ids[0]


@pytest.mark.parametrize(
    ("spec", "may_be"),
    [("refcoco|unc|val", False), ("grefcoco|unc|val", True), ("fprefcoco|val", True), ("custom|mine", True)],
)
def test_sets_say_whether_they_have_no_target_expressions(data_root, spec, may_be):
    assert evaluation_set(spec, data_root)[0].may_be_absent is may_be


def test_reason_seg_with_false_premises_has_two_expressions(data_root):
    path = data_root / "reason_seg/ReasonSeg/val/a_short.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "false_premise_QA": [["The Ship", False, "There is no ship."]]}))

    short, long = evaluation_set("fpReasonSeg|val", data_root)

    assert short.expressions == ["The Seat", "The Ship"]
    assert short.exists == [True, False]
    assert short.masks.any((1, 2)).tolist() == [True, False]
    assert long.exists == [True]


@pytest.mark.parametrize(
    "split,numbers",
    [
        ("val", [0, 1, 2]),
        ("test_less", [0, 1, 2]),
        ("test", [0, 1, 2, 3, 4, 5]),
        ("test_less_many", [0, 1, 2, 3, 4, 5]),
        ("val_train", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_muse_questions_have_a_mask_for_each_target(data_root, split, numbers):
    items = evaluation_set(f"MultiReasonSeg|{split}", data_root)

    assert [item.index for item in items] == numbers
    item = items[0]
    assert item.expressions == ["What holds the tea?", "What is on the table?"]
    assert [masks.sum((1, 2)).tolist() for masks in item.target_masks] == [[64], [48, 64]]
    assert item.masks.sum((1, 2)).tolist() == [64, 112]
    assert item.answers == ["It is [SEG].", None]
    assert item.target_names == [["The blue Cup"], ["plate", "The blue Cup"]]
    assert [items[i].image_path.parent.name for i in range(3)] == ["train2014", "train2017", "val2017"]


def test_own_data_have_their_own_answers(data_root):
    (item,) = evaluation_set("custom|mine", data_root)

    assert item.expressions == ["Where is it?", "And the rest?", "Where is the cat?"]
    assert [len(masks) for masks in item.target_masks] == [1, 2, 0]
    assert item.exists == [True, True, False]
    assert item.masks.sum((1, 2)).tolist() == [64, 2 * 32 + 22, 0]


def test_several_sets_are_named_by_their_specs(data_root):
    sets = evaluation_sets("ReasonSeg|val||grefcoco|unc|val", data_root)

    assert {name: len(items) for name, items in sets.items()} == {"ReasonSeg|val": 2, "grefcoco|unc|val": 1}


@pytest.mark.parametrize(
    "spec,message",
    [
        ("coco", "unknown evaluation set 'coco'; known are"),
        ("refcoco|val", r"refs\(unc_exclude_unified\)\.p is missing"),
        ("refclef|testA", r"set 'refclef\|testA'; .* NAME\|SPLIT with NAME one of refcoco, refcoco\+"),
        ("refcoco|google|val", r"'unc', not of 'google'; write refcoco\|unc\|val"),
        ("refcocog|unc|val", r"'umd', not of 'unc'; write refcocog\|umd\|val"),
        ("multirefcocog|google|val", r"write multirefcocog\|umd\|val"),
        ("fprefcoco|unc|val", r"write fprefcoco\|berkeley\|val"),
        ("ReasonSg|val", r"Did you mean 'ReasonSeg\|val'\?$"),
        ("REFCOCO|unc|val", r"Did you mean 'refcoco\|unc\|val'\?$"),
        ("grefcoco|unc|testa", "Did you mean 'testA'"),
        ("multirefclef|unc|val", "known are"),
        ("multirefcoco|val", "known are"),
        ("MultiReasonSeg|testA", "MUSE has train, val, test"),
        ("fpReasonSeg|val", "false_premise_QA"),
        ("ReasonSeg|..", "which ReasonSeg|.. is not"),
        ("custom|theirs", r"theirs\.jsonl is missing"),
        ("a|b|c|d", "known are"),
        ("refcoco|unc|testB", "its splits are testA, train, val"),
        ("grefcoco|unc|test", "its splits are"),
        ("ReasonSeg|test", "siblings are train, val"),
        ("ReasonSeg|val_mediumquery", "unknown part"),
        ("", "no evaluation set"),
    ],
)
def test_unknown_sets_list_what_there_is(data_root, spec, message):
    with pytest.raises(UserError, match=message):
        evaluation_sets(spec, data_root)


def test_an_annotation_without_a_target_is_an_error(data_root):
    path = data_root / "reason_seg/ReasonSeg/val/a_short.json"
    path.write_text('{"text": ["x"], "is_sentence": false, "shapes": []}')

    with pytest.raises(UserError, match=r"a_short\.json marks no target"):
        [item.read_masks() for item in evaluation_set("ReasonSeg|val", data_root)]


@pytest.mark.parametrize(
    ("spec", "kinds"),
    [
        ("ReasonSeg|val", {("implicit", "positive", "single")}),
        ("refcoco|unc|val", {("explicit", "positive", "single")}),
        (
            "grefcoco|unc|testA",
            {("explicit", "positive", "single"), ("explicit", "positive", "multi"), ("explicit", "none")},
        ),
    ],
)
def test_expressions_know_what_kind_of_query_they_are(data_root, spec, kinds):
    found = {item.query_kinds(index) for item in evaluation_set(spec, data_root) for index in range(len(item.exists))}
    assert found == kinds
    assert {name for each in found for name in each} <= set(QUERY_KINDS)
