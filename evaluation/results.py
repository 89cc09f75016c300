"""The results of an evaluation: scores of every split, what they were made of, and the files that hold them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from evaluation.places import Places
from evaluation.protocol import EXPLAIN, Protocol
from evaluation.running import Outcome
from groundscore.annotations.bad_samples import describe_bad_samples, list_bad_samples
from groundscore.scoring.counts import Row
from groundscore.scoring.gallery import Section, write_gallery
from groundscore.scoring.left_out import left_out_note
from groundscore.scoring.prediction_files import write_predictions
from groundscore.scoring.report import write_report
from groundscore.scoring.scores import score_split
from groundscore.scoring.tabulating import entries_of, table
from groundscore.splits import EvaluationItem, LeftOut

PACKAGES = ("torch", "transformers", "numpy")


@dataclass(frozen=True)
class Entry:
    """What one split was scored from: rows and, where they were kept, the run lengths of each row's masks.

    left_out: entries that have no row. repaired: what was mended in the others.
    """

    spec: str
    protocol: dict[str, Any]
    rows: list[Row]
    masks: list[Sequence[Any]]
    predictions: list[dict] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    repaired: list[dict] = field(default_factory=list)


@dataclass
class Results:
    """Scores by split, or with several protocols by split and answer.

    header: what the report says besides. nested: every split has an object for each answer (`--answer both`).
    gres_reference, bootstrap: see `score_split`. failed: a split could not be scored.
    """

    header: dict[str, Any]
    nested: bool
    gres_reference: bool
    bootstrap: int
    splits: dict[str, dict] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    layers: Counter = field(default_factory=Counter)
    failed: bool = False

    def add(self, outcome: Outcome) -> None:
        """Score what a model was counted for."""
        self.layers.update(outcome.layers)
        self.add_rows(
            Entry(
                outcome.spec,
                outcome.protocol.to_dict(),
                outcome.rows,
                [_masks(line) for line in outcome.predictions],
                outcome.predictions,
                outcome.left_out,
                outcome.repaired,
            ),
            silent=outcome.silent,
            layers={str(layer): times for layer, times in outcome.layers.items()},
            seconds=round(outcome.seconds, 3),
        )

    def add_rows(self, entry: Entry, **beside: Any) -> None:
        """Score rows; `beside` stands beside their scores."""
        scores = score_split(entry.spec, entry.rows, gres_reference=self.gres_reference, bootstrap=self.bootstrap)
        left_out = [one.to_dict() for one in entry.left_out]
        scores |= {"left_out": len(left_out), "repaired": len(entry.repaired)}
        scores |= {"left_out_entries": left_out, "repaired_entries": entry.repaired}
        self._put(entry.spec, scores | {"protocol": entry.protocol} | beside)
        self.entries.append(entry)

    def fail(self, spec: str, protocol: Protocol, reason: str) -> None:
        """A row that says why a split has no scores."""
        self.failed = True
        self._put(spec, {"error": reason, "protocol": protocol.to_dict()})

    def _scores_of(self, entry: Entry) -> dict:
        scores = self.splits[entry.spec]
        return scores[entry.protocol["answer"]] if self.nested else scores

    def _put(self, spec: str, scores: dict) -> None:
        if self.nested:
            self.splits.setdefault(spec, {})[scores["protocol"]["answer"]] = scores
        else:
            self.splits[spec] = scores

    def to_dict(self) -> dict[str, Any]:
        """The report, as JSON can hold it."""
        layers = {str(layer): times for layer, times in sorted(self.layers.items())}
        return {"splits": self.splits, **self.header, "layers": layers}

    def write(self, places: Places) -> None:
        """Print the table, and write it with the rows and the report."""
        shown = table(self.splits, nested=self.nested, explain=EXPLAIN)
        print(shown)
        rows = ((entry.spec, entry.protocol["answer"], entry.rows) for entry in self.entries)
        write_report(places.report, self.to_dict(), shown, rows)
        print(f"report: {places.report}")
        self._list_bad_samples(places.bad_samples)

    def _list_bad_samples(self, path: Path) -> None:
        """Write what was left out or repaired, if anything was, and say so."""
        path.unlink(missing_ok=True)
        for entry in self.entries:
            list_bad_samples(path, entry.spec, [one.to_dict() for one in entry.left_out], entry.repaired)
        if told := describe_bad_samples(path):
            print(f"bad samples: {told}")

    def write_predictions(self, places: Places) -> None:
        """One file of saved predictions for each answer."""
        for answer in dict.fromkeys(entry.protocol["answer"] for entry in self.entries):
            path = places.predictions(answer if self.nested else None)
            chosen = [entry for entry in self.entries if entry.protocol["answer"] == answer]
            write_predictions(path, [line for entry in chosen for line in entry.predictions])
            print(f"predictions: {path}")

    def write_gallery(self, places: Places, sets: Mapping[str, Sequence[EvaluationItem]]) -> None:
        """The page of best, worst and random cases; `sets`: the splits that were scored."""
        sections = (
            Section(
                title=" · ".join(filter(None, (entry.spec, *map(entry.protocol.get, ("answer", "expressions"))))),
                items=sets[entry.spec],
                rows=entry.rows,
                masks=entry.masks,
                note=left_out_note(self._scores_of(entry)),
            )
            for entry in self.entries
        )
        write_gallery(places.gallery, places.report.stem, sections)
        print(f"gallery: {places.gallery}")

    def write_scalars(self, directory: Path, step: int) -> None:
        """TensorBoard points at `step`, `<split>/<answer>/<score>`: no split overwrites another."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(directory)) as writer:
            for split, scores in entries_of(self.splits, self.nested):
                for name, value in scores.items():
                    if isinstance(value, float) and name != "seconds":
                        tag = f"{split.replace('|', '_')}/{scores['protocol']['answer']}/{name}"
                        writer.add_scalar(tag, value, step)


def header_of(flags, argv: Sequence[str]) -> dict[str, Any]:
    """What every report says: how it was counted, data, command and versions."""
    return {
        "protocol": {
            "answer": flags.answer,
            "expressions": flags.expressions or "together where the answer is given, single where it is generated",
            "gres_reference": flags.gres_reference,
            "layer": "checkpoint" if flags.layer is None else str(flags.layer),
            "max_new_tokens": flags.max_new_tokens,
            "limit": flags.limit,
        },
        "dataset_dir": str(flags.dataset_dir),
        "command": ["eval.py", *argv],
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def checkpoint_of(flags, model, weights: str | None) -> dict[str, Any]:
    """What a report says of the checkpoint; weights: their hash."""
    return {
        "version": str(flags.version),
        "weight": flags.weight,
        "system": model.config.system,
        "dtype": str(model.dtype).removeprefix("torch."),
        "bits": 8 if flags.load_in_8bit else 4 if flags.load_in_4bit else None,
        "device": model.device.type,
        "sha256": weights,
    }


def _masks(line: dict) -> list:
    if "masks" in line:
        return line["masks"]
    return [] if line["mask"] is None else [line["mask"]]
