"""Keeping an answer on disk: an overlay, a mask per target, and a JSON record; nothing is ever overwritten.

kite_1.json  kite_1_overlay.png  kite_1_mask_1.png  kite_1_mask_2.png …
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from utils.chat_session import Reply
from utils.drawing import colour_of, overlay
from utils.errors import UserError


def make_directory(directory: Path) -> None:
    """Make a directory for results, before any work is spent on them."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{directory} cannot be a directory for results: a file is in its place") from None


@dataclass
class SavedReply:
    """Where an answer went; `overlay` is None where there was nothing to draw."""

    record: Path
    overlay: Path | None = None
    masks: list[Path] = field(default_factory=list)


def save_reply(reply: Reply, image: np.ndarray, directory: Path, image_path: Path) -> SavedReply:
    """Write `reply` about `image` below `directory` under the first free number after the image's name."""
    make_directory(directory)
    record = _claim(directory, re.sub(r"[^\w.-]", "_", image_path.stem) or "image")
    saved = SavedReply(record)
    for number, mask in enumerate(reply.masks, start=1):
        saved.masks.append(record.with_name(f"{record.stem}_mask_{number}.png"))
        Image.fromarray(mask.astype(np.uint8) * 255).save(saved.masks[-1])
    if reply.masks.any():
        saved.overlay = record.with_name(f"{record.stem}_overlay.png")
        Image.fromarray(overlay(image, reply.masks)).save(saved.overlay)
    content = {
        "image": str(image_path),
        "prompt": reply.prompt,
        "answer": reply.text,
        "complete": reply.complete,
        "overlay": saved.overlay and saved.overlay.name,
        "targets": [
            {"mask": path.name, "pixels": int(mask.sum()), "score": score, "layer": layer, "colour": colour_of(number)}
            for number, (path, mask, score, layer) in enumerate(
                zip(saved.masks, reply.masks, reply.scores, reply.layers, strict=True)
            )
        ],
        "seconds": round(reply.seconds, 3),
    }
    record.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return saved


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
