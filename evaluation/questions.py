"""How a model is asked about an image, and which expression each target of an answer belongs to.

A given answer that says `[REJ]` is laid out twice, as two branches of one row: as it is, which shows whether the model
itself would reject; and with `[SEG]` at every target, which gives a mask for every expression. An expression that the
model wrongly accepts is so scored on the mask that it would have drawn.
"""

from dataclasses import dataclass

from dataloaders.sample import Turn
from groundscore.errors import UserError
from groundscore.scoring.metrics import kind_of
from groundscore.splits import EvaluationItem
from groundscore.splits.wording import worded
from groundscore.targets import REJ, SEG, TARGET
from model.settings import LONGEST_ANSWER

ANSWERS = ("given", "generated")
EXPRESSIONS = ("together", "single")
EXPLAIN = {
    "given": "the answer with its [SEG] is given; masks, and [SEG] against [REJ], are scored",
    "generated": "the model writes the answer itself (greedy decoding)",
    "together": "one question about all expressions of an image, where the set has such a question",
    "single": "one question for each expression",
}

Conversation = tuple[Turn, ...]


@dataclass(frozen=True)
class Protocol:
    """How a model is asked.

    answer: one of `ANSWERS`. expressions: one of `EXPRESSIONS`; None for what published numbers use with that answer:
    together where it is given, single where it is generated.
    layer: the hidden state that prompts the masks, None for the checkpoint's own choice.
    max_new_tokens: longest generated answer. limit: score the first so many images only, None for all.
    """

    answer: str = "generated"
    expressions: str | None = None
    layer: int | str | None = None
    max_new_tokens: int = LONGEST_ANSWER
    limit: int | None = None

    def __post_init__(self):
        if self.answer not in ANSWERS:
            raise ValueError(f"answer {self.answer!r}: expected one of {', '.join(ANSWERS)}")
        if self.expressions not in (None, *EXPRESSIONS):
            raise ValueError(f"expressions {self.expressions!r}: expected one of {', '.join(EXPRESSIONS)}")

    @property
    def asks(self) -> str:
        """How expressions are asked for where both ways are possible."""
        return self.expressions or ("together" if self.answer == "given" else "single")

    def asks_together(self, item: EvaluationItem) -> bool:
        """Whether this item is asked about in one question."""
        return item.has_joint_question and (item.together or self.asks == "together")

    def to_dict(self) -> dict[str, str | int | None]:
        """What a report says of it; `max_new_tokens` only where something is generated."""
        content = {
            "answer": self.answer,
            "expressions": self.asks,
            "layer": "checkpoint" if self.layer is None else str(self.layer),
            "limit": self.limit,
        }
        if self.answer == "generated":
            content["max_new_tokens"] = self.max_new_tokens
        return content


@dataclass
class GivenTarget:
    """A target in a given answer.

    expression: the position in `Questions.expressions` that it belongs to.
    is_seg: the given answer says `[SEG]` there.
    read_again: what the model would write there is read in `Questions.as_given`, else in `with_seg`.
    judged: a rejection there counts; else the target is taken as present, as published scores take it.
    """

    expression: int
    is_seg: bool
    read_again: bool
    judged: bool


@dataclass
class Questions:
    """Some expressions of one image and the conversations that ask for them.

    expressions: their indices in the item, E of them.
    with_seg: the conversations whose masks are scored, open for generation.
    as_given: those among them whose given answer says `[REJ]`, with the answer as it is.
    targets: all targets of the given answers, in written order; empty for generation.
    joint: one conversation asks for all expressions in order.
    separate: every target of an expression is a prediction of its own (MUSE), else their union is the prediction.
    """

    expressions: list[int]
    with_seg: list[Conversation]
    as_given: list[Conversation]
    targets: list[GivenTarget]
    joint: bool
    separate: bool


def ask(item: EvaluationItem, protocol: Protocol, expressions: list[int]) -> Questions:
    """Returns the questions about `expressions` of an item, which are all of them where they are asked for together.

    Raises `UserError` where a given answer has not one target for each expression, for MUSE one for each true mask.
    """
    joint = protocol.asks_together(item)
    separate = item.target_masks is not None and kind_of(f"{item.dataset}|{item.split}") == "muse"
    words = worded(item)
    if joint:
        texts = [(words.joint_prompt, words.joint_answer)]
    else:
        texts = [(words.prompts[number], words.answers[number]) for number in expressions]
    if protocol.answer == "generated":
        return Questions(expressions, [(Turn(text, None),) for text, _ in texts], [], [], joint, separate)

    targets = []
    for number, (_, answer) in enumerate(texts):
        for kind in TARGET.findall(answer):
            judged = item.may_be_absent or kind == REJ
            targets.append(GivenTarget(len(targets) if joint else number, kind == SEG, REJ in answer, judged))
    named = f"{item.dataset}|{item.split}: {item.image_path}"
    if joint and len(targets) != len(expressions):
        raise UserError(f"{named}: the given answer names {len(targets)} targets for {len(expressions)} expressions")
    for position, number in enumerate(expressions if separate else ()):
        count, true = sum(target.expression == position for target in targets), len(item.target_masks[number])
        if count != true:
            raise UserError(
                f"{named}: the given answer to {words.prompts[number]!r} names {count} targets, but there are {true} "
                "masks"
            )
    return Questions(
        expressions=expressions,
        with_seg=[(Turn(text, answer.replace(REJ, SEG)),) for text, answer in texts],
        as_given=[(Turn(text, answer),) for text, answer in texts if REJ in answer],
        targets=targets,
        joint=joint,
        separate=separate,
    )
