"""A split that is open: its items one by one, those left out that cannot be used."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from groundscore.annotations.bad_entries import DEFAULT_SHARE, Tolerance
from groundscore.errors import UserError
from groundscore.splits.items import (
    EvaluationItem,
    EvaluationSet,
    LeftOut,
    path_below,
    read_item,
    too_many,
    unnumbered_entries,
)


@dataclass
class OpenSplit(Sequence[EvaluationItem]):
    """The items of a split, in a fixed order.

    spec: as in `groundscore.splits`, such as "refcoco|unc|testA". root: the data root. items: all items of the split.
    limit: only the first so many of them belong to it. tolerance: which entries may be left out.

    `split[i]` is item i as it lies on disk: nothing of it is decoded before it is asked for. Iterating reads the
    masks and checks the images, so that what cannot be used is left out (or stops, see `tolerance`).
    """

    spec: str
    root: Path
    items: Sequence[EvaluationItem]
    tolerance: Tolerance = field(default_factory=lambda: Tolerance(DEFAULT_SHARE))
    limit: int | None = None

    def __len__(self) -> int:
        return len(self.items) if self.limit is None else min(self.limit, len(self.items))

    def __getitem__(self, number: int) -> EvaluationItem:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.items[number]

    def __iter__(self) -> Iterator[EvaluationItem]:
        return self.items_at(range(len(self)))

    def items_at(self, numbers: Iterable[int]) -> Iterator[EvaluationItem]:
        """Yields the items of these numbers that can be used; stops where too many cannot."""
        left_out: list[LeftOut] = []
        for number in numbers:
            item = self.read(number)
            if isinstance(item, LeftOut):
                left_out.append(item)
                self.check_left_out(left_out)
            else:
                yield item

    def undecoded(self) -> Iterator[EvaluationItem]:
        """Yields the items as the annotation files list them, nothing drawn or decoded; without unreadable entries."""
        for number in range(len(self)):
            item = read_item(self.items, number, self.tolerance, self.root, lambda item: item)
            if isinstance(item, EvaluationItem):
                yield item

    def read(self, number: int) -> EvaluationItem | LeftOut:
        """Returns an item with its masks read and its image checked, or why it cannot be used."""
        return read_item(self.items, number, self.tolerance, self.root, EvaluationItem.read_masks)

    def check_left_out(self, left_out: Sequence[LeftOut]) -> None:
        """Raises `UserError` where more numbered items are left out than may be."""
        if len(left_out) > self.tolerance.most(len(self)):
            raise UserError(too_many([*unnumbered_entries(self.items), *left_out]))

    def unusable(self, numbers: Iterable[int]) -> tuple[list[EvaluationItem], list[LeftOut]]:
        """Returns which of these items can be used, and all that is left out of the split."""
        read = [self.read(number) for number in numbers]
        left_out = [item for item in read if isinstance(item, LeftOut)]
        self.check_left_out(left_out)
        return [item for item in read if isinstance(item, EvaluationItem)], [
            *unnumbered_entries(self.items),
            *left_out,
        ]

    def path_of(self, number: int) -> Path:
        """Returns the path of an item's image."""
        return self.items.entry(number)[0] if isinstance(self.items, EvaluationSet) else self.items[number].image_path

    @cached_property
    def digest(self) -> str:
        """A digest of which images the split has, in which order."""
        digest = hashlib.blake2b(digest_size=16)
        for number in range(len(self)):
            digest.update(json.dumps([path_below(self.root, self.path_of(number)), number]).encode())
        return digest.hexdigest()
