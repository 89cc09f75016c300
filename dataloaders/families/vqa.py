"""Family `vqa`: LLaVA's instruction dialogues about COCO images, without targets."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from dataloaders.sample import Sample, Turn
from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.images import read_image
from groundscore.annotations.llava import LlavaDialogues
from groundscore.errors import UserError
from groundscore.names import split_names


class Vqa:
    """Draws dialogues from `llava_dataset/<name>.json`; those without an image are not used.

    excluded: COCO numbers of images to leave out.
    bad_samples: what to do about bad entries; None stops at the first.
    """

    name = "vqa"

    def __init__(
        self,
        dataset_dir: Path,
        names: str,
        *,
        excluded: Collection[int] = (),
        bad_samples: BadSamples | None = None,
    ):
        chosen = split_names(names)
        if len(chosen) != 1 or "/" in chosen[0] or chosen[0].startswith("."):
            raise UserError(f"--vqa_data names one file of llava_dataset/ (without .json), not {names!r}")
        self._dialogues = LlavaDialogues(dataset_dir, chosen[0], excluded=excluded, bad_samples=bad_samples)

    def sizes(self) -> dict[str, int]:
        return {self._dialogues.name: len(self._dialogues)}

    def draw(self, rng: np.random.Generator) -> Sample:
        path, turns = self._dialogues[int(rng.integers(len(self._dialogues)))]
        image = read_image(path)
        return Sample(
            image_path=path,
            image=image,
            conversations=[tuple(Turn(question, answer) for question, answer in turns)],
            masks=np.zeros((0, *image.shape[:2]), np.uint8),
            ignore=None,
            family=self.name,
            dataset=self._dialogues.name,
        )
