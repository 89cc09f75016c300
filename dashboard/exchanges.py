"""What one visitor has asked so far, kept small, and the files that the page shows of it and offers for download.

Masks are kept as run-length encodings, similarity maps as small uint8 arrays, images on disk. A `Visitor` lives in the
visitor's own `gr.State`; its folder has a random name below the dashboard's and is removed with it.
"""

import secrets
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from dataloaders.sample import Turn
from groundscore.annotations.images import read_image
from groundscore.colours import Colour, choose_colours
from groundscore.drawing import heat_map, overlay, resize_mask, size_within
from groundscore.scoring import percent
from groundscore.scoring.masks import encode_mask
from inference.archive import write_archive
from inference.reply import LayerChoice, Reply, safe_stem

CARD_SIDE = 800  # pixels of what the page shows of a target; what is downloaded has the size of the image


@dataclass(frozen=True)
class Target:
    """One `[SEG]` of an answer. rle: as `encode_mask` returns it; map: uint8 similarity, as small as `Reply.maps`, or
    None."""

    rle: dict
    pixels: int
    score: float
    layer: int | None
    map: np.ndarray | None

    def mask(self) -> np.ndarray:
        """bool [H, W]."""
        return coco_mask.decode(self.rle).astype(bool)


@dataclass(eq=False)
class Exchange:
    """One question and its answer about an image in the visitor's folder.

    folder: of this exchange's files; earlier: the turns that the model was shown before; layer: what was asked for.
    colours: of the targets, on the image and in the text. source: the file that the visitor chose. thumbnail, drawn:
    its small image, and images of its targets, once they are drawn.
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
    source: Path
    thumbnail: Path | None = None
    drawn: list["TargetImages"] | None = None

    @property
    def number(self) -> int:
        """Counts the visitor's exchanges from 1; it stays when older ones go."""
        return int(self.folder.name)

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

    @property
    def spotted(self) -> bool:
        """Whether a point or a box was asked about, without a question to the language model."""
        return any(target.layer is None for target in self.targets)

    def reply(self) -> Reply:
        """As the model gave it."""
        maps = [target.map for target in self.targets]
        return Reply(
            prompt=self.prompt,
            text=self.text,
            masks=self.masks(),
            scores=[target.score for target in self.targets],
            layers=[target.layer for target in self.targets],
            maps=None if any(each is None for each in maps) or not maps else np.stack(maps).astype(np.float32) / 255,
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

    def numbered(self, number: int | None) -> Exchange | None:
        """The exchange with this number, if there is one."""
        return next((exchange for exchange in self.exchanges if exchange.number == number), None)

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
        self,
        image: np.ndarray,
        reply: Reply,
        *,
        source: Path,
        layer: LayerChoice,
        earlier: tuple[Turn, ...],
        most: int,
    ) -> Exchange:
        """Add an exchange; at most `most` are remembered, the oldest go first. source: the file that `image` is of."""
        self.number += 1
        folder = self.folder / f"{self.number:04d}"
        folder.mkdir()
        image_path = Path(shutil.copy(source, folder))  # what is downloaded carries the visitor's own file
        self.exchanges.append(_exchange(folder, image_path, image, reply, layer, earlier, source))
        while len(self.exchanges) > most:
            shutil.rmtree(self.exchanges.pop(0).folder, ignore_errors=True)
        return self.exchanges[-1]

    def adopt(self, other: Exchange) -> Exchange:
        """Add a copy of another visitor's exchange."""
        self.number += 1
        folder = self.folder / f"{self.number:04d}"
        folder.mkdir()
        image_path = Path(shutil.copy(other.image_path, folder))
        self.exchanges.append(replace(other, folder=folder, image_path=image_path, thumbnail=None, drawn=None))
        return self.exchanges[-1]

    def replace(self, old: Exchange, reply: Reply, layer: LayerChoice) -> None:
        """Put other masks into an exchange; its files get new names, so that no browser shows old ones."""
        new = _exchange(old.folder, old.image_path, old.image(), reply, layer, old.earlier, old.source)
        self.restore(old, new)

    def restore(self, exchange: Exchange, other: Exchange) -> None:
        """Put another state of an exchange into its place; it is drawn again, since old files go."""
        other.thumbnail = other.drawn = None
        self.exchanges[self.exchanges.index(exchange)] = other


def _exchange(
    folder: Path,
    image_path: Path,
    image: np.ndarray,
    reply: Reply,
    layer: LayerChoice,
    earlier: tuple[Turn, ...],
    source: Path,
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
        source=source,
    )


def _levels(similarity: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(np.nan_to_num(similarity), 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class TargetImages:
    """What is drawn of one target: its mask, its similarity map where it has one, and their description."""

    mask: Path
    similarity: Path | None
    found: str
    layer: int
    colour: Colour


def draw_targets(exchange: Exchange) -> list[TargetImages]:
    """For each target its mask in its colour and, where there is one, its similarity map over the grey image, as large
    as the page shows them; drawn once."""
    if exchange.drawn is not None:
        return exchange.drawn
    (small, size), drawn = _fitted(exchange.image(), CARD_SIDE), []
    for number, target in enumerate(exchange.targets):
        mask, similarity = resize_mask(target.mask(), size), None
        share = 100 * target.pixels / (exchange.size[0] * exchange.size[1])
        found = f"{share:.1f} % of the image · score {percent(target.score)}" if target.pixels else "nothing found"
        path = _new_file(exchange, f"mask_{number + 1}.png")
        Image.fromarray(_coloured(mask, exchange.colours[number])).save(path)
        if target.map is not None:
            similarity = _new_file(exchange, f"similarity_{number + 1}.jpg")
            fitted = cv2.resize(target.map, size, interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
            Image.fromarray(heat_map(small, fitted)).save(similarity, quality=90)
        drawn.append(TargetImages(path, similarity, found, target.layer, exchange.colours[number]))
    exchange.drawn = drawn
    return drawn


def pack(exchange: Exchange) -> Path:
    """A ZIP of all of the answer, named after the image."""
    path = _new_file(exchange, f"{safe_stem(exchange.source)}.zip")
    write_archive(path, exchange.reply(), exchange.image_path, exchange.source.name, exchange.colours)
    return path


def thumbnail(exchange: Exchange, side: int = 256) -> Path:
    """A small overlay for the history, drawn once."""
    if exchange.thumbnail is None:
        exchange.thumbnail = _new_file(exchange, "thumbnail.jpg")
        image, size = _fitted(exchange.image(), side)
        masks = [resize_mask(target.mask(), size) for target in exchange.targets]
        Image.fromarray(overlay(image, masks, exchange.colours)).save(exchange.thumbnail, quality=85)
    return exchange.thumbnail


def _fitted(image: np.ndarray, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The image with no side longer than `side`, and its (width, height)."""
    size = size_within(image, side, enlarge=False)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)), size


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
