"""How the expressions of an evaluation item are asked for, in the published words, and what a right answer says."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from groundscore.annotations.refer_index import clean
from groundscore.pools import fill, pick, read_pool
from groundscore.targets import REJ, SEG, join_names

PROMPT_SEED = 42  # of the questions that are taken from a pool


class Asked(Protocol):
    """What the questions about an item depend on; see `EvaluationItem`."""

    kind: str
    expressions: list[str]
    exists: list[bool]
    number: int
    is_sentence: list[bool]
    answers: list[str | None]
    target_names: list[list[str]]


@dataclass(frozen=True)
class Wording:
    """The questions about an item, and their answers.

    prompts: one question per expression, asked in a conversation of its own.
    answers: the right answer to each, for teacher-forced scoring.
    joint_prompt, joint_answer: one question about all expressions, and its answer: the reference's protocol.
        Empty where the item has no joint question.

    Questions are without the image placeholder; conversation texts put it before them.
    """

    prompts: list[str]
    answers: list[str]
    joint_prompt: str = ""
    joint_answer: str = ""


def worded(item: Asked) -> Wording:
    """Returns the questions about an item; the same ones for the same item of a split.

    Some of the spaces are the reference's (before "What", none before "in"), and so those of the published scores.
    """
    if item.kind == "own words":
        return Wording(item.expressions, item.answers)
    if item.kind == "reasoning with names":
        return _with_names(item)
    tokens = [SEG if there else REJ for there in item.exists]
    answers = [f"{token}." for token in tokens]
    if item.kind == "reasoning":
        (prompt,) = [
            f" {text} Please output segmentation mask." if is_sentence else f" {_short(text)}"
            for text, is_sentence in zip(item.expressions, item.is_sentence)
        ]
        return Wording([prompt], answers, prompt, answers[0])
    if item.kind == "reasoning or absent":
        prompts = [
            f"{text} Please output segmentation mask." if is_sentence else _short(text.lower())
            for text, is_sentence in zip(item.expressions, item.is_sentence)
        ]
        return Wording(prompts, answers)
    texts = [clean(expression) for expression in item.expressions]
    return Wording(
        prompts=[_short(text) for text in texts] if item.kind == "referring" else _conditional(item, texts),
        answers=answers,
        joint_prompt=f" What are {', '.join(texts)}in this image? Please output segmentation masks.",
        joint_answer=f"Sure,{', '.join(f'{text}:{token}' for text, token in zip(texts, tokens))}.",
    )


def _short(text: str) -> str:
    return f"What is {text} in this image? Please output segmentation mask."


def _conditional(item: Asked, texts: list[str]) -> list[str]:
    """Questions from a pool that allow for absence."""
    pool = read_pool("conditional_short_questions", ("{class_name}",))
    return [
        fill(pick(np.random.default_rng([PROMPT_SEED, item.number, index]), pool), class_name=text)
        for index, text in enumerate(texts)
    ]


def _with_names(item: Asked) -> Wording:
    """Questions from a pool; where the data do not answer, the targets' names do."""
    rng = np.random.default_rng([PROMPT_SEED, item.number])
    pool = read_pool("long_questions", ("{sent}",))
    named = [join_names([f"{name} is {SEG}" for name in names]) + "." for names in item.target_names]
    return Wording(
        prompts=[fill(pick(rng, pool), sent=text) for text in item.expressions],
        answers=[name if answer is None else answer for name, answer in zip(named, item.answers)],
    )
