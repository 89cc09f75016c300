"""Images with named regions, as annotation tools have them, and their outlines: what every format is read to.

H, W: height and width of an image, upright as its EXIF orientation says; all masks are drawn in this frame.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from groundscore.annotations.image_files import open_image, upright
from groundscore.annotations.images import read_image
from groundscore.errors import UserError
from groundscore.rle import Rle, decode, encode


@dataclass(frozen=True)
class Region:
    """A region of an image.

    label: its name or class. mask: as RLE. texts: expressions and questions that mean it, where there are others than
    its label. score: how sure a model is of it, or None.
    """

    label: str
    mask: Rle
    texts: tuple[str, ...] = ()
    score: float | None = None

    @property
    def pixels(self) -> np.ndarray:
        """Its mask, uint8 [H, W] in {0, 1}."""
        return decode(self.mask)


@dataclass(frozen=True)
class RegionImage:
    """An image with its regions.

    image: its file, or its encoded content. name: its path among the images of the set, with "/".
    size: (H, W). ignore: pixels that do not count, or None. where: what it was read from, for errors.
    """

    image: Path | bytes
    name: str
    size: tuple[int, int]
    regions: tuple[Region, ...]
    ignore: Rle | None = None
    where: str = ""

    @property
    def content(self) -> bytes:
        """The encoded image."""
        return self.image if isinstance(self.image, bytes) else self.image.read_bytes()

    @property
    def upright_content(self) -> bytes:
        """The encoded image, encoded anew where its EXIF data turn it: not every tool looks at them."""
        content = self.content
        image = open_image(Path(self.name), content=content)
        turned = upright(image, Path(self.name))
        if turned is image:
            return content
        out = BytesIO()
        turned.save(
            out, image.format, exif=b"", **({"quality": 95, "subsampling": 0} if image.format == "JPEG" else {})
        )
        return out.getvalue()


@dataclass(frozen=True)
class ToolOptions:
    """What cannot be told from the files. images: the folder of the images. label: of masks without a name.
    columns: names of the columns of a table, by "image", "mask" and "text"."""

    images: Path | None = None
    label: str = ""
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolFormat:
    """A format of annotation tools, registered in `groundscore.exchange.tools.TOOLS`.

    name: for `--from` and `--to`. help: what has this form.
    recognises: whether a path looks like it. read: its images; raises `UserError` for what a mask cannot carry.
    write: writes images into a folder that is new or empty. None where it is only written, or only read.
    """

    name: str
    help: str
    recognises: Callable[[Path], bool] = lambda path: False
    read: Callable[[Path, ToolOptions], Iterator[RegionImage]] | None = None
    write: Callable[[Iterable[RegionImage], Path], None] | None = None


def region(label: str, mask: np.ndarray, texts: Sequence[str] = (), score: float | None = None) -> Region:
    """Returns the region of a mask [H, W], pixels that are not 0."""
    return Region(label, encode(mask), tuple(text for text in texts if text != label), score)


def answered_regions(
    image: Path, question: str, masks: Sequence[np.ndarray], scores: Sequence[float], name: str = ""
) -> RegionImage:
    """Returns the masks of an answer, one or more bool [H, W], with the question as their label; those without a pixel
    are left out. name: of the image, by default that of its file."""
    found = [region(question, mask, (), float(score)) for mask, score in zip(masks, scores, strict=True) if mask.any()]
    height, width = masks[0].shape
    return RegionImage(image, name or image.name, (height, width), tuple(found), None, str(image))


def image_size(path: Path, where: str, stated: tuple[int, int] | None = None) -> tuple[int, int]:
    """Returns (H, W) of an image file. stated: what its annotations say; another size is an error."""
    height, width = read_image(path, missing=f"{where} names it").shape[:2]
    if stated is not None and stated != (height, width):
        raise UserError(
            f"{where} is about {stated[0]} × {stated[1]} pixels (height, width), but {path} has {height} × {width} "
            "when it is upright; save the image upright, without EXIF rotation, and annotate that"
        )
    return height, width


def find_image(folders: Iterable[Path], name: str, where: str) -> Path:
    """Returns the first file of this name, or else of its last part, in `folders`."""
    folders = list(folders)
    path = PurePosixPath(name.replace("\\", "/"))
    for part in (path, PurePosixPath(path.name)):
        if part.is_absolute() or ".." in part.parts:
            continue
        for folder in folders:
            if (folder / part).is_file():
                return folder / part
    raise UserError(
        f"{where} names the image {name}, which is not in {', '.join(map(str, folders))}; --images DIR says where"
    )


class NewImages:
    """Gives images names that differ in a folder that is being written, and writes them there.

    as_they_are: also where EXIF data turn them; else upright.
    """

    def __init__(self, folder: Path, *, as_they_are: bool = False):
        self.folder, self.as_they_are = folder, as_they_are
        self._taken: dict[str, bytes] = {}

    def add(self, image: RegionImage) -> str:
        """Returns the name of an image in the folder; one that is there already is not written twice."""
        content = image.content if self.as_they_are else image.upright_content
        parts = [part for part in PurePosixPath(image.name).parts if part not in ("..", "/", ".")]
        path = PurePosixPath(*(parts or ["image"]))  # never outside the folder, whatever a file calls its image
        for number in range(1, 1_000_000):
            name = path if number == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")
            before = self._taken.get(str(name).lower())
            if before is None:
                break
            if before == _key(content):
                return str(name)
        self._taken[str(name).lower()] = _key(content)
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)
        return str(name)


def _key(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


# --- outlines ---------------------------------------------------------------------------------------------------------

# Directions of an edge between pixels, clockwise around the region: right, down, left, up.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


@dataclass(frozen=True)
class Outline:
    """The edge of a connected part of a mask, in corners of pixels: (x, y) from 0 to (W, H), int [N, 2].

    outer: clockwise as one sees it. holes: counterclockwise. Neither repeats its first corner at its end.
    """

    outer: np.ndarray
    holes: tuple[np.ndarray, ...]


def outlines(mask: np.ndarray) -> list[Outline]:
    """Returns the outlines of the parts of a mask [H, W] that are connected by sides of pixels, top ones first.

    Filled by the even-odd rule they are the mask, pixel for pixel.
    """
    mask = np.asarray(mask) != 0
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    outer: dict[int, np.ndarray] = {}
    holes: dict[int, list[np.ndarray]] = {}
    for ring, (row, column) in _rings(mask):
        x, y = ring.T.astype(np.int64)
        is_outer = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0
        part = int(parts[row, column])
        if is_outer:
            outer[part] = ring
        else:
            holes.setdefault(part, []).append(ring)
    return [Outline(ring, tuple(holes.get(part, ()))) for part, ring in outer.items()]


def _rings(mask: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """Yields closed rings along the edges of pixels, region on the right hand, and a pixel of the region at each."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # From each corner (x, y), the directions in which an edge begins, and the pixel on its right.
    edges: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    begins = ((0, 0), (1, 0), (1, 1), (0, 1))
    for direction, (beside, (right, down)) in enumerate(zip(neighbours, begins)):
        for row, column in zip(*np.nonzero(inside & ~beside)):
            edges.setdefault((int(column) + right, int(row) + down), {})[direction] = (int(row), int(column))
    for start in sorted(edges, key=lambda corner: (corner[1], corner[0])):
        while edges[start]:
            corner, direction = start, min(edges[start])
            pixel = edges[start][direction]
            ring, before = [], None
            while True:
                del edges[corner][direction]
                if direction != before:
                    ring.append(corner)
                corner, before = (corner[0] + _STEPS[direction][0], corner[1] + _STEPS[direction][1]), direction
                if corner == start:
                    break
                # Where parts touch at a corner, turning right stays with the part.
                direction = next(turn for turn in ((before + 1) % 4, before, (before + 3) % 4) if turn in edges[corner])
            if before is not None and len(ring) > 1 and _direction(ring[0], ring[1]) == before:
                ring.pop(0)
            yield np.array(ring, dtype=np.int64), pixel


def _direction(one: tuple[int, int], other: tuple[int, int]) -> int:
    return _STEPS.index((int(np.sign(other[0] - one[0])), int(np.sign(other[1] - one[1]))))


def one_ring(parts: Sequence[Outline]) -> np.ndarray:
    """Returns all outlines as one ring [N, 2]: parts and holes hang together by lines that are walked twice, which the
    even-odd rule does not fill. For formats whose objects are one polygon."""
    rings = [ring for part in parts for ring in (part.outer, *part.holes)]
    first, *others = rings
    anchor = first[:1]
    walk = [first, anchor]
    for ring in others:
        walk += [ring, ring[:1], anchor]
    return np.concatenate(walk) if others else first
