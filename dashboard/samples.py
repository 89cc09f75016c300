"""What the Data tab shows: which data sets are there, and samples as training draws them.

Mixtures are opened when they are first needed; samples are drawn one at a time and not kept in memory.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from dashboard import markup
from dataloaders.data_checks import SetReport, check_data
from dataloaders.mixture import Mixture, build_mixture
from dataloaders.sample import Sample
from groundscore.colours import Colour, choose_colours
from groundscore.drawing import overlay
from groundscore.errors import UserError
from groundscore.targets import SEG

log = logging.getLogger(__name__)


class Inspection:
    """Reports on all sets below `root`, as they come.

    reports: those that are done; finished: whether all are; problem: why none will come, as a sentence.
    """

    def __init__(self, root: Path):
        self.root = root
        self.reports: list[SetReport] = []
        self.finished = False
        self.problem: str | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin, unless it has begun."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="inspection", daemon=True)
                self._thread.start()

    def trainable_sets(self) -> list[str]:
        """ "family/name" of every set that samples can be drawn from, in the families' order."""
        return [
            f"{report.family}/{report.name}"
            for report in self.reports
            if report.state == "present" and "train" in report.counts
        ]

    def _run(self) -> None:
        try:
            if not self.root.is_dir():
                raise UserError(f"There is no folder {self.root}; choose another one with --dataset_dir.")
            for report in check_data(self.root):
                self.reports.append(report)
        except UserError as error:
            self.problem = str(error)
        except Exception:
            log.exception("the check of %s failed", self.root)
            self.problem = "The data could not be checked; the program's log has the details."
        finally:
            self.finished = True


OPENED = 4  # mixtures that stay open; their annotations are mapped files
SCANNED_BETWEEN_REPORTS = 25
SHOWN_SIDE = 640  # pixels; smaller images are enlarged up to it


@dataclass(frozen=True)
class Draw:
    """What is drawn: `sets` as "family/name", a rate per family (1 where none is named), how many, and how."""

    sets: tuple[str, ...]
    rates: tuple[tuple[str, float], ...]
    count: int
    per_sample: int
    seed: int


@dataclass
class SampleView:
    """A sample as the page shows it: images uint8 [H, W, 3], captions and escaped HTML."""

    image: np.ndarray
    overlay: np.ndarray
    targets: list[tuple[np.ndarray, str]]
    conversations: str
    fields: str


class SampleBrowser:
    """Samples below `root`; several visitors share what is open."""

    def __init__(self, root: Path):
        self.root = root
        self._open = lru_cache(maxsize=OPENED)(self._build)

    def sample(self, draw: Draw, index: int) -> Sample:
        """Sample `index` of a draw, always the same one."""
        return self._open(draw)[index]

    def find(self, draw: Draw, text: str, start: int) -> Iterator[tuple[int, bool]]:
        """Look for the next sample from `start` on, around the end, whose image's path contains `text`.

        Yields (index, False) now and then while it looks, and (index, True) where it found one.
        """
        wanted = text.strip().lower()
        if not wanted:
            raise UserError("Please type a part of a file name.")
        for step in range(draw.count):
            index = (start + step) % draw.count
            if wanted in self.sample(draw, index).image_path.as_posix().lower():
                yield index, True
                return
            if step % SCANNED_BETWEEN_REPORTS == 0:
                yield index, False
        raise UserError(f"None of the {draw.count} drawn samples has {text!r} in its image's path.")

    def _build(self, draw: Draw) -> Mixture:
        if not draw.sets:
            raise UserError("Please choose at least one data set.")
        chosen: dict[str, list[str]] = {}
        for name in draw.sets:
            family, _, dataset = name.partition("/")
            chosen.setdefault(family, []).append(dataset)
        rates = dict(draw.rates)
        unknown = [family for family in rates if family not in chosen]
        if unknown:
            raise UserError(
                f"A rate is given for {unknown[0]!r}, but no set of it is chosen; "
                f"the chosen families are {', '.join(chosen)}."
            )
        return build_mixture(
            self.root,
            dataset="||".join(chosen),
            sample_rates=[rates.get(family, 1.0) for family in chosen],
            num_classes_per_sample=draw.per_sample,
            explanatory=0.1 if (self.root / "reason_seg/ReasonSeg/explanatory/train.json").exists() else -1.0,
            seed=draw.seed,
            samples_per_epoch=draw.count,
            skip_bad_samples=0.0,  # a visitor is told what is wrong, not shown another sample
            **{f"{family}_data": "||".join(names) for family, names in chosen.items()},
        )


def parse_rates(text: str) -> tuple[tuple[str, float], ...]:
    """ "refer_seg 3, vqa 1" as pairs."""
    pairs = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        family, _, number = part.replace(":", " ").replace("=", " ").rpartition(" ")
        try:
            rate = float(number)
        except ValueError:
            rate = -1.0
        if not family.strip() or rate < 0:
            raise UserError(f"Rates have the form: refer_seg 3, vqa 1. {part!r} is not a rate.")
        pairs.append((family.strip(), rate))
    return tuple(pairs)


def view(sample: Sample, root: Path, opacity: float) -> SampleView:
    """The sample drawn: every `[SEG]` in its colour, in the image and in the words."""
    masks = sample.masks[sample.target_kinds]
    image, drawn = _enlarged(sample.image, masks)
    colours = choose_colours(image, drawn)
    return SampleView(
        image=image,
        overlay=overlay(image, drawn, colours, alpha=opacity, numbers=range(1, len(drawn) + 1)),
        targets=[
            (overlay(image, [mask], [colours[number]], alpha=0.6, dim=0.5), f"[SEG {number + 1}] {area} px")
            for number, (mask, area) in enumerate(zip(drawn, masks.sum((1, 2)), strict=True))
        ],
        conversations=_conversations(sample, colours),
        fields=_fields(sample, masks, root),
    )


def _enlarged(image: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A small image and its masks at a size that one can look at, pixel by pixel what they are."""
    factor = max(1, SHOWN_SIDE // max(image.shape[:2]))
    return image.repeat(factor, 0).repeat(factor, 1), masks.repeat(factor, 1).repeat(factor, 2) != 0


def _conversations(sample: Sample, colours: Sequence[Colour]) -> str:
    pieces, number = [], 0
    for turns in sample.conversations:
        lines = []
        for turn in turns:
            answer = turn.answer or ""
            lines.append(f'<p class="question">{markup.escape(turn.question)}</p>')
            lines.append(f"<p>{markup.numbered(answer, first=number, colours=colours)}</p>")
            number += answer.count(SEG)
        pieces.append(f'<div class="answer conversation">{"".join(lines)}</div>')
    return "".join(pieces) or markup.hint("This sample has no conversation.")


def _fields(sample: Sample, masks: np.ndarray, root: Path) -> str:
    path = sample.image_path
    height, width = sample.image.shape[:2]
    rows = {
        "family": sample.family,
        "data set": sample.dataset,
        "image": (path.relative_to(root) if path.is_relative_to(root) else path).as_posix(),
        "size": f"{width} × {height}",
        "conversations": str(len(sample.conversations)),
        "targets": f"{len(masks)}"
        + (f", and {len(sample.masks) - len(masks)} [REJ]" if len(sample.masks) > len(masks) else ""),
        "expressions": " · ".join(sample.expressions) or "none",
        "ignored pixels": "none" if sample.ignore is None else str(int(sample.ignore.sum())),
    }
    return markup.table(list(rows.items()))
