"""The sets whose questions are written in the data: MUSE, and your own."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.custom import CustomEntry, CustomFile
from groundscore.annotations.muse import PLACEHOLDER, MuseEntry, open_muse
from groundscore.errors import UserError
from groundscore.rle import Rle, decode_all
from groundscore.splits.items import EvaluationItem, EvaluationSet, read_pixels
from groundscore.targets import REJ, SEG, target_kinds


class MuseEvaluation(EvaluationSet):
    """Every entry of a MUSE split; its questions are the expressions."""

    def __init__(self, dataset_dir: Path, name: str, split: str, bad_samples: BadSamples | None = None):
        self.name = name
        self.split = split
        self._entries = open_muse(dataset_dir, name, split, bad_samples=bad_samples)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, number: int) -> tuple[Path, int | None]:
        entry: MuseEntry = self._entries[number]
        # Where files are joined, the entries of the second are counted on from those of the first.
        return entry.path, number if len(self._entries.parts) > 1 else entry.number

    def __getitem__(self, index: int) -> EvaluationItem:
        entry: MuseEntry = self._entries[index]
        return EvaluationItem(
            image_path=entry.path,
            image=read_pixels,
            expressions=[question.text for question in entry.questions],
            kind="reasoning with names",
            masks=EvaluationItem.decoded_masks,
            ignore=None,
            exists=[bool(question.targets) for question in entry.questions],
            dataset=self.name,
            split=self.split,
            number=index,
            answers=[question.answer and question.answer.replace(PLACEHOLDER, SEG) for question in entry.questions],
            target_masks=_decoded_targets,
            target_names=[
                [target.rephrased or target.category for target in question.targets] for question in entry.questions
            ],
            index=self.entry(index)[1],
            size=(entry.height, entry.width),
            targets=partial(_targets, entry),
        )


def _targets(entry: MuseEntry, item: EvaluationItem) -> list[list[Rle]]:
    return [entry.masks(question) for question in entry.questions]


def _decoded_targets(item: EvaluationItem) -> list[np.ndarray]:
    """Returns `target_masks`, from the targets."""
    return [decode_all(targets, item.size) for targets in item.targets]


class CustomEvaluation(EvaluationSet):
    """Every entry of a custom file; its questions that are answered with targets are the expressions."""

    def __init__(self, dataset_dir: Path, name: str, bad_samples: BadSamples | None = None):
        self.name = "custom"
        self.split = name
        self._file = CustomFile(dataset_dir, name, bad_samples=bad_samples)
        self._rows = [row for row, entry in enumerate(self._file) if len(entry.target_kinds)]
        if not self._rows:
            raise UserError(f"{self._file.path}: no answer there has {SEG} or {REJ}")

    def __len__(self) -> int:
        return len(self._rows)

    def entry(self, number: int) -> tuple[Path, int | None]:
        return self._file[self._rows[number]].path, self._rows[number]

    def __getitem__(self, index: int) -> EvaluationItem:
        entry = self._file[self._rows[index]]
        turns = [turn for turns in entry.conversations for turn in turns if len(target_kinds(turn[1]))]
        return EvaluationItem(
            image_path=entry.path,
            image=read_pixels,
            expressions=[question for question, _ in turns],
            kind="own words",
            masks=EvaluationItem.decoded_masks,
            ignore=partial(_draw, entry, "ignore"),
            exists=[bool(target_kinds(answer).any()) for _, answer in turns],
            dataset=self.name,
            split=self.split,
            number=index,
            answers=[answer for _, answer in turns],
            target_masks=partial(_draw, entry, "target_masks"),
            index=self._rows[index],
            may_be_absent=True,
        )


def _draw(entry: CustomEntry, wanted: str, item: EvaluationItem) -> Any:
    """Draws all regions of an item; returns the one of its fields that was asked for."""
    masks, item.ignore = entry.regions(*item.size)
    ends = np.cumsum([0, *(int(target_kinds(answer).sum()) for answer in item.answers)])
    item.target_masks = [masks[start:end] for start, end in zip(ends, ends[1:])]
    return item.target_masks if wanted == "target_masks" else item.ignore
