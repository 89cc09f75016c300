"""A row of an audit: one expression, and the counts with the masks of all layers, of redraws, of the policy's choice.

Legend: L+1 layers.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groundscore.errors import UserError
from groundscore.reading import parse_json, read_lines
from groundscore.schema import ShapeError, anything, list_of, mapping, number, optional, record, text, whole
from groundscore.scoring.counts import QuestionCounts, Row, check_row, row_from_dict

SIDES = IMAGE_TOKENS, DECODER = "image tokens", "mask decoder"  # what a similarity map compares the `[SEG]` state with


@dataclass(frozen=True)
class LayerRow:
    """One expression and the masks of all its candidates.

    split: as in `groundscore.splits`; answer: "given" or "generated"; kinds: see `EvaluationItem.query_kinds`.
    layers: the counts with the mask of every layer, the last one last; one where a system has no choice.
    greedy: with each target's mask at the policy's likeliest layer; None where no policy chooses.
    redraws: by rate of dropout, the counts with L masks of the last layer.
    probabilities: the policy's, [L+1] of each target of the answer; chosen: its likeliest layer of each.
    points: by side (`SIDES`) and for each target of the answer, whether each layer's similarity map is highest on a
        true target, [L+1] of 0 and 1 (the pointing game of Zhang et al., 2016); empty without a true target.
    An expression with several targets has one layer for all of them in `layers` and `redraws`.
    """

    split: str
    answer: str
    kinds: tuple[str, ...]
    layers: list[Row]
    greedy: Row | None = None
    redraws: dict[str, list[Row]] = field(default_factory=dict)
    probabilities: list[list[float]] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    points: dict[str, list[list[int]]] = field(default_factory=dict)

    @property
    def last(self) -> Row:
        """The counts with the mask of the last layer."""
        return self.layers[-1]

    def to_line(self) -> str:
        """Returns a line of JSON; `from_line` reads it back. Other masks differ from the last one's in few numbers."""
        content = {"split": self.split, "protocol": self.answer, "kinds": list(self.kinds), **self.last.to_dict()}
        content |= {"layers": [_differing(row) for row in self.layers]}
        if self.greedy is not None:
            content |= {"greedy": _differing(self.greedy), "probabilities": self.probabilities, "chosen": self.chosen}
        content["redraws"] = {rate: [_differing(row) for row in rows] for rate, rows in self.redraws.items()}
        if self.points:
            content["points"] = self.points
        return json.dumps(content) + "\n"

    @classmethod
    def from_line(cls, line: str, where: str) -> "LayerRow":
        """Returns the row in a line; `UserError` where there is none."""
        content = parse_json(line, where, remedy="make the audit again")
        try:
            mapping(anything, at_least=list(_OWN_FIELDS))(content, "")
            own = {name: content.pop(name) for name in (*_OWN_FIELDS, *_OTHER_FIELDS) if name in content}
            _OWN(own, "")
            check_row(content, "")
            last = row_from_dict(content)
            layers = [_with_counts(last, counts) for counts in own["layers"]]
            redraws = {rate: [_with_counts(last, one) for one in some] for rate, some in own["redraws"].items()}
            greedy = None if own.get("greedy") is None else _with_counts(last, own["greedy"])
            points = own.get("points", {})
            of_targets = [hits for of_side in points.values() for hits in of_side]
            if not set(points) <= set(SIDES) or any(len(one) != len(layers) or max(one) > 1 for one in of_targets):
                raise ShapeError(f"points are by side ({', '.join(SIDES)}), 0 or 1 for every layer of each target")
        except ShapeError as error:
            raise UserError(f"{where} is not a row of an audit ({error}); make the audit again") from error
        return cls(
            own["split"],
            own["protocol"],
            tuple(own["kinds"]),
            layers,
            greedy,
            redraws,
            own.get("probabilities", []),
            own.get("chosen", []),
            points,
        )


def _differing(row: Row) -> Any:
    """What a mask changes of a row: [intersection, union], for MUSE the intersections and predicted areas."""
    if isinstance(row, QuestionCounts):
        return {"intersections": row.intersections, "predicted_areas": row.predicted_areas}
    return [row.intersection, row.union]


def _with_counts(last: Row, counts: Any) -> Row:
    """The row of another mask of the same expression, from `_differing`."""
    if isinstance(last, QuestionCounts):
        if not isinstance(counts, dict):
            raise ShapeError("a question has intersections and predicted areas of every mask")
        row = replace(last, **counts)
    else:
        if not isinstance(counts, list) or len(counts) != 2:
            raise ShapeError("an expression has an intersection and a union of every mask")
        intersection, union = counts
        area = union - last.target_area + intersection
        row = replace(last, intersection=intersection, union=union, predicted_area=area)
    check_row(row.to_dict(), "mask")
    return row


_OWN_FIELDS = {
    "split": text,
    "protocol": text,
    "kinds": list_of(text),
    "layers": list_of(anything),
    "redraws": mapping(list_of(anything)),
}
_OTHER_FIELDS = {
    "greedy": optional(anything),
    "probabilities": list_of(list_of(number)),
    "chosen": list_of(whole(0)),
    "points": mapping(list_of(list_of(whole(0)))),
}
_OWN = record(_OWN_FIELDS, _OTHER_FIELDS)


def read_layer_rows(path: Path) -> Iterator[LayerRow]:
    """The rows of an audit's file, one after the other."""
    for index, line in read_lines(path, missing="python -m evaluation.audit writes it"):
        yield LayerRow.from_line(line, f"{path}, line {index}")
