"""Pools of sentences about targets: questions and answers with placeholders.

A pool is a text file of `groundscore/templates/` with a sentence a line; add lines to extend it.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np

from groundscore.errors import UserError
from groundscore.targets import SEG

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
