"""Images whose objects and parts of objects are annotated one by one, in COCO's format."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundscore.annotations.bad_entries import BadSamples, note_repair, settle
from groundscore.annotations.image_files import check_size
from groundscore.annotations.images import coco_number
from groundscore.annotations.index_cache import open_index
from groundscore.annotations.json_files import (
    NOT_OFFICIAL,
    by_id,
    read_each,
    read_each_by_id,
    require_integer,
    require_list,
    require_path,
    require_segmentation,
    require_text,
)
from groundscore.annotations.records import Encoded, PackedRecords, encode
from groundscore.annotations.segmentations import NO_PIXEL, decode_segmentation
from groundscore.errors import UserError, shown
from groundscore.json_items import read_members


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its annotations.

    size: (height, width). regions: (annotation id, COCO segmentation) of every category. file: where they are from.
    """

    path: Path
    size: tuple[int, int]
    regions: dict[int, list[tuple[int, Any]]]
    file: Path

    @property
    def categories(self) -> list[int]:
        """Indices of the categories that are annotated in the image."""
        return list(self.regions)

    def mask(self, category: int) -> np.ndarray:
        """Returns the union of a category's annotations, uint8 [H, W] in {0, 1}; a part may be smaller than a pixel."""
        mask = np.zeros(self.size, np.uint8)
        for annotation_id, segmentation in self.regions[category]:
            where = f"{self.file}: annotation {annotation_id}"
            drawn = decode_segmentation(segmentation, *self.size, where)
            if not drawn.any():
                note_repair(where, f"{NO_PIXEL}, so it is not asked for")
            mask |= drawn
        return mask


class PartAnnotations(Sequence[AnnotatedImage]):
    """The images with at least one annotation. A region is all that is annotated with one category, since that is what
    its name means.

    annotations: the JSON file. images: the folder that its file names start from.
    names: of every category, [object] or [object, part]. unannotated: images in the file that have no annotation.
    """

    name: str
    has_parts = True
    ignored: Collection[int] = ()

    def __init__(
        self,
        dataset_dir: Path,
        annotations: Path,
        images: Path,
        *,
        excluded: Collection[int] = (),
        bad_samples: BadSamples | None = None,
    ):
        self._path = annotations
        self._images = images
        tables = open_index(dataset_dir, f"sem_seg/{self.name}", [annotations], self._parse)
        settle(f"sem_seg/{self.name}", list(tables["problems"]), len(tables["images"]), bad_samples)
        self.unannotated = [self._images / name for name in tables["unannotated"]]
        self._records = tables["images"].without(excluded)
        self.names: list[list[str]] = list(tables["categories"])
        if not self._records:
            raise UserError(f"{annotations}: no image there has an annotation")

    def name_pieces(self, category: str, where: str) -> list[str]:
        """Returns [object] or [object, part] of a category's name."""
        raise NotImplementedError

    def _parse(self) -> dict[str, Any]:
        """images: [file name, height, width, [[category, id, segmentation], …]], by COCO number;
        unannotated: names of those without an annotation; categories: the pieces of their names.
        """
        where = str(self._path)
        content = read_members(self._path)
        categories = by_id(require_list(content, "categories", where), f"{where}: category")
        indices = {category_id: index for index, category_id in enumerate(categories)}
        names = []
        for category_id, category in categories.items():
            spot = f"{where}: category {category_id}"
            names.append(self.name_pieces(require_text(category, "name", spot), spot))

        records: dict[int, tuple[str, int, int]] = {}
        annotations_of: dict[int, list[bytes]] = {}  # what an image's record has of each, as JSON

        def read_image_record(numbered: tuple[int, dict], _: int) -> None:
            image_id, image = numbered
            spot = f"{where}: image {image_id}"
            height, width = (require_integer(image, key, spot) for key in ("height", "width"))
            check_size(height, width, spot)
            records[image_id] = (require_path(image, "file_name", spot), height, width)
            annotations_of[image_id] = []

        def read_annotation(annotation_id: int, annotation: dict) -> None:
            spot = f"{where}: annotation {annotation_id}"
            image_id = require_integer(annotation, "image_id", spot)
            category_id = require_integer(annotation, "category_id", spot)
            if image_id not in records:
                raise UserError(f"{spot} refers to image {image_id}, which is not in the file; {NOT_OFFICIAL}")
            if category_id not in indices:
                raise UserError(f"{spot} has category {category_id}, which is not in the file; {NOT_OFFICIAL}")
            segmentation = encode(require_segmentation(annotation, spot))
            annotations_of[image_id].append(b"[%d,%d,%b]" % (indices[category_id], annotation_id, segmentation))

        images = by_id(require_list(content, "images", where), f"{where}: image")
        _, bad_images = read_each(images.items(), read_image_record)
        del images
        bad_annotations = read_each_by_id(
            require_list(content, "annotations", where), f"{where}: annotation", read_annotation
        )
        del content
        annotated = [image_id for image_id, found in annotations_of.items() if found]
        annotated.sort(key=lambda image_id: records[image_id][0])
        packed = PackedRecords(  # what has been packed is released
            (_encode_image(records[image_id], annotations_of.pop(image_id)) for image_id in annotated),
            [coco_number(records[image_id][0]) for image_id in annotated],
        )
        return {
            "images": packed,
            "unannotated": sorted(records[image_id][0] for image_id in annotations_of),
            "categories": names,
            "problems": bad_images + bad_annotations,
        }

    def paths(self) -> list[Path]:
        """Returns the paths of all images."""
        return [self._images / name for name, *_ in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> AnnotatedImage:
        file_name, height, width, annotations = self._records[number]
        regions: dict[int, list] = {}
        for category, annotation_id, segmentation in annotations:
            regions.setdefault(category, []).append((annotation_id, segmentation))
        return AnnotatedImage(self._images / file_name, (height, width), regions, self._path)


def _encode_image(record: tuple[str, int, int], annotations: list[bytes]) -> Encoded:
    """Returns the text of a row of "images"."""
    return Encoded(b"%b,[%b]]" % (encode(record)[:-1], b",".join(annotations)))


class PascalPart(PartAnnotations):
    """Parts of PASCAL VOC's objects; every category is "object:part"."""

    name = "pascal_part"

    def __init__(self, dataset_dir: Path, **options: Any):
        folder = dataset_dir / "vlpart" / "pascal_part"
        super().__init__(dataset_dir, folder / "train.json", folder / "VOCdevkit" / "VOC2010" / "JPEGImages", **options)

    def name_pieces(self, category: str, where: str) -> list[str]:
        pieces = category.split(":")
        if len(pieces) != 2 or not all(pieces):
            raise UserError(f"{where}: a name is object:part, not {shown(category)}")
        return [piece.strip() for piece in pieces]


class PacoLvis(PartAnnotations):
    """PACO's objects and parts; a category is "object" or "object:part", with an explanation in brackets or not."""

    name = "paco_lvis"

    def __init__(self, dataset_dir: Path, **options: Any):
        annotations = dataset_dir / "vlpart" / "paco" / "annotations" / "paco_lvis_v1_train.json"
        super().__init__(dataset_dir, annotations, dataset_dir / "coco", **options)

    def name_pieces(self, category: str, where: str) -> list[str]:
        pieces = [piece.split("_(")[0].replace("_", " ").strip() for piece in category.split(":")]
        if len(pieces) > 2 or not all(pieces):
            raise UserError(f"{where}: a name is object or object:part, not {shown(category)}")
        return pieces
