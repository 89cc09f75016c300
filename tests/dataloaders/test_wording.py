"""Sentences are picked and filled in, and targets shared out to questions and named in answers."""

import re

import numpy as np
import pytest

from dataloaders.wording import TargetAnswers, distribute, fill, read_pool
from groundscore.pools import DIRECTORY
from groundscore.targets import REJ, SEG, join_names


def test_names_are_joined_without_a_comma_before_and():
    assert [join_names(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


@pytest.mark.parametrize("count,questions,size", [(1, 3, 1), (3, 3, 1), (5, 3, 2), (9, 3, 3), (2, 3, 3)])
def test_targets_are_dealt_out_to_as_many_questions_as_there_are(count, questions, size):
    for seed in range(30):
        dealt = distribute(np.random.default_rng(seed), count, questions, size)

        assert sorted(sum(dealt, [])) == list(range(count))
        assert len(dealt) == min(count, questions)
        assert all(0 < len(group) <= size for group in dealt)


def test_answers_hold_a_token_per_target_in_order():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        answer = TargetAnswers().write(rng, ["A", "B", "C"], [True, False, True])

        assert re.findall(r"\[SEG\]|\[REJ\]", answer) == [SEG, REJ, SEG]
        assert answer.endswith(".")
        assert "{" not in answer


@pytest.mark.parametrize(
    "template,value,filled",
    [
        ("Segment the {class_name}.", "the left dog", "Segment the left dog."),
        ("No {class_name} here.", "the left dog", "No left dog here."),
        ("A {class_name}?", "apple", "An apple?"),
        ("Not a {class_name}.", "an egg", "Not an egg."),
        ("{class_name} is it.", "the dog", "the dog is it."),
        ("Segment the {class_name}.", "everything that is red", "Segment everything that is red."),
        ("Outline the {class_name}.", "both dogs", "Outline both dogs."),
        ("Outline the {class_name}.", "bothersome dogs", "Outline the bothersome dogs."),
    ],
)
def test_articles_are_not_doubled(template, value, filled):
    assert fill(template, class_name=value) == filled


POOL_SIZES = {
    "short_questions": 4,
    "long_questions": 2,
    "expanded_short_questions": 14,
    "expanded_long_questions": 5,
    "explanatory_questions": 3,
    "answers": 5,
    "single_answers": 3,
    "multi_answers": 11,
    "single_reasoning_answers": 1,
    "multi_reasoning_answers": 8,
    "conditional_short_questions": 100,
    "conditional_long_questions": 49,
    "present_answers": 81,
    "present_long_answers": 35,
    "denial_answers": 100,
    "correction_answers": 99,
    "instruction_words": 87,
}


@pytest.mark.parametrize("name", POOL_SIZES)
def test_pools_are_as_large_as_the_reference_has_them(name):
    assert len(set(read_pool(name))) >= POOL_SIZES[name]


def test_filling_a_template_leaves_braces_in_the_values_alone():
    assert fill("{a} or {b}", a="{b}", b="{a}") == "{b} or {a}"


@pytest.mark.parametrize("path", sorted(DIRECTORY.glob("*.txt")), ids=lambda path: path.stem)
def test_templates_have_the_placeholders_of_their_kind(path):
    lines = path.read_text().splitlines()

    assert len(lines) == len(set(lines))
    assert all(set(re.findall(r"\{\w*\}", line)) <= {"{class_name}", "{sent}", "{seg}", "{gt_name}"} for line in lines)
    assert read_pool(path.stem)
