"""One image of an evaluation set with everything that is asked about it; and those that cannot be used."""

import itertools
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from groundscore.annotations.bad_entries import BadEntry, Repair, Tolerance, noting_repairs
from groundscore.annotations.images import check_image_file, read_image
from groundscore.errors import UserError
from groundscore.rle import Rle, Size, decode, encode, union
from groundscore.splits.wording import worded

T = TypeVar("T")

SHOWN = 3  # bad entries that an error names

# What the expressions of a set are, from which follows how they are asked for (wording.py):
Kind = Literal[
    "reasoning",  # sentences or phrases that take thought to find their target
    "reasoning or absent",  # the same, and some with a false premise
    "referring",  # phrases that refer to targets
    "referring or absent",  # the same, and some with a false premise
    "reasoning with names",  # questions with named targets
    "own words",  # whole questions, with an answer each
]
QUERY_KINDS = ("explicit", "implicit", "single", "multi", "positive", "none", "correction")
_WITH_JOINT_QUESTION = ("reasoning", "referring", "referring or absent")


class Deferred(Generic[T]):
    """A field that may be given as a function of its object, which is called when the field is first asked for.

    default: the function where the field is not given; without one it must be.
    """

    def __init__(self, default: Callable[[Any], T] | None = None):
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> T:
        if instance is None:  # `dataclass` asks for the default
            if self._default is None:
                raise AttributeError(self._name)
            return self._default
        value = vars(instance)[self._name]
        if callable(value):
            value = vars(instance)[self._name] = value(instance)
        return value

    def __set__(self, instance: Any, value: T | Callable[[Any], T]) -> None:
        vars(instance)[self._name] = value


# Functions with names: an item goes from a worker process to another with those that were not called yet.


def _one_target_each(item: "EvaluationItem") -> None:
    """Returns `target_masks` of an item whose expressions have one mask each."""


def _size_of_image(item: "EvaluationItem") -> Size:
    """Returns `size` where only the image tells it."""
    return item.image.shape[:2]


def _encoded_targets(item: "EvaluationItem") -> list[list[Rle]]:
    """Returns `targets` from the masks."""
    if item.target_masks is None:
        return [[encode(mask)] for mask in item.masks]
    return [[encode(mask) for mask in masks] for masks in item.target_masks]


@dataclass
class EvaluationItem:
    """One image with its expressions, N of them.

    The image and what is drawn on it (image, masks, ignore, target_masks, targets) may be given as functions of the
    item: nothing is decoded before it is asked for.

    image: uint8 RGB [H, W, 3]; size: (H, W).
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
    targets: the masks of the targets of every expression as RLE; one each where `target_masks` is None.
    target_names: of these targets, for every expression; empty where the data have no names.
    index: that of the entry in its file, where an image may occur more than once; None elsewhere.
    repairs: what was repaired to make it, see `read_item`.
    sentence_ids, annotation_ids: the data's own ids of each expression and of its targets; empty where it has none.
    """

    image_path: Path
    image: np.ndarray = Deferred()
    expressions: list[str]
    kind: Kind
    masks: np.ndarray = Deferred()
    ignore: np.ndarray | None = Deferred()
    exists: list[bool]
    dataset: str
    split: str
    number: int = 0
    is_sentence: list[bool] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    may_be_absent: bool = False
    together: bool = False
    ref_ids: list[int] = field(default_factory=list)
    target_masks: list[np.ndarray] | None = Deferred(_one_target_each)
    target_names: list[list[str]] = field(default_factory=list)
    index: int | None = None
    repairs: tuple[Repair, ...] = ()
    size: Size = Deferred(_size_of_image)
    targets: list[list[Rle]] = Deferred(_encoded_targets)
    sentence_ids: list[int] = field(default_factory=list)
    annotation_ids: list[list[int]] = field(default_factory=list)

    def __post_init__(self):
        self.ref_ids = self.ref_ids or [-1] * len(self.expressions)

    @property
    def id(self) -> str:
        """A name that no other item of the split has, and that may be part of a file name."""
        return self.image_path.stem if self.index is None else f"{self.index}_{self.image_path.stem}"

    @property
    def expression_ids(self) -> list[str]:
        """A name for each expression that no other of the split has: the item's and the expression's index."""
        return [f"{self.id}_{number}" for number in range(len(self.expressions))]

    @property
    def prompts(self) -> list[str]:
        """A question for each expression, in the published words; see `wording.worded`."""
        return worded(self).prompts

    @property
    def objects(self) -> list[int | None]:
        """For each expression the first one that is about the same targets; None where the data do not tell these."""
        first: dict[tuple[int, ...], int] = {}
        return [
            first.setdefault(tuple(sorted(ids)), number) if ids else None
            for number, ids in enumerate(self.annotation_ids or [()] * len(self.expressions))
        ]

    @property
    def has_joint_question(self) -> bool:
        """Whether one question can ask for all expressions; MUSE's and own questions are always asked one by one."""
        return self.kind in _WITH_JOINT_QUESTION

    def query_kinds(self, expression: int, targets: int | None = None) -> tuple[str, ...]:
        """What kind of query an expression is, as names of `QUERY_KINDS`.

        targets: how many there are, where that is known and need not be found by drawing them.

        How the target is said (explicit or implicit; own words are neither); then "positive" and how many targets there
        are, or why there is none: "none" in sets of no-target expressions, "correction" in those of false premises.
        """
        said = {"referring": ("explicit",), "reasoning": ("implicit",)}.get(self.kind.split()[0], ())
        if not self.exists[expression]:
            return (*said, "correction" if self.kind.endswith("or absent") else "none")
        if targets is not None:
            count = targets
        elif self.target_masks is not None:
            count = len(self.target_masks[expression])
        else:
            count = len(self.annotation_ids[expression]) if self.annotation_ids else 1
        return (*said, "positive", "multi" if count > 1 else "single")

    def path_below(self, root: Path) -> str:
        """Returns the name of the image in reports."""
        return path_below(root, self.image_path)

    def read_masks(self) -> "EvaluationItem":
        """Draws the targets and checks that the image can be read, without keeping it; the same item."""
        size = self.size
        if callable(vars(self)["image"]):
            check_image_file(self.image_path, size=size)
        _ = self.targets, self.ignore
        return self

    def read_all(self) -> "EvaluationItem":
        """Reads the image and draws the targets; the same item."""
        _ = self.image, self.masks, self.ignore, self.target_masks
        return self

    def decoded_masks(self) -> np.ndarray:
        """Returns `masks` from the targets."""
        return np.stack([decode(union(targets, self.size)) for targets in self.targets])


def read_pixels(item: EvaluationItem) -> np.ndarray:
    """Returns the item's image from its file; of its size where that is known without the image."""
    size = vars(item)["size"]
    return read_image(item.image_path, size=None if callable(size) else size)


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
    """Returns the path of an image from the data root on, with "/" on every system; one object for all who ask."""
    return sys.intern(path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix())


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


def read_item(
    items: EvaluationSet,
    number: int,
    tolerance: Tolerance,
    root: Path,
    read: Callable[[EvaluationItem], EvaluationItem] = EvaluationItem.read_all,
) -> EvaluationItem | LeftOut:
    """Returns an item with its repairs, or what is left out where it is bad and `tolerance` permits; else raises.

    root: the data root, from which images are named. read: what is read of the item, and so what can be bad.
    """
    try:
        with noting_repairs() as repairs:
            item = read(items[number])
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
        f"groundscore inspect DIR --split SPLIT --decode` lists all. The first: {reasons}"
    )
