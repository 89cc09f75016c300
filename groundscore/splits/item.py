"""One picture of an evaluation set with everything that is asked about it."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from groundscore.annotations.repairs import BadEntry, Repair


@dataclass
class EvaluationItem:
    """One picture with its expressions, N of them.

    image uint8 RGB [H, W, 3].
    expressions: as the data set has them.
    prompts: one question per expression, asked in a conversation of its own.
    given_answers: what each would be answered, for teacher-forced scoring.
    joint_prompt, joint_answer: one question about all expressions, and its answer; the reference's protocol. Empty
        where every expression is asked for by itself in all protocols (MUSE, custom).
    masks uint8 [N, H, W] in {0, 1}; ignore bool [H, W] or None: pixels that do not count.
    exists: whether each expression means something in the picture.
    may_be_absent: the set has expressions that mean nothing, so that a given answer does not decide that they do.
    dataset, split: where the item is from.
    ref_ids: which ref each expression belongs to; an expression without one has -1.
    target_masks: where an expression means several things with a mask each, uint8 [n, H, W] for every expression, in
        the order of the `[SEG]` in its given answer; `masks` are their unions. None elsewhere.
    index: the entry's place in its file, where a picture may occur more than once; None elsewhere.
    together: the set is about asking for all expressions at once.
    repairs: what was mended to make it, see `left_out.read_item`.

    Questions are without the image placeholder; conversation texts put it before them.
    """

    image_path: Path
    image: np.ndarray
    expressions: list[str]
    prompts: list[str]
    given_answers: list[str]
    joint_prompt: str
    joint_answer: str
    masks: np.ndarray
    ignore: np.ndarray | None
    exists: list[bool]
    dataset: str
    split: str
    ref_ids: list[int] = field(default_factory=list)
    target_masks: list[np.ndarray] | None = None
    index: int | None = None
    together: bool = False
    may_be_absent: bool = False
    repairs: tuple[Repair, ...] = ()

    def path_below(self, root: Path) -> str:
        """The name of the image in reports."""
        return path_below(root, self.image_path)


class EvaluationSet(Sequence[EvaluationItem]):
    """The images of a split in a fixed order; an item is decoded when it is asked for.

    unnumbered: the entries that were left out when the split was opened.
    """

    name: str
    split: str
    unnumbered: tuple[BadEntry, ...] = ()

    @abstractmethod
    def entry(self, number: int) -> tuple[Path, int | None]:
        """The image and the `index` of an item, which need not be readable."""


def path_below(root: Path, path: Path) -> str:
    """Where an image lies from the data root, with "/" on every system."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def unions(targets: Sequence[np.ndarray]) -> np.ndarray:
    """The union of each of several stacks of masks, uint8 [N, H, W]."""
    return np.stack([masks.any(0) for masks in targets]).astype(np.uint8)
