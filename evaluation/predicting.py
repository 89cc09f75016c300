"""The model's masks for the expressions of a batch, from given or generated answers, and their pixel counts.

Everything stays on the device until `count` reads one tensor back for the whole batch.

Legend: E expressions of a part, P predictions (E; for MUSE one per target of an answer), T true masks, Q targets of
given answers, H W pixels.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.batches import Part, Work
from evaluation.questions import TARGET, GivenTarget, Protocol
from groundscore.errors import UserError
from groundscore.scoring.counts import ExpressionCounts, QuestionCounts, Row
from groundscore.scoring.masks import encode_mask
from model.config import GroundingConfig
from model.generation import answer_of, write_answers
from model.grounding import GroundingModel
from model.outputs import Answer
from model.states import TargetStates


@dataclass
class Predicted:
    """What was predicted about one part.

    masks: bool [P, H, W]; of a rejected expression the mask that would have been drawn, where there is one.
    counts [E]: how many of the masks are each expression's.
    accepted: bool [E], on the device: the model says that the target is there.
    broken: int64 scalar, how many of its logits are not finite.
    layers: int64, the hidden states that prompted its masks.
    seen: int64 [E], on the device: 1 where the mask decoder's own score says of any of an expression's masks that there
        is an object, 0 where of none, -1 where it has no such score or nothing was decoded.
    silent: expressions without a `[SEG]` of their own in what was generated.
    texts [E]: what the generated answers say of each, None where they were given.
    """

    masks: Tensor
    counts: list[int]
    accepted: Tensor
    broken: Tensor
    layers: Tensor
    seen: Tensor
    silent: int
    texts: list[str | None]


def predict(
    model: GroundingModel, work: Work, protocol: Protocol, decode: Callable[[list[int]], str]
) -> list[Predicted]:
    """Predictions for every part of a batch that is on the model's device; decode: from token ids to text."""
    if protocol.answer == "given":
        return _from_given(model, work, protocol)
    return _from_generated(model, work, protocol, decode)


@dataclass
class Reading:
    """A batch after the model has read or written its answers: masks of any prompts may be made from it.

    states: of all targets, grouped as the answers' masks are; None where no answer names a target.
    owner: the part that each target belongs to, and the expression there, by their indices; in the targets' order.
    predicted: from mask logits [m, H, W] of each group of targets, or None without any, to the parts' predictions.
    """

    states: TargetStates | None
    owner: list[tuple[int, int]]
    predicted: Callable[[list[Tensor] | None], list[Predicted]]


@torch.no_grad()
def read(model: GroundingModel, work: Work, protocol: Protocol, decode: Callable[[list[int]], str]) -> Reading:
    """Has the model read the given answers of a batch, or write its own; see `predict` for the arguments."""
    none = torch.zeros(0, dtype=torch.int64, device=model.device)
    if protocol.answer == "given":
        states, written = model.read_given(work.batch, work.decided)
        sizes = [len(part.questions.targets) for part in work.parts]
        targets = [target for part in work.parts for target in part.questions.targets]
        accepted = _accepted(model.config, written, targets).split(sizes)

        def of_given(logits: list[Tensor] | None) -> list[Predicted]:
            logits = logits or [torch.zeros((0, *part.truth.shape[1:]), device=model.device) for part in work.parts]
            return [_of_targets(*each, none, None) for each in zip(work.parts, logits, accepted, strict=True)]

        owner = [(n, target.expression) for n, part in enumerate(work.parts) for target in part.questions.targets]
        return Reading(states, owner, of_given)

    written = write_answers(model, work.batch, protocol.max_new_tokens)
    sizes = [len(part.questions.with_seg) for part in work.parts]
    texts = [decode(row.token_ids) for row in written.rows]

    def of_generated(logits: list[Tensor] | None) -> list[Predicted]:
        empty = [work.batch.original_sizes[image] for image in written.images]
        logits = logits or [torch.zeros((0, *size), device=model.device) for size in empty]
        answers = [answer_of(model, *each) for each in zip(written.rows, logits, strict=True)]
        found, first = [], 0
        for part, size in zip(work.parts, sizes, strict=True):
            own = slice(first, first + size)
            found.append(_of_answers(part, answers[own], model.device, texts[own]))
            first += size
        return found

    rows, owner = iter(written.rows), []
    for number, part in enumerate(work.parts):
        for question, _ in enumerate(part.questions.with_seg):
            row = next(rows)
            asked = [question] * len(row.targets)
            if part.questions.joint:  # the n-th target of the answer, `[SEG]` or `[REJ]`, is for the n-th expression
                last, none = len(part.questions.expressions) - 1, torch.zeros(0)
                decisions = answer_of(model, row, none).decisions
                asked = [min(index, last) for index, is_seg in enumerate(decisions) if is_seg]
            owner += [(number, expression) for expression in asked]
    return Reading(written.states, owner, of_generated)


