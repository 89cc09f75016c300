"""Family `custom`: your own data, one JSON object a line. `README.md` describes the format."""

from pathlib import Path

import numpy as np

from dataloaders.sample import Sample, Turn
from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.custom import CustomEntry, CustomFile
from groundscore.annotations.images import read_image
from groundscore.annotations.records import Joined
from groundscore.errors import UserError
from groundscore.names import split_names


class Custom:
    """Draws the entries of one or several files, all equally often.

    names: of the files, joined by "||".
    bad_samples: what to do about bad entries; None stops at the first.
    """

    name = "custom"

    def __init__(self, dataset_dir: Path, names: str, *, bad_samples: BadSamples | None = None):
        chosen = split_names(names)
        if not chosen:
            raise UserError("--custom_data names no file; for custom/pets.jsonl it is: --custom_data pets")
        self._entries = Joined([CustomFile(dataset_dir, name, bad_samples=bad_samples) for name in chosen])

    def sizes(self) -> dict[str, int]:
        return {file.name: len(file) for file in self._entries.parts}

    def draw(self, rng: np.random.Generator) -> Sample:
        entry: CustomEntry = self._entries[int(rng.integers(len(self._entries)))]
        image = read_image(entry.path)
        kinds = entry.target_kinds
        masks = np.zeros((len(kinds), *image.shape[:2]), np.uint8)
        masks[kinds], ignore = entry.regions(*image.shape[:2])
        return Sample(
            image_path=entry.path,
            image=image,
            conversations=[tuple(Turn(*turn) for turn in turns) for turns in entry.conversations],
            masks=masks,
            ignore=ignore,
            family=self.name,
            dataset=entry.dataset,
        )
