"""Pools of sentences, one a line in the text files of `dataloaders/templates/`; add lines to extend them."""

from functools import cache
from pathlib import Path

import numpy as np

from dataloaders.sample import SEG
from utils.errors import UserError

DIRECTORY = Path(__file__).parent / "templates"


@cache
def read_pool(name: str, placeholders: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The sentences of `<name>.txt`. Each must hold every one of `placeholders`, `[SEG]` exactly once."""
    path = DIRECTORY / f"{name}.txt"
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pool = tuple(line for line in lines if line)
    if not pool:
        raise UserError(f"{path} holds no sentence; write at least one")
    for line in pool:
        for placeholder in placeholders:
            if placeholder not in line or (placeholder == SEG and line.count(SEG) != 1):
                raise UserError(f"{path}: the line {line!r} should hold {placeholder} once")
    return pool


def pick(rng: np.random.Generator, pool: tuple[str, ...]) -> str:
    """One sentence, all equally likely."""
    return pool[int(rng.integers(len(pool)))]


def fill(template: str, **values: str) -> str:
    """`template` with its placeholders replaced; braces in the values stay as they are.

    All are replaced in one pass over the template, so a value that looks like a placeholder is safe.
    """
    parts = [template]
    for name, value in values.items():
        placeholder = "{" + name + "}"
        split = []
        for index, part in enumerate(parts):
            if index % 2:  # a value that was put in before
                split.append(part)
                continue
            pieces = part.split(placeholder)
            for piece in pieces[:-1]:
                split += [piece, value]
            split.append(pieces[-1])
        parts = split
    return "".join(parts)