# --- given answers ----------------------------------------------------------------------------------------------------


def _from_given(model: GroundingModel, work: Work, protocol: Protocol) -> list[Predicted]:
    forced = model.force(work.batch, work.decided, protocol.layer)
    targets = [target for part in work.parts for target in part.questions.targets]
    sizes = [len(part.questions.targets) for part in work.parts]
    accepted = _accepted(model.config, forced.written, targets).split(sizes)
    scores = forced.object_scores or [None] * len(sizes)
    per_part = zip(work.parts, forced.mask_logits, accepted, forced.layers.split(sizes), scores, strict=True)
    return [_of_targets(*each) for each in per_part]


def _accepted(config: GroundingConfig, written: Tensor, targets: Sequence[GivenTarget]) -> Tensor:
    """Whether each target is taken as present, bool [Q]; written: the tokens that the model would write there.

    Where `[SEG]` is given any other token counts as a rejection, where `[REJ]` is given any other token counts as
    acceptance (the reference's rule).
    """

    def flags(values: Iterable[bool]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.bool).to(written.device, non_blocking=True)

    is_seg = flags(target.is_seg for target in targets)
    judged = flags(target.judged for target in targets)
    rejects = config.rej_token_ids[0] if config.rej_token_ids else -1
    accepts = torch.where(is_seg, written == config.seg_token_ids[0], written != rejects)
    return accepts | ~judged


def _of_targets(part: Part, logits: Tensor, accepts: Tensor, layers: Tensor, scores: Tensor | None) -> Predicted:
    """The masks [Q, H, W] of a part's targets as one prediction per expression, or for MUSE one per target.

    scores: object scores [Q], or None.
    """
    expressions, separate = len(part.questions.expressions), part.questions.separate
    owner = [target.expression for target in part.questions.targets]
    masks, accepted = logits > 0, accepts
    if owner != list(range(expressions)):
        drawn, accepted = masks, accepts.new_zeros(expressions)
        for index, number in enumerate(owner):
            accepted[number] |= accepts[index]
        if not separate:
            masks = drawn.new_zeros((expressions, *drawn.shape[1:]))
            for index, number in enumerate(owner):
                masks[number] |= drawn[index] & (accepts[index] | ~accepted[number])
    return Predicted(
        masks=masks,
        counts=[owner.count(number) for number in range(expressions)] if separate else [1] * expressions,
        accepted=accepted,
        broken=(~logits.isfinite()).sum(),
        layers=layers,
        seen=_seen(scores, owner, expressions, logits.device),
        silent=0,
        texts=[None] * expressions,
    )


def _seen(scores: Tensor | None, owner: Sequence[int], expressions: int, device: torch.device) -> Tensor:
    """`Predicted.seen` of object scores [Q], whose expressions are `owner`."""
    seen = torch.full((expressions,), -1, device=device)
    if scores is None or not owner:
        return seen
    index = torch.tensor(list(owner)).to(device, non_blocking=True)
    return seen.scatter_reduce(0, index, (scores > 0).long(), "amax")


# --- generated answers ------------------------------------------------------------------------------------------------


