"""The expressions of a split by the names that prediction files give them.

| Kind of id | What it is |
|---|---|
| expression | the "id" of `groundscore export-items`, image and index: `COCO_train2014_000000000009_2` |
| sentence | the data set's `sent_id` |
| image | the image's file name or number, where only one expression is asked about it |
| ref | the data set's `ref_id`: all sentences of the ref |
| object | the id of the annotated target: all expressions about it alone |
| number | the index of the expression in the split, from 0, in the order of `groundscore export-items` |

A name of several expressions (a ref's, an object's) gives each of them the same prediction.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from groundscore.annotations.images import coco_number
from groundscore.errors import UserError, shown
from groundscore.names import did_you_mean, look_up
from groundscore.splits import EvaluationItem, LeftOut, OpenSplit, read_item, unnumbered_entries

SHOWN = 5  # names that an error lists
_LOG = logging.getLogger("groundscore")


@dataclass(frozen=True)
class Address:
    """One expression of a split. item: its item's number. entry, image, expression: as `Prediction` has them."""

    item: int
    entry: str | int
    image: str
    expression: int
    text: str
    id: str
    sentence: int | None
    ref: int | None
    objects: tuple[int, ...]
    number: int
    alone: bool

    @property
    def key(self) -> tuple[str | int, int]:
        """See `Prediction.key`."""
        return self.entry, self.expression


def _image_names(address: Address) -> list[str]:
    name = PurePath(address.image)
    number = coco_number(name.name)
    return [name.name, name.stem, *([str(number)] if number >= 0 else [])]


# Kind of id -> the names of an expression. In this order names are tried.
KINDS: dict[str, Callable[[Address], Sequence[str]]] = {
    "expression": lambda one: [one.id],
    "sentence": lambda one: [] if one.sentence is None else [str(one.sentence)],
    "image": lambda one: _image_names(one) if one.alone else [],
    "ref": lambda one: [] if one.ref is None else [str(one.ref)],
    "object": lambda one: [str(one.objects[0])] if len(one.objects) == 1 else [],
    "number": lambda one: [str(one.number)],
}

# Keys of records -> the kind of id that they hold, the most specific first.
KEYS = {
    "expression_id": "expression",
    "sent_id": "sentence",
    "sentence_id": "sentence",
    "ref_id": "ref",
    "ann_id": "object",
    "annotation_id": "object",
}
INDEX = "index"
IMAGE_KEYS = ("image", "image_path", "file_name", "image_id")
TEXT_KEYS = ("expression", "text", "sentence", "sent", "text_prompt", "caption", "query")


class Addresses:
    """All expressions of a split, by their names.

    whole: no entry of the split is left out, so that a name that is not here names nothing.
    """

    def __init__(self, split: OpenSplit):
        self.split = split
        self.spec = split.spec
        self.whole = not unnumbered_entries(split.items)
        self.all: list[Address] = []
        for number in range(len(split.items)):
            item = read_item(split.items, number, split.tolerance, split.root, _as_it_is)
            if isinstance(item, LeftOut):
                self.whole = False
            else:
                self.all += _addresses(item, item.path_below(split.root), len(self.all))
        self._by_kind = {kind: _grouped(self.all, names) for kind, names in KINDS.items()}
        self._by_image = _grouped(self.all, _image_names)

    def find(self, kind: str, name: Any) -> list[Address]:
        """Returns the expressions that a name of this kind means; none where it means nothing."""
        return self._by_kind[kind].get(_plain(name), [])

    def of_image(self, name: Any) -> list[Address]:
        """Returns all expressions about an image, by its path, file name or number; none for an unknown one.

        Raises `UserError` where a path names several images that end alike.
        """
        text = str(name)
        found = self._by_image.get(PurePath(text).name, []) or self._by_image.get(_plain(name), [])
        if len({one.image for one in found}) > 1:
            parts = PurePath(text).parts
            same = {one.image: _shared_end(parts, PurePath(one.image).parts) for one in found}
            longest = max(same.values())
            best = [image for image, length in same.items() if length == longest]
            if len(best) > 1:
                raise UserError(f"{text} may be {' or '.join(best[:SHOWN])} of {self.spec}; give more of its path")
            found = [one for one in found if one.image == best[0]]
        return found

    def of_record(self, record: Mapping[str, Any], where: str) -> list[Address]:
        """Returns the expressions that a record of a file is about, by the keys of this module.

        An id decides, and an image or text beside it must agree; without one the image does, together with the text or
        index of the expression where several are asked about it. Raises `UserError` for what names nothing, or more
        than one thing.
        """
        ids = [(key, record[key]) for key in KEYS if record.get(key) not in (None, "")]
        if isinstance(record.get("id"), str):  # a number is COCO's own, of the annotation
            ids.insert(0, ("id", record["id"]))
        image = next(((key, record[key]) for key in IMAGE_KEYS if record.get(key) not in (None, "")), None)
        text = next(((key, record[key]) for key in TEXT_KEYS if record.get(key) not in (None, "")), None)
        if ids:
            kind = KEYS.get(ids[0][0], "expression")
            found = self.find(kind, ids[0][1])
            if not found and kind == "object":
                found = self.find("image", ids[0][1])  # sets without annotations' ids have the image's name here
            if not found:
                raise UserError(f"{where}: {self.spec} has no expression of {ids[0][0]} {shown(ids[0][1])}")
            if image is not None:
                found = self._agreeing(found, ids[0], image, where)
            return self._of_text(found, text, where) if text and len(found) > 1 else found
        if image is None:
            keys = [*KEYS, *IMAGE_KEYS]
            meant = next(filter(None, (did_you_mean(key, keys) for key in record if key not in keys)), "")
            raise UserError(
                f"{where} does not say which expression it is about; it needs one of {', '.join(keys)}, and has "
                f"{', '.join(map(shown, record))}{meant}"
            )
        found = self.of_image(image[1])
        if type(record.get(INDEX)) is int:  # of the entry, where an image may occur twice
            found = [one for one in found if one.entry in (record[INDEX], one.image)]
        if not found:
            raise UserError(f"{where}: {self.spec} has no image {shown(image[1])}")
        if text is not None:
            return self._of_text(found, text, where)
        if len(found) > 1:
            raise UserError(
                f"{where}: {self.spec} asks {len(found)} expressions about {found[0].image}, and this does not say "
                f"which; it needs one of {', '.join([*KEYS, *TEXT_KEYS])}"
            )
        return found

    def _agreeing(
        self, found: list[Address], named: tuple[str, Any], image: tuple[str, Any], where: str
    ) -> list[Address]:
        there = {one.image for one in self.of_image(image[1])}
        agreeing = [one for one in found if one.image in there]
        if there and not agreeing:
            raise UserError(
                f"{where}: {named[0]} {shown(named[1])} of {self.spec} is about {found[0].image}, not {image[0]} "
                f"{shown(image[1])}"
            )
        return agreeing or found

    def _of_text(self, found: list[Address], text: tuple[str, Any], where: str) -> list[Address]:
        if type(text[1]) is int:
            chosen = [one for one in found if one.expression == text[1]]
        else:
            exact = [one for one in found if one.text == text[1]]
            chosen = exact or [one for one in found if _words(one.text) == _words(str(text[1]))]
        if not chosen:
            asked = ", ".join(shown(one.text, 40) for one in found[:SHOWN])
            raise UserError(
                f"{where}: {self.spec} does not ask {shown(text[1])} about {found[0].image}; it asks {asked}"
                f"{', …' if len(found) > SHOWN else ''}"
            )
        return chosen


