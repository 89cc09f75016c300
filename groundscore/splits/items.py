"""One image of an evaluation set with everything that is asked about it; and those that cannot be used."""

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from groundscore.annotations.bad_entries import BadEntry, Repair, Tolerance, noting_repairs
from groundscore.errors import UserError

SHOWN = 3  # bad entries that an error names

# What the expressions of a set are, from which follows how they are asked for (dataloaders/questions.py):
Kind = Literal[
    "reasoning",  # sentences or phrases that take thought to find their target
    "reasoning or absent",  # the same, and some with a false premise
    "referring",  # phrases that refer to targets
    "referring or absent",  # the same, and some with a false premise
    "reasoning with names",  # questions with named targets
    "own words",  # whole questions, with an answer each
]
_WITH_JOINT_QUESTION = ("reasoning", "referring", "referring or absent")


@dataclass
class EvaluationItem:
    """One image with its expressions, N of them.

    image: uint8 RGB [H, W, 3].
    expressions: as the data set has them. kind: what they are.
    masks: uint8 [N, H, W] in {0, 1}; ignore: bool [H, W] or None, pixels that do not count.
    exists: whether the target of each expression is in the image.
    dataset, split: where the item is from; number: its index in the split.
    is_sentence: of each expression, whether it is a whole question and not a phrase; needed for reasoning only.
    answers: the data's own answer to each expression, with `[SEG]` or `[REJ]` for every target, None where it has
        none; empty where the data have no answers.
    may_be_absent: the set has no-target expressions, so that a given answer does not decide whether one is.
    together: the set is about asking for all expressions at once.
    ref_ids: of the ref of each expression; -1 for an expression without one, and for all where none are given.
    target_masks: where an expression has several targets with a mask each, uint8 [n, H, W] for every expression, in
        the order of the `[SEG]` in its answer; `masks` are their unions. None elsewhere.
    target_names: of these targets, for every expression; empty where the data have no names.
    index: that of the entry in its file, where an image may occur more than once; None elsewhere.
    repairs: what was repaired to make it, see `read_item`.
    """

    image_path: Path
    image: np.ndarray
    expressions: list[str]
    kind: Kind
    masks: np.ndarray
    ignore: np.ndarray | None
    exists: list[bool]
    dataset: str
    split: str
    number: int = 0
    is_sentence: list[bool] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    may_be_absent: bool = False
    together: bool = False
    ref_ids: list[int] = field(default_factory=list)
    target_masks: list[np.ndarray] | None = None
    target_names: list[list[str]] = field(default_factory=list)
    index: int | None = None
    repairs: tuple[Repair, ...] = ()

    def __post_init__(self):
        self.ref_ids = self.ref_ids or [-1] * len(self.expressions)

    @property
    def has_joint_question(self) -> bool:
        """Whether one question can ask for all expressions; MUSE's and own questions are always asked one by one."""
        return self.kind in _WITH_JOINT_QUESTION

    def path_below(self, root: Path) -> str:
        """Returns the name of the image in reports."""
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
        """Returns the image path and the `index` of an item, which need not be readable."""


def path_below(root: Path, path: Path) -> str:
    """Returns the path of an image from the data root on, with "/" on every system."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def unions(targets: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the union of each of several stacks of masks, uint8 [N, H, W]."""
    return np.stack([masks.any(0) for masks in targets]).astype(np.uint8)


@dataclass(frozen=True)
class LeftOut:
    """An entry of a split that is not scored, because it cannot be used.

    reason: what is wrong. file, id: where, as far as it is known.
    item: its number in the split, None where it was left out before items were numbered. image, index: as in reports.
    """

    reason: str
    file: str = ""
    id: str = ""
    item: int | None = None
    image: str = ""
    index: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns content for JSON."""
        return asdict(self)


def read_item(items: EvaluationSet, number: int, tolerance: Tolerance, root: Path) -> EvaluationItem | LeftOut:
    """Returns an item with its repairs, or what is left out where it is bad and `tolerance` permits; else raises.

    root: the data root, from which images are named.
    """
    try:
        with noting_repairs() as repairs:
            item = items[number]
    except UserError as error:
        if not tolerance.permits(error):
            raise
        image, index = items.entry(number)
        return LeftOut(**error.to_dict(), item=number, image=path_below(root, image), index=index)
    item.repairs = tuple(repairs)
    return item


def spread_items(items: EvaluationSet, count: int, tolerance: Tolerance) -> list[EvaluationItem]:
    """Returns `count` items spread evenly over a split, at most all; where one is bad, the next good one."""
    count = min(count, len(items))
    chosen = []
    for number in range(count):
        first = (2 * number + 1) * len(items) // (2 * count)
        found = (read_item(items, (first + step) % len(items), tolerance, Path()) for step in range(len(items)))
        chosen += itertools.islice((item for item in found if isinstance(item, EvaluationItem)), 1)
    return chosen


def unnumbered_entries(items: Sequence[EvaluationItem]) -> list[LeftOut]:
    """Returns what was left out when the split was opened; nothing for a plain list of items."""
    return [LeftOut(**error.to_dict()) for error in items.unnumbered] if isinstance(items, EvaluationSet) else []


def too_many(left_out: Sequence[LeftOut]) -> str:
    """Returns the error message where more is left out than is permitted."""
    reasons = "; ".join(one.reason for one in left_out[:SHOWN])
    return (
        f"{len(left_out)} images or more cannot be used, which is more than --skip_bad_samples allows; `python -m "
        f"dataloaders.inspect --decode` lists all. The first: {reasons}"
    )
