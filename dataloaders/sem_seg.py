"""Family `sem_seg`: every class of a densely labelled picture can be asked for by name.

A data set of this family yields a `Scene`: some named regions of a picture, and names of what is not in it. To add one,
write a class with `name` and `draw_scene`, and enter it in `DATA_SETS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from dataloaders.families import draw_until, look_up, require_some, split_names
from dataloaders.images import read_image
from dataloaders.json_files import read_json
from dataloaders.sample import Sample, Turn
from dataloaders.templates import fill, pick, read_pool
from dataloaders.wording import TargetAnswers, choose, distribute, join_names
from utils.errors import UserError

UNLABELLED = 255


@dataclass(frozen=True)
class Scene:
    """A picture with some of its classes.

    image uint8 [H, W, 3]; names: of the regions; masks uint8 [N, H, W] in {0, 1}, none empty;
    absent: names of classes that the picture does not show.
    """

    image_path: Path
    image: np.ndarray
    names: Sequence[str]
    masks: np.ndarray
    absent: Sequence[str]


class SceneSet(Protocol):
    name: str

    def draw_scene(self, rng: np.random.Generator, limit: int) -> Scene | None:
        """A random picture with at most `limit` regions, None if the picture has none."""


class Ade20k:
    """ADE20K's scene parsing set: a grey PNG per picture, 0 for unlabelled, 1 to 150 for the classes."""

    name = "ade20k"

    def __init__(self, dataset_dir: Path):
        images = dataset_dir / "ade20k" / "images" / "training"
        self._images = images
        self._labels = dataset_dir / "ade20k" / "annotations" / "training"
        self._stems = np.array(sorted(path.stem for path in images.glob("*.jpg")))
        require_some(self._stems, f"{images}/*.jpg")
        self._classes: list[str] = read_json(Path(__file__).parent / "ade20k_classes.json", list)

    def draw_scene(self, rng: np.random.Generator, limit: int) -> Scene | None:
        stem = str(self._stems[int(rng.integers(len(self._stems)))])
        values = read_label_map(self._labels / f"{stem}.png").astype(np.int32)
        labels = np.where((values == 0) | (values == UNLABELLED), UNLABELLED, values - 1)
        return scene_of_labels(rng, self._images / f"{stem}.jpg", labels, self._classes, limit)


DATA_SETS = {kind.name: kind for kind in (Ade20k,)}


def read_label_map(path: Path) -> np.ndarray:
    """The class numbers of a single-channel PNG, [H, W]; a palette is not applied."""
    try:
        with Image.open(path) as image:
            labels = np.array(image)
    except FileNotFoundError as error:
        raise UserError(f"label map {path} is missing; see dataloaders/README.md for where files go") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"label map {path} is damaged ({error}); fetch it anew") from error
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
        raise UserError(
            f"label map {path} should have one channel of class numbers, it is {labels.dtype} {labels.shape}"
        )
    return labels


def scene_of_labels(
    rng: np.random.Generator, image_path: Path, labels: np.ndarray, classes: Sequence[str], limit: int
) -> Scene | None:
    """A scene from a map of class indices [H, W], `UNLABELLED` where there is none."""
    present = [index for index in np.unique(labels).tolist() if index != UNLABELLED]
    if not present:
        return None
    if present[-1] >= len(classes):
        raise UserError(f"the label map of {image_path} has class {present[-1]}, but there are {len(classes)} classes")
    chosen = [present[index] for index in choose(rng, len(present), limit)]
    return Scene(
        image_path=image_path,
        image=read_image(image_path, size=labels.shape),
        names=[classes[index] for index in chosen],
        masks=np.stack([labels == index for index in chosen]).astype(np.uint8),
        absent=[name for index, name in enumerate(classes) if index not in set(present)],
    )


class SemSeg:
    """Draws questions about classes.

    num_classes_per_sample, num_classes_per_question: at most so many questions, and targets in each.
    negative_sampling_weight: the probability of asking for what is not there, half of the time answered by a denial
        and half by a correction; no such questions at 0 or below.
    use_expand_question_list: ask in more ways, some of which allow for absence.
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
    ):
        kinds = [look_up(name, DATA_SETS, "sem_seg data set") for name in split_names(names)]
        require_some(kinds, "--sem_seg_data")
        self._sets: list[SceneSet] = [kind(dataset_dir) for kind in kinds]
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

    def draw(self, rng: np.random.Generator) -> Sample:
        source = self._sets[int(rng.integers(len(self._sets)))]
        limit = self._questions_per_sample * self._targets_per_question
        scene = draw_until(lambda: source.draw_scene(rng, limit), f"sem_seg/{source.name}")
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
        """Every question is about a class that the picture does not show; the answers hold no target."""
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
