"""Family `refer_seg`: expressions with one target, several, or (grefcoco, refzom) none in the image.

An absent target is answered with `[REJ]` where `[SEG]` would stand.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.downloads import (
    SESAME,
    TRAIN2014,
    VAL2014,
    Download,
    Fact,
    Source,
    coco_images,
    origin_of,
)
from dataloaders.families.family import Family, draw_until
from dataloaders.known_sets import Entry, Findings, KnownSet
from dataloaders.sample import Sample, Turn
from dataloaders.wording import TargetAnswers, choose, distribute, fill, pick, read_pool
from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.images import read_image, read_reduced
from groundscore.annotations.refer_files import FALSE_PREMISE_SETS, REFER_SETS, ReferFiles, ReferTables
from groundscore.annotations.refer_index import ReferImage, ReferIndex, check_names, held_out_images, open_indices
from groundscore.names import split_names
from groundscore.targets import join_names
from utils.settings import option


@dataclass
class ReferSegSettings:
    """The flags of this family."""

    refer_seg_data: str = option("||".join(REFER_SETS), "data", "referring-expression sets")


class ReferSeg(Family):
    """Draws questions about expressions.

    Of the questions, those that want absence told in words are left out, since it is told by `[REJ]` here.
    """

    name = "refer_seg"
    rate = 9
    Settings = ReferSegSettings

    def __init__(
        self, root: Path, settings: Any, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
    ):
        names = split_names(settings.refer_seg_data)
        self._indices = open_indices(root, names, "train", excluded=excluded, bad_samples=bad_samples)
        self._least = settings.fast_decode
        self._questions_per_sample = settings.num_classes_per_sample
        self._targets_per_question = settings.num_classes_per_question
        self._questions = read_pool("short_questions", ("{class_name}",))
        if settings.use_expand_question_list:
            self._questions += read_pool("expanded_short_questions", ("{class_name}",))
        self._answers = TargetAnswers()

    @classmethod
    def check(cls, settings: Any) -> None:
        check_names(split_names(settings.refer_seg_data), REFER_SETS)

    def sizes(self) -> dict[str, int]:
        return {index.name: len(index) for index in self._indices}

    def draw(self, rng: np.random.Generator) -> Sample:
        index = self._indices[int(rng.integers(len(self._indices)))]
        return draw_until(lambda: self._draw_from(rng, index), f"refer_seg/{index.name}")

    def _draw_from(self, rng: np.random.Generator, index: ReferIndex) -> Sample | None:
        image = index[int(rng.integers(len(index)))]
        limit = self._questions_per_sample * self._targets_per_question
        chosen = [image.expressions[i] for i in choose(rng, len(image.expressions), limit)]
        pixels, size = read_reduced(image.path, size=(image.height, image.width), least=self._least)
        usable = [(expression, index.mask(image, expression)) for expression in chosen if expression.words]
        if not usable:
            return None
        names = [expression.words for expression, _ in usable]
        groups = distribute(rng, len(usable), self._questions_per_sample, self._targets_per_question)
        conversations = []
        for group in groups:
            group_names = [names[i] for i in group]
            question = fill(pick(rng, self._questions), class_name=join_names(group_names))
            exists = [bool(usable[i][1].any()) for i in group]
            conversations.append((Turn(question, self._answers.write(rng, group_names, exists)),))
        order = [i for group in groups for i in group]
        return Sample(
            image_path=image.path,
            image=pixels,
            conversations=conversations,
            masks=np.stack([usable[i][1] for i in order]),
            ignore=None,
            family=self.name,
            dataset=index.name,
            expressions=tuple(names[i] for i in order),
            full_size=size,
        )

    @classmethod
    def held_out(cls, root: Path, settings: Any) -> set[int]:
        return held_out_images(root, split_names(settings.refer_seg_data), REFER_SETS)

    @classmethod
    def openings(cls, root: Path, settings: Any) -> Iterator[Callable[[], object]]:
        for name in split_names(settings.refer_seg_data):
            yield partial(ReferTables, root, name)

    @classmethod
    def known_sets(cls, root: Path) -> Iterator[KnownSet]:
        for name in REFER_SETS:
            yield known_refer_set(root, name, _DOWNLOADS.get(name) or _refer_download(name))
        for name, files in FALSE_PREMISE_SETS.items():
            if name in REFER_SETS and files != REFER_SETS[name]:  # only the refs file is not that of the set itself
                known = known_refer_set(root, name, SESAME, FALSE_PREMISE_SETS, without="train")
                own, shared = known.own[:1], [*known.own[1:], *known.shared]
                origin = f"{known.origin}; for evaluation splits of two parts, such as refcoco|val"
                yield replace(known, name=f"{name}|val", own=own, shared=shared, origin=origin)


def known_refer_set(
    root: Path, name: str, download: Download, sets: Mapping[str, ReferFiles] = REFER_SETS, *, without: str = ""
) -> KnownSet:
    """Returns a referring data set of `sets`, with all its splits but `without`. download: its annotations."""
    files, folder = sets[name], root / "refer_seg" / name
    refs = [folder / file for file in files.refs]
    images = [root / "refer_seg" / folder for folder in files.images]
    chosen, shared = (next((path for path in paths if path.exists()), paths[0]) for paths in (refs, images))
    own = [chosen, folder / "instances.json"]
    sources = [
        Source(download, path, _inside(download, path), instead=next((other for other in refs if other != path), None))
        for path in refs
    ]
    sources.append(Source(download, own[1], _inside(download, own[1])))
    joined = next((folder for folder in images if folder.name == "trainval2014"), None)
    sources += [replace(_images(folder), instead=joined) for folder in images if folder != joined]
    read = partial(_check_refer, root, name, sets, without)
    return KnownSet(name, own, origin_of(sources), read, [shared], sources=sources)


def _inside(download: Download, path: Path) -> str:
    """The archives of refer and SESAME have a folder for each set; the others have one set, and the last its own name
    for the refs."""
    if download is _REF_ZOM and path.suffix == ".p":
        return "ref*zom*.p"
    return path.name if download in _DOWNLOADS.values() else f"{path.parent.name}/{path.name}"


def _images(folder: Path) -> Source:
    if folder.name == "saiapr_tc-12":
        return Source(_SAIAPR, folder, "saiapr_tc-12/**", Fact(19997, "lichengunc/refer, README.md"))
    return coco_images(TRAIN2014 if folder.name == "train2014" else VAL2014, folder)


_ARCHIVED = {"refcoco": "20220413011718", "refcoco+": "20220413011656", "refcocog": "20220413012904",
             "refclef": "20220413011817"}  # fmt: skip


def _refer_download(name: str) -> Download:
    """The original server is gone; the web archive has its files."""
    url = f"https://bvisionweb1.cs.unc.edu/licheng/referit/data/{name}.zip"
    return Download(
        file=f"{name}.zip",
        title=f"{name} of refer (lichengunc)",
        page=Fact("https://github.com/lichengunc/refer", "lichengunc/refer, README.md"),
        licence=Fact("Apache 2.0 for the code; of the data nothing is said"),
        url=Fact(f"https://web.archive.org/web/{_ARCHIVED[name]}/{url}", "dvlab-research/LISA, README.md"),
    )


_SAIAPR = Download(
    file="saiapr_tc-12.zip",
    title="saiapr_tc-12 of ImageCLEF",
    page=Fact("https://github.com/lichengunc/refer", "lichengunc/refer, README.md"),
    licence=Fact("see imageclef.org/SIAPRdata"),
    url=Fact(
        "https://web.archive.org/web/20220515000000/http://bvisionweb1.cs.unc.edu/licheng/referit/data/images/"
        "saiapr_tc-12.zip",
        "dvlab-research/LISA, README.md",
    ),
)
_GREFCOCO = Download(
    file="grefcoco.zip",
    title="gRefCOCO (henghuiding)",
    page=Fact(
        "https://drive.google.com/file/d/1WXifNjJ8gKQAcPQWcCkCdNYvRrkS6nbQ/view", "henghuiding/gRefCOCO, README.md"
    ),
    licence=Fact("nothing is said of the data", "henghuiding/gRefCOCO, README.md"),
    clicks="press Download on the page of Google Drive",
    also=("*grefcoco*.zip", "*grefs*.zip", "*grefcoco*.tar*"),
)
_REF_ZOM = Download(
    file="Ref-ZOM.zip",
    title="Ref-ZOM (toggle1995)",
    page=Fact(
        "https://drive.google.com/drive/folders/1FaH6U5pywSf0Ufnn4lYIVaykYxqU2vrA", "toggle1995/RIS-DMMI, README.md"
    ),
    licence=Fact("nothing is said of the data", "toggle1995/RIS-DMMI, README.md"),
    clicks="download all files of the folder of Google Drive together",
    also=("*ref*zom*.zip", "*ref*zom*.p"),
)
_DOWNLOADS = {"grefcoco": _GREFCOCO, "refzom": _REF_ZOM}


def _check_refer(
    root: Path, name: str, sets: Mapping[str, ReferFiles], without: str, findings: Findings
) -> Iterator[tuple[str, list[Entry]]]:
    for split in sorted(ReferTables(root, name, sets).splits.keys() - {without}):
        index = ReferIndex(root, name, split, sets=sets, bad_samples=findings)
        yield split, [Entry(image.path, tuple(_steps(index, image))) for image in index]


def _steps(index: ReferIndex, image: ReferImage) -> Iterator[Callable[[], object]]:
    yield partial(read_image, image.path, size=(image.height, image.width))
    for expression in image.expressions:
        yield partial(index.mask, image, expression)
