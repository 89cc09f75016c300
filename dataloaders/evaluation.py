"""The evaluation sets: pictures in a fixed order, with what is asked, the given answer and the true masks.

"ReasonSeg|val"        name and split; also test_overall, test_shortquery and test_longquery
"refcoco|unc|testA"    name, annotator (not read: each set has one) and split
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.families import split_names
from dataloaders.images import read_image
from dataloaders.labelme import draw_regions, read_annotation
from dataloaders.reason_seg import list_images
from dataloaders.refer_index import REFER_SETS, ReferIndex
from dataloaders.refer_seg import clean
from dataloaders.sample import REJ, SEG
from utils.errors import UserError


@dataclass
class EvaluationItem:
    """One picture with its expressions, N of them.

    image uint8 RGB [H, W, 3].
    prompts: one question per expression, asked in a conversation of its own.
    given_answers: what each would be answered, for teacher-forced scoring.
    joint_prompt, joint_answer: one question about all expressions, and its answer; the reference's protocol.
    masks uint8 [N, H, W] in {0, 1}; ignore bool [H, W] or None: pixels that do not count.
    exists: whether each expression means something in the picture.
    dataset, split: where the item is from.

    Questions are without the image placeholder; conversation texts put it before them.
    """

    image_path: Path
    image: np.ndarray
    expressions: list[str]
    prompts: list[str]
    given_answers: list[str]
    joint_prompt: str
    joint_answer: str
    masks: np.ndarray
    ignore: np.ndarray | None
    exists: list[bool]
    dataset: str
    split: str


class ReasonSegEvaluation(Sequence):
    """The first sentence of every picture of a ReasonSeg split."""

    def __init__(self, dataset_dir: Path, name: str, split: str):
        folder, _, kind = split.partition("_")
        if kind not in ("", "overall", "shortquery", "longquery"):
            raise UserError(f"unknown part {kind!r} of split {folder}; known are overall, shortquery and longquery")
        self.name = name
        self.split = split
        self._images = list_images(dataset_dir, name, folder)
        if kind in ("shortquery", "longquery"):
            long = kind == "longquery"
            self._images = [p for p in self._images if read_annotation(p.with_suffix(".json")).is_sentence is long]
            if not self._images:
                raise UserError(f"{name}|{split}: no annotation there has is_sentence {str(long).lower()}")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> EvaluationItem:
        path = self._images[index]
        annotation = read_annotation(path.with_suffix(".json"))
        image = read_image(path)
        mask, ignore = draw_regions(annotation, *image.shape[:2])
        if not mask.any():
            raise UserError(f"{annotation.path} marks no target: its shapes are empty, flags or regions to ignore")
        sentence = annotation.sentences[0]
        if annotation.is_sentence:
            prompt = f" {sentence} Please output segmentation mask."
        else:
            prompt = f" What is {sentence} in this image? Please output segmentation mask."
        answer = f"{SEG}."
        return EvaluationItem(
            image_path=path,
            image=image,
            expressions=[sentence],
            prompts=[prompt],
            given_answers=[answer],
            joint_prompt=prompt,
            joint_answer=answer,
            masks=mask[None],
            ignore=ignore,
            exists=[True],
            dataset=self.name,
            split=self.split,
        )


class ReferEvaluation(Sequence):
    """All expressions of every picture of a referring data set's split."""

    def __init__(self, dataset_dir: Path, name: str, split: str):
        self.name = name
        self.split = split
        self._index = ReferIndex(dataset_dir, name, split)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> EvaluationItem:
        image = self._index[index]
        masks = np.stack([self._index.mask(image, expression) for expression in image.expressions])
        texts = [clean(expression.text) for expression in image.expressions]
        exists = [bool(mask.any()) for mask in masks]
        tokens = [SEG if there else REJ for there in exists]
        pairs = ", ".join(f"{text}:{token}" for text, token in zip(texts, tokens))
        return EvaluationItem(
            image_path=image.path,
            image=read_image(image.path, size=(image.height, image.width)),
            expressions=texts,
            prompts=[f"What is {text} in this image? Please output segmentation mask." for text in texts],
            given_answers=[f"{token}." for token in tokens],
            # The missing space before "in" is the reference's, and so that of the published scores.
            joint_prompt=f" What are {', '.join(texts)}in this image? Please output segmentation masks.",
            joint_answer=f"Sure,{pairs}.",
            masks=masks,
            ignore=None,
            exists=exists,
            dataset=self.name,
            split=self.split,
        )


def evaluation_set(spec: str, dataset_dir: str | Path) -> Sequence[EvaluationItem]:
    """The set that `spec` names; its items are decoded when they are asked for."""
    parts = [part.strip() for part in spec.split("|")]
    root = Path(dataset_dir)
    if len(parts) == 3 and parts[0] in REFER_SETS:
        return ReferEvaluation(root, parts[0], parts[2])
    if len(parts) == 2 and parts[0] and parts[0] not in REFER_SETS:
        return ReasonSegEvaluation(root, parts[0], parts[1])
    raise UserError(
        f"unknown evaluation set {spec!r}; known are ReasonSeg|<split> and NAME|<annotator>|<split> with NAME one of "
        f"{', '.join(REFER_SETS)}"
    )


def evaluation_sets(specs: str, dataset_dir: str | Path) -> dict[str, Sequence[EvaluationItem]]:
    """The sets of a list joined by "||", by their specs, in that order."""
    names = split_names(specs)
    if not names:
        raise UserError("no evaluation set is named; for example: ReasonSeg|val")
    return {name: evaluation_set(name, dataset_dir) for name in names}
