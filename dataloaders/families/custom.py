"""Family `custom`: your own data, one JSON object a line. `groundscore/DATA.md` describes the format."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.families.family import Family
from dataloaders.known_sets import LOSSLESS_STARTS, Entry, Findings, KnownSet, require_file
from dataloaders.sample import Sample, Turn
from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.custom import CustomEntry, CustomFile, custom_path
from groundscore.annotations.images import read_image, read_reduced
from groundscore.annotations.records import Joined
from groundscore.errors import UserError
from groundscore.names import split_names
from utils.settings import option


@dataclass
class CustomSettings:
    """The flags of this family."""

    custom_data: str = option("", "data", "files of custom/ without .jsonl, joined by ||")


class Custom(Family):
    """Draws the entries of one or several files, all equally often."""

    name = "custom"
    Settings = CustomSettings

    def __init__(
        self, root: Path, settings: Any, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
    ):
        self._least = settings.fast_decode
        names = split_names(settings.custom_data)
        self._entries = Joined([CustomFile(root, name, bad_samples=bad_samples) for name in names])

    @classmethod
    def check(cls, settings: Any) -> None:
        names = split_names(settings.custom_data)
        if not names:
            raise UserError("--dataset custom needs --custom_data: for custom/pets.jsonl it is --custom_data pets")
        wrong = next((name for name in names if "/" in name or name.startswith(".")), None)
        if wrong is not None:
            raise UserError(f"--custom_data names files of custom/ without .jsonl, not {wrong!r}")

    @classmethod
    def check_names(cls, root: Path, settings: Any) -> None:
        for name in split_names(settings.custom_data):
            require_file(custom_path(root, name))

    def sizes(self) -> dict[str, int]:
        return {file.name: len(file) for file in self._entries.parts}

    def draw(self, rng: np.random.Generator) -> Sample:
        entry: CustomEntry = self._entries[int(rng.integers(len(self._entries)))]
        image, size = read_reduced(entry.path, least=self._least)
        kinds = entry.target_kinds
        masks = np.zeros((len(kinds), *size), np.uint8)
        masks[kinds], ignore = entry.regions(*size)
        return Sample(
            image_path=entry.path,
            image=image,
            conversations=[tuple(Turn(*turn) for turn in turns) for turns in entry.conversations],
            masks=masks,
            ignore=ignore,
            family=self.name,
            dataset=entry.dataset,
            full_size=size,
        )

    @classmethod
    def openings(cls, root: Path, settings: Any) -> Iterator[Callable[[], object]]:
        for name in split_names(settings.custom_data):
            yield partial(CustomFile, root, name)

    @classmethod
    def known_sets(cls, root: Path) -> Iterator[KnownSet]:
        for path in sorted((root / "custom").glob("*.jsonl")):
            yield KnownSet(
                path.stem,
                [path],
                "your own; groundscore/DATA.md describes the format",
                partial(_check_file, root, path.stem),
                remedy="correct it: groundscore/DATA.md",
            )


def _check_file(root: Path, name: str, findings: Findings) -> Iterator[tuple[str, list[Entry]]]:
    entries = list(CustomFile(root, name, bad_samples=findings))
    specs = [(entry, spec) for entry in entries for spec in (*entry.mask_specs, entry.ignore_spec)]
    masks = dict.fromkeys(entry.folder / spec for entry, spec in specs if isinstance(spec, str))
    findings.note_incomplete("masks are missing", [path for path in masks if not path.exists()], len(masks))
    for path in masks:
        if path.exists():
            findings.look_at(path, LOSSLESS_STARTS)
    used = {*masks, *(entry.path for entry in entries)}
    findings.note_unlisted(used, f"images are in no line of {name}.jsonl")
    yield name, [Entry(entry.path, (partial(_draw, entry),)) for entry in entries]


def _draw(entry: CustomEntry) -> None:
    entry.regions(*read_image(entry.path).shape[:2])
