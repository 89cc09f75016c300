"""What a family of data sets is."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from dataloaders.sample import Sample
from groundscore.errors import UserError

MAX_TRIES = 100  # draws without a usable target before a data set is called empty

T = TypeVar("T")


class Family(Protocol):
    """A kind of data: draws samples from the data sets it was given."""

    name: str

    def draw(self, rng: np.random.Generator) -> Sample:
        """A sample that depends on `rng` only."""

    def sizes(self) -> dict[str, int]:
        """How many pictures, dialogues or entries each data set has to draw from."""


def draw_until(attempt: Callable[[], T | None], what: str) -> T:
    """The first result of `attempt` that is not None."""
    for _ in range(MAX_TRIES):
        result = attempt()
        if result is not None:
            return result
    raise UserError(f"{what}: {MAX_TRIES} draws in a row had nothing to segment; are the annotations complete?")
