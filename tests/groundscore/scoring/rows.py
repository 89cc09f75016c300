"""Rows in few words, for tests."""

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
