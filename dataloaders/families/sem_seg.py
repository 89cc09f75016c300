"""Family `sem_seg`: every class of a densely labelled image can be asked for by name.

To add a data set, write a reader as in `groundscore/annotations/label_maps.py` or `part_annotations.py` and enter it in
`DATA_SETS`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.families.family import draw_until
from dataloaders.sample import Sample, Turn
from dataloaders.templates import fill, pick, read_pool
from dataloaders.wording import TargetAnswers, choose, distribute
from groundscore.annotations.bad_samples import BadSamples
from groundscore.annotations.images import read_image
from groundscore.annotations.label_maps import Ade20k, CocoStuff, LabelMaps, Mapillary
from groundscore.annotations.part_annotations import PacoLvis, PartAnnotations, PascalPart
from groundscore.names import look_up, require_some, split_names
from groundscore.targets import join_names

DATA_SETS = {kind.name: kind for kind in (Ade20k, CocoStuff, PascalPart, PacoLvis, Mapillary)}


@dataclass(frozen=True)
class Scene:
    """An image with some of its classes.

    image: uint8 RGB [H, W, 3]. names: of the regions. masks: uint8 [N, H, W] in {0, 1}, none empty.
    absent: names of classes that the image does not show.
    """

    image_path: Path
    image: np.ndarray
    names: Sequence[str]
    masks: np.ndarray
    absent: Sequence[str]


def draw_scene(source: LabelMaps | PartAnnotations, rng: np.random.Generator, limit: int) -> Scene | None:
    """Returns a random image with at most `limit` regions, None if it has none."""
    entry = source[int(rng.integers(len(source)))]
    present = entry.categories
    chosen = [present[index] for index in choose(rng, len(present), limit)] if present else []
    image = read_image(entry.path, size=entry.size) if present else None
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
    return Scene(entry.path, image, names, np.stack(masks), absent)


def _spoken(pieces: Sequence[str], in_one_word: bool) -> str:
    """Returns "dog", "dog head" or "the head of the dog"."""
    if len(pieces) == 1:
        return pieces[0]
    whole, part = pieces
    return f"{whole} {part}" if in_one_word else f"the {part} of the {whole}"


class SemSeg:
    """Draws questions about classes.

    num_classes_per_sample, num_classes_per_question: at most so many questions, and targets in each.
    negative_sampling_weight: the probability of asking for what is not there, half of the time answered by a denial
        and half by a correction; no such questions at 0 or below.
    use_expand_question_list: ask in more ways, some of which allow for absence.
    excluded: COCO numbers of images to leave out.
    bad_samples: what to do about bad entries; None stops at the first.
    """

    name = "sem_seg"

    def __init__(
        self,
        dataset_dir: Path,
        names: str,
        *,
        num_classes_per_sample: int = 3,
        num_classes_per_question: int = 1,
        negative_sampling_weight: float = -1.0,
        use_expand_question_list: bool = False,
        excluded: Collection[int] = (),
        bad_samples: BadSamples | None = None,
    ):
        kinds = [look_up(name, DATA_SETS, "sem_seg data set") for name in split_names(names)]
        require_some(kinds, "--sem_seg_data")
        self._sets: list[LabelMaps | PartAnnotations] = [
            kind(dataset_dir, excluded=excluded, bad_samples=bad_samples) for kind in kinds
        ]
        self._questions_per_sample = num_classes_per_sample
        self._targets_per_question = num_classes_per_question
        self._negative_weight = max(negative_sampling_weight, 0.0)
        self._questions = read_pool("short_questions", ("{class_name}",))
        if use_expand_question_list:
            self._questions += read_pool("expanded_short_questions", ("{class_name}",))
            self._questions += read_pool("conditional_short_questions", ("{class_name}",))
        self._answers = TargetAnswers()
        self._denials = read_pool("denial_answers")
        self._corrections = read_pool("correction_answers", ("{class_name}", "{gt_name}"))

    def sizes(self) -> dict[str, int]:
        return {source.name: len(source) for source in self._sets}

    def draw(self, rng: np.random.Generator) -> Sample:
        source = self._sets[int(rng.integers(len(self._sets)))]
        limit = self._questions_per_sample * self._targets_per_question
        scene = draw_until(lambda: draw_scene(source, rng, limit), f"sem_seg/{source.name}")
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
            masks=np.zeros((0, *scene.image.shape[:2]), np.uint8),
            ignore=None,
            family=self.name,
            dataset=name,
        )
