"""From the records of other tools' files to predictions: which split and expression, and several masks of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundscore.errors import UserError, shown
from groundscore.exchange.addresses import Address, Addresses, UnknownKeys
from groundscore.exchange.predictions import Prediction, Predictions, add_prediction
from groundscore.splits import OpenSplit

_BEGINNING = 1 << 16


def beginning(path: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_BEGINNING)
    except OSError:
        return b""


@dataclass
class _Parts:
    """What is known of one expression so far."""

    address: Address
    where: str
    masks: list[Any] = field(default_factory=list)
    present: bool | None = None
    answer: str | None = None
    counts: tuple[int, int] | None = None


class Gathered:
    """Predictions of one file, from its records.

    once: an expression may have one record only, or the same one again; else the masks of several are joined.
    protocol: how the model was asked, as in `Answered`.
    """

    def __init__(self, path: Path, splits: Mapping[str, OpenSplit], *, once: bool = False, protocol: str | None = None):
        self.path, self._once, self._protocol = path, once, protocol
        self.addresses = {spec: Addresses(split) for spec, split in splits.items()}
        self._found: dict[str, dict[tuple[str | int, int], _Parts]] = {spec: {} for spec in splits}

    def add(
        self,
        record: Mapping[str, Any],
        where: str,
        masks: Sequence[Any],
        *,
        present: bool | None = None,
        answer: str | None = None,
    ) -> None:
        """Adds what a record says. record: the keys that name its expression, and perhaps its split.

        masks: in forms of `groundscore.scoring.masks`.
        """
        for spec, addresses in self.addresses_of(record, where).items():
            for one in addresses:
                self.add_to(spec, one, where, masks, present=present, answer=answer)

    def add_to(
        self,
        spec: str,
        address: Address,
        where: str,
        masks: Sequence[Any],
        *,
        present: bool | None = None,
        answer: str | None = None,
        counts: tuple[int, int] | None = None,
    ) -> None:
        """Adds a prediction for an expression that is known.

        counts: intersection and union, where a file has these instead of masks.
        """
        parts = self._found[spec].get(address.key)
        if parts is None:
            parts = self._found[spec][address.key] = _Parts(address, where)
        elif self._once and (list(masks), counts) == (parts.masks, parts.counts):
            return
        elif self._once:
            raise UserError(f"{where} is about the same expression as {parts.where}: {spec}, {address.id}")
        parts.masks += masks
        parts.counts = counts
        parts.present = parts.present if present is None else (parts.present is not False and present)
        parts.answer = answer if isinstance(answer, str) else parts.answer

    def addresses_of(self, record: Mapping[str, Any], where: str) -> dict[str, list[Address]]:
        """The expressions that a record is about, by split; of several splits it must be about one.

        None for a record of another split, or perhaps of an entry that is left out. Raises `UserError` for one about
        nothing.
        """
        named = record.get("split")
        if isinstance(named, str) and "|" in named:
            return {named: self.addresses[named].of_record(record, where)} if named in self.addresses else {}
        found, problems = {}, []
        for spec, addresses in self.addresses.items():
            try:
                found[spec] = addresses.of_record(record, where)
            except UserError as error:
                problems.append(error)
        if len(found) > 1:
            raise UserError(
                f"{where} may belong to {' or '.join(found)}; add the key 'split', or score one split at a time"
            )
        if not found and all(addresses.whole for addresses in self.addresses.values()):
            raise problems[0]
        return found

    def predictions(self, unknown: UnknownKeys | None = None) -> Predictions:
        """Returns all of them; says which keys were not read."""
        if unknown is not None:
            unknown.tell()
        found: Predictions = {}
        for spec, by_key in self._found.items():
            for parts in by_key.values():
                one = parts.address
                add_prediction(
                    found,
                    spec,
                    Prediction(
                        where=parts.where,
                        entry=one.entry,
                        image=one.image,
                        expression=one.expression,
                        present=parts.present,
                        masks=parts.masks,
                        answer=parts.answer,
                        counts=parts.counts,
                        protocol=self._protocol,
                    ),
                )
        if not found:
            raise UserError(f"{self.path} has no prediction for {', '.join(map(shown, self.addresses))}")
        return found
