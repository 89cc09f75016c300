"""Family `refer_seg`: expressions with one target, several, or (grefcoco, refzom) none in the image.

An absent target is answered with `[REJ]` where `[SEG]` would stand.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.families.family import Family, draw_until
from dataloaders.known_sets import Entry, Findings, KnownSet
from dataloaders.sample import Sample, Turn
from dataloaders.wording import TargetAnswers, choose, distribute, fill, pick, read_pool
from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.images import read_image
from groundscore.annotations.refer_files import FALSE_PREMISE_SETS, REFER_SETS, ReferFiles, ReferTables
from groundscore.annotations.refer_index import ReferImage, ReferIndex, held_out_images, open_indices
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
        self._questions_per_sample = settings.num_classes_per_sample
        self._targets_per_question = settings.num_classes_per_question
        self._questions = read_pool("short_questions", ("{class_name}",))
        if settings.use_expand_question_list:
            self._questions += read_pool("expanded_short_questions", ("{class_name}",))
        self._answers = TargetAnswers()

    def sizes(self) -> dict[str, int]:
        return {index.name: len(index) for index in self._indices}

    def draw(self, rng: np.random.Generator) -> Sample:
        index = self._indices[int(rng.integers(len(self._indices)))]
        return draw_until(lambda: self._draw_from(rng, index), f"refer_seg/{index.name}")

    def _draw_from(self, rng: np.random.Generator, index: ReferIndex) -> Sample | None:
        image = index[int(rng.integers(len(index)))]
        limit = self._questions_per_sample * self._targets_per_question
        chosen = [image.expressions[i] for i in choose(rng, len(image.expressions), limit)]
        pixels = read_image(image.path, size=(image.height, image.width))
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
        )

    @classmethod
    def held_out(cls, root: Path, settings: Any) -> set[int]:
        return held_out_images(root, split_names(settings.refer_seg_data), REFER_SETS)

    @classmethod
    def known_sets(cls, root: Path) -> Iterator[KnownSet]:
        origins = {
            "refclef": "refer (lichengunc) with saiapr_tc-12 of ImageCLEF",
            "grefcoco": "gRefCOCO (henghuiding), and train2014 of COCO",
            "refzom": "Ref-ZOM (toggle1995), and train2014 and val2014 of COCO",
        }
        for name in REFER_SETS:
            yield known_refer_set(root, name, origins.get(name, "refer (lichengunc), and train2014 of COCO"))
        for name, files in FALSE_PREMISE_SETS.items():
            if name in REFER_SETS and files != REFER_SETS[name]:  # only the refs file is not that of the set itself
                origin = "SESAME (UC Berkeley); for evaluation splits of two parts, such as refcoco|val"
                known = known_refer_set(root, name, origin, FALSE_PREMISE_SETS, without="train")
                own, shared = known.own[:1], [*known.own[1:], *known.shared]
                yield replace(known, name=f"{name}|val", own=own, shared=shared)


def known_refer_set(
    root: Path, name: str, origin: str, sets: Mapping[str, ReferFiles] = REFER_SETS, *, without: str = ""
) -> KnownSet:
    """Returns a referring data set of `sets`, with all its splits but `without`."""
    files, folder = sets[name], root / "refer_seg" / name
    refs = [folder / file for file in files.refs]
    images = [root / "refer_seg" / folder for folder in files.images]
    chosen, shared = (next((path for path in paths if path.exists()), paths[0]) for paths in (refs, images))
    read = partial(_check_refer, root, name, sets, without)
    return KnownSet(name, [chosen, folder / "instances.json"], origin, read, [shared])


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
