"""Rows: pixel counts that are right to the pixel, and the assignment of MUSE."""

import json

import numpy as np
import pytest

from groundscore.rle import encode
from groundscore.scoring.counts import (
    ExpressionCounts,
    QuestionCounts,
    counted_pixels,
    expression_counts,
    question_counts,
    row_from_dict,
)
from tests.groundscore.scoring.rows import dense_expression_counts, dense_question_counts


def masks(*rows):
    """Masks [1, W] as RLE."""
    return [encode(np.array([row])) for row in rows]


def question(intersections, predicted, targets):
    return QuestionCounts(0, "a.jpg", intersections, predicted, targets)


def test_pixels_are_counted_mask_by_mask():
    predictions = masks([1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0])
    truth = masks([0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0])

    counts = [expression_counts(*pair) for pair in zip(predictions, truth)]
    assert counts == [(2, 4, 3, 3), (0, 0, 0, 0), (0, 3, 2, 1)]


def test_ignored_pixels_count_neither_as_hits_nor_as_errors():
    counted = counted_pixels(np.array([[1, 1, 0, 0]], np.uint8))

    assert expression_counts(*masks([1, 1, 1, 0], [0, 1, 1, 1]), counted) == (1, 2, 1, 2)


def test_any_value_but_zero_belongs_to_a_mask():
    assert expression_counts(*masks([255, 2, 0], [1, 0, 0])) == (1, 2, 2, 1)


def test_masks_of_different_sizes_are_refused():
    small, large = encode(np.zeros((2, 2))), encode(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="different sizes"):
        expression_counts(small, large)
    with pytest.raises(ValueError, match="different sizes"):
        question_counts([small], [large] * 3)


def test_counts_without_decoding_are_those_of_the_pixels():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (7, 5), (40, 61)):
        ignore = rng.random(size) < 0.2
        noise = rng.random((3, *size)) < rng.random((3, 1, 1))
        truth = rng.random((3, *size)) < rng.random((3, 1, 1))
        for ignored in (None, ignore):
            counted = counted_pixels(ignored)
            counts = [expression_counts(encode(a), encode(b), counted) for a, b in zip(noise, truth)]
            assert tuple(map(list, zip(*counts))) == dense_expression_counts(noise, truth, ignored)
            several = question_counts([*map(encode, noise)], [*map(encode, truth[:2])], counted)
            assert several == dense_question_counts(noise, truth[:2], ignored)


def test_questions_count_every_prediction_against_every_target():
    predictions = masks([1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1])
    targets = masks([1, 1, 1, 0], [0, 0, 0, 1])

    assert question_counts(predictions, targets) == ([[2, 0], [0, 0], [2, 1]], [2, 0, 3], [3, 1])


def test_a_question_without_predictions_or_targets_has_empty_counts():
    none = []

    assert question_counts(none, masks([1, 1, 0, 0])) == ([], [], [2])
    assert question_counts(masks([1, 1, 0, 0]), none) == ([[]], [2], [])
    assert question([], [], []).pairs() == []


def test_the_assignment_maximises_the_sum_of_iou_where_taking_the_best_first_would_not():
    # IoU: prediction 0 has 9/10 and 8/10, prediction 1 has 8/10 and 0. Greedy: 0.9 + 0; best: 0.8 + 0.8.
    overlaps = [[90, 80], [80, 0]]
    predicted, targets = [95, 85], [95, 85]
    # Unions: 95 + 95 - 90 = 100, 95 + 85 - 80 = 100; 85 + 95 - 80 = 100, 85 + 85 - 0 = 170.
    pairs = question(overlaps, predicted, targets).pairs()

    assert [(pair.intersection, pair.union) for pair in pairs] == [(80, 100), (80, 100)]
    assert sum(pair.iou for pair in pairs) == 1.6


@pytest.mark.parametrize(
    "predicted,targets,overlaps,expected",
    [
        # A surplus prediction pairs with nothing: IoU 0, its area is union.
        ([10, 7], [10], [[10], [0]], [(10, 10, 1.0), (0, 7, 0.0)]),
        # An empty one too, though its union is 0.
        ([10, 0], [10], [[10], [0]], [(10, 10, 1.0), (0, 0, 0.0)]),
        # A target without prediction.
        ([4], [8, 5], [[4, 0]], [(4, 8, 0.5), (0, 5, 0.0)]),
        ([], [8, 5], [], [(0, 8, 0.0), (0, 5, 0.0)]),
        ([3], [], [[]], [(0, 3, 0.0)]),
    ],
)
def test_what_stays_unmatched_is_a_pair_with_iou_zero(predicted, targets, overlaps, expected):
    pairs = question(overlaps, predicted, targets).pairs()

    assert [(pair.intersection, pair.union, pair.iou) for pair in pairs] == expected


def test_rows_survive_json():
    rows = [
        ExpressionCounts(3, "a/b.jpg", 1, None, True, False, 5, 9, 7, 7, "It is ü"),
        QuestionCounts(4, "c.jpg", [[1, 2]], [3], [4, 5], expression=2),
    ]

    assert [row_from_dict(json.loads(json.dumps(row.to_dict()))) for row in rows] == rows


def test_unknown_or_missing_keys_make_no_row():
    content = ExpressionCounts(3, "a.jpg", 1, None, True, False, 5, 9, 7, 7).to_dict()
    with pytest.raises(TypeError):
        row_from_dict({**content, "surprise": 1})
    with pytest.raises(TypeError):
        row_from_dict({key: value for key, value in content.items() if key != "union"})


def test_a_rejected_expression_is_paired_with_an_empty_mask():
    accepted = ExpressionCounts(0, "a.jpg", 0, None, True, True, 5, 9, 7, 7)
    rejected = ExpressionCounts(0, "a.jpg", 1, None, True, False, 5, 9, 7, 7)

    pairs = [pair for one in (accepted, rejected) for pair in one.pairs()]
    assert [(pair.intersection, pair.union) for pair in pairs] == [(5, 9), (0, 7)]
