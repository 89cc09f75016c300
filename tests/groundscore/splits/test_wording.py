"""The items of evaluation sets are asked for in the published words."""

import json

import pytest

from groundscore.splits import evaluation_set
from groundscore.splits.wording import worded


def test_reasoning_is_asked_for_as_a_sentence_or_a_phrase(data_root):
    short, long = map(worded, evaluation_set("ReasonSeg|val", data_root))

    assert short.prompts == [" What is The Seat in this image? Please output segmentation mask."]
    assert long.prompts == [" Where can one sit? Please output segmentation mask."]
    assert long.answers == ["[SEG]."]
    assert (long.joint_prompt, long.joint_answer) == (long.prompts[0], "[SEG].")


def test_a_false_premise_of_reason_seg_is_asked_for_like_the_rest(data_root):
    path = data_root / "reason_seg/ReasonSeg/val/a_short.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "false_premise_QA": [["The Ship", False, "There is no ship."]]}))

    short, long = map(worded, evaluation_set("fpReasonSeg|val", data_root))

    assert short.prompts[1] == "What is the ship in this image? Please output segmentation mask."
    assert short.answers == ["[SEG].", "[REJ]."]
    assert long.prompts == ["Where can one sit? Please output segmentation mask."]
    assert long.joint_prompt == ""


@pytest.mark.parametrize("spec", ["refcoco|unc|val", "refcocog|umd|val", "multirefcoco|unc|testA"])
def test_expressions_are_asked_for_one_by_one_and_all_at_once(data_root, spec):
    words = worded(evaluation_set(spec, data_root)[0])

    assert words.prompts[0] == "What is the left one in this image? Please output segmentation mask."
    assert words.answers == ["[SEG].", "[SEG]."]
    assert words.joint_prompt == " What are the left one, right onein this image? Please output segmentation masks."
    assert words.joint_answer == "Sure,the left one:[SEG], right one:[SEG]."


def test_absent_expressions_are_rejected_in_the_answers(data_root):
    words = worded(evaluation_set("grefcoco|unc|testA", data_root)[0])

    assert words.answers[-1] == "[REJ]."
    assert words.joint_answer == "Sure,the left one:[SEG], right one:[SEG], both:[SEG], the zebra:[REJ]."


def test_false_premises_are_asked_for_in_the_same_words_every_time(data_root):
    first, second = (worded(evaluation_set("fprefcoco|val", data_root)[0]) for _ in range(2))

    assert "the zebra" in first.prompts[2].lower()
    assert first == second


def test_questions_of_muse_are_answered_by_the_data_or_by_names(data_root):
    words = worded(evaluation_set("MultiReasonSeg|val", data_root)[0])

    assert words.answers == ["It is [SEG].", "plate is [SEG] and The blue Cup is [SEG]."]


def test_own_data_are_asked_in_their_own_words(data_root):
    words = worded(evaluation_set("custom|mine", data_root)[0])

    assert words.prompts == ["Where is it?", "And the rest?", "Where is the cat?"]
    assert words.answers == ["Here: [SEG].", "[SEG], [SEG]", "It is [REJ]."]
