"""Densely labelled images: every pixel of a map beside the image says which class it belongs to."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groundscore.annotations.bad_entries import BadEntry, BadSamples, note_repair
from groundscore.annotations.image_files import FACTOR, LOSSLESS, open_image
from groundscore.annotations.images import coco_number, list_stems
from groundscore.annotations.json_files import NOT_OFFICIAL, require_boolean, require_list, require_text
from groundscore.errors import UserError
from groundscore.names import require_some
from groundscore.reading import read_json

UNLABELLED = 255
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class LabelledImage:
    """An image and its label map.

    path: of the image. labels: class indices, integers [H, W]. categories: those of them that can be asked for.
    """

    path: Path
    labels: np.ndarray
    categories: list[int]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) that the image must have."""
        return self.labels.shape

    def mask(self, category: int) -> np.ndarray:
        """Returns the pixels of a class, uint8 [H, W] in {0, 1}."""
        return (self.labels == category).astype(np.uint8)


class LabelMaps(Sequence[LabelledImage]):
    """Images of one folder and their label maps of the same stems in another.

    stems: of the images. names: of every class index, each a list of one name. ignored: indices of classes that are not
    asked for.
    """

    name: str
    has_parts = False

    def __init__(
        self, images: Path, labels: Path, stems: np.ndarray, classes: Sequence[str], ignored: Collection[int] = ()
    ):
        self.images = images
        self.labels = labels
        self.names = [[name] for name in classes]
        self.ignored = frozenset(ignored)
        self._stems = stems

    def __len__(self) -> int:
        return len(self._stems)

    def __getitem__(self, number: int) -> LabelledImage:
        path = self.labels / f"{self._stems[number]}.png"
        labels = self._class_indices(read_label_map(path))
        present = [index for index in np.unique(labels).tolist() if index != UNLABELLED and index not in self.ignored]
        if present and present[-1] >= len(self.names):
            raise UserError(f"label map {path} has class {present[-1]}, but there are {len(self.names)} classes")
        return LabelledImage(self.images / f"{path.stem}.jpg", labels, present)

    def paths(self) -> list[Path]:
        """Returns the paths of all images."""
        return [self.images / f"{stem}.jpg" for stem in self._stems.tolist()]

    def _class_indices(self, values: np.ndarray) -> np.ndarray:
        """Returns class indices of the grey values [H, W], `UNLABELLED` where there is none."""
        return values


class Ade20k(LabelMaps):
    """ADE20K's scene parsing set: a grey PNG per image, 0 for unlabelled, 1 to 150 for the classes."""

    name = "ade20k"

    def __init__(self, dataset_dir: Path, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None):
        folder = dataset_dir / "ade20k"
        images = folder / "images" / "training"
        classes = read_json(_HERE / "ade20k_classes.json", list)
        super().__init__(images, folder / "annotations" / "training", list_stems(images, ".jpg"), classes)

    def _class_indices(self, values: np.ndarray) -> np.ndarray:
        return np.where((values == 0) | (values == UNLABELLED), UNLABELLED, values.astype(np.int32) - 1)


class CocoStuff(LabelMaps):
    """COCO-Stuff's pixel maps: class indices of 182 names, of which those that only say "other" are not asked for."""

    name = "cocostuff"

    def __init__(self, dataset_dir: Path, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None):
        labels = dataset_dir / "cocostuff" / "train2017"
        stems = list_stems(labels, ".png")
        if excluded:
            numbers = np.array([coco_number(f"{stem}.png") for stem in stems])
            stems = stems[~np.isin(numbers, list(excluded))]
            require_some(stems, f"{labels} without the images to leave out")
        classes = read_json(_HERE / "cocostuff_classes.json", list)
        # Names such as "wall-brick" and "sky-other" are how COCO-Stuff divides its classes, not what people say.
        compound = [index for index, name in enumerate(classes) if "-" in name]
        super().__init__(dataset_dir / "coco" / "train2017", labels, stems, classes, compound)


class Mapillary(LabelMaps):
    """Mapillary Vistas 2.0: class indices of the labels in its configuration, without those it does not evaluate."""

    name = "mapillary"

    def __init__(self, dataset_dir: Path, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None):
        folder = dataset_dir / "mapillary"
        config = folder / "config_v2.0.json"
        entries = require_list(read_json(config, dict), "labels", str(config))
        if not entries:
            raise UserError(f"{config}: 'labels' is empty; {NOT_OFFICIAL}")
        classes = [require_text(entry, "readable", f"{config}: label {i}").lower() for i, entry in enumerate(entries)]
        void = [
            index
            for index, entry in enumerate(entries)
            if "evaluate" in entry and not require_boolean(entry, "evaluate", f"{config}: label {index}")
        ]
        labels = folder / "training" / "v2.0" / "labels"
        super().__init__(folder / "training" / "images", labels, list_stems(labels, ".png"), classes, void)


def read_label_map(path: Path) -> np.ndarray:
    """Returns the class numbers [H, W] of a lossless image with a single channel; a palette is not applied."""
    return _read_channel(path)[0]


def read_mask(path: Path) -> np.ndarray:
    """Returns the mask in such an image, uint8 [H, W] in {0, 1}: all but 0.

    A grey mask with soft edges, that is, with more pixels of the highest value than between 0 and it, counts from half
    of that value on. Raises `BadEntry` where there are fewer, since it may mean anything.
    """
    values, mode = _read_channel(path, grey=True)
    top = np.iinfo(values.dtype).max
    full, between = int((values == top).sum()), int(((values > 0) & (values < top)).sum())
    if mode == "P" or not full or not between:
        return (values != 0).astype(np.uint8)
    if between >= full:
        raise BadEntry(
            f"mask {path} has {full} pixels of {top}, but {between} between 0 and {top}; write 0 for what is not "
            f"meant, and {top} for what is",
            file=str(path),
        )
    note_repair(str(path), f"the mask has soft edges; what is more than half of {top} counts")
    return (values > top // 2).astype(np.uint8)


def _read_channel(path: Path, *, grey: bool = False) -> tuple[np.ndarray, str]:
    """Returns its values, whole numbers [H, W], and its mode. grey: three channels may be one, repeated."""
    image = open_image(path, LOSSLESS)
    labels = np.array(image)
    if image.mode == "1":
        labels = labels.astype(np.uint8)
    elif image.mode == "L":
        labels //= image.info[FACTOR]
    if grey and labels.ndim == 3 and (labels[..., :3] == labels[..., :1]).all():
        labels = labels[..., 0]
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
        what = "mask {} should have one channel" if grey else "label map {} should have one channel of class numbers"
        raise BadEntry(f"{what.format(path)}, it is {labels.dtype} {labels.shape}", file=str(path))
    return labels, image.mode
