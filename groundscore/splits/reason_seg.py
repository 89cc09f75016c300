"""ReasonSeg for evaluation, plain and with SESAME's false premises."""

from functools import partial
from pathlib import Path

import numpy as np

from groundscore.annotations.bad_entries import BadSamples, settle
from groundscore.annotations.labelme import ReasonAnnotation, draw_regions, read_annotation
from groundscore.annotations.reason_seg import list_split, read_split
from groundscore.errors import UserError
from groundscore.names import did_you_mean
from groundscore.splits.items import EvaluationItem, EvaluationSet, read_pixels


class ReasonSegEvaluation(EvaluationSet):
    """The first sentence of every image of a ReasonSeg split.

    false_premises: of SESAME's version ("fpReasonSeg"), in which some images have a second one with a false premise.
    """

    def __init__(
        self,
        dataset_dir: Path,
        name: str,
        split: str,
        bad_samples: BadSamples | None = None,
        *,
        false_premises: bool = False,
    ):
        folder, _, part = split.partition("_")
        if part not in ("", "overall", "shortquery", "longquery"):
            raise UserError(
                f"unknown part {part!r} of split {folder}; known are overall, shortquery and longquery"
                f"{did_you_mean(part, ('overall', 'shortquery', 'longquery'))}"
            )
        self.name = "fpReasonSeg" if false_premises else name
        self.split = split
        self._images = list_split(dataset_dir, name, folder)
        self._false_premises = false_premises
        annotated, problems = read_split(self._images)
        if part in ("shortquery", "longquery"):
            settle(f"{name}|{split}", problems, len(annotated), bad_samples)  # nobody knows which part they are of
            long = part == "longquery"
            self._images = [image for image, annotation in annotated if annotation.is_sentence is long]
            if not self._images:
                raise UserError(f"{name}|{split}: no annotation there has is_sentence {str(long).lower()}")
        if false_premises and not any(annotation.false_premise for _, annotation in annotated):
            raise UserError(
                f"{self.name}|{split}: no annotation in {self._images[0].parent} has 'false_premise_QA'; "
                "SESAME's version of ReasonSeg has it"
            )

    def __len__(self) -> int:
        return len(self._images)

    def entry(self, number: int) -> tuple[Path, int | None]:
        return self._images[number], None

    def __getitem__(self, index: int) -> EvaluationItem:
        path = self._images[index]
        annotation = read_annotation(path.with_suffix(".json"))
        asked = [(annotation.sentences[0], annotation.is_sentence)]
        if self._false_premises and annotation.false_premise is not None:
            asked.append(annotation.false_premise[:2])
        return EvaluationItem(
            image_path=path,
            image=read_pixels,
            expressions=[text for text, _ in asked],
            kind="reasoning or absent" if self._false_premises else "reasoning",
            masks=partial(_draw, annotation, "masks"),
            ignore=partial(_draw, annotation, "ignore"),
            exists=[True, False][: len(asked)],
            dataset=self.name,
            split=self.split,
            number=index,
            is_sentence=[is_sentence for _, is_sentence in asked],
            may_be_absent=self._false_premises,
            **({} if annotation.size is None else {"size": annotation.size}),
        )


def _draw(annotation: ReasonAnnotation, wanted: str, item: EvaluationItem) -> np.ndarray | None:
    """Draws all regions of an item; returns the one of its fields that was asked for."""
    mask, item.ignore = draw_regions(annotation, *item.size)
    item.masks = np.stack([mask, np.zeros_like(mask)])[: len(item.expressions)]
    return item.masks if wanted == "masks" else item.ignore
