"""Items of a split that cannot be used: left out where that is permitted, and told wherever scores are."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groundscore.annotations.repairs import Tolerance, noting_repairs
from groundscore.errors import UserError
from groundscore.splits.item import EvaluationItem, EvaluationSet, path_below

SHOWN = 3  # bad entries that an error names


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
        return asdict(self)


def read_item(
    items: Sequence[EvaluationItem], number: int, tolerance: Tolerance, root: Path
) -> EvaluationItem | LeftOut:
    """An item with its repairs; where it is bad and `tolerance` permits, what is left out. Else raises `UserError`.

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


def spread_items(items: Sequence[EvaluationItem], count: int, tolerance: Tolerance) -> list[EvaluationItem]:
    """`count` items, spread evenly over a split, or all where there are fewer; the next good one where one is bad."""
    count = min(count, len(items))
    chosen = []
    for number in range(count):
        first = (2 * number + 1) * len(items) // (2 * count)
        found = (read_item(items, (first + step) % len(items), tolerance, Path()) for step in range(len(items)))
        chosen += itertools.islice((item for item in found if isinstance(item, EvaluationItem)), 1)
    return chosen


def unnumbered_entries(items: Sequence[EvaluationItem]) -> list[LeftOut]:
    """What was left out when the split was opened; nothing for a plain list of items."""
    return [LeftOut(**error.to_dict()) for error in items.unnumbered] if isinstance(items, EvaluationSet) else []


def too_many(left_out: Sequence[LeftOut]) -> str:
    """The error where more is left out than is permitted."""
    reasons = "; ".join(one.reason for one in left_out[:SHOWN])
    return (
        f"{len(left_out)} images or more cannot be used, which is more than --skip_bad_samples allows; `python -m "
        f"dataloaders.inspect --decode` lists all. The first: {reasons}"
    )
