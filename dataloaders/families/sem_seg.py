"""Family `sem_seg`: every class of a densely labelled image can be asked for by name.

To add a data set, write a reader as in `groundscore/annotations/label_maps.py` or `part_annotations.py` and enter it in
`DATA_SETS`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.downloads import TRAIN2017, Download, Fact, Source, coco_images, origin_of
from dataloaders.families.family import Family, draw_until
from dataloaders.known_sets import LOSSLESS_STARTS, Entry, Findings, KnownSet, Reader, names_in
from dataloaders.sample import Sample, Turn
from dataloaders.wording import TargetAnswers, choose, distribute, fill, pick, read_pool
from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.images import list_images, list_names, read_image, read_reduced
from groundscore.annotations.label_maps import Ade20k, CocoStuff, LabelMaps, Mapillary
from groundscore.annotations.part_annotations import PacoLvis, PartAnnotations, PascalPart
from groundscore.names import look_up, require_some, split_names
from groundscore.targets import join_names
from utils.settings import option

DATA_SETS = {kind.name: kind for kind in (Ade20k, CocoStuff, PascalPart, PacoLvis, Mapillary)}


@dataclass(frozen=True)
class Scene:
    """An image with some of its classes.

    image: uint8 RGB [h, w, 3], which may be smaller than `size` (H, W), see `read_reduced`. names: of the regions.
    masks: uint8 [N, H, W] in {0, 1}, none empty.
    absent: names of classes that the image does not show.
    """

    image_path: Path
    image: np.ndarray
    size: tuple[int, int]
    names: Sequence[str]
    masks: np.ndarray
    absent: Sequence[str]


def draw_scene(
    source: LabelMaps | PartAnnotations, rng: np.random.Generator, limit: int, least: int = 0
) -> Scene | None:
    """Returns a random image with at most `limit` regions, None if it has none; least: see `read_reduced`."""
    entry = source[int(rng.integers(len(source)))]
    present = entry.categories
    chosen = [present[index] for index in choose(rng, len(present), limit)] if present else []
    image, size = read_reduced(entry.path, size=entry.size, least=least) if present else (None, None)
    names, masks = [], []
    for category in chosen:
        mask = entry.mask(category)
        in_one_word = not source.has_parts or rng.random() < 0.5
        if mask.any():
            names.append(_spoken(source.names[category], in_one_word))
            masks.append(mask)
    if not masks:
        return None
    absent = [
        _spoken(pieces, True)
        for category, pieces in enumerate(source.names)
        if category not in present and category not in source.ignored
    ]
    return Scene(entry.path, image, size, names, np.stack(masks), absent)


def _spoken(pieces: Sequence[str], in_one_word: bool) -> str:
    """Returns "dog", "dog head" or "the head of the dog"."""
    if len(pieces) == 1:
        return pieces[0]
    whole, part = pieces
    return f"{whole} {part}" if in_one_word else f"the {part} of the {whole}"


@dataclass
class SemSegSettings:
    """The flags of this family."""

    sem_seg_data: str = option("ade20k||cocostuff||pascal_part||paco_lvis||mapillary", "data", "semantic sets")
    negative_sampling_weight: float = option(-1.0, "data", "semantic sets: share of absent classes; -1 none")


class SemSeg(Family):
    """Draws questions about classes; about absent ones, half of the answers deny them and half correct the question."""

    name = "sem_seg"
    rate = 12
    Settings = SemSegSettings

    def __init__(
        self, root: Path, settings: Any, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
    ):
        self._sets: list[LabelMaps | PartAnnotations] = [
            DATA_SETS[name](root, excluded=excluded, bad_samples=bad_samples)
            for name in split_names(settings.sem_seg_data)
        ]
        self._least = settings.fast_decode
        self._questions_per_sample = settings.num_classes_per_sample
        self._targets_per_question = settings.num_classes_per_question
        self._negative_weight = max(settings.negative_sampling_weight, 0.0)
        self._questions = read_pool("short_questions", ("{class_name}",))
        if settings.use_expand_question_list:
            self._questions += read_pool("expanded_short_questions", ("{class_name}",))
            self._questions += read_pool("conditional_short_questions", ("{class_name}",))
        self._answers = TargetAnswers()
        self._denials = read_pool("denial_answers")
        self._corrections = read_pool("correction_answers", ("{class_name}", "{gt_name}"))

    @classmethod
    def check(cls, settings: Any) -> None:
        names = split_names(settings.sem_seg_data)
        require_some(names, "--sem_seg_data")
        for name in names:
            look_up(name, DATA_SETS, "sem_seg data set")

    def sizes(self) -> dict[str, int]:
        return {source.name: len(source) for source in self._sets}

    def draw(self, rng: np.random.Generator) -> Sample:
        source = self._sets[int(rng.integers(len(self._sets)))]
        limit = self._questions_per_sample * self._targets_per_question
        scene = draw_until(lambda: draw_scene(source, rng, limit, self._least), f"sem_seg/{source.name}")
        groups = distribute(rng, len(scene.names), self._questions_per_sample, self._targets_per_question)
        chance = rng.random()
        if chance < self._negative_weight and scene.absent:
            return self._ask_absent(rng, source.name, scene, groups, correct=chance < self._negative_weight / 2)
        return self._ask_present(rng, source.name, scene, groups)

    def _ask(self, rng: np.random.Generator, names: str) -> str:
        return fill(pick(rng, self._questions), class_name=names.lower())

    def _ask_present(self, rng: np.random.Generator, name: str, scene: Scene, groups: list[list[int]]) -> Sample:
        conversations = []
        for group in groups:
            names = [scene.names[index] for index in group]
            question = self._ask(rng, join_names(names))
            conversations.append((Turn(question, self._answers.write(rng, names, [True] * len(names))),))
        order = [index for group in groups for index in group]
        return Sample(
            image_path=scene.image_path,
            image=scene.image,
            conversations=conversations,
            masks=scene.masks[order],
            ignore=None,
            family=self.name,
            dataset=name,
            expressions=tuple(scene.names[index].lower() for index in order),
            full_size=scene.size,
        )

    def _ask_absent(
        self, rng: np.random.Generator, name: str, scene: Scene, groups: list[list[int]], *, correct: bool
    ) -> Sample:
        """Every question is about a class that the image does not show; the answers hold no target."""
        conversations = []
        absent = [scene.absent[index].lower() for index in choose(rng, len(scene.absent), len(groups))]
        for missing, group in zip(absent, groups):
            pool = self._corrections if correct else self._denials
            answer = fill(pick(rng, pool), class_name=missing, gt_name=scene.names[group[0]].lower())
            conversations.append((Turn(self._ask(rng, missing), answer),))
        return Sample(
            image_path=scene.image_path,
            image=scene.image,
            conversations=conversations,
            masks=np.zeros((0, *scene.size), np.uint8),
            ignore=None,
            family=self.name,
            dataset=name,
            full_size=scene.size,
        )

    @classmethod
    def openings(cls, root: Path, settings: Any) -> Iterator[Callable[[], object]]:
        for kind in map(DATA_SETS.get, split_names(settings.sem_seg_data)):
            if kind is not None and issubclass(kind, PartAnnotations):
                yield partial(kind, root)

    @classmethod
    def known_sets(cls, root: Path) -> Iterator[KnownSet]:
        coco, mapillary, vlpart = root / "coco/train2017", root / "mapillary", root / "vlpart"
        train2017 = coco_images(TRAIN2017, coco)

        def known(name: str, read: Reader, own: Sequence[Source], shared: Sequence[Source] = ()) -> KnownSet:
            own_paths, shared_paths = ([source.path for source in sources] for sources in (own, shared))
            sources = [*own, *shared]
            return KnownSet(name, own_paths, origin_of(sources), read, shared_paths, sources=sources)

        own = [
            Source(_ADE20K, root / "ade20k/images/training", "images/training/*.jpg", _ADE20K_IMAGES),
            Source(_ADE20K, root / "ade20k/annotations/training", "annotations/training/*.png", _ADE20K_IMAGES),
        ]
        yield known("ade20k", partial(_check_label_maps, root, Ade20k), own)
        own = [Source(_COCO_STUFF, root / "cocostuff/train2017", "train2017/*.png", train2017.count)]
        yield known("cocostuff", partial(_check_label_maps, root, CocoStuff), own, [train2017])
        own = [
            Source(_MAPILLARY, mapillary / "config_v2.0.json", "config_v2.0.json"),
            Source(_MAPILLARY, mapillary / "training/images", "training/images/*.jpg", Fact(18000)),
            Source(_MAPILLARY, mapillary / "training/v2.0/labels", "training/v2.0/labels/*.png", Fact(18000)),
        ]
        yield known("mapillary", partial(_check_label_maps, root, Mapillary), own)
        images = vlpart / "pascal_part/VOCdevkit/VOC2010/JPEGImages"
        own = [
            Source(_PASCAL_PART, vlpart / "pascal_part/train.json", "pascal_part/train.json"),
            Source(_VOC2010, images, "VOC2010/JPEGImages/*.jpg", Fact(11321, "a public download script")),
        ]
        yield known("pascal_part", partial(_check_parts, root, PascalPart), own)
        file = vlpart / "paco/annotations/paco_lvis_v1_train.json"
        own = [Source(_PACO_LVIS, file, file.name)]
        yield known("paco_lvis", partial(_check_parts, root, PacoLvis), own, [train2017])


_ADE20K_IMAGES = Fact(20210, "a copy on huggingface.co, datasets/Realcat/skywater, README.md")
_ADE20K = Download(
    file="ADEChallengeData2016.zip",
    title="ADEChallengeData2016 of the MIT Scene Parsing Benchmark",
    page=Fact("http://sceneparsing.csail.mit.edu"),
    licence=Fact("for non-commercial research and education"),
    url=Fact(
        "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip", "dvlab-research/LISA, README.md"
    ),
    size=Fact(1_000_000_000, "a copy on huggingface.co, datasets/Realcat/skywater, README.md", exact=False),
    digests=(Fact("sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7", "gluon-cv's script of ADE20K, in many copies"),),
)
_COCO_STUFF = Download(
    file="stuffthingmaps_trainval2017.zip",
    title="stuffthingmaps_trainval2017 of COCO-Stuff",
    page=Fact("https://github.com/nightrome/cocostuff#downloads", "dvlab-research/LISA, README.md"),
    licence=Fact("CC BY 4.0 for the annotations"),
    url=Fact(
        "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
        "nightrome/cocostuff, README.md",
    ),
    size=Fact(659_000_000, "nightrome/cocostuff, README.md", exact=False),
)
_MAPILLARY = Download(
    file="mapillary-vistas-dataset_public_v2.0.zip",
    title="Mapillary Vistas 2.0",
    page=Fact("https://www.mapillary.com/dataset/vistas", "dvlab-research/LISA, README.md"),
    licence=Fact("CC BY-NC-SA 4.0"),
    clicks="register, accept the terms, and request the download of version 2.0; if it comes in two parts, join them: "
    "zip -s 0 mapillary_vistas_v2_part.zip --out mapillary-vistas-dataset_public_v2.0.zip",
    also=("*mapillary*vistas*.zip",),
)
_VOC2010 = Download(
    file="VOCtrainval_03-May-2010.tar",
    title="VOC2010 of PASCAL VOC",
    page=Fact("http://host.robots.ox.ac.uk/pascal/VOC/voc2010"),
    licence=Fact("images: Flickr's terms of use"),
    url=Fact(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
        "facebookresearch/VLPart, datasets/README.md",
    ),
    size=Fact(1_350_000_000, "a public download script", exact=False),
    digests=(Fact("md5:da459979d0c395079b5c75ee67908abb", "torchvision's list of VOC, in copies"),),
)
_PASCAL_PART = Download(
    file="pascal_part.zip",
    title="train.json as VLPart (facebookresearch) converts it",
    page=Fact(
        "https://github.com/facebookresearch/VLPart/tree/main/datasets#pascal-part", "dvlab-research/LISA, README.md"
    ),
    licence=Fact("MIT for VLPart's tools; of PASCAL-Part nothing is said"),
    clicks="convert PASCAL-Part with VLPart's tools/pascal_part_mat2json.py --split train.txt, then place the result "
    "with: python -m dataloaders.prepare link DIR, where DIR/pascal_part/train.json is the file",
    also=("*pascal_part*.zip", "*pascal_part*.tar*"),
)
_PACO_LVIS = Download(
    file="paco_lvis_v1.zip",
    title="PACO-LVIS v1 (facebookresearch/paco)",
    page=Fact("https://github.com/facebookresearch/paco/tree/main#dataset-setup", "dvlab-research/LISA, README.md"),
    licence=Fact("CC BY 4.0 for the annotations"),
    url=Fact("https://dl.fbaipublicfiles.com/paco/annotations/paco_lvis_v1.zip", "facebookresearch/paco, README.md"),
    digests=(
        Fact(
            "sha256:a45df077f8930ac5a5061ed4950ce6b8c41394eb519bdbfa816c0b24b964ec77",
            "facebookresearch/paco, README.md",
        ),
        Fact(
            "sha256:02ac4edb22c251e07853e6231d69aec3fad0a180f03de2f8c880650322debc80",
            "a public script, which checks it",
        ),
    ),
)


def _check_label_maps(root: Path, kind: type[LabelMaps], findings: Findings) -> Iterator[tuple[str, list[Entry]]]:
    maps = kind(root)
    stems = {Path(name).stem: name for name in list_names(maps.labels)}
    images = list_images(maps.images)
    of_images, of_labels = names_in(maps.images), names_in(maps.labels)
    lacking = [maps.images / name for stem, name in images.items() if f"{stem}.png" not in of_labels]
    if kind is CocoStuff:  # whose images are in a folder that other sets use too
        findings.note_unused("images have no label map", lacking, len(images))
    else:
        findings.note_incomplete("images have no label map", lacking, len(images))
        lacking = [maps.labels / name for stem, name in stems.items() if f"{stem}.jpg" not in of_images]
        findings.note_incomplete("label maps have no image", lacking, len(stems))
    odd = [maps.labels / name for name in stems.values() if not name.endswith(".png")]
    findings.note_incomplete("files beside the label maps are no .png", odd, len(stems))
    paths = maps.paths()
    for path in paths:
        if f"{path.stem}.png" in of_labels:
            findings.look_at(maps.labels / f"{path.stem}.png", LOSSLESS_STARTS)
    yield "train", [Entry(path, (partial(_draw_all, maps, number),)) for number, path in enumerate(paths)]


def _check_parts(root: Path, kind: type[PartAnnotations], findings: Findings) -> Iterator[tuple[str, list[Entry]]]:
    parts = kind(root, bad_samples=findings)
    paths = parts.paths()
    total = len(paths) + len(parts.unannotated)
    findings.note_unused("images of the file have no annotation", parts.unannotated, total)
    if kind is PascalPart:  # COCO's folder has other sets' images too
        findings.note_unlisted({*paths, *parts.unannotated}, "images are not in the file")
    yield "train", [Entry(path, (partial(_draw_all, parts, number),)) for number, path in enumerate(paths)]


def _draw_all(source: LabelMaps | PartAnnotations, number: int) -> None:
    entry = source[number]
    read_image(entry.path, size=entry.size)
    for category in entry.categories:
        entry.mask(category)
