"""What a data set of family `sem_seg` yields: a picture with some named regions, and names of what it does not show."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Scene:
    """A picture with some of its classes.

    image uint8 [H, W, 3]; names: of the regions; masks uint8 [N, H, W] in {0, 1}, none empty;
    absent: names of classes that the picture does not show.
    """

    image_path: Path
    image: np.ndarray
    names: Sequence[str]
    masks: np.ndarray
    absent: Sequence[str]


class SceneSet(Protocol):
    name: str

    def draw_scene(self, rng: np.random.Generator, limit: int) -> Scene | None:
        """A random picture with at most `limit` regions, None if the picture has none."""

    def __len__(self) -> int:
        """Pictures to draw from."""
