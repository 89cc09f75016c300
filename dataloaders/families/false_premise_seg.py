"""Families `neg_refer_seg` and `correct_refer_seg`: expressions, some of them false premises.

A false premise is answered in words, without a token: with a denial, or with a correction where the data have one
(FP-RefCOCO). The questions allow for both.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.downloads import SESAME
from dataloaders.families.family import Family, draw_until
from dataloaders.families.refer_seg import known_refer_set
from dataloaders.known_sets import KnownSet
from dataloaders.sample import Sample, Turn
from dataloaders.wording import choose, fill, pick, read_pool
from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.images import read_reduced
from groundscore.annotations.refer_files import CORRECTED, FALSE_PREMISE_SETS, ReferTables
from groundscore.annotations.refer_index import (
    Expression,
    ReferIndex,
    check_names,
    clean,
    held_out_images,
    open_indices,
)
from groundscore.names import split_names
from groundscore.targets import SEG
from utils.settings import option


class _FalsePremises(Family):
    """Draws a question for each of several expressions about an image; takes all of `FALSE_PREMISE_SETS`."""

    rate = 3

    def __init__(
        self, root: Path, settings: Any, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
    ):
        options = {"excluded": excluded, "bad_samples": bad_samples}
        self._indices = open_indices(root, self._names(settings), "train", sets=FALSE_PREMISE_SETS, **options)
        self._least = settings.fast_decode
        self._num_sentences = settings.num_classes_per_sample
        self._questions = read_pool("conditional_short_questions", ("{class_name}",))
        self._answers = read_pool("present_answers", (SEG,))
        self._denials = read_pool("denial_answers")
        self._corrections = read_pool("correction_answers", ("{class_name}", "{gt_name}"))

    def sizes(self) -> dict[str, int]:
        return {index.name: len(index) for index in self._indices}

    def draw(self, rng: np.random.Generator) -> Sample:
        index = self._indices[int(rng.integers(len(self._indices)))]
        return draw_until(lambda: self._draw_from(rng, index), f"{self.name}/{index.name}")

    def _draw_from(self, rng: np.random.Generator, index: ReferIndex) -> Sample | None:
        image = index[int(rng.integers(len(index)))]
        usable = [expression for expression in image.expressions if expression.words]
        chosen = [usable[i] for i in choose(rng, len(usable), self._num_sentences)]
        if not chosen:
            return None
        pixels, size = read_reduced(image.path, size=(image.height, image.width), least=self._least)
        there = [expression for expression in chosen if expression.exists]
        masks = [index.mask(image, expression) for expression in there]
        return Sample(
            image_path=image.path,
            image=pixels,
            conversations=[(self._ask(rng, index, expression),) for expression in chosen],
            masks=np.stack(masks) if masks else np.zeros((0, image.height, image.width), np.uint8),
            ignore=None,
            family=self.name,
            dataset=index.name,
            expressions=tuple(expression.words for expression in there),
            full_size=size,
        )

    def _ask(self, rng: np.random.Generator, index: ReferIndex, expression: Expression) -> Turn:
        text = expression.words
        question = fill(pick(rng, self._questions), class_name=text)
        if expression.exists:
            answer = fill(pick(rng, self._answers), class_name=text)
        elif index.name in CORRECTED:
            right = clean(expression.correction)
            answer = fill(pick(rng, self._corrections), class_name=text, gt_name=right)
        else:
            answer = fill(pick(rng, self._denials), class_name=text)
        return Turn(question, answer)

    @classmethod
    def check(cls, settings: Any) -> None:
        check_names(cls._names(settings), FALSE_PREMISE_SETS)

    @classmethod
    def _names(cls, settings: Any) -> list[str]:
        return split_names(getattr(settings, f"{cls.name}_data"))

    @classmethod
    def held_out(cls, root: Path, settings: Any) -> set[int]:
        return held_out_images(root, cls._names(settings), FALSE_PREMISE_SETS)

    @classmethod
    def openings(cls, root: Path, settings: Any) -> Iterator[Callable[[], object]]:
        for name in cls._names(settings):
            yield partial(ReferTables, root, name, FALSE_PREMISE_SETS)

    @classmethod
    def known_sets(cls, root: Path) -> Iterator[KnownSet]:
        for name in cls._names(cls.Settings()):
            yield known_refer_set(root, name, SESAME, FALSE_PREMISE_SETS)


@dataclass
class NegReferSegSettings:
    """The flags of this family."""

    neg_refer_seg_data: str = option("R-refcoco||R-refcoco+||R-refcocog", "data", "sets with false premises")


class NegReferSeg(_FalsePremises):
    """R-RefCOCO: a false premise is denied."""

    name = "neg_refer_seg"
    Settings = NegReferSegSettings


@dataclass
class CorrectReferSegSettings:
    """The flags of this family."""

    correct_refer_seg_data: str = option("||".join(CORRECTED), "data", "sets with corrections")


class CorrectReferSeg(_FalsePremises):
    """FP-RefCOCO: a false premise is corrected."""

    name = "correct_refer_seg"
    Settings = CorrectReferSegSettings
