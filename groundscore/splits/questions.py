"""The sets whose questions are written in the data: MUSE, and your own."""

from pathlib import Path

from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.custom import CustomFile
from groundscore.annotations.images import read_image
from groundscore.annotations.muse import PLACEHOLDER, MuseEntry, open_muse
from groundscore.errors import UserError
from groundscore.splits.items import EvaluationItem, EvaluationSet, unions
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
        image = read_image(entry.path, size=(entry.height, entry.width))
        targets = [entry.masks(question) for question in entry.questions]
        return EvaluationItem(
            image_path=entry.path,
            image=image,
            expressions=[question.text for question in entry.questions],
            kind="reasoning with names",
            masks=unions(targets),
            ignore=None,
            exists=[bool(len(masks)) for masks in targets],
            dataset=self.name,
            split=self.split,
            number=index,
            answers=[question.answer and question.answer.replace(PLACEHOLDER, SEG) for question in entry.questions],
            target_masks=targets,
            target_names=[
                [target.rephrased or target.category for target in question.targets] for question in entry.questions
            ],
            index=self.entry(index)[1],
        )


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
        image = read_image(entry.path)
        masks, ignore = entry.regions(*image.shape[:2])
        turns, targets, used = [], [], 0
        for turn in (turn for turns in entry.conversations for turn in turns):
            kinds = target_kinds(turn[1])
            if len(kinds):
                count = int(kinds.sum())
                turns.append(turn)
                targets.append(masks[used : used + count])
                used += count
        return EvaluationItem(
            image_path=entry.path,
            image=image,
            expressions=[question for question, _ in turns],
            kind="own words",
            masks=unions(targets),
            ignore=ignore,
            exists=[bool(len(one)) for one in targets],
            dataset=self.name,
            split=self.split,
            number=index,
            answers=[answer for _, answer in turns],
            target_masks=targets,
            index=self._rows[index],
            may_be_absent=True,
        )
