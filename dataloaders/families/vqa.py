"""Family `vqa`: LLaVA's instruction dialogues about COCO pictures, without targets."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.batching.conversation import IMAGE_PLACEHOLDER
from dataloaders.families.family import require_some, split_names
from dataloaders.sample import Sample, Turn, refuse_targets
from groundscore.annotations.bad_samples import BadSamples, settle
from groundscore.annotations.images import coco_number, read_image
from groundscore.annotations.index_cache import open_index
from groundscore.annotations.json_files import (
    NOT_OFFICIAL,
    read_each,
    read_json,
    require_list,
    require_path,
    require_text,
)
from groundscore.annotations.records import PackedRecords
from groundscore.errors import UserError, shown


class Vqa:
    """Draws dialogues from `llava_dataset/<name>.json`; those without a picture are not used.

    excluded: COCO numbers of pictures to leave out.
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
        self._dataset = chosen[0]
        self._images = dataset_dir / "coco" / "train2017"
        self._path = dataset_dir / "llava_dataset" / f"{self._dataset}.json"
        tables = open_index(dataset_dir, f"vqa/{self._dataset}", [self._path], self._parse)
        settle(f"vqa/{self._dataset}", list(tables["problems"]), len(tables["dialogues"]), bad_samples)
        self._records = tables["dialogues"].without(excluded)
        require_some(self._records, str(self._path))

    def _parse(self) -> dict[str, Any]:
        """dialogues: (image name, turns) by COCO number; problems: what is wrong with others."""
        dialogues, problems = read_each(read_json(self._path, list), self._read)
        return {
            "dialogues": PackedRecords(dialogues, [coco_number(image) for image, _ in dialogues]),
            "problems": problems,
        }

    def _read(self, item: Any, number: int) -> tuple[str, list[tuple[str, str]]] | None:
        """Image name, and (question, answer) of every turn; None for a dialogue without a picture."""
        name = shown(item["id"]) if isinstance(item, dict) and "id" in item else f"number {number}"
        where = f"{self._path}: dialogue {name}"
        turns = require_list(item, "conversations", where)
        if "image" not in item:
            return None
        said = [
            (require_text(turn, "from", where), refuse_targets(require_text(turn, "value", where), where))
            for turn in turns
        ]
        if said and said[0][0] != "human":
            said = said[1:]
        speakers = [speaker for speaker, _ in said]
        if speakers != [("human", "gpt")[index % 2] for index in range(len(said))]:
            raise UserError(
                f"{where}: human and gpt should take turns, but they speak as {shown(speakers)}; {NOT_OFFICIAL}"
            )
        texts = [text.replace(IMAGE_PLACEHOLDER, "").strip() for _, text in said]
        turns = list(zip(texts[0::2], texts[1::2]))  # a last question without an answer teaches nothing
        if not turns or not all(answer for _, answer in turns):
            raise UserError(f"{where} has a question without an answer; {NOT_OFFICIAL}")
        return require_path(item, "image", where), turns

    def paths(self) -> list[Path]:
        """The pictures of all dialogues."""
        return [self._images / name for name, _ in self._records]

    def sizes(self) -> dict[str, int]:
        return {self._dataset: len(self._records)}

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