def _from_generated(
    model: GroundingModel, work: Work, protocol: Protocol, decode: Callable[[list[int]], str]
) -> list[Predicted]:
    answers = iter(model.generate(work.batch, max_new_tokens=protocol.max_new_tokens, layer=protocol.layer))
    predicted = []
    for part in work.parts:
        own = [next(answers) for _ in part.questions.with_seg]
        predicted.append(_of_answers(part, own, model.device, [decode(answer.token_ids) for answer in own]))
    assert next(answers, None) is None
    return predicted


def _of_answers(part: Part, answers: Sequence[Answer], device: torch.device, texts: list[str]) -> Predicted:
    """The answers to a part's questions as predictions of its expressions."""
    expressions = len(part.questions.expressions)
    logits = [answer.mask_logits.to(device) for answer in answers]
    drawn = [masks > 0 for masks in logits]
    counts = [1] * expressions
    if part.questions.separate:
        counts = [len(masks) for masks in drawn]
        present = [count > 0 for count in counts]
        masks = torch.cat(drawn)
    elif part.questions.joint:
        # The n-th target of the answer is for the n-th expression; what was not written is rejected.
        (decisions,) = [answer.decisions for answer in answers]
        present = (decisions + [False] * expressions)[:expressions]
        own = iter(drawn[0])
        empty = torch.zeros(part.truth.shape[1:], dtype=torch.bool, device=device)
        masks = torch.stack([next(own) if there else empty for there in present])
    else:
        present = [len(answer.seg_indices) > 0 for answer in answers]
        masks = torch.stack([each.any(0) for each in drawn])
    return Predicted(
        masks=masks,
        counts=counts,
        accepted=torch.tensor(present, dtype=torch.bool).to(device, non_blocking=True),
        broken=torch.stack([(~each.isfinite()).sum() for each in logits]).sum(),
        layers=torch.tensor([int(layer) for answer in answers for layer in answer.layers], device=device).long(),
        seen=_seen_in_answers(answers, present, device),
        silent=present.count(False),
        texts=share_text(texts[0], expressions) if part.questions.joint else texts,
    )


def _seen_in_answers(answers: Sequence[Answer], present: Sequence[bool], device: torch.device) -> Tensor:
    """`Predicted.seen`: of an answer to every expression, or of the targets of one answer to all."""
    own = [answer.object_scores for answer in answers]
    if len(answers) < len(present):
        written = iter(answers[0].object_scores or [])
        own = [[next(written)] if there and answers[0].object_scores else None for there in present]
    return torch.tensor([max(score > 0 for score in each) if each else -1 for each in own]).long().to(device)


def share_text(text: str, expressions: int) -> list[str]:
    """What a joint answer says of each expression: up to its target; those without one have what follows the last."""
    pieces = re.findall(rf".*?(?:{TARGET.pattern})", text, re.DOTALL)
    rest = text[len("".join(pieces)) :]
    return (pieces + [rest] * expressions)[:expressions]


# --- counts -----------------------------------------------------------------------------------------------------------


def count(parts: Sequence[Part], predicted: Sequence[Predicted]) -> list[tuple[list[Row], list[int]]]:
    """Rows and layers of every part; one tensor for the whole batch is read back from the device.

    Raises `UserError` where logits are not finite or a mask has not its image's size.
    """
    measure = [_question_pixels if part.questions.separate else _expression_pixels for part in parts]
    vectors = [each(part, one) for each, part, one in zip(measure, parts, predicted, strict=True)]
    pieces = [piece for vector, one in zip(vectors, predicted, strict=True) for piece in (vector, one.layers)]
    numbers = iter(torch.cat(pieces).tolist())
    counted = []
    for part, vector, one in zip(parts, vectors, predicted, strict=True):
        broken, *own = [next(numbers) for _ in range(len(vector))]
        if broken:
            raise UserError(
                f"{part.name}: {broken} pixels of the mask logits are not finite; try --precision fp32, and another "
                "checkpoint where that does not help"
            )
        read = _question_rows if part.questions.separate else _expression_rows
        counted.append((read(part, one, own), [next(numbers) for _ in range(len(one.layers))]))
    return counted


