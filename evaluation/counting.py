"""Pixel counts of predictions against the truth: taken on the device, read back once per batch.

Legend: E expressions of a part, P predictions, T targets, H W pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.batches import Part
from evaluation.predicting import Predicted
from groundscore.errors import UserError
from groundscore.scoring.counts import ExpressionCounts, QuestionCounts, Row


@dataclass
class Counted:
    """rows: one per expression of a part; silent, layers: as in `Predicted`, read back."""

    rows: list[Row]
    silent: int
    layers: list[int]


def count(parts: list[Part], predicted: list[Predicted]) -> list[Counted]:
    """Counts of every part; the only transfer from the device is one tensor for the whole batch.

    Raises `UserError` where logits are not finite or a mask has not its picture's size.
    """
    vectors = [
        _separate_counts(part, one) if part.questions.separate else _counts(part, one)
        for part, one in zip(parts, predicted, strict=True)
    ]
    lengths = [len(vector) for vector in vectors]
    layers = [one.layers for one in predicted]
    numbers = torch.cat([*vectors, *layers]).tolist()
    counted, start = [], 0
    layer_start = sum(lengths)
    for part, one, length in zip(parts, predicted, lengths, strict=True):
        own = numbers[start : start + length]
        read = _read_separate if part.questions.separate else _read
        chosen = numbers[layer_start : layer_start + len(one.layers)]
        counted.append(Counted(read(part, one, own), one.silent, chosen))
        start += length
        layer_start += len(one.layers)
    return counted


def _counts(part: Part, predicted: Predicted) -> Tensor:
    """int64 [1 + 5 E]: broken logits; then intersections, unions, predicted areas, target areas and accepted."""
    masks = predicted.masks
    truth, counted = _truth(part, masks)
    drawn = masks if counted is None else masks & counted
    overlap = (drawn & truth).flatten(1).sum(1)
    area, target = drawn.flatten(1).sum(1), truth.flatten(1).sum(1)
    table = torch.stack([overlap, area + target - overlap, area, target, predicted.accepted.long()])
    return torch.cat([predicted.broken[None], table.flatten()])


def _read(part: Part, predicted: Predicted, numbers: list[int]) -> list[Row]:
    broken, *table = numbers
    _check_finite(part, broken)
    expressions = part.questions.expressions
    size = len(expressions)
    columns = [table[start : start + size] for start in range(0, 5 * size, size)]
    return [
        ExpressionCounts(
            item=part.number,
            image=part.image,
            expression=expression,
            ref=part.refs[place] if part.refs[place] >= 0 else None,
            exists=part.exists[place],
            present=bool(accepted),
            intersection=overlap,
            union=union,
            predicted_area=area,
            target_area=target,
            answer=predicted.texts[place],
        )
        for place, (expression, overlap, union, area, target, accepted) in enumerate(
            zip(expressions, *columns, strict=True)
        )
    ]


def _separate_counts(part: Part, predicted: Predicted) -> Tensor:
    """int64: broken logits; then for every question areas [P], areas [T] and intersections [P · T]."""
    truth, counted = _truth(part, predicted.masks)
    drawn = predicted.masks if counted is None else predicted.masks & counted
    # A product of zeros and ones counts exactly in float32 up to 2^24 pixels.
    exact = torch.float32 if truth.shape[1] * truth.shape[2] <= 2**24 else torch.float64
    vectors = [predicted.broken[None]]
    for masks, targets in zip(drawn.split(predicted.counts), truth.split(part.targets), strict=True):
        masks, targets = masks.flatten(1), targets.flatten(1)
        overlaps = masks.to(exact) @ targets.to(exact).T
        vectors += [masks.sum(1), targets.sum(1), overlaps.round().long().flatten()]
    return torch.cat(vectors)


def _read_separate(part: Part, predicted: Predicted, numbers: list[int]) -> list[Row]:
    broken, *rest = numbers
    _check_finite(part, broken)
    values = iter(rest)
    rows = []
    questions = zip(part.questions.expressions, predicted.counts, part.targets, predicted.texts, strict=True)
    for expression, masks, targets, text in questions:
        predicted_areas = [next(values) for _ in range(masks)]
        target_areas = [next(values) for _ in range(targets)]
        overlaps = [[next(values) for _ in range(targets)] for _ in range(masks)]
        rows.append(
            QuestionCounts(
                item=part.number,
                image=part.image,
                intersections=overlaps,
                predicted_areas=predicted_areas,
                target_areas=target_areas,
                expression=expression,
                answer=text,
            )
        )
    return rows


def _truth(part: Part, masks: Tensor) -> tuple[Tensor, Tensor | None]:
    """The truth on the masks' device without the pixels that do not count, and the pixels that do, if not all."""
    if masks.shape[1:] != part.truth.shape[1:]:
        raise UserError(f"{part.name}: predicted masks {list(masks.shape)} do not fit the picture's")
    truth = part.truth.to(masks.device, non_blocking=True)
    if part.ignore is None:
        return truth, None
    counted = ~part.ignore.to(masks.device, non_blocking=True)
    return truth & counted, counted


def _check_finite(part: Part, broken: int) -> None:
    if broken:
        raise UserError(
            f"{part.name}: {broken} pixels of the mask logits are not finite; try --precision fp32, and another "
            "checkpoint where that does not help"
        )
