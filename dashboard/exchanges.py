"""What one visitor has asked so far, kept small, and the files that the page shows of it and offers for download.

Masks are kept as run-length encodings, similarity maps as small uint8 arrays, images on disk. A `Visitor` lives in the
visitor's own `gr.State`; its folder has a random name below the dashboard's and is removed with it.
"""

import json
import secrets
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from dataloaders.sample import Turn
from groundscore.annotations.images import read_image
from groundscore.colours import Colour, choose_colours
from groundscore.drawing import heat_map, overlay
from groundscore.exchange.regions import answered_regions
from groundscore.exchange.tools import write_regions
from groundscore.scoring.masks import encode_mask
from inference.reply import LayerChoice, Reply


@dataclass(frozen=True)
class Target:
    """One `[SEG]` of an answer. rle: as `encode_mask` returns it; map: uint8 similarity, as small as `Reply.maps`, or
    None."""

    rle: dict
    pixels: int
    score: float
    layer: int
    map: np.ndarray | None

    def mask(self) -> np.ndarray:
        """bool [H, W]."""
        return coco_mask.decode(self.rle).astype(bool)


@dataclass
class Exchange:
    """One question and its answer about an image in the visitor's folder.

    folder: of this exchange's files; earlier: the turns that the model was shown before; layer: what was asked for.
    colours: of the targets, on the image and in the text. thumbnail: its file, once it is drawn.
    """

    folder: Path
    image_path: Path
    size: tuple[int, int]
    prompt: str
    text: str
    remark: str | None
    seconds: float
    complete: bool
    layer: LayerChoice
    earlier: tuple[Turn, ...]
    targets: list[Target]
    colours: list[Colour]
    thumbnail: Path | None = None

    @property
    def turn(self) -> Turn:
        """The exchange as a turn of the next question's history."""
        return Turn(self.prompt, self.text)

    def image(self) -> np.ndarray:
        """uint8 RGB [H, W, 3]."""
        return read_image(self.image_path)

    def masks(self) -> np.ndarray:
        """bool [n, H, W]."""
        return np.stack([target.mask() for target in self.targets]) if self.targets else np.zeros((0, *self.size), bool)

    def reply(self) -> Reply:
        """As the model gave it, without the maps."""
        return Reply(
            prompt=self.prompt,
            text=self.text,
            masks=self.masks(),
            scores=[target.score for target in self.targets],
            layers=[target.layer for target in self.targets],
            maps=None,
            tokens=0,
            complete=self.complete,
            seconds=self.seconds,
        )


@dataclass
class Visitor:
    """A visitor's exchanges, oldest first, and the folder that holds their images.

    uploads: the files that the visitor's browser sent, which lie elsewhere.
    """

    folder: Path
    exchanges: list[Exchange] = field(default_factory=list)
    number: int = 0
    uploads: set[Path] = field(default_factory=set)

    @classmethod
    def arrive(cls, below: Path) -> "Visitor":
        """Returns a new visitor with a folder of its own below `below`."""
        folder = below / f"visitor-{secrets.token_hex(16)}"  # whoever knows the name could fetch what is in it
        folder.mkdir(mode=0o700)
        return cls(folder)

    def at(self, index: int | None) -> Exchange | None:
        """The exchange with this index (-1 for the latest), if there is one; None for None."""
        inside = index is not None and -len(self.exchanges) <= index < len(self.exchanges)
        return self.exchanges[index] if inside else None

    def leave(self) -> None:
        """Remove everything that is the visitor's."""
        self.forget()
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget(self) -> None:
        """Remove the exchanges and the uploads; the visitor stays."""
        for exchange in self.exchanges:
            shutil.rmtree(exchange.folder, ignore_errors=True)
        self.exchanges.clear()
        for upload in self.uploads:
            upload.unlink(missing_ok=True)
        self.uploads.clear()

    def keep(
        self, image: np.ndarray, reply: Reply, *, layer: LayerChoice, earlier: tuple[Turn, ...], most: int
    ) -> None:
        """Add an exchange; at most `most` are remembered, the oldest go first."""
        self.number += 1
        folder = self.folder / f"{self.number:04d}"
        folder.mkdir()
        image_path = folder / "image.png"
        Image.fromarray(image).save(image_path, compress_level=1)
        self.exchanges.append(_exchange(folder, image_path, image, reply, layer, earlier))
        while len(self.exchanges) > most:
            shutil.rmtree(self.exchanges.pop(0).folder, ignore_errors=True)

    def replace(self, index: int, reply: Reply, layer: LayerChoice) -> None:
        """Put other masks into an exchange; its files get new names, so that no browser shows old ones."""
        old = self.exchanges[index]
        self.exchanges[index] = _exchange(old.folder, old.image_path, old.image(), reply, layer, old.earlier)


