"""Family `multi_reason_seg`: MUSE. Questions about an image that ask for one target or many, each with its own mask."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.downloads import TRAIN2014, TRAIN2017, VAL2017, Download, Fact, Source, coco_images, origin_of
from dataloaders.families.family import Family, draw_until
from dataloaders.known_sets import Entry, Findings, KnownSet, require_file
from dataloaders.sample import Sample, Turn
from dataloaders.wording import fill, pick, read_pool
from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.images import read_image, read_reduced
from groundscore.annotations.muse import (
    MUSE_SPLITS,
    PLACEHOLDER,
    MuseEntry,
    MuseFile,
    MuseQuestion,
    MuseTarget,
    muse_path,
    open_muse,
    split_muse,
)
from groundscore.errors import UserError
from groundscore.rle import decode_all
from groundscore.targets import SEG, join_names
from utils.settings import option

_REPHRASED = 0.9  # how often a target is called by the description that was written for it


@dataclass
class MultiReasonSegSettings:
    """The flags of this family."""

    multi_reason_seg_data: str = option("MultiReasonSeg|train", "data", "MUSE set and split")


class MultiReasonSeg(Family):
    """Draws images with all their questions, each a conversation of its own.

    `--multi_reason_seg_data MultiReasonSeg|train_val` joins splits by "_".
    """

    name = "multi_reason_seg"
    rate = 3
    Settings = MultiReasonSegSettings

    def __init__(
        self, root: Path, settings: Any, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
    ):
        self._dataset, split = settings.multi_reason_seg_data.split("|")
        self._entries = open_muse(root, self._dataset, split, excluded=excluded, bad_samples=bad_samples)
        self._least = settings.fast_decode
        self._questions = read_pool("long_questions", ("{sent}",))
        if settings.use_expand_question_list:
            self._questions += read_pool("expanded_long_questions", ("{sent}",))
            self._questions += read_pool("conditional_long_questions", ("{sent}",))
        self._single = read_pool("single_reasoning_answers", ("{class_name}", SEG))
        self._joint = read_pool("multi_reasoning_answers", ("{class_name}", PLACEHOLDER))

    @classmethod
    def check(cls, settings: Any) -> None:
        names = settings.multi_reason_seg_data
        if names.count("|") != 1 or not all(names.split("|")):
            raise UserError(
                f"--multi_reason_seg_data is a name and a split, such as MultiReasonSeg|train, not {names!r}"
            )

    @classmethod
    def check_names(cls, root: Path, settings: Any) -> None:
        name, split = settings.multi_reason_seg_data.split("|")
        for file in split_muse(split):
            require_file(muse_path(root, name, file))

    def sizes(self) -> dict[str, int]:
        return {self._dataset: len(self._entries)}

    def draw(self, rng: np.random.Generator) -> Sample:
        return draw_until(lambda: self._draw_one(rng), f"{self.name}/{self._dataset}")

    def _draw_one(self, rng: np.random.Generator) -> Sample | None:
        entry: MuseEntry = self._entries[int(rng.integers(len(self._entries)))]
        if not entry.has_objects:
            return None
        image, size = read_reduced(entry.path, size=(entry.height, entry.width), least=self._least)
        conversations, names = [], []
        for question in entry.questions:
            called = [self._name(rng, target) for target in question.targets]
            asked = fill(pick(rng, self._questions), sent=question.text)
            conversations.append((Turn(asked, self._answer(rng, question, called)),))
            names += called
        return Sample(
            image_path=entry.path,
            image=image,
            conversations=conversations,
            masks=decode_all([mask for question in entry.questions for mask in entry.masks(question)], size),
            ignore=None,
            family=self.name,
            dataset=self._dataset,
            full_size=size,
            expressions=tuple(names),
        )

    def _name(self, rng: np.random.Generator, target: MuseTarget) -> str:
        rephrased = bool(rng.random() < _REPHRASED)
        return target.rephrased if rephrased and target.rephrased else target.category

    def _answer(self, rng: np.random.Generator, question: MuseQuestion, names: Sequence[str]) -> str:
        if question.answer is not None:
            return question.answer.replace(PLACEHOLDER, SEG)
        if len(names) == 1 or rng.random() < 0.5:
            template = pick(rng, self._single).removesuffix(".")
            return join_names([fill(template, class_name=name) for name in names]) + "."
        targets = join_names([SEG] * len(names))
        return fill(pick(rng, self._joint), class_name=", ".join(names).lower(), seg=targets)

    @classmethod
    def openings(cls, root: Path, settings: Any) -> Iterator[Callable[[], object]]:
        name, splits = settings.multi_reason_seg_data.split("|")
        for split in split_muse(splits):
            yield partial(MuseFile, root, name, split)

    @classmethod
    def known_sets(cls, root: Path) -> Iterator[KnownSet]:
        photos = root / "refer_seg/images/mscoco/images"
        coco = [coco_images(one, photos / Path(one.file).stem) for one in (TRAIN2014, TRAIN2017, VAL2017)]
        for split in MUSE_SPLITS:
            file = root / "multi_reason_seg/MultiReasonSeg" / f"MUSE_{split}.json"
            sources = [Source(_MUSE, file, file.name), *coco]
            read = partial(_check_file, root, split)
            yield KnownSet(f"MultiReasonSeg|{split}", [file], origin_of(sources), read, sources=sources)


_MUSE = Download(
    file="muse.zip",
    title="MUSE of PixelLM",
    page=Fact(
        "https://drive.google.com/file/d/1IutofOF65azPEChVfyJWpcn3JgCfYwmA/view", "MaverickRen/PixelLM, README.md"
    ),
    licence=Fact("nothing is said of the data", "MaverickRen/PixelLM, README.md"),
    clicks="press Download on the page of Google Drive",
    also=("*muse*.zip", "*muse*.tar*", "muse_*.json"),
)


def _check_file(root: Path, split: str, findings: Findings) -> Iterator[tuple[str, list[Entry]]]:
    file = MuseFile(root, "MultiReasonSeg", split, bad_samples=findings)
    yield split, [Entry(entry.path, tuple(_steps(entry))) for entry in file]


def _steps(entry: MuseEntry) -> Iterator[Callable[[], object]]:
    yield partial(read_image, entry.path, size=(entry.height, entry.width))
    for question in entry.questions:
        yield partial(entry.masks, question)
