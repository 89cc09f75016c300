"""What a choice of layer is worth: scores of every layer's masks, of the best layer, and of what luck alone would be.

The rows of `layer_rows.py` hold the counts of one expression (for MUSE of one question) with the mask that each hidden
state of the LLM prompts. The best of L+1 layers is better than the last for two reasons: some expressions need another
layer, and the best of several masks is better than one of them by luck. The second is measured by redraws of the last
layer's state: the best of L+1 masks of one layer, the undisturbed one and L with dropout, beside the best of the L+1
layers. What remains of the gain is the layers'.

Legend: N expressions, L+1 layers, C candidates (masks of an expression), I images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.scoring.bootstrap import Terms, interval, ratios, resample
from groundscore.scoring.counts import QuestionCounts, Row
from groundscore.scoring.layer_rows import SIDES, LayerRow, read_layer_rows

NOISE = 0.95  # a gain is more than noise if it exceeds this share of the gains from redraws,
LEAST = 0.01  # and so much IoU, below which a mask is not another one
LAST, GREEDY, ORACLE, REDRAWN = "last", "greedy", "best layer", "best redraw"


# --- rows as columns --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerColumns:
    """The rows of one split asked in one way, as columns.

    image: int64 [N], index of the image among those of the rows; images: how many there are. kinds: of each row.
    iou: float64 [N, C], the sum of IoU over the pairs of masks of each candidate; pairs: float64 [N], how many pairs an
    expression has (1; for MUSE more). intersection, union: int64 [N, C].
    layered: bool [N], the expression has a target and the answer a mask, so that the layer matters.
    layers, redraws: which candidates are the layers' and, by rate, the redraws'; greedy: the policy's, or None.
    probabilities: float64 [targets, L+1]; chosen: int64 [targets].
    points: by side, the image int64 [targets] of each target that was to be found, and the hits int64 [targets, L+1].
    """

    images: int
    image: np.ndarray
    kinds: list[tuple[str, ...]]
    iou: np.ndarray
    pairs: np.ndarray
    intersection: np.ndarray
    union: np.ndarray
    layered: np.ndarray
    layers: slice
    redraws: dict[str, slice]
    greedy: int | None
    probabilities: np.ndarray
    chosen: np.ndarray
    points: dict[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, rows: Iterable[LayerRow]) -> "LayerColumns":
        """Returns the columns of rows with the same candidates; ValueError where they differ or there are none."""
        first: LayerRow | None = None
        items, kinds, layered, probabilities, chosen, sums = [], [], [], [], [], []
        points: dict[str, tuple[list[int], list[list[int]]]] = {side: ([], []) for side in SIDES}
        for row in rows:
            first = first or row
            if _candidates(row) != _candidates(first):
                raise ValueError("rows with different layers or redraws do not belong together")
            items.append(row.last.item)
            kinds.append(row.kinds)
            layered.append(_layer_matters(row.last))
            probabilities += row.probabilities
            chosen += row.chosen
            for side, of_targets in row.points.items():
                points[side][0].extend([row.last.item] * len(of_targets))
                points[side][1].extend(of_targets)
            candidates = [*row.layers, *([row.greedy] if row.greedy is not None else [])]
            candidates += [one for some in row.redraws.values() for one in some]
            pairs = [one.pairs() for one in candidates]
            sums.append(
                [
                    (sum(p.iou for p in of), sum(p.intersection for p in of), sum(p.union for p in of), len(of))
                    for of in pairs
                ]
            )
        if first is None:
            raise ValueError("there are no rows")
        depth = len(first.layers)
        start = depth + (first.greedy is not None)
        redraws = {}
        for rate, some in first.redraws.items():
            redraws[rate] = slice(start, start + len(some))
            start += len(some)
        known, image = np.unique(items, return_inverse=True)
        table = np.array(sums, np.float64).reshape(len(items), -1, 4)  # [N, C, 4]; pixels stay below 2^53
        return cls(
            images=len(known),
            image=image,
            kinds=kinds,
            iou=table[..., 0],
            pairs=table[:, 0, 3],
            intersection=table[..., 1].astype(np.int64),
            union=table[..., 2].astype(np.int64),
            layered=np.array(layered, bool),
            layers=slice(0, depth),
            redraws=redraws,
            greedy=None if first.greedy is None else depth,
            probabilities=np.array(probabilities, np.float64).reshape(-1, depth),
            chosen=np.array(chosen, np.int64),
            points={
                side: (np.searchsorted(known, of_item), np.array(hits, np.int64).reshape(-1, depth))
                for side, (of_item, hits) in points.items()
                if hits
            },
        )

    @property
    def depth(self) -> int:
        """L+1."""
        return self.layers.stop

    @property
    def last(self) -> int:
        """The candidate of the last layer."""
        return self.depth - 1

    def best(self, candidates: slice) -> np.ndarray:
        """int64 [N]: of these candidates and the last layer the one with the best mask, the last layer where equal."""
        some = np.arange(self.iou.shape[1])[candidates]
        found = some[self.iou[:, some].argmax(axis=1)]
        return np.where(self.iou[np.arange(len(found)), found] > self.iou[:, self.last], found, self.last)

    def ious(self, chosen: np.ndarray) -> np.ndarray:
        """float64 [N]: sums of IoU of the chosen candidates [N]."""
        return self.iou[np.arange(len(chosen)), chosen]

    def gain(self, chosen: np.ndarray) -> np.ndarray:
        """float64 [N]: how much better the chosen candidates [N] are than the last layer, in IoU."""
        return (self.ious(chosen) - self.iou[:, self.last]) / np.maximum(self.pairs, 1)


def _candidates(row: LayerRow) -> tuple:
    return len(row.layers), row.greedy is None, {rate: len(some) for rate, some in row.redraws.items()}


def _layer_matters(row: Row) -> bool:
    if isinstance(row, QuestionCounts):
        return bool(row.predicted_areas and row.target_areas)
    return row.exists and row.present and row.target_area > 0


# --- a summary --------------------------------------------------------------------------------------------------------


def summarise(columns: LayerColumns, *, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """All numbers of an audit's page for one split asked in one way, with 95 % intervals by bootstrap over images.

    scores: gIoU and cIoU with the last layer, the policy's, every layer, the best layer of each expression and the best
        of its redraws. differences: of gIoU. rate: the dropout of the redraws, the one of several with which luck gains
        most. gains: over the expressions where the layer matters: `layers` the best layer's gain in IoU, `luck` the
        best redraw's, `beyond_luck` their difference; noise: the gain that 95 % of expressions have at most from
        redraws, at least `LEAST`; above_noise: shares of expressions with more, of layers, of redraws, the difference.
    kinds: the same by kind of query. chosen, best: how often each layer is the policy's, for the targets, and the best,
        for the expressions. probabilities: the policy's mean.
    """
    strongest = _strongest(columns)
    quantities = _Quantities(columns.image, columns.images)
    oracle = columns.best(columns.layers)
    named = {LAST: np.full(len(oracle), columns.last)}
    if columns.greedy is not None:
        named[GREEDY] = np.full(len(oracle), columns.greedy)
    if columns.depth > 1:
        named |= {f"layer {layer}": np.full(len(oracle), layer) for layer in range(columns.depth)}
        named[ORACLE] = oracle
        if strongest is not None:
            named[REDRAWN] = columns.best(columns.redraws[strongest])
    for name, chosen in named.items():
        rows = np.arange(len(chosen))
        quantities.add(("scores", name, "gIoU"), Terms(columns.image, columns.ious(chosen), columns.pairs))
        counts = columns.intersection[rows, chosen], columns.union[rows, chosen]
        quantities.add(("scores", name, "cIoU"), Terms(columns.image, *counts), zero=1.0)
    for better, worse in ((GREEDY, LAST), (ORACLE, LAST), (REDRAWN, LAST), (ORACLE, REDRAWN)):
        if better in named and worse in named:
            difference = columns.ious(named[better]) - columns.ious(named[worse])
            name = f"{better} - {worse}"
            quantities.add(("differences", name), Terms(columns.image, difference, columns.pairs))
    kinds = {name: np.array([name in each for each in columns.kinds]) for name in _names(columns.kinds)}
    noise = None
    if ORACLE in named and REDRAWN in named and columns.layered.any():
        gain, luck = columns.gain(oracle), columns.gain(named[REDRAWN])
        noise = max(LEAST, float(np.quantile(luck[columns.layered], NOISE)))
        for path, some in ((("gains",), columns.layered), *((("kinds", kind), k) for kind, k in kinds.items())):
            _add_gains(quantities, path, columns.image, some & columns.layered, gain, luck, noise)
    for kind, some in kinds.items():
        for name in (LAST, GREEDY) if columns.greedy is not None else (LAST,):
            terms = Terms(columns.image[some], columns.ious(named[name])[some], columns.pairs[some])
            quantities.add(("kinds", kind, f"gIoU {name}"), terms)
    for side, (image, hits) in columns.points.items():
        for layer in range(columns.depth):
            quantities.add(("pointing", side, f"layer {layer}"), Terms.mean(image, hits[:, layer]))
    found = quantities.results(bootstrap, seed)
    for kind, some in kinds.items():
        found["kinds"][kind] |= {"expressions": int(some.sum()), "layered": int((some & columns.layered).sum())}
    return {
        "images": columns.images,
        "expressions": len(columns.image),
        "layered": int(columns.layered.sum()),
        "depth": columns.depth,
        "rate": strongest,
        "rates": {rate: _mean_luck(columns, rate) for rate in columns.redraws},
        "noise": noise,
        **found,
        "chosen": np.bincount(columns.chosen, minlength=columns.depth).tolist(),
        "best": np.bincount(oracle[columns.layered], minlength=columns.depth).tolist(),
        "probabilities": columns.probabilities.mean(axis=0).tolist() if len(columns.probabilities) else None,
    }


def _add_gains(
    quantities: "_Quantities",
    path: tuple[str, ...],
    image: np.ndarray,
    some: np.ndarray,
    gain: np.ndarray,
    luck: np.ndarray,
    noise: float,
) -> None:
    """Adds what the best layer and the best redraw gain over the last layer; some: bool [N], of these expressions."""
    above = {"layers": gain > noise, "redraws": luck > noise}
    above["beyond_luck"] = above["layers"].astype(np.int64) - above["redraws"]
    for name, values in {"layers": gain, "luck": luck, "beyond_luck": gain - luck}.items():
        quantities.add((*path, name), Terms.mean(image[some], values[some]))
    for name, values in above.items():
        quantities.add((*path, "above_noise", name), Terms.mean(image[some], values[some].astype(np.int64)))


def _strongest(columns: LayerColumns) -> str | None:
    """The rate of dropout whose redraws gain most by luck; None where there are none."""
    return max(columns.redraws, key=lambda rate: _mean_luck(columns, rate) or 0.0, default=None)


def _mean_luck(columns: LayerColumns, rate: str) -> float | None:
    gains = columns.gain(columns.best(columns.redraws[rate]))[columns.layered]
    return float(gains.mean()) if len(gains) else None


def _names(kinds: Sequence[tuple[str, ...]]) -> list[str]:
    return sorted({name for each in kinds for name in each})


class _Quantities:
    """Ratios of sums under nested names, resampled with the same draws of images."""

    def __init__(self, image: np.ndarray, images: int):
        self.image, self.images = image, images
        self._terms: dict[tuple[str, ...], tuple[Terms, float | None]] = {}

    def add(self, path: tuple[str, ...], terms: Terms, zero: float | None = None) -> None:
        """path: where its value stands in the results. zero: see `Terms.ratio`."""
        self._terms[path] = terms, zero

    def results(self, bootstrap: int, seed: int) -> dict[str, Any]:
        """Nested objects that end in {"value": …, "ci95": [low, high] or None}; value None where there are no terms."""
        found: dict[str, Any] = {"scores": {}, "differences": {}, "kinds": {}}
        totals = None
        if bootstrap and self.images > 1:
            sums = np.concatenate([terms.by_image(self.images) for terms, _ in self._terms.values()], axis=1)
            totals = np.split(resample(sums, bootstrap, seed), len(self._terms), axis=1)
        for index, (path, (terms, zero)) in enumerate(self._terms.items()):
            value = terms.ratio(zero)
            bounds = None if totals is None or value is None else interval(ratios(totals[index], zero))
            place = found
            for name in path[:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = {"value": value, "ci95": bounds}
        return found


def summarise_rows(path: Path, *, bootstrap: int = 1000, seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """The summaries of an audit's file of rows, by split and answer, in their order there."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (split, answer), rows in groupby(read_layer_rows(path), key=lambda row: (row.split, row.answer)):
        found.setdefault(split, {})[answer] = summarise(LayerColumns.of(rows), bootstrap=bootstrap, seed=seed)
    return found
