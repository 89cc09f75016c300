"""ReasonSeg for evaluation, plain and with SESAME's false premises."""

from pathlib import Path

import numpy as np

from dataloaders.families.reason_seg import list_split, read_split
from dataloaders.sample import REJ, SEG
from groundscore.annotations.bad_samples import BadSamples, settle
from groundscore.annotations.images import read_image
from groundscore.annotations.labelme import draw_regions, read_annotation
from groundscore.errors import UserError
from groundscore.splits.item import EvaluationItem, EvaluationSet


class ReasonSegEvaluation(EvaluationSet):
    """The first sentence of every picture of a ReasonSeg split."""

    def __init__(self, dataset_dir: Path, name: str, split: str, bad_samples: BadSamples | None = None):
        folder, _, kind = split.partition("_")
        if kind not in ("", "overall", "shortquery", "longquery"):
            raise UserError(f"unknown part {kind!r} of split {folder}; known are overall, shortquery and longquery")
        self.name = name
        self.split = split
        self.images = list_split(dataset_dir, name, folder)
        annotated, problems = read_split(self.images)
        self.has_false_premises = any(annotation.false_premise for _, annotation in annotated)
        if kind in ("shortquery", "longquery"):
            settle(f"{name}|{split}", problems, len(annotated), bad_samples)  # nobody knows which part they are of
            long = kind == "longquery"
            self.images = [image for image, annotation in annotated if annotation.is_sentence is long]
            if not self.images:
                raise UserError(f"{name}|{split}: no annotation there has is_sentence {str(long).lower()}")

    def __len__(self) -> int:
        return len(self.images)

    def entry(self, number: int) -> tuple[Path, int | None]:
        return self.images[number], None

    def __getitem__(self, index: int) -> EvaluationItem:
        path = self.images[index]
        annotation = read_annotation(path.with_suffix(".json"))
        image = read_image(path, size=annotation.size)
        mask, ignore = draw_regions(annotation, *image.shape[:2])
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
            ref_ids=[-1],
        )


class FalsePremiseReasonSegEvaluation(EvaluationSet):
    """A ReasonSeg split in SESAME's version: the first sentence of a picture, and one with a false premise."""

    name = "fpReasonSeg"

    def __init__(self, dataset_dir: Path, split: str, bad_samples: BadSamples | None = None):
        self.split = split
        self._items = ReasonSegEvaluation(dataset_dir, "ReasonSeg", split, bad_samples)
        if not self._items.has_false_premises:
            raise UserError(
                f"fpReasonSeg|{split}: no annotation in {self._items.images[0].parent} has 'false_premise_QA'; "
                "SESAME's version of ReasonSeg has it"
            )

    def __len__(self) -> int:
        return len(self._items)

    def entry(self, number: int) -> tuple[Path, int | None]:
        return self._items.entry(number)

    def __getitem__(self, index: int) -> EvaluationItem:
        item = self._items[index]
        annotation = read_annotation(item.image_path.with_suffix(".json"))
        asked = [(annotation.sentences[0], annotation.is_sentence)]
        if annotation.false_premise is not None:
            asked.append(annotation.false_premise[:2])
        item.expressions = [text for text, _ in asked]
        item.prompts = [
            f"{text} Please output segmentation mask."
            if is_sentence
            else f"What is {text.lower()} in this image? Please output segmentation mask."
            for text, is_sentence in asked
        ]
        item.exists = [True, False][: len(asked)]
        item.given_answers = [f"{SEG}.", f"{REJ}."][: len(asked)]
        item.joint_prompt = item.joint_answer = ""
        item.masks = np.concatenate([item.masks, np.zeros_like(item.masks)])[: len(asked)]
        item.ref_ids = [-1] * len(asked)
        item.dataset, item.split, item.may_be_absent = self.name, self.split, True
        return item