def _exchange(
    folder: Path, image_path: Path, image: np.ndarray, reply: Reply, layer: LayerChoice, earlier: tuple[Turn, ...]
) -> Exchange:
    maps = [None] * len(reply.masks) if reply.maps is None else [_levels(similarity) for similarity in reply.maps]
    targets = [
        Target(encode_mask(mask), int(mask.sum()), score, chosen, similarity)
        for mask, score, chosen, similarity in zip(reply.masks, reply.scores, reply.layers, maps, strict=True)
    ]
    return Exchange(
        folder=folder,
        image_path=image_path,
        size=(image.shape[0], image.shape[1]),
        prompt=reply.prompt,
        text=reply.text,
        remark=reply.remark,
        seconds=reply.seconds,
        complete=reply.complete,
        layer=layer,
        earlier=earlier,
        targets=targets,
        colours=choose_colours(image, reply.masks),
    )


def _levels(similarity: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(np.nan_to_num(similarity), 0, 1) * 255).astype(np.uint8)


def draw_overlay(exchange: Exchange, opacity: float) -> Path:
    """The image with every mask in its colour, numbered, as a PNG below the exchange's folder."""
    path = _new_file(exchange, "overlay.png")
    alpha = min(1.0, max(0.0, opacity))
    numbers = range(1, len(exchange.targets) + 1)
    drawn = overlay(exchange.image(), exchange.masks(), exchange.colours, alpha=alpha, numbers=numbers)
    Image.fromarray(drawn).save(path, compress_level=3)
    return path


@dataclass(frozen=True)
class TargetImages:
    """What is drawn of one target: its mask, its similarity map where it has one, and their description."""

    mask: Path
    similarity: Path | None
    found: str
    layer: int
    colour: Colour


def draw_targets(exchange: Exchange) -> list[TargetImages]:
    """For each target its mask in its colour and, where there is one, its similarity map over the grey image."""
    image, drawn = exchange.image(), []
    for number, target in enumerate(exchange.targets):
        mask, similarity = target.mask(), None
        share = 100 * target.pixels / mask.size
        found = f"{share:.1f} % of the image · score {target.score:.2f}" if target.pixels else "nothing found"
        path = _new_file(exchange, f"mask_{number + 1}.png")
        Image.fromarray(_coloured(mask, exchange.colours[number])).save(path)
        if target.map is not None:
            similarity = _new_file(exchange, f"similarity_{number + 1}.jpg")
            enlarged = cv2.resize(target.map, mask.shape[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
            Image.fromarray(heat_map(image, enlarged)).save(similarity, quality=90)
        drawn.append(TargetImages(path, similarity, found, target.layer, exchange.colours[number]))
    return drawn


def write_masks(exchange: Exchange) -> Path:
    """A zip with an 8-bit PNG (0 or 255) per target."""
    path = _new_file(exchange, "masks.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for number, target in enumerate(exchange.targets, start=1):
            with archive.open(f"mask_{number}.png", "w") as entry:
                Image.fromarray(target.mask().astype(np.uint8) * 255).save(entry, format="PNG")
    return path


def write_tools(exchange: Exchange) -> Path:
    """A zip with the masks as other tools have them, a folder for each form."""
    path = _new_file(exchange, "other_tools.zip")
    scores = [target.score for target in exchange.targets]
    regions = answered_regions(exchange.image_path, exchange.prompt, exchange.masks(), scores)
    with zipfile.ZipFile(path, "w") as archive, tempfile.TemporaryDirectory(dir=exchange.folder) as folder:
        for form in ("coco_results", "labelme", "yolo", "svg", "geojson"):
            write_regions([regions], Path(folder, form), form)
        for file in sorted(each for each in Path(folder).rglob("*") if each.is_file()):
            archive.write(file, file.relative_to(folder))
    return path


def write_record(exchange: Exchange) -> Path:
    """Question, answer and COCO run-length encoding as JSON."""
    path = _new_file(exchange, "answer.json")
    targets = [
        {
            "segmentation": target.rle,
            "pixels": target.pixels,
            "score": round(target.score, 4),
            "layer": target.layer,
            "colour": list(exchange.colours[number]),
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
        image = Image.fromarray(overlay(exchange.image(), exchange.masks(), exchange.colours))
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
