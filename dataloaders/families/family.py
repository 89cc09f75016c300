"""What a family of data sets declares in its file; its line in `families/__init__.py` does the rest."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from dataloaders.known_sets import KnownSet
from dataloaders.sample import Sample
from groundscore.annotations.bad_entries import BadSamples
from groundscore.errors import UserError
from groundscore.splits import SplitReader

MAX_TRIES = 100  # draws without a usable target before a data set is called empty

T = TypeVar("T")


class Family(ABC):
    """A kind of data: draws samples from the data sets that its settings name.

    name: as `--dataset` names it. rate: its weight in the default mixture; 0 for one that is only drawn from if named.
    Settings: a dataclass of the settings that it adds (`utils/settings.py`); one of them names its data sets, by
        convention `<name>_data`.
    splits: readers of evaluation sets that it adds to those of `groundscore.splits`.
    """

    name: ClassVar[str]
    rate: ClassVar[int] = 0
    Settings: ClassVar[type]
    splits: ClassVar[tuple[SplitReader, ...]] = ()

    @abstractmethod
    def __init__(
        self, root: Path, settings: Any, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
    ):
        """Open the data sets.

        root: `--dataset_dir`. settings: has the fields of `Settings` and of `MixtureSettings`.
        excluded: COCO numbers of images to leave out. bad_samples: what to do about bad entries; None stops at the
            first. Raises `UserError` for settings or files that cannot be used.
        """

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Sample:
        """Returns a sample that depends on `rng` only."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Returns how many images, dialogues or entries each data set has to draw from."""

    @classmethod  # noqa: B027 (most families have nothing to refuse)
    def check(cls, settings: Any) -> None:
        """Raises `UserError` for settings that cannot be used, whatever the files hold."""

    @classmethod  # noqa: B027 (most families have all their names in `check`)
    def check_names(cls, root: Path, settings: Any) -> None:
        """Raises `UserError` for data sets and splits that are not below `root`, without reading what they hold."""

    @classmethod
    def held_out(cls, root: Path, settings: Any) -> set[int]:
        """Returns the COCO numbers of the images that its data sets have in other splits than "train"."""
        return set()

    @classmethod
    def openings(cls, root: Path, settings: Any) -> Iterator[Callable[[], object]]:
        """Yields what opens its annotation files, each alone, so that their indices can be built at the same time."""
        return iter(())

    @classmethod
    def known_sets(cls, root: Path) -> Iterator[KnownSet]:
        """Yields its data sets, there or not, with what they need and how they are checked."""
        return iter(())


def draw_until(attempt: Callable[[], T | None], what: str) -> T:
    """Returns the first result of `attempt` that is not None."""
    for _ in range(MAX_TRIES):
        result = attempt()
        if result is not None:
            return result
    raise UserError(f"{what}: {MAX_TRIES} draws in a row had nothing to segment; are the annotations complete?")
