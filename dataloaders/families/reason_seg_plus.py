"""Family `reason_seg_plus`: LISA++. Instances by name, reasoning in steps, dialogues and captions with masks."""

import re
from collections.abc import Callable, Collection, Container, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.downloads import TRAIN2017, Download, Fact, Source, coco_images, origin_of
from dataloaders.families.family import Family, draw_until
from dataloaders.known_sets import Entry, Findings, KnownSet
from dataloaders.sample import Sample, Turn
from dataloaders.wording import fill, pick, read_pool
from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.images import read_image, read_reduced
from groundscore.annotations.lisa_plus import (
    SUBSETS,
    PlusEntry,
    PlusFile,
    marks_to_targets,
    marks_to_words,
    split_dialogue,
)
from groundscore.names import look_up, require_some, split_names
from groundscore.targets import SEG, join_names
from utils.settings import option


@dataclass
class ReasonSegPlusSettings:
    """The flags of this family."""

    reason_seg_plus_data: str = option("||".join(SUBSETS), "data", "LISA++ parts")


class ReasonSegPlus(Family):
    """Draws entries of LISA++, from its parts equally often; each turn of a dialogue is a conversation of its own."""

    name = "reason_seg_plus"
    rate = 3
    Settings = ReasonSegPlusSettings

    def __init__(
        self, root: Path, settings: Any, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
    ):
        subsets = split_names(settings.reason_seg_plus_data)
        self._files = [PlusFile(root, subset, excluded=excluded, bad_samples=bad_samples) for subset in subsets]
        self._least = settings.fast_decode
        self._num_turns = settings.num_classes_per_sample
        self._conditional = read_pool("conditional_long_questions", ("{sent}",))
        words = read_pool("instruction_words")
        self._asks_for_something = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
        self._single = read_pool("single_reasoning_answers", ("{class_name}", SEG))

    @classmethod
    def check(cls, settings: Any) -> None:
        subsets = split_names(settings.reason_seg_plus_data)
        require_some(subsets, "--reason_seg_plus_data")
        for subset in subsets:
            look_up(subset, SUBSETS, "reason_seg_plus data set")

    def sizes(self) -> dict[str, int]:
        return {file.name: len(file) for file in self._files}

    def draw(self, rng: np.random.Generator) -> Sample:
        file = self._files[int(rng.integers(len(self._files)))]
        return draw_until(lambda: self._draw_from(rng, file), f"{self.name}/{file.name}")

    def _draw_from(self, rng: np.random.Generator, file: PlusFile) -> Sample | None:
        entry = file[int(rng.integers(len(file)))]
        image, size = read_reduced(entry.path, least=self._least)
        masks = entry.masks(*size)
        written = self._write(rng, file.name, entry, masks.keys())
        written = [(question, answer, ids) for question, answer, ids in written if answer.strip()]
        if not written:
            return None
        used = [number for _, _, ids in written for number in ids]
        return Sample(
            image_path=entry.path,
            image=image,
            conversations=[(Turn(question, answer),) for question, answer, _ in written],
            masks=np.stack([masks[number] for number in used]) if used else np.zeros((0, *size), np.uint8),
            ignore=None,
            family=self.name,
            dataset=file.name,
            full_size=size,
            expressions=tuple(entry.names[number] or number for number in used),
        )

    def _write(
        self, rng: np.random.Generator, subset: str, entry: PlusEntry, valid: Container[str]
    ) -> list[tuple[str, str, list[str]]]:
        """Questions and answers, each with the ids of the masks in the order of its `[SEG]`. valid: ids with a mask."""
        if subset == "conversations":
            pairs = split_dialogue(entry.texts[0])[: self._num_turns]
            return [(marks_to_words(question), *marks_to_targets(text, valid)) for question, text in pairs]
        question = marks_to_words(entry.texts[0])
        if subset == "instance_seg":
            ids = [number for number in entry.ids if number in valid]
            template = pick(rng, self._single).removesuffix(".")
            names = join_names([fill(template, class_name=entry.names[number]) for number in ids])
            return [(question, f"{names}." if ids else "", ids)]
        answer, ids = marks_to_targets(entry.texts[1], valid)
        if subset == "caption":
            answer = re.sub(r"(?<=\S)\[SEG\]", f" {SEG}", answer)
        elif not self._asks_for_something.search(question):
            question = fill(pick(rng, self._conditional), sent=question)
        return [(question, answer, ids)]

    @classmethod
    def openings(cls, root: Path, settings: Any) -> Iterator[Callable[[], object]]:
        for subset in split_names(settings.reason_seg_plus_data):
            yield partial(PlusFile, root, subset)

    @classmethod
    def known_sets(cls, root: Path) -> Iterator[KnownSet]:
        for name, subset in SUBSETS.items():
            file, images = root / "reason_seg_plus" / subset.file, root / "refer_seg/images/mscoco/images/train2017"
            sources = [Source(_lisa_plus(subset.file), file, file.name), coco_images(TRAIN2017, images)]
            read = partial(_check_file, root, name)
            yield KnownSet(name, [file], origin_of(sources), read, [images], sources=sources)


def _lisa_plus(file: str) -> Download:
    """Every subset is a repository of its own, whose only file is data.json."""
    page = f"huggingface.co/datasets/Senqiao/{Path(file).stem}"
    is_seen = file in ("LISA_Plus_COT.json", "LISA_Plus_Instance_Seg.json")
    seen = f"{page}, its list of files" if file == "LISA_Plus_COT.json" else ""
    return Download(
        file=file,
        title=f"{Path(file).stem} of LISA++ on Hugging Face",
        page=Fact(f"https://{page}", f"{page}, a commit" if is_seen and not seen else seen),
        licence=Fact("Apache 2.0", seen),
        url=Fact(f"https://{page}/resolve/main/data.json", seen),
        size=Fact(22_400_000, seen, exact=False) if seen else None,
    )


def _check_file(root: Path, name: str, findings: Findings) -> Iterator[tuple[str, list[Entry]]]:
    file = PlusFile(root, name, bad_samples=findings)
    yield "train", [Entry(entry.path, (partial(_draw, entry),)) for entry in file]


def _draw(entry: PlusEntry) -> None:
    entry.masks(*read_image(entry.path).shape[:2])
