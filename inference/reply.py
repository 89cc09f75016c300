"""What a model is asked and what it answers, text and masks, for every front end; answers kept on disk. No torch.

An answer is an overlay, a mask per target, and a JSON record; nothing is ever overwritten:
kite_1.json  kite_1_overlay.png  kite_1_mask_1.png  kite_1_mask_2.png …  and kite_1_coco_results/ and the like
"""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataloaders.sample import Turn
from groundscore.colours import Colour, choose_colours
from groundscore.drawing import overlay
from groundscore.errors import UserError
from groundscore.exchange.regions import answered_regions
from groundscore.exchange.tools import write_regions
from groundscore.targets import REJ
from groundscore.writing import make_directory

LayerChoice = int | str | None
MAP_SIDE = 336  # maps come from a grid of at most 24 × 24 or so: nothing is lost


@dataclass(frozen=True)
class Question:
    """A prompt about an image (uint8 RGB [H, W, 3]) after earlier turns; one that got no answer is left out."""

    image: np.ndarray
    prompt: str
    history: tuple[Turn, ...] = ()

    @property
    def turns(self) -> list[Turn]:
        """The conversation that is to be continued."""
        return [*(turn for turn in self.history if turn.answer), Turn(self.prompt, None)]


@dataclass
class Reply:
    """An answer of the model.

    prompt, text: the question and the answer, with `[SEG]` (or `[REJ]`) written once per target, whatever the system.
    masks: bool [n, H, W], one per `[SEG]` in order; scores [n] in [0, 1]: how sure SAM is of each.
    layers [n]: which hidden state prompted each mask, None for one that points or a box alone did; maps: float32
        [n, h, w] in [0, 1], the similarity maps there, of the masks' size or scaled so that the longest side is
        `MAP_SIDE`, or None where the system has none.
    complete: False if the answer was cut off by the limit on its length.
    objects [n]: whether the mask decoder's own score says that there is an object, None where it has no such score.
    """

    prompt: str
    text: str
    masks: np.ndarray
    scores: list[float]
    layers: list[int | None]
    maps: np.ndarray | None
    tokens: int
    complete: bool
    seconds: float
    objects: list[bool] | None = None

    @property
    def turn(self) -> Turn:
        """For the history of the next question."""
        return Turn(self.prompt, self.text)

    @property
    def areas(self) -> list[int]:
        """Pixels of each mask."""
        return [int(np.count_nonzero(mask)) for mask in self.masks]

    @property
    def shares(self) -> list[float]:
        """The share of the image that each mask covers, in [0, 1]."""
        return [area / mask.size for area, mask in zip(self.areas, self.masks, strict=True)]

    @property
    def remark(self) -> str | None:
        """What the user should be told when something, or everything, was not found, else None."""
        if len(self.masks) == 0:
            if REJ in self.text:
                return "Nothing was found: the answer says that it is not in the image."
            return "Nothing was segmented: the answer names no target."
        found = self.masks.any(axis=(1, 2))
        if not found.any():
            return "Nothing was found: every mask is empty."
        if not found.all():
            empty = ", ".join(f"[SEG {number}]" for number, each in enumerate(found, start=1) if not each)
            return f"Nothing was found for {empty}: the mask is empty."
        if self.objects is not None and not all(self.objects):
            doubted = ", ".join(f"[SEG {number}]" for number, each in enumerate(self.objects, start=1) if not each)
            return f"Nothing may be there for {doubted}: so says the mask decoder's object score."
        return None


# --- on disk ----------------------------------------------------------------------------------------------------------


@dataclass
class SavedReply:
    """Where an answer went; `overlay` is None where there was nothing to draw. colours: of its masks there."""

    record: Path
    overlay: Path | None = None
    masks: list[Path] = field(default_factory=list)
    colours: list[Colour] = field(default_factory=list)


