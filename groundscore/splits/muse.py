"""MUSE for evaluation."""

from pathlib import Path

import numpy as np
from torch.utils.data import ConcatDataset

from dataloaders.families.multi_reason_seg import PLACEHOLDER, MuseEntry, MuseFile, split_muse
from dataloaders.sample import SEG
from dataloaders.templates import fill, pick, read_pool
from dataloaders.wording import join_names
from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.images import read_image
from groundscore.splits.item import EvaluationItem, EvaluationSet, unions
from groundscore.splits.refer import PROMPT_SEED


class MuseEvaluation(EvaluationSet):
    """Every entry of a MUSE split; its questions are the expressions."""

    def __init__(self, dataset_dir: Path, name: str, split: str, bad_samples: BadSamples | None = None):
        self.name = name
        self.split = split
        files = split_muse(split)
        self._entries = ConcatDataset([MuseFile(dataset_dir, name, file, bad_samples=bad_samples) for file in files])
        self._questions = read_pool("long_questions", ("{sent}",))

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, number: int) -> tuple[Path, int | None]:
        entry: MuseEntry = self._entries[number]
        # Where files are joined, the entries of the second are counted on from those of the first.
        return entry.path, number if len(self._entries.datasets) > 1 else entry.number

    def __getitem__(self, index: int) -> EvaluationItem:
        entry: MuseEntry = self._entries[index]
        image = read_image(entry.path, size=(entry.height, entry.width))
        targets = [entry.masks(question) for question in entry.questions]
        rng = np.random.default_rng([PROMPT_SEED, index])
        answers = []
        for question in entry.questions:
            names = [target.rephrased or target.category for target in question.targets]
            named = join_names([f"{name} is {SEG}" for name in names]) + "."
            answers.append(named if question.answer is None else question.answer.replace(PLACEHOLDER, SEG))
        return EvaluationItem(
            image_path=entry.path,
            image=image,
            expressions=[question.text for question in entry.questions],
            prompts=[fill(pick(rng, self._questions), sent=question.text) for question in entry.questions],
            given_answers=answers,
            joint_prompt="",
            joint_answer="",
            masks=unions(targets),
            ignore=None,
            exists=[bool(len(masks)) for masks in targets],
            dataset=self.name,
            split=self.split,
            ref_ids=[-1] * len(targets),
            target_masks=targets,
            index=self.entry(index)[1],
        )
