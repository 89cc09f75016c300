"""Family `vqa`: LLaVA's instruction dialogues about COCO images, without targets."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.downloads import TRAIN2017, Download, Fact, Source, coco_images, origin_of
from dataloaders.families.family import Family
from dataloaders.known_sets import Entry, Findings, KnownSet, require_file
from dataloaders.sample import Sample, Turn
from dataloaders.wording import choose
from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.images import read_image, read_reduced
from groundscore.annotations.llava import LlavaDialogues, dialogues_path
from groundscore.errors import UserError
from groundscore.names import split_names
from utils.settings import at_least, option

_PAGE = "huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K"
_LLAVA_INSTRUCT = Download(
    file="llava_instruct_150k.json",
    title="LLaVA-Instruct-150K on Hugging Face",
    page=Fact(f"https://{_PAGE}", "dvlab-research/LISA, README.md"),
    licence=Fact("CC BY 4.0", f"{_PAGE}, its list of files"),
    url=Fact(f"https://{_PAGE}/resolve/main/llava_instruct_150k.json", "dvlab-research/LISA, README.md"),
    size=Fact(229_000_000, f"{_PAGE}, its list of files", exact=False),
)


@dataclass
class VqaSettings:
    """The flags of this family."""

    vqa_data: str = option("llava_instruct_150k", "data", "question-answering set")
    vqa_conversations: int = option(
        1, "data", "dialogues of a drawn image at most, which share the image's tokens", check=at_least(1)
    )


class Vqa(Family):
    """Draws dialogues from `llava_dataset/<name>.json`; those without an image are not used."""

    name = "vqa"
    rate = 3
    Settings = VqaSettings

    def __init__(
        self, root: Path, settings: Any, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
    ):
        (name,) = split_names(settings.vqa_data)
        self._dialogues = LlavaDialogues(root, name, excluded=excluded, bad_samples=bad_samples)
        self._least = settings.fast_decode
        self._most = settings.vqa_conversations

    @classmethod
    def check(cls, settings: Any) -> None:
        chosen = split_names(settings.vqa_data)
        if len(chosen) != 1 or "/" in chosen[0] or chosen[0].startswith("."):
            raise UserError(f"--vqa_data names one file of llava_dataset/ (without .json), not {settings.vqa_data!r}")

    @classmethod
    def check_names(cls, root: Path, settings: Any) -> None:
        require_file(dialogues_path(root, settings.vqa_data.strip()))

    def sizes(self) -> dict[str, int]:
        return {self._dialogues.name: len(self._dialogues)}

    def draw(self, rng: np.random.Generator) -> Sample:
        drawn = int(rng.integers(len(self._dialogues)))
        path, turns = self._dialogues[drawn]
        image, size = read_reduced(path, least=self._least)
        spoken = [turns]
        if self._most > 1:
            others = self._dialogues.others_of_image(drawn)
            spoken += [others[index] for index in choose(rng, len(others), self._most - 1)]
        return Sample(
            image_path=path,
            image=image,
            conversations=[tuple(Turn(question, answer) for question, answer in turns) for turns in spoken],
            masks=np.zeros((0, *size), np.uint8),
            ignore=None,
            family=self.name,
            dataset=self._dialogues.name,
            full_size=size,
        )

    @classmethod
    def openings(cls, root: Path, settings: Any) -> Iterator[Callable[[], object]]:
        yield partial(LlavaDialogues, root, settings.vqa_data)

    @classmethod
    def known_sets(cls, root: Path) -> Iterator[KnownSet]:
        name = VqaSettings().vqa_data

        def read(findings: Findings) -> Iterator[tuple[str, list[Entry]]]:
            paths = dict.fromkeys(path for path, _ in LlavaDialogues(root, name, bad_samples=findings))
            yield "train", [Entry(path, (partial(read_image, path),)) for path in paths]

        file, images = root / "llava_dataset" / f"{name}.json", root / "coco/train2017"
        sources = [Source(_LLAVA_INSTRUCT, file, file.name), coco_images(TRAIN2017, images)]
        yield KnownSet(name, [file], origin_of(sources), read, [images], sources=sources)
