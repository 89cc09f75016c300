"""The referring data sets for evaluation, with and without expressions that mean nothing."""

from pathlib import Path

import numpy as np

from dataloaders.families.refer_seg import clean
from dataloaders.sample import REJ, SEG
from dataloaders.templates import fill, pick, read_pool
from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.images import read_image
from groundscore.annotations.refer_files import FALSE_PREMISE_SETS
from groundscore.annotations.refer_index import ReferIndex
from groundscore.splits.item import EvaluationItem, EvaluationSet

PROMPT_SEED = 42  # of the questions that are taken from a pool
SETS_WITH_ABSENCE = ("grefcoco", "refzom")


class ReferEvaluation(EvaluationSet):
    """All expressions of every picture of a referring data set's split.

    together: what is scored is asking for all of them at once.
    """

    def __init__(
        self,
        dataset_dir: Path,
        name: str,
        split: str,
        bad_samples: BadSamples | None = None,
        *,
        together: bool = False,
    ):
        self.name = f"multi{name}" if together else name
        self.split = split
        self._together = together
        self._index = self._open(dataset_dir, name, split, bad_samples)

    @property
    def has_absent(self) -> bool:
        """Whether there are expressions that mean nothing in their picture."""
        return self.name in SETS_WITH_ABSENCE

    def _open(self, dataset_dir: Path, name: str, split: str, bad_samples: BadSamples | None) -> ReferIndex:
        return ReferIndex(dataset_dir, name, split, bad_samples=bad_samples)

    def _prompt(self, text: str, index: int, place: int) -> str:
        return f"What is {text} in this image? Please output segmentation mask."

    def __len__(self) -> int:
        return len(self._index)

    def entry(self, number: int) -> tuple[Path, int | None]:
        return self._index[number].path, None

    def __getitem__(self, index: int) -> EvaluationItem:
        image = self._index[index]
        picture = read_image(image.path, size=(image.height, image.width))
        masks = np.stack([self._index.mask(image, expression) for expression in image.expressions])
        texts = [clean(expression.text) for expression in image.expressions]
        exists = [bool(mask.any()) for mask in masks]
        tokens = [SEG if there else REJ for there in exists]
        pairs = ", ".join(f"{text}:{token}" for text, token in zip(texts, tokens))
        return EvaluationItem(
            image_path=image.path,
            image=picture,
            expressions=[expression.text for expression in image.expressions],
            prompts=[self._prompt(text, index, place) for place, text in enumerate(texts)],
            given_answers=[f"{token}." for token in tokens],
            # The missing space before "in" is the reference's, and so that of the published scores.
            joint_prompt=f" What are {', '.join(texts)}in this image? Please output segmentation masks.",
            joint_answer=f"Sure,{pairs}.",
            masks=masks,
            ignore=None,
            exists=exists,
            dataset=self.name,
            split=self.split,
            ref_ids=[expression.ref_id for expression in image.expressions],
            together=self._together,
            may_be_absent=self.has_absent,
        )


class FalsePremiseEvaluation(ReferEvaluation):
    """Expressions some of which mean nothing in the picture; the questions, from a pool, allow for that."""

    has_absent = True

    def _open(self, dataset_dir: Path, name: str, split: str, bad_samples: BadSamples | None) -> ReferIndex:
        self._questions = read_pool("conditional_short_questions", ("{class_name}",))
        return ReferIndex(dataset_dir, name, split, sets=FALSE_PREMISE_SETS, bad_samples=bad_samples)

    def _prompt(self, text: str, index: int, place: int) -> str:
        rng = np.random.default_rng([PROMPT_SEED, index, place])
        return fill(pick(rng, self._questions), class_name=text)
