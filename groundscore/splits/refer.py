"""The referring data sets for evaluation, with and without no-target expressions."""

from functools import partial
from pathlib import Path

from groundscore.annotations.bad_entries import BadSamples
from groundscore.annotations.refer_files import FALSE_PREMISE_SETS, REFER_SETS
from groundscore.annotations.refer_index import ReferImage, ReferIndex
from groundscore.rle import Rle
from groundscore.splits.items import EvaluationItem, EvaluationSet, read_pixels

SETS_WITH_ABSENCE = ("grefcoco", "refzom")


class ReferEvaluation(EvaluationSet):
    """All expressions of every image of a referring data set's split.

    together: what is scored is asking for all of them at once ("multirefcoco").
    false_premises: read the version with false premises, or without the images that these are tested on.
    """

    def __init__(
        self,
        dataset_dir: Path,
        name: str,
        split: str,
        bad_samples: BadSamples | None = None,
        *,
        together: bool = False,
        false_premises: bool = False,
    ):
        self.name = f"multi{name}" if together else name
        self.split = split
        self._together = together
        self._false_premises = false_premises
        sets = FALSE_PREMISE_SETS if false_premises else REFER_SETS
        self._index = ReferIndex(dataset_dir, name, split, sets=sets, bad_samples=bad_samples)

    def __len__(self) -> int:
        return len(self._index)

    def entry(self, number: int) -> tuple[Path, int | None]:
        return self._index[number].path, None

    def __getitem__(self, index: int) -> EvaluationItem:
        record = self._index[index]
        size = (record.height, record.width)
        return EvaluationItem(
            image_path=record.path,
            image=read_pixels,
            expressions=[expression.text for expression in record.expressions],
            kind="referring or absent" if self._false_premises else "referring",
            masks=EvaluationItem.decoded_masks,
            ignore=None,
            exists=[expression.exists and bool(expression.annotation_ids) for expression in record.expressions],
            dataset=self.name,
            split=self.split,
            number=index,
            ref_ids=[expression.ref_id for expression in record.expressions],
            together=self._together,
            may_be_absent=self._false_premises or self.name in SETS_WITH_ABSENCE,
            size=size,
            targets=partial(self._targets, record),
            sentence_ids=[expression.sentence_id for expression in record.expressions],
            annotation_ids=[list(expression.annotation_ids) for expression in record.expressions],
        )

    def _targets(self, record: ReferImage, item: EvaluationItem) -> list[list[Rle]]:
        return [[mask] for mask in self._index.masks(record, record.expressions)]