def resolve_names(names: Iterable[str], addresses: Addresses, where: str, ids: str | None) -> dict[str, list[Address]]:
    """Returns for each name of a folder or archive the expressions that it means.

    ids: the kind of id that names are; by default the kind that knows all names. Raises `UserError` for a name that
    means nothing, and where several kinds know all names and disagree.
    """
    names = list(names)
    kinds = list(KINDS) if ids is None else [look_up(ids, {kind: kind for kind in KINDS}, "kind of id")]
    found = {kind: {name: addresses.find(kind, name) for name in names} for kind in kinds}
    known = {kind: sum(bool(some) for some in by_name.values()) for kind, by_name in found.items()}
    best = max(kinds, key=lambda kind: known[kind])  # the first of those that know as many
    others = [kind for kind in kinds if known[kind] == len(names) and found[kind] != found[best]]
    if names and known[best] == len(names) and others:
        covering = [kind for kind in (best, *others) if _covers(found[kind], addresses)]
        if len(covering) != 1:
            raise UserError(
                f"{where}: names such as {names[0]!r} are ambiguous: they may be of the kind "
                f"{' or '.join([best, *others])}, which mean other expressions of {addresses.spec}; --ids says which"
            )
        best = covering[0]
    unknown = [name for name, some in found[best].items() if not some]
    if unknown and (addresses.whole or not known[best]):
        example = next(iter(KINDS[best](addresses.all[0])), addresses.all[0].id) if addresses.all else ""
        raise UserError(
            f"{where}: {len(unknown)} of {len(names)} names mean no expression of {addresses.spec}: "
            f"{', '.join(sorted(unknown)[:SHOWN])}{', …' if len(unknown) > SHOWN else ''}; a name is an id such as "
            f"{example} ({best}), and `groundscore export-items` lists all"
        )
    return {name: some for name, some in found[best].items() if some}


class UnknownKeys:
    """Keys of records that an adapter does not read: told once each, with the first place where they are."""

    def __init__(self, known: Iterable[str]):
        self._known = frozenset(known)
        self.found: dict[str, str] = {}

    def note(self, record: Mapping[str, Any], where: str) -> None:
        """Remembers the unknown keys of a record."""
        for key in record.keys() - self._known:
            self.found.setdefault(key, where)

    def tell(self) -> None:
        """Logs a warning for each of them."""
        for key, where in sorted(self.found.items()):
            _LOG.warning("%s: the key %s is not read%s", where, shown(key), did_you_mean(key, self._known))


def _addresses(item: EvaluationItem, image: str, first: int) -> list[Address]:
    count = len(item.expressions)
    return [
        Address(
            item=item.number,
            entry=image if item.index is None else item.index,
            image=image,
            expression=index,
            text=item.expressions[index],
            id=item.expression_ids[index],
            sentence=item.sentence_ids[index] if item.sentence_ids else None,
            ref=item.ref_ids[index] if item.ref_ids[index] >= 0 else None,
            objects=tuple(item.annotation_ids[index]) if item.annotation_ids else (),
            number=first + index,
            alone=count == 1,
        )
        for index in range(count)
    ]


def _as_it_is(item: EvaluationItem) -> EvaluationItem:
    return item


def _grouped(addresses: Iterable[Address], names: Callable[[Address], Sequence[str]]) -> dict[str, list[Address]]:
    grouped: dict[str, list[Address]] = {}
    for one in addresses:
        for name in dict.fromkeys(map(_plain, names(one))):
            grouped.setdefault(name, []).append(one)
    return grouped


def _plain(name: Any) -> str:
    """A name as text; of a number without leading zeros."""
    text = str(name)
    return text.lstrip("0") or "0" if text.isascii() and text.isdigit() else text


def _words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def _shared_end(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((length for length, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _covers(found: Mapping[str, Sequence[Address]], addresses: Addresses) -> bool:
    named = {one.key for some in found.values() for one in some}
    return all(one.key in named for one in addresses.all)