def _expression_pixels(part: Part, predicted: Predicted) -> Tensor:
    """int64 [1 + 6 E]: broken logits; then intersections, unions, predicted areas, target areas, accepted and seen."""
    drawn, truth = _without_ignored(part, predicted.masks)
    overlap = (drawn & truth).flatten(1).sum(1)
    area, target = drawn.flatten(1).sum(1), truth.flatten(1).sum(1)
    table = torch.stack([overlap, area + target - overlap, area, target, predicted.accepted.long(), predicted.seen])
    return torch.cat([predicted.broken[None], table.flatten()])


def _expression_rows(part: Part, predicted: Predicted, numbers: list[int]) -> list[Row]:
    expressions = part.questions.expressions
    size = len(expressions)
    columns = [numbers[start : start + size] for start in range(0, 6 * size, size)]
    refs = [ref if ref >= 0 else None for ref in part.refs]
    return [
        ExpressionCounts(
            part.number,
            part.image,
            expression,
            ref,
            exists,
            bool(accepted),
            *pixels,
            text,
            same,
            seen=None if seen < 0 else seen > 0,
        )
        for expression, ref, exists, *pixels, accepted, seen, text, same in zip(
            expressions, refs, part.exists, *columns, predicted.texts, part.objects, strict=True
        )
    ]


def _question_pixels(part: Part, predicted: Predicted) -> Tensor:
    """int64: broken logits; then for every question areas [P], areas [T] and intersections [P · T]."""
    drawn, truth = _without_ignored(part, predicted.masks)
    # A product of zeros and ones counts exactly in float32 up to 2^24 pixels.
    exact = torch.float32 if truth.shape[1] * truth.shape[2] <= 2**24 else torch.float64
    vectors = [predicted.broken[None]]
    for masks, targets in zip(drawn.split(predicted.counts), truth.split(part.targets), strict=True):
        masks, targets = masks.flatten(1), targets.flatten(1)
        overlaps = masks.to(exact) @ targets.to(exact).T
        vectors += [masks.sum(1), targets.sum(1), overlaps.round().long().flatten()]
    return torch.cat(vectors)


def _question_rows(part: Part, predicted: Predicted, numbers: list[int]) -> list[Row]:
    values = iter(numbers)
    rows: list[Row] = []
    questions = zip(part.questions.expressions, predicted.counts, part.targets, predicted.texts, strict=True)
    for expression, masks, targets, text in questions:
        areas = [next(values) for _ in range(masks)]
        target_areas = [next(values) for _ in range(targets)]
        overlaps = [[next(values) for _ in range(targets)] for _ in range(masks)]
        rows.append(QuestionCounts(part.number, part.image, overlaps, areas, target_areas, expression, text))
    return rows


def _without_ignored(part: Part, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted and true masks on the device, without the pixels that do not count."""
    if masks.shape[1:] != part.truth.shape[1:]:
        raise UserError(f"{part.name}: predicted masks {list(masks.shape)} do not fit the image's")
    truth = part.truth.to(masks.device, non_blocking=True)
    if part.ignore is None:
        return masks, truth
    kept = ~part.ignore.to(masks.device, non_blocking=True)
    return masks & kept, truth & kept


def prediction_lines(spec: str, part: Part, predicted: Predicted, rows: Sequence[Row], answer: str) -> list[dict]:
    """One object per expression of a part, in the form that `eval.py --predictions` reads.

    answer: how the model was asked, as in `Protocol`.
    The mask of a rejected expression is kept where one was drawn: `--gres_reference` counts it.
    """
    masks = predicted.masks.cpu().numpy()
    lines = []
    first = 0
    for expression, count, text, row in zip(
        part.questions.expressions, predicted.counts, predicted.texts, rows, strict=True
    ):
        own = masks[first : first + count]
        first += count
        line = {"split": spec, "image": part.image, "expression": expression}
        if part.index is not None:
            line["index"] = part.index
        if part.questions.separate:
            line |= {"present": bool(len(own)), "masks": [encode_mask(mask) for mask in own]}
        else:
            line |= {"present": row.present, "mask": encode_mask(own[0]) if own[0].any() else None}
        if text is not None:
            line["answer"] = text
        else:
            line["protocol"] = answer
        lines.append(line)
    return lines
