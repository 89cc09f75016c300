"""Family `vqa`: LLaVA's instruction dialogues about COCO pictures, without targets."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.conversation import IMAGE_PLACEHOLDER
from dataloaders.families import require_some, split_names
from dataloaders.images import read_image
from dataloaders.json_files import read_json, require
from dataloaders.records import PackedRecords
from dataloaders.sample import Sample, Turn
from utils.errors import UserError

logger = logging.getLogger(__name__)


class Vqa:
    """Draws dialogues from `llava_dataset/<name>.json`."""

    name = "vqa"

    def __init__(self, dataset_dir: Path, names: str):
        chosen = split_names(names)
        if len(chosen) != 1:
            raise UserError(f"--vqa_data names one file of llava_dataset/ (without .json), not {names!r}")
        self._dataset = chosen[0]
        self._images = dataset_dir / "coco" / "train2017"
        self._path = dataset_dir / "llava_dataset" / f"{self._dataset}.json"
        dialogues = read_json(self._path, list)
        with_image = [item for item in dialogues if not isinstance(item, dict) or "image" in item]
        if len(with_image) < len(dialogues):
            logger.warning(
                "%s: %d dialogues have no image and are not used", self._path, len(dialogues) - len(with_image)
            )
        self._records = PackedRecords(self._read(item, number) for number, item in enumerate(with_image))
        require_some(self._records, str(self._path))

    def _read(self, item: Any, number: int) -> tuple[str, list[tuple[str, str]]]:
        """Image name, and (question, answer) of every turn."""
        where = f"{self._path}: dialogue {item.get('id', number) if isinstance(item, dict) else number}"
        said = [
            (require(turn, "from", where), str(require(turn, "value", where)))
            for turn in require(item, "conversations", where)
        ]
        if said and said[0][0] != "human":
            said = said[1:]
        speakers = [speaker for speaker, _ in said]
        if speakers != [("human", "gpt")[index % 2] for index in range(len(said))]:
            raise UserError(f"{where}: human and gpt should take turns, but they speak as {speakers}")
        texts = [text.replace(IMAGE_PLACEHOLDER, "").strip() for _, text in said]
        turns = list(zip(texts[0::2], texts[1::2]))  # a last question without an answer teaches nothing
        if not turns or not all(answer for _, answer in turns):
            raise UserError(f"{where} has a question without an answer")
        return str(item["image"]), turns

    def draw(self, rng: np.random.Generator) -> Sample:
        image_name, turns = self._records[int(rng.integers(len(self._records)))]
        path = self._images / image_name
        image = read_image(path)
        return Sample(
            image_path=path,
            image=image,
            conversations=[tuple(Turn(question, answer) for question, answer in turns)],
            masks=np.zeros((0, *image.shape[:2]), np.uint8),
            ignore=None,
            family=self.name,
            dataset=self._dataset,
        )
