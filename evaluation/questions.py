"""What is asked about an image, and which expression each target of the answer belongs to.

A given answer that says `[REJ]` is laid out twice, as two branches of one row: as it is, which shows whether the model
itself would reject; and with `[SEG]` in every place, which gives a mask for every expression. An expression that the
model wrongly accepts is so scored on the mask that it would have drawn.
"""

import re
from dataclasses import dataclass

from dataloaders.sample import REJ, SEG, Turn
from evaluation.protocol import Protocol
from groundscore.errors import UserError
from groundscore.splits import EvaluationItem

TARGET = re.compile(re.escape(SEG) + "|" + re.escape(REJ))

Conversation = tuple[Turn, ...]


@dataclass
class Place:
    """A place of a target in a given answer.

    expression: the position in `Questions.expressions` that it belongs to.
    is_seg: the given answer says `[SEG]` there.
    read_again: whether the model would write that is read in `Questions.as_given`, else in `with_seg`.
    judged: a rejection there counts; else the target is taken as present, as published scores take it.
    """

    expression: int
    is_seg: bool
    read_again: bool
    judged: bool


@dataclass
class Questions:
    """Some expressions of one image and the conversations that ask for them.

    expressions: their numbers in the item, E of them.
    with_seg: the conversations whose masks are scored, open for generation.
    as_given: those among them whose given answer says `[REJ]`, with the answer as it is.
    places: every place of a target in the given answers, in written order; empty for generation.
    joint: one conversation asks for all expressions in order.
    separate: every target of an expression is a prediction of its own (MUSE), else their union is the prediction.
    """

    expressions: list[int]
    with_seg: list[Conversation]
    as_given: list[Conversation]
    places: list[Place]
    joint: bool
    separate: bool


def ask(item: EvaluationItem, protocol: Protocol, expressions: list[int]) -> Questions:
    """The questions about `expressions` of an item, which are all of them where they are asked for together."""
    joint = protocol.asks_together(item)
    separate = scores_targets(item)
    if joint:
        texts = [(item.joint_prompt, item.joint_answer)]
    else:
        texts = [(item.prompts[number], item.given_answers[number]) for number in expressions]
    if protocol.answer == "generated":
        return Questions(expressions, [(Turn(text, None),) for text, _ in texts], [], [], joint, separate)

    places = []
    for number, (_, answer) in enumerate(texts):
        rejects = REJ in answer
        for kind in TARGET.findall(answer):
            judged = item.may_be_absent or kind == REJ
            places.append(Place(len(places) if joint else number, kind == SEG, rejects, judged))
    _check(item, places, expressions, joint, separate)
    return Questions(
        expressions=expressions,
        with_seg=[(Turn(text, answer.replace(REJ, SEG)),) for text, answer in texts],
        as_given=[(Turn(text, answer),) for text, answer in texts if REJ in answer],
        places=places,
        joint=joint,
        separate=separate,
    )


def scores_targets(item: EvaluationItem) -> bool:
    """Whether every target of the item's questions is scored by itself (MUSE)."""
    return item.target_masks is not None and item.dataset.startswith("MultiReasonSeg")


def _check(item: EvaluationItem, places: list[Place], expressions: list[int], joint: bool, separate: bool) -> None:
    """Every expression has its places: one each in a joint answer, one per true mask for MUSE."""
    named = f"{item.dataset}|{item.split}: {item.image_path}"
    if joint and len(places) != len(expressions):
        raise UserError(f"{named}: the given answer names {len(places)} targets for {len(expressions)} expressions")
    for position, number in enumerate(expressions if separate else ()):
        named_targets = sum(place.expression == position for place in places)
        true_targets = len(item.target_masks[number])
        if named_targets != true_targets:
            raise UserError(
                f"{named}: the given answer to {item.prompts[number]!r} names {named_targets} targets, "
                f"but there are {true_targets} masks"
            )
