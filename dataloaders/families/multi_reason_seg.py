"""Family `multi_reason_seg`: MUSE. Questions about an image that ask for one target or many, each with its own mask."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from dataloaders.families.family import draw_until
from dataloaders.sample import Sample, Turn
from dataloaders.templates import fill, pick, read_pool
from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.images import read_image
from groundscore.annotations.muse import PLACEHOLDER, MuseEntry, MuseQuestion, MuseTarget, open_muse
from groundscore.errors import UserError
from groundscore.targets import SEG, join_names

_REPHRASED = 0.9  # how often a target is called by the description that was written for it


class MultiReasonSeg:
    """Draws pictures with all their questions, each a conversation of its own.

    names: "MultiReasonSeg|train"; splits are joined by "_".
    use_expand_question_list: ask in more ways, some of which allow for absence.
    excluded: COCO numbers of pictures to leave out.
    bad_samples: what to do about bad entries; None stops at the first.
    """

    name = "multi_reason_seg"

    def __init__(
        self,
        dataset_dir: Path,
        names: str,
        *,
        use_expand_question_list: bool = False,
        excluded: Collection[int] = (),
        bad_samples: BadSamples | None = None,
    ):
        parts = names.split("|")
        if len(parts) != 2 or not all(parts):
            raise UserError(
                f"--multi_reason_seg_data is a name and a split, such as MultiReasonSeg|train, not {names!r}"
            )
        self._dataset = parts[0]
        self._entries = open_muse(dataset_dir, parts[0], parts[1], excluded=excluded, bad_samples=bad_samples)
        self._questions = read_pool("long_questions", ("{sent}",))
        if use_expand_question_list:
            self._questions += read_pool("expanded_long_questions", ("{sent}",))
            self._questions += read_pool("conditional_long_questions", ("{sent}",))
        self._single = read_pool("single_reasoning_answers", ("{class_name}", SEG))
        self._joint = read_pool("multi_reasoning_answers", ("{class_name}", PLACEHOLDER))

    def sizes(self) -> dict[str, int]:
        return {self._dataset: len(self._entries)}

    def draw(self, rng: np.random.Generator) -> Sample:
        return draw_until(lambda: self._draw_one(rng), f"{self.name}/{self._dataset}")

    def _draw_one(self, rng: np.random.Generator) -> Sample | None:
        entry: MuseEntry = self._entries[int(rng.integers(len(self._entries)))]
        if not entry.has_objects:
            return None
        image = read_image(entry.path, size=(entry.height, entry.width))
        conversations, names = [], []
        for question in entry.questions:
            called = [self._name(rng, target) for target in question.targets]
            asked = fill(pick(rng, self._questions), sent=question.text)
            conversations.append((Turn(asked, self._answer(rng, question, called)),))
            names += called
        return Sample(
            image_path=entry.path,
            image=image,
            conversations=conversations,
            masks=np.concatenate([entry.masks(question) for question in entry.questions]),
            ignore=None,
            family=self.name,
            dataset=self._dataset,
            expressions=tuple(names),
        )

    def _name(self, rng: np.random.Generator, target: MuseTarget) -> str:
        rephrased = bool(rng.random() < _REPHRASED)
        return target.rephrased if rephrased and target.rephrased else target.category

    def _answer(self, rng: np.random.Generator, question: MuseQuestion, names: Sequence[str]) -> str:
        if question.answer is not None:
            return question.answer.replace(PLACEHOLDER, SEG)
        if len(names) == 1 or rng.random() < 0.5:
            template = pick(rng, self._single).removesuffix(".")
            return join_names([fill(template, class_name=name) for name in names]) + "."
        targets = join_names([SEG] * len(names))
        return fill(pick(rng, self._joint), class_name=", ".join(names).lower(), seg=targets)
