"""What one visitor has asked so far, kept small: masks as run lengths, maps as small bytes, pictures on disk.

A `Visitor` lives in the visitor's own `gr.State`; its folder has a random name below the dashboard's and goes with it.
"""

import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from dataloaders.sample import Turn
from groundscore.annotations.images import read_image
from inference.reply import LayerChoice, Reply

MAP_SIDE = 336  # maps come from a grid of at most 24 × 24 or so: nothing is lost


@dataclass(frozen=True)
class Target:
    """One `[SEG]` of an answer. rle: COCO run lengths; map: uint8 similarity, longest side `MAP_SIDE`, or None."""

    rle: dict
    pixels: int
    score: float
    layer: int
    map: np.ndarray | None

    def mask(self) -> np.ndarray:
        """bool [H, W]."""
        return run_lengths.decode(self.rle).astype(bool)


@dataclass
class Exchange:
    """One question and its answer about a picture in the visitor's folder.

    folder: of this exchange's files; earlier: the turns that the model was shown before; layer: what was asked for.
    thumbnail: its file, once it is drawn.
    """

    folder: Path
    picture: Path
    size: tuple[int, int]
    prompt: str
    text: str
    remark: str | None
    seconds: float
    complete: bool
    layer: LayerChoice
    earlier: tuple[Turn, ...]
    targets: list[Target]
    thumbnail: Path | None = None

    @property
    def turn(self) -> Turn:
        return Turn(self.prompt, self.text)

    def image(self) -> np.ndarray:
        """uint8 RGB [H, W, 3]."""
        return read_image(self.picture)

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
    """A visitor's exchanges, oldest first, and the folder that holds their pictures.

    uploads: the files that the visitor's browser sent, which lie elsewhere.
    """

    folder: Path
    exchanges: list[Exchange] = field(default_factory=list)
    number: int = 0
    uploads: set[Path] = field(default_factory=set)

    @classmethod
    def arrive(cls, below: Path) -> "Visitor":
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
        picture = folder / "picture.png"
        Image.fromarray(image).save(picture, compress_level=1)
        self.exchanges.append(_exchange(folder, picture, image.shape[:2], reply, layer, earlier))
        while len(self.exchanges) > most:
            shutil.rmtree(self.exchanges.pop(0).folder, ignore_errors=True)

    def replace(self, index: int, reply: Reply, layer: LayerChoice) -> None:
        """Put other masks into an exchange; its files get new names, so that no browser shows old ones."""
        old = self.exchanges[index]
        self.exchanges[index] = _exchange(old.folder, old.picture, old.size, reply, layer, old.earlier)


def _exchange(
    folder: Path, picture: Path, size, reply: Reply, layer: LayerChoice, earlier: tuple[Turn, ...]
) -> Exchange:
    maps = [None] * len(reply.masks) if reply.maps is None else [_small(similarity) for similarity in reply.maps]
    targets = [
        Target(_encode(mask), int(mask.sum()), score, chosen, similarity)
        for mask, score, chosen, similarity in zip(reply.masks, reply.scores, reply.layers, maps, strict=True)
    ]
    return Exchange(
        folder=folder,
        picture=picture,
        size=tuple(size),
        prompt=reply.prompt,
        text=reply.text,
        remark=reply.remark,
        seconds=reply.seconds,
        complete=reply.complete,
        layer=layer,
        earlier=earlier,
        targets=targets,
    )


def _encode(mask: np.ndarray) -> dict:
    return run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))


def _small(similarity: np.ndarray) -> np.ndarray:
    scale = min(1.0, MAP_SIDE / max(similarity.shape))
    size = (max(1, round(similarity.shape[1] * scale)), max(1, round(similarity.shape[0] * scale)))
    levels = np.rint(np.clip(np.nan_to_num(similarity), 0, 1) * 255).astype(np.uint8)
    return cv2.resize(levels, size, interpolation=cv2.INTER_AREA)
