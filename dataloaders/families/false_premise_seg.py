"""Families `neg_refer_seg` and `correct_refer_seg`: expressions some of which speak of what the picture does not show.

A false premise is answered in words, without a token: with a denial, or with what may have been meant where the data
tell it (FP-RefCOCO). The questions allow for both.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from dataloaders.families.family import draw_until
from dataloaders.sample import Sample, Turn
from dataloaders.templates import fill, pick, read_pool
from dataloaders.wording import choose
from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.images import read_image
from groundscore.annotations.refer_files import CORRECTED, FALSE_PREMISE_SETS
from groundscore.annotations.refer_index import Expression, ReferIndex, clean, open_indices
from groundscore.names import split_names
from groundscore.targets import SEG


class FalsePremiseSeg:
    """Draws a question for each of several expressions about a picture.

    name: the family, "neg_refer_seg" or "correct_refer_seg"; both take all of `FALSE_PREMISE_SETS`.
    num_sentences: at most so many expressions.
    excluded: COCO numbers of pictures to leave out.
    bad_samples: what to do about bad entries; None stops at the first.
    """

    def __init__(
        self,
        dataset_dir: Path,
        names: str,
        *,
        name: str = "neg_refer_seg",
        num_sentences: int = 3,
        excluded: Collection[int] = (),
        bad_samples: BadSamples | None = None,
    ):
        self.name = name
        self._indices = open_indices(
            dataset_dir,
            split_names(names),
            "train",
            sets=FALSE_PREMISE_SETS,
            excluded=excluded,
            bad_samples=bad_samples,
        )
        self._num_sentences = num_sentences
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
        said = [expression for expression in image.expressions if expression.words]
        chosen = [said[i] for i in choose(rng, len(said), self._num_sentences)]
        if not chosen:
            return None
        picture = read_image(image.path, size=(image.height, image.width))
        there = [expression for expression in chosen if expression.exists]
        masks = [index.mask(image, expression) for expression in there]
        return Sample(
            image_path=image.path,
            image=picture,
            conversations=[(self._ask(rng, index, expression),) for expression in chosen],
            masks=np.stack(masks) if masks else np.zeros((0, image.height, image.width), np.uint8),
            ignore=None,
            family=self.name,
            dataset=index.name,
            expressions=tuple(expression.words for expression in there),
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
