"""Pictures whose objects and parts of objects are annotated one by one, in COCO's format."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.scenes import Scene
from dataloaders.wording import choose
from groundscore.annotations.bad_samples import BadSamples, settle
from groundscore.annotations.image_files import check_size
from groundscore.annotations.images import coco_number, read_image
from groundscore.annotations.index_cache import open_index
from groundscore.annotations.json_files import (
    NOT_OFFICIAL,
    by_id,
    read_each,
    read_json,
    require_integer,
    require_list,
    require_path,
    require_segmentation,
    require_text,
)
from groundscore.annotations.records import PackedRecords
from groundscore.annotations.repairs import note_repair
from groundscore.annotations.segmentations import NO_PIXEL, decode_segmentation
from groundscore.errors import UserError, shown


class PartAnnotations:
    """Pictures with at least one annotation. A region is all that is annotated with one category, since that is what
    its name means.

    annotations: the JSON file. images: the folder that its file names start from.
    unannotated: images in the file that have no annotation, and are not drawn from.
    """

    name: str

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
        settle(f"sem_seg/{self.name}", list(tables["problems"]), len(tables["pictures"]), bad_samples)
        self.unannotated = [self._images / name for name in tables["unannotated"]]
        self._pictures = tables["pictures"].without(excluded)
        self._names: list[list[str]] = list(tables["categories"])
        if not self._pictures:
            raise UserError(f"{annotations}: no picture there has an annotation")

    def name_pieces(self, category: str, where: str) -> list[str]:
        """[object] or [object, part] of a category's name."""
        raise NotImplementedError

    def _parse(self) -> dict[str, Any]:
        """pictures: [file name, height, width, [[category, id, segmentation], …]], by COCO number;
        unannotated: names of those without an annotation; categories: the pieces of their names.
        """
        where = str(self._path)
        content = read_json(self._path, dict)
        categories = by_id(require_list(content, "categories", where), f"{where}: category")
        places = {category_id: place for place, category_id in enumerate(categories)}
        names = []
        for category_id, category in categories.items():
            spot = f"{where}: category {category_id}"
            names.append(self.name_pieces(require_text(category, "name", spot), spot))

        pictures: dict[int, list] = {}

        def read_picture(numbered: tuple[int, dict], _: int) -> None:
            image_id, image = numbered
            spot = f"{where}: image {image_id}"
            height, width = (require_integer(image, key, spot) for key in ("height", "width"))
            check_size(height, width, spot)
            pictures[image_id] = [require_path(image, "file_name", spot), height, width, []]

        def read_annotation(numbered: tuple[int, dict], _: int) -> None:
            annotation_id, annotation = numbered
            spot = f"{where}: annotation {annotation_id}"
            image_id = require_integer(annotation, "image_id", spot)
            category_id = require_integer(annotation, "category_id", spot)
            if image_id not in pictures:
                raise UserError(f"{spot} is about image {image_id}, which is not in the file; {NOT_OFFICIAL}")
            if category_id not in places:
                raise UserError(f"{spot} has category {category_id}, which is not in the file; {NOT_OFFICIAL}")
            segmentation = require_segmentation(annotation, spot)
            pictures[image_id][-1].append([places[category_id], annotation_id, segmentation])

        images = by_id(require_list(content, "images", where), f"{where}: image")
        _, bad_pictures = read_each(images.items(), read_picture)
        annotations = by_id(require_list(content, "annotations", where), f"{where}: annotation")
        _, bad_annotations = read_each(annotations.items(), read_annotation)
        annotated = sorted((picture for picture in pictures.values() if picture[-1]), key=lambda picture: picture[0])
        return {
            "pictures": PackedRecords(annotated, [coco_number(picture[0]) for picture in annotated]),
            "unannotated": sorted(picture[0] for picture in pictures.values() if not picture[-1]),
            "categories": names,
            "problems": bad_pictures + bad_annotations,
        }

    def paths(self) -> list[Path]:
        """All pictures."""
        return [self._images / name for name, *_ in self._pictures]

    def __len__(self) -> int:
        return len(self._pictures)

    def draw_scene(self, rng: np.random.Generator, limit: int) -> Scene | None:
        file_name, height, width, annotations = self._pictures[int(rng.integers(len(self._pictures)))]
        regions: dict[int, list] = {}
        for category, annotation_id, segmentation in annotations:
            regions.setdefault(category, []).append((annotation_id, segmentation))
        categories = list(regions)
        chosen = [categories[index] for index in choose(rng, len(categories), limit)]
        path = self._images / file_name
        image = read_image(path, size=(height, width))
        names, masks = [], []
        for category in chosen:
            mask = self._region(regions[category], height, width)
            in_one_word = rng.random() < 0.5
            if mask.any():  # a part may be smaller than a pixel
                names.append(_spoken(self._names[category], in_one_word))
                masks.append(mask)
        if not masks:
            return None
        absent = [_spoken(pieces, True) for category, pieces in enumerate(self._names) if category not in regions]
        return Scene(path, image, names, np.stack(masks), absent)

    def draw_all(self, number: int) -> None:
        """Read an image and draw all its annotations, for the errors and repairs in them."""
        file_name, height, width, annotations = self._pictures[number]
        read_image(self._images / file_name, size=(height, width))
        self._region([annotation[1:] for annotation in annotations], height, width)

    def _region(self, annotations: Sequence[tuple[int, Any]], height: int, width: int) -> np.ndarray:
        """The union of annotations (id, segmentation), uint8 [height, width] in {0, 1}."""
        mask = np.zeros((height, width), np.uint8)
        for annotation_id, segmentation in annotations:
            where = f"{self._path}: annotation {annotation_id}"
            drawn = decode_segmentation(segmentation, height, width, where)
            if not drawn.any():
                note_repair(where, f"{NO_PIXEL}, so it is not asked for")
            mask |= drawn
        return mask


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


def _spoken(pieces: list[str], in_one_word: bool) -> str:
    """ "dog", "dog head" or "the head of the dog"."""
    if len(pieces) == 1:
        return pieces[0]
    thing, part = pieces
    return f"{thing} {part}" if in_one_word else f"the {part} of the {thing}"
