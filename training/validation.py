"""Scores of the validation splits during training, and a few images of them for TensorBoard.

The drawn images are the same at every validation, so that one can watch the masks improve. Each is a card about one
expression: image, ground truth, similarity map with its layer, prediction, question and answer. The answer is the given
one, so that there is a mask to see from the first step on.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.processing import GroundingProcessor
from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from evaluation.progress import ScoreBar
from evaluation.questions import Protocol
from evaluation.running import Effort, evaluate
from groundscore.annotations.bad_entries import STRICT, Tolerance, list_bad_samples
from groundscore.errors import UserError
from groundscore.scoring.counts import mask_iou
from groundscore.scoring.split_scores import score_split
from groundscore.splits import EvaluationItem, evaluation_set, spread_items
from groundscore.splits.wording import worded
from model.grounding import GroundingModel
from training.data import prepare_worker
from training.stopping import WorkersEnd
from utils.contact_sheet import SheetRow, sample_card
from utils.distributed import World

IMAGES = 4  # of each split

Say = Callable[[str], None]


class Validation:
    """Validation splits, opened before training starts so that a wrong name or path is found at once."""

    def __init__(
        self,
        splits: Sequence[str],
        dataset_dir: str,
        *,
        answer: str,
        layer: str | None,
        batch_size: int,
        limit: int | None = None,
        workers: int = 0,
        tolerance: Tolerance = STRICT,
        bad_samples_file: Path | None = None,
    ):
        self.dataset_dir = dataset_dir
        self.tolerance, self.bad_samples_file = tolerance, bad_samples_file
        self.items = {split: evaluation_set(split, dataset_dir, tolerance) for split in splits}
        for split, items in self.items.items():
            if len(items) == 0:
                raise UserError(f"--val_dataset {split}: no images below {dataset_dir}")
        self.options = {
            "answer": answer,
            "layer": int(layer) if layer is not None and layer.isdigit() else layer,
            "batch_size": batch_size,
            "limit": limit,
            "workers": workers,
        }
        self._prepare = partial(prepare_worker, end=WorkersEnd())

    @property
    def selecting(self) -> str:
        """The split that decides which checkpoint is best: the first."""
        return next(iter(self.items))

    def sizes(self) -> dict[str, int]:
        """How many images of each split are scored."""
        limit = self.options["limit"]
        return {split: len(items) if limit is None else min(limit, len(items)) for split, items in self.items.items()}

    def run(
        self, model: GroundingModel, processor: GroundingProcessor, *, say: Say = lambda text: None
    ) -> dict[str, dict[str, Any]]:
        """Scores by split; every process takes part and gets the same. say: told now and then how far it is."""
        return {
            split: self.score(split, model, processor, progress=ScoreBar(f"validating {split}", say=say))
            for split in self.items
        }

    def score(
        self,
        split: str,
        model: GroundingModel,
        processor: GroundingProcessor,
        *,
        limit: int | None = None,
        progress: Callable[[int, int, float | None, float | None], None] | None = None,
    ) -> dict[str, Any]:
        """The scores of one split; `limit` overrides that of the command line."""
        options = self.options
        limit = options["limit"] if limit is None else limit
        with model.backbone.packed_attention():
            outcome = evaluate(
                model,
                processor,
                split,
                self.dataset_dir,
                Protocol(options["answer"], layer=options["layer"], limit=limit),
                items=self.items[split],
                effort=Effort(images=options["batch_size"], workers=options["workers"], prepare=self._prepare),
                tolerance=self.tolerance,
                progress=progress,
            )
        if self.bad_samples_file and World.joined(model.device).is_main:
            list_bad_samples(
                self.bad_samples_file, split, [one.to_dict() for one in outcome.left_out], outcome.repaired
            )
        counts = {"left_out": len(outcome.left_out), "repaired": len(outcome.repaired)}
        return {"answer": options["answer"]} | score_split(split, outcome.rows) | counts

    def images(self, model: GroundingModel, processor: GroundingProcessor) -> dict[str, list[np.ndarray]]:
        """For each split the same few images every time, with masks and similarity maps drawn in."""
        layer = self.options["layer"]
        return {
            split: validation_images(model, processor, items, count=IMAGES, layer=layer, tolerance=self.tolerance)
            for split, items in self.items.items()
        }


def validation_images(
    model: GroundingModel,
    processor: GroundingProcessor,
    items: Sequence[EvaluationItem],
    *,
    count: int,
    layer: int | str | None,
    tolerance: Tolerance = STRICT,
) -> list[np.ndarray]:
    """`count` images uint8 [h, w, 3], of images spread evenly over the split. layer: see `GroundingModel.segment`."""
    chosen = spread_items(items, count, tolerance)
    collate = Collator(processor, max_length=None, check_masks=False)
    was_training = model.training
    model.eval()
    try:
        rows = [_row(model, collate, item, number, layer) for number, item in enumerate(chosen)]
    finally:
        model.train(was_training)
    return [np.asarray(sample_card(row)) for row in rows]


def _row(
    model: GroundingModel, collate: Collator, item: EvaluationItem, number: int, layer: int | str | None
) -> SheetRow:
    prompt, answer, masks = _question(item, number)
    sample = Sample(
        item.image_path, item.image, [(Turn(prompt, answer),)], masks, item.ignore, "validation", item.dataset
    )
    (result,) = model.segment(collate([sample]).to(model.device), layer=layer)
    predicted = (result.mask_logits > 0).cpu().numpy()
    truth = masks.any(0)
    maps = result.similarity_maps
    return SheetRow(
        image=item.image,
        masks=predicted,
        question=prompt.strip(),
        answer=answer,
        truth=truth,
        ignore=item.ignore,
        similarity=maps[0].float().cpu().numpy() if maps is not None and len(maps) else None,
        layer=result.layers[0] if result.layers else None,
        label=f"{item.dataset} {item.split}",
        iou=mask_iou(predicted.any(0), truth, item.ignore),
    )


def _question(item: EvaluationItem, number: int) -> tuple[str, str, np.ndarray]:
    """An expression's question, its answer, and the masks of the targets in the answer."""
    words = worded(item)
    number %= len(words.prompts)
    masks = item.masks[number : number + 1] if item.target_masks is None else item.target_masks[number]
    return words.prompts[number], words.answers[number], masks
