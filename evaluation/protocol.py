"""How a model is asked: whether the answer is given to it, and whether expressions are asked for together."""

from dataclasses import dataclass

from groundscore.splits import EvaluationItem

ANSWERS = ("given", "generated")
EXPRESSIONS = ("together", "single")
EXPLAIN = {
    "given": "the answer with its [SEG] is given; masks, and [SEG] against [REJ], are scored",
    "generated": "the model writes the answer itself (greedy decoding)",
    "together": "one question about all expressions of an image, where the set has such a question",
    "single": "one question for each expression",
}


@dataclass(frozen=True)
class Protocol:
    """answer: one of `ANSWERS`. expressions: one of `EXPRESSIONS`; None for what published numbers use with that
    answer: together where it is given, single where it is generated.

    layer: the hidden state that prompts the masks, None for the checkpoint's own choice.
    max_new_tokens: longest generated answer. limit: score the first so many images only, None for all.
    """

    answer: str = "generated"
    expressions: str | None = None
    layer: int | str | None = None
    max_new_tokens: int = 128
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
        return bool(item.joint_prompt) and (item.together or self.asks == "together")

    def to_dict(self) -> dict:
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
