"""The files that the page shows of an exchange and offers for download, below the exchange's own folder."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dashboard.visitor import Exchange
from utils.drawing import colour_of, heat_map, overlay


def draw_overlay(exchange: Exchange, opacity: float) -> Path:
    """The picture with every mask in its colour, outlined in white, as a PNG below the exchange's folder."""
    path = _new_file(exchange, "overlay.png")
    alpha = min(1.0, max(0.0, opacity))
    Image.fromarray(overlay(exchange.image(), exchange.masks(), alpha=alpha)).save(path, compress_level=3)
    return path


@dataclass(frozen=True)
class TargetPictures:
    """What is drawn of one target: its mask, its similarity map where it has one, and their description."""

    mask: Path
    similarity: Path | None
    found: str
    layer: int


def draw_targets(exchange: Exchange) -> list[TargetPictures]:
    """For each target its mask in its colour and, where there is one, its similarity map over the grey picture."""
    image, drawn = exchange.image(), []
    for number, target in enumerate(exchange.targets):
        mask, similarity = target.mask(), None
        share = 100 * target.pixels / mask.size
        found = f"{share:.1f} % of the picture · score {target.score:.2f}" if target.pixels else "nothing found"
        path = _new_file(exchange, f"mask_{number + 1}.png")
        Image.fromarray(_coloured(mask, colour_of(number))).save(path)
        if target.map is not None:
            similarity = _new_file(exchange, f"similarity_{number + 1}.jpg")
            enlarged = cv2.resize(target.map, mask.shape[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
            Image.fromarray(heat_map(image, enlarged)).save(similarity, quality=90)
        drawn.append(TargetPictures(path, similarity, found, target.layer))
    return drawn


def write_masks(exchange: Exchange) -> Path:
    """A zip with an 8-bit PNG (0 or 255) per target."""
    path = _new_file(exchange, "masks.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for number, target in enumerate(exchange.targets, start=1):
            with archive.open(f"mask_{number}.png", "w") as entry:
                Image.fromarray(target.mask().astype(np.uint8) * 255).save(entry, format="PNG")
    return path


def write_record(exchange: Exchange) -> Path:
    """Question, answer and COCO run lengths as JSON."""
    path = _new_file(exchange, "answer.json")
    targets = [
        {
            "segmentation": {"size": list(exchange.size), "counts": target.rle["counts"].decode("ascii")},
            "pixels": target.pixels,
            "score": round(target.score, 4),
            "layer": target.layer,
            "colour": list(colour_of(number)),
        }
        for number, target in enumerate(exchange.targets)
    ]
    content = {"prompt": exchange.prompt, "answer": exchange.text, "size": list(exchange.size), "targets": targets}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def thumbnail(exchange: Exchange, side: int = 256) -> Path:
    """A small overlay for the history, drawn once."""
    if exchange.thumbnail is None:
        exchange.thumbnail = _new_file(exchange, "thumbnail.jpg")
        image = Image.fromarray(overlay(exchange.image(), exchange.masks()))
        image.thumbnail((side, side))
        image.save(exchange.thumbnail, quality=85)
    return exchange.thumbnail


def _coloured(mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return mask[..., None] * np.array(colour, dtype=np.uint8)


def _new_file(exchange: Exchange, name: str) -> Path:
    """A place for a file under an address that no browser has cached; its predecessors but the last are removed."""
    numbers = sorted(int(path.parent.name) for path in exchange.folder.glob(f"*/{name}"))
    for number in numbers[:-1]:
        (exchange.folder / str(number) / name).unlink(missing_ok=True)
    folder = exchange.folder / str(numbers[-1] + 1 if numbers else 1)
    folder.mkdir(exist_ok=True)
    return folder / name
