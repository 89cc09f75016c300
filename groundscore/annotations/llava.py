"""LLaVA's instruction dialogues about COCO images, without targets."""

from collections.abc import Collection, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.index_cache import open_entries
from groundscore.annotations.json_files import NOT_OFFICIAL, entries_by_image, require_list, require_path, require_text
from groundscore.errors import UserError, shown
from groundscore.json_items import read_items
from groundscore.targets import IMAGE_PLACEHOLDER, refuse_targets

Dialogue = tuple[Path, list[tuple[str, str]]]


def dialogues_path(dataset_dir: Path, name: str) -> Path:
    """Returns the path of a file of dialogues."""
    return dataset_dir / "llava_dataset" / f"{name}.json"


class LlavaDialogues(Sequence[Dialogue]):
    """The dialogues of `llava_dataset/<name>.json`, each its image and (question, answer) of its turns.

    Those without an image are not among them.
    """

    def __init__(
        self, dataset_dir: Path, name: str, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
    ):
        self.name = name
        self._images = dataset_dir / "coco" / "train2017"
        self._path = dialogues_path(dataset_dir, name)
        source = f"vqa/{name}"
        self._records = open_entries(
            dataset_dir, source, self._path, self._parse, excluded=excluded, bad_samples=bad_samples
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> Dialogue:
        image_name, turns = self._records[number]
        return self._images / image_name, turns

    def others_of_image(self, number: int) -> list[list[tuple[str, str]]]:
        """Returns the turns of all other dialogues about the image of dialogue `number`."""
        images, (name, _) = self._records.keys, self._records[number]
        if images[number] < 0:  # its name has no number by which to find others
            return []
        found = [self._records[int(index)] for index in np.flatnonzero(images == images[number]) if index != number]
        return [turns for image_name, turns in found if image_name == name]  # images of several sets share numbers

    def _parse(self) -> dict[str, Any]:
        return entries_by_image(read_items(self._path), self._read, itemgetter(0))

    def _read(self, item: Any, number: int) -> tuple[str, list[tuple[str, str]]] | None:
        """Returns the image name and (question, answer) of every turn; None for a dialogue without an image."""
        name = shown(item["id"]) if isinstance(item, dict) and "id" in item else f"number {number}"
        where = f"{self._path}: dialogue {name}"
        turns = require_list(item, "conversations", where)
        if "image" not in item:
            return None
        spoken = [
            (require_text(turn, "from", where), refuse_targets(require_text(turn, "value", where), where))
            for turn in turns
        ]
        if spoken and spoken[0][0] != "human":
            spoken = spoken[1:]
        speakers = [speaker for speaker, _ in spoken]
        if speakers != [("human", "gpt")[index % 2] for index in range(len(spoken))]:
            raise UserError(
                f"{where}: human and gpt should take turns, but they speak as {shown(speakers)}; {NOT_OFFICIAL}"
            )
        texts = [text.replace(IMAGE_PLACEHOLDER, "").strip() for _, text in spoken]
        turns = list(zip(texts[0::2], texts[1::2]))  # a last question without an answer teaches nothing
        if not turns or not all(answer for _, answer in turns):
            raise UserError(f"{where} has a question without an answer; {NOT_OFFICIAL}")
        return require_path(item, "image", where), turns
