"""What is said about targets: pools of sentences, and how targets are shared out to questions and named in answers.

A pool is a text file of `dataloaders/templates/` with a sentence a line; add lines to extend it.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from groundscore.errors import UserError
from groundscore.targets import REJ, SEG, join_names

_PLACEHOLDER = re.compile(r"(?:\b(the|an?|any|no|your) )?\{(\w+)\}", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:the|an?) ", re.IGNORECASE)
# Words that leave no room for "the", "a" or "your" before them.
_OWN_DETERMINER = re.compile(
    r"^(?:all|both|each|every\w*|some\w*|any\w*|this|that|these|those|his|her|its|their|my|what\w*|who\w*|which\w*)\b",
    re.IGNORECASE,
)
DIRECTORY = Path(__file__).parent / "templates"


@cache
def read_pool(name: str, placeholders: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The sentences of `<name>.txt`. Each must hold every one of `placeholders`, `[SEG]` exactly once."""
    path = DIRECTORY / f"{name}.txt"
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pool = tuple(line for line in lines if line)
    if not pool:
        raise UserError(f"{path} contains no sentence; write at least one")
    for line in pool:
        for placeholder in placeholders:
            if placeholder not in line or (placeholder == SEG and line.count(SEG) != 1):
                raise UserError(f"{path}: the line {line!r} must contain {placeholder} once")
    return pool


def pick(rng: np.random.Generator, pool: tuple[str, ...]) -> str:
    """One sentence, all equally likely."""
    return pool[int(rng.integers(len(pool)))]


def fill(template: str, **values: str) -> str:
    """`template` with its placeholders replaced; braces in the values stay as they are.

    A value that begins with an article fits into a template that has one already: "segment the {class_name}" with "the
    left dog" is "segment the left dog", and with "both dogs" it is "segment both dogs". "a" and "an" follow the value.
    """

    def put(match: re.Match) -> str:
        determiner, name = match.groups()
        if name not in values:
            return match[0]
        if determiner is None:
            return values[name]
        if _OWN_DETERMINER.match(values[name]) and determiner.lower() in ("the", "a", "an", "your"):
            return values[name]
        bare = _ARTICLE.sub("", values[name])
        if determiner.lower() in ("a", "an"):
            determiner = determiner[0] + "n" * (bare[:1].lower() in tuple("aeiou"))
        return f"{determiner} {bare}"

    return _PLACEHOLDER.sub(put, template)


def distribute(rng: np.random.Generator, count: int, questions: int, per_question: int) -> list[list[int]]:
    """Deal `count` targets out to at most `questions` questions of at most `per_question` targets.

    Returns the targets of every question. Each target goes to a random empty question while there is one, then to a
    random one that has room.
    """
    assert count <= questions * per_question
    dealt: list[list[int]] = [[] for _ in range(min(count, questions))]
    for target in rng.permutation(count).tolist():
        room = [q for q in dealt if not q] or [q for q in dealt if len(q) < per_question]
        room[int(rng.integers(len(room)))].append(target)
    return dealt


def choose(rng: np.random.Generator, total: int, limit: int) -> list[int]:
    """Returns all indices below `total` in order, or `limit` of them drawn without replacement."""
    if total < limit:
        return list(range(total))
    return rng.choice(total, size=limit, replace=False).tolist()


class TargetAnswers:
    """Answers that hold one `[SEG]` or `[REJ]` per target. Each family has pools of its own."""

    def __init__(self):
        self.lone = read_pool("answers", (SEG,))
        self.separate = read_pool("single_answers", (SEG,))
        self.joint = read_pool("multi_answers", ("{seg}",))

    def write(self, rng: np.random.Generator, names: Sequence[str], exists: Sequence[bool]) -> str:
        """One target: a sentence around its token. Several: named one by one, or all first and then the tokens."""
        tokens = [SEG if there else REJ for there in exists]
        names = [name.lower() for name in names]
        if len(names) == 1:
            return pick(rng, self.lone).replace(SEG, tokens[0])
        if rng.random() < 0.5:
            template = pick(rng, self.separate).removesuffix(".")
            before, after = template.split(SEG)
            parts = [
                fill(before, class_name=name) + token + fill(after, class_name=name)
                for name, token in zip(names, tokens)
            ]
            return join_names(parts) + "."
        return fill(pick(rng, self.joint), class_name=join_names(names), seg=join_names(tokens))