def save_reply(
    reply: Reply, image: np.ndarray, directory: Path, image_path: Path, export: Sequence[str] = ()
) -> SavedReply:
    """Writes `reply` about `image` below `directory` under the first free number after the image's name.

    export: forms of other tools in which its masks are written, too, each into a folder kite_1_FORM.
    """
    make_directory(directory)
    record = _claim(directory, safe_stem(image_path))
    saved = SavedReply(record, colours=choose_colours(image, reply.masks))
    try:
        for number, mask in enumerate(reply.masks, start=1):
            saved.masks.append(record.with_name(f"{record.stem}_mask_{number}.png"))
            saved.masks[-1].write_bytes(mask_png(mask))
        if reply.masks.any():
            saved.overlay = record.with_name(f"{record.stem}_overlay.png")
            numbers = range(1, len(reply.masks) + 1)
            Image.fromarray(overlay(image, reply.masks, saved.colours, numbers=numbers)).save(saved.overlay)
        if export and reply.masks.any():
            regions = answered_regions(image_path, reply.prompt, reply.masks, reply.scores)
            for form in export:
                write_regions([regions], record.with_name(f"{record.stem}_{form}"), form)
        _write_json(record, reply_record(reply, image_path, saved))
    except OSError as error:
        for path in filter(None, (*saved.masks, saved.overlay, record)):
            path.unlink(missing_ok=True)
        raise UserError(f"{error.strerror or error}: the answer could not be saved in {directory}") from error
    return saved


def mask_png(mask: np.ndarray) -> bytes:
    """Returns a mask, bool [H, W], as an 8-bit PNG of 0 and 255."""
    content = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(content, format="PNG")
    return content.getvalue()


def reply_record(reply: Reply, image_path: Path, saved: SavedReply) -> dict[str, Any]:
    """The content of the JSON file of a saved answer; its images are named relative to it."""
    return {
        "image": str(image_path),
        "prompt": reply.prompt,
        "answer": reply.text,
        "complete": reply.complete,
        "overlay": saved.overlay and saved.overlay.name,
        "targets": [
            {"mask": path.name, "pixels": area, "share": share, "score": score, "layer": layer, "colour": colour}
            for path, area, share, score, layer, colour in zip(
                saved.masks, reply.areas, reply.shares, reply.scores, reply.layers, saved.colours, strict=True
            )
        ],
        "seconds": round(reply.seconds, 3),
    }


def save_conversation(
    turns: Sequence[Turn],
    records: Sequence[Path | None],
    image_path: Path,
    directory: Path,
    target: Path | None = None,
) -> Path:
    """Writes a conversation about an image, with the `records` of those answers that have one, as a new JSON file.

    target: where; by default a free name below `directory`. `UserError` where the file exists.
    """
    path = target or _claim(directory, f"{safe_stem(image_path)}_conversation")
    if target is not None:
        try:
            target.open("x").close()
        except FileExistsError:
            raise UserError(f"{target} exists; files are never overwritten, choose another name") from None
    exchanges = [
        {"prompt": turn.question, "answer": turn.answer, "record": record and str(record)}
        for turn, record in zip(turns, records, strict=True)
    ]
    try:
        _write_json(path, {"image": str(image_path), "turns": exchanges})
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(f"{error.strerror or error}: the conversation could not be saved in {path}") from error
    return path


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def safe_stem(image_path: Path) -> str:
    """The image's name without what a file name should not have, and of a length that any disk takes."""
    return re.sub(r"[^\w.-]", "_", image_path.stem)[:100] or "image"


def _claim(directory: Path, stem: str) -> Path:
    """A new, empty `<stem>_<n>.json`: creating it exclusively makes all names that begin with it ours."""
    number = 1
    while True:
        path = directory / f"{stem}_{number}.json"
        if not list(directory.glob(f"{_literal(stem)}_{number}_*.png")):
            try:
                path.open("x").close()
                return path
            except FileExistsError:
                pass
        number += 1


def _literal(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)
