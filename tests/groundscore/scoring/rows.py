"""Rows in few words, for tests."""

import numpy as np

from groundscore.scoring.counts import ExpressionCounts, QuestionCounts


def row(intersection, predicted, target, *, item=0, expression=0, ref=None, present=True, exists=None, answer=None):
    """An expression with a prediction and a target of so many pixels; it exists if it has some, unless told."""
    return ExpressionCounts(
        item=item,
        image=f"{item}.jpg",
        expression=expression,
        ref=ref,
        exists=target > 0 if exists is None else exists,
        present=present,
        intersection=intersection,
        union=predicted + target - intersection,
        predicted_area=predicted,
        target_area=target,
        answer=answer,
    )


def question(intersections, predicted, targets, *, item=0, expression=0):
    return QuestionCounts(item, f"{item}.jpg", intersections, predicted, targets, expression)


def dense_expression_counts(predictions, truth, ignore=None):
    """Intersections, unions, predicted and target areas of pairs of masks [E, H, W], pixel by pixel."""
    counted = True if ignore is None else ignore == 0
    predictions, truth = (predictions != 0) & counted, (truth != 0) & counted
    stacks = (predictions & truth, predictions | truth, predictions, truth)
    return tuple(stack.sum((1, 2)).tolist() for stack in stacks)


def dense_question_counts(predictions, targets, ignore=None):
    """Intersections [P][T], areas [P] and areas [T] of masks [P, H, W] and [T, H, W], pixel by pixel."""
    counted = True if ignore is None else ignore == 0
    predictions, targets = (predictions != 0) & counted, (targets != 0) & counted
    overlaps = np.einsum("phw,thw->pt", predictions.astype(np.int64), targets.astype(np.int64))
    return overlaps.tolist(), predictions.sum((1, 2)).tolist(), targets.sum((1, 2)).tolist()
