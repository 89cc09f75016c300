"""Family `refer_seg`: expressions that refer to one thing, to several, or (grefcoco, refzom) to nothing in the picture.

What is absent is answered with `[REJ]` in the place where `[SEG]` would stand.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from dataloaders.families.family import draw_until
from dataloaders.sample import Sample, Turn
from dataloaders.templates import fill, pick, read_pool
from dataloaders.wording import TargetAnswers, choose, distribute
from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.images import read_image
from groundscore.annotations.refer_index import ReferIndex, open_indices
from groundscore.names import split_names
from groundscore.targets import join_names


class ReferSeg:
    """Draws questions about expressions.

    num_classes_per_sample, num_classes_per_question: at most so many questions, and expressions in each.
    use_expand_question_list: ask in more ways. Those that want absence told in words are left out, since it is told by
        `[REJ]` here.
    excluded: COCO numbers of pictures to leave out.
    bad_samples: what to do about bad entries; None stops at the first.
    """

    name = "refer_seg"

    def __init__(
        self,
        dataset_dir: Path,
        names: str,
        *,
        num_classes_per_sample: int = 3,
        num_classes_per_question: int = 1,
        use_expand_question_list: bool = False,
        excluded: Collection[int] = (),
        bad_samples: BadSamples | None = None,
    ):
        self._indices = open_indices(
            dataset_dir, split_names(names), "train", excluded=excluded, bad_samples=bad_samples
        )
        self._questions_per_sample = num_classes_per_sample
        self._targets_per_question = num_classes_per_question
        self._questions = read_pool("short_questions", ("{class_name}",))
        if use_expand_question_list:
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
        picture = read_image(image.path, size=(image.height, image.width))
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
            image=picture,
            conversations=conversations,
            masks=np.stack([usable[i][1] for i in order]),
            ignore=None,
            family=self.name,
            dataset=index.name,
            expressions=tuple(names[i] for i in order),
        )
