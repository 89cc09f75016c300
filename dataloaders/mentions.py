"""The marks by which LISA++'s texts name objects: `[dog <380>]`, `[<380|dog>, <348|cat>]`, `<380|dog>`, `《380|dog》`.

In an answer they become `[SEG]` tokens, in a question the words that they stand for.
"""

import re
from collections.abc import Container

from dataloaders.sample import REJ, SEG
from dataloaders.wording import join_names

_MARK = re.compile(r"\[(?P<group>[^\[\]]*)\]|《\s*(?P<a>\d+)\s*\|(?P<an>[^》]*)》|<\s*(?P<b>\d+)\s*\|(?P<bn>[^>]*)>")
# How ids are written inside brackets; the first form that occurs is the one that is read. (id, name) are its groups.
_IN_BRACKETS = (
    re.compile(r"(?P<name>\w+)\s*<\s*(?P<id>\d+)\s*>"),
    re.compile(r"<\s*(?P<id>\d+)\s*\|(?P<name>[^>]*)>"),
    re.compile(r"《\s*(?P<id>\d+)\s*\|(?P<name>[^》]*)》"),
    re.compile(r"(?P<id>\d+)\s*\|(?P<name>[^,\]]*)"),
)


def marks_to_targets(text: str, valid: Container[str]) -> tuple[str, list[str]]:
    """The text with `[SEG]` for every mentioned id of `valid`, and these ids in the order of the tokens.

    A mark of other ids is deleted, and so is a bracket without any: what it meant cannot be shown. A bare `dog <380>`
    outside brackets stays as it is.
    """
    found: list[str] = []

    def replace(match: re.Match) -> str:
        ids = [number for number, _ in _mentioned(match) if number in valid]
        found.extend(ids)
        return join_names([SEG] * len(ids))

    return _MARK.sub(replace, text), found


def marks_to_words(text: str) -> str:
    """The text with the names of what it mentions in place of the marks, and no target token: a question."""

    def replace(match: re.Match) -> str:
        names = [name.strip() for _, name in _mentioned(match)]
        return join_names([name for name in names if name]) if names else match[0]

    return _MARK.sub(replace, text.replace(SEG, "").replace(REJ, ""))


def _mentioned(match: re.Match) -> list[tuple[str, str]]:
    """(id, name) of everything that a mark mentions."""
    if match["group"] is None:
        return [(match["a"], match["an"])] if match["a"] else [(match["b"], match["bn"])]
    for form in _IN_BRACKETS:
        found = [(one["id"], one["name"]) for one in form.finditer(match["group"])]
        if found:
            return found
    return []


def split_dialogue(text: str) -> list[tuple[str, str]]:
    """(question, answer) of a text with turns `<person>: …` and `<robot>: …`.

    What one side says in a row is one turn. A question that is not answered, or an answer that nobody asked for, is
    left out.
    """
    pieces = re.split(r"<\s*(person|robot)\s*>\s*:", text)
    said = [(speaker, words.strip()) for speaker, words in zip(pieces[1::2], pieces[2::2]) if words.strip()]
    pairs: list[tuple[str, str]] = []
    question, answers = "", []
    for speaker, words in [*said, ("person", "")]:
        if speaker == "robot":
            answers.append(words)
            continue
        if question and answers:
            pairs.append((question, " ".join(answers)))
        question, answers = words, []
    return pairs
