"""Family `reason_seg`: sentences that take thought to find their target, some with an explanation in words."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.downloads import Download, Fact, Source, origin_of
from dataloaders.families.family import Family
from dataloaders.known_sets import Entry, Findings, KnownSet, names_in
from dataloaders.sample import Sample, Turn
from dataloaders.wording import choose, fill, pick, read_pool
from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.image_files import read_sizes
from groundscore.annotations.images import read_image, read_reduced
from groundscore.annotations.labelme import ReasonAnnotation, draw_regions, read_annotation, require_target
from groundscore.annotations.reason_seg import list_split, read_explanations, read_split, split_folder
from groundscore.errors import UserError
from groundscore.targets import SEG
from utils.settings import Rule, option


@dataclass
class ReasonSegSettings:
    """The flags of this family."""

    reason_seg_data: str = option("ReasonSeg|train", "data", "reasoning set and split")
    explanatory: float = option(
        0.1,
        "data",
        "probability of an explaining answer in ReasonSeg; -1 never",
        check=Rule("a probability, or -1", lambda value: value <= 1),
    )


class ReasonSeg(Family):
    """Draws sentences about an image; every sentence is a conversation with the same target.

    `--reason_seg_data ReasonSeg|train_val` joins splits by "_". Where an image has an explanation, `--explanatory` is
    the probability that it is the whole answer; otherwise it follows the mask half of the time. -1 does without
    explanations and their file.
    """

    name = "reason_seg"
    rate = 3
    Settings = ReasonSegSettings

    def __init__(
        self, root: Path, settings: Any, *, excluded: Collection[int] = (), bad_samples: BadSamples | None = None
    ):
        self._dataset, splits = settings.reason_seg_data.split("|")
        self._images = [path for split in splits.split("_") for path in list_split(root, self._dataset, split)]
        read_split(self._images)  # structural faults stop here; bad entries are told when they are drawn
        self._least = settings.fast_decode
        self._num_sentences = settings.num_classes_per_sample
        self._explanatory = settings.explanatory
        self._explanations: dict[str, str] = {}
        if settings.explanatory != -1:
            self._explanations = read_explanations(root, self._dataset)
        self._short_questions = read_pool("short_questions", ("{class_name}",))
        self._long_questions = read_pool("long_questions", ("{sent}",))
        if settings.use_expand_question_list:
            self._short_questions += read_pool("expanded_short_questions", ("{class_name}",))
            self._long_questions += read_pool("expanded_long_questions", ("{sent}",))
        self._requests = read_pool("explanatory_questions")
        self._answers = read_pool("answers", (SEG,))

    @classmethod
    def check(cls, settings: Any) -> None:
        parts = settings.reason_seg_data.split("|")
        if len(parts) != 2 or not all(parts):
            raise UserError(
                f"--reason_seg_data is a name and splits, such as ReasonSeg|train_val, not {settings.reason_seg_data!r}"
            )

    @classmethod
    def check_names(cls, root: Path, settings: Any) -> None:
        name, splits = settings.reason_seg_data.split("|")
        for split in splits.split("_"):
            split_folder(root, name, split)

    def sizes(self) -> dict[str, int]:
        return {self._dataset: len(self._images)}

    def draw(self, rng: np.random.Generator) -> Sample:
        path = self._images[int(rng.integers(len(self._images)))]
        annotation = read_annotation(path.with_suffix(".json"))
        image, size = read_reduced(path, size=annotation.size, least=self._least)
        target, ignore = draw_regions(annotation, *size)
        sentences = [annotation.sentences[i] for i in choose(rng, len(annotation.sentences), self._num_sentences)]
        explanation = self._explanations.get(path.name)
        in_words, explained = False, False
        if explanation is not None:
            in_words = bool(rng.random() < self._explanatory)
            explained = not in_words and bool(rng.random() < 0.5)
        if in_words:
            conversations = [(Turn(sentence, explanation),) for sentence in sentences]
        elif explained:
            conversations = [(self._ask_for_both(rng, sentence, explanation),) for sentence in sentences]
        else:
            conversations = [(self._ask_for_mask(rng, sentence, annotation),) for sentence in sentences]
        targets = 0 if in_words else len(sentences)
        return Sample(
            image_path=path,
            image=image,
            conversations=conversations,
            masks=np.repeat(target[None], targets, axis=0),
            ignore=ignore,
            family=self.name,
            dataset=self._dataset,
            expressions=tuple(sentences[:targets]),
            full_size=size,
        )

    def _ask_for_mask(self, rng: np.random.Generator, sentence: str, annotation: ReasonAnnotation) -> Turn:
        if annotation.is_sentence:
            question = fill(pick(rng, self._long_questions), sent=sentence)
        else:
            question = fill(pick(rng, self._short_questions), class_name=sentence.lower())
        return Turn(question, pick(rng, self._answers))

    def _ask_for_both(self, rng: np.random.Generator, sentence: str, explanation: str) -> Turn:
        question = f"{sentence} {pick(rng, self._requests)}"
        return Turn(question, f"{pick(rng, self._answers)} {explanation}")

    @classmethod
    def known_sets(cls, root: Path) -> Iterator[KnownSet]:
        base = root / "reason_seg/ReasonSeg"
        for split, images in (("train", 239), ("val", 200), ("test", 779)):
            files = Fact(2 * images, "dvlab-research/LISA, README.md")  # an image and its JSON file
            sources = [Source(_REASON_SEG, base / split, f"{split}/*.*", files)]
            if split == "train":
                sources.append(Source(_REASON_SEG, base / "explanatory/train.json", "explanatory/train.json"))
            origin = f"{origin_of(sources)}; SESAME has a version with false premises"
            read = partial(_check_split, root, split)
            yield KnownSet(f"ReasonSeg|{split}", [base / split], origin, read, sources=sources)


_REASON_SEG = Download(
    file="ReasonSeg.zip",
    title="ReasonSeg of LISA (dvlab-research)",
    page=Fact(
        "https://drive.google.com/drive/folders/125mewyg5Ao6tZ3ZdJ-1-E3n04LGVELqy", "dvlab-research/LISA, README.md"
    ),
    licence=Fact("nothing is said of the data", "dvlab-research/LISA, README.md"),
    clicks="download all files of the folder of Google Drive, together or one by one; for fpReasonSeg take those of "
    "SESAME: https://drive.google.com/file/d/11WNg1KaV2mk7gTdJRa2aahGqfj4luTDw/view",
    also=(
        "*ReasonSeg*.zip",
        "*ReasonSeg*.tar*",
        "train.zip",
        "val.zip",
        "test.zip",
        "explanatory.zip",
        "drive-download-*.zip",
    ),
)


def _check_split(root: Path, split: str, findings: Findings) -> Iterator[tuple[str, list[Entry]]]:
    images = list_split(root, "ReasonSeg", split)
    names = names_in(images[0].parent)
    lacking = [image for image in images if image.with_suffix(".json").name not in names]
    findings.note_incomplete("images have no annotation", lacking, len(images))
    lacking = [image.with_suffix(".json") for image in images if image.name not in names]
    findings.note_incomplete("annotations have no image", lacking, len(images))
    paired = [image for image in images if {image.name, image.with_suffix(".json").name} <= names]
    for image in paired:
        try:
            annotation = read_annotation(image.with_suffix(".json"))
            require_target(annotation)
            if annotation.size is not None and annotation.size not in read_sizes(image):
                read_image(image, size=annotation.size)
        except UserError as error:
            findings.note_error(error)
    yield split, [Entry(image, (partial(_draw, image),)) for image in paired]
    if split == "train":
        explained = [images[0].parent / name for name in read_explanations(root, "ReasonSeg")]
        lacking = [path for path in explained if path.name not in names]
        findings.note_unused("explanations are of no image of the split", lacking, len(explained))


def _draw(image: Path) -> None:
    annotation = read_annotation(image.with_suffix(".json"))
    draw_regions(annotation, *read_image(image, size=annotation.size).shape[:2])
