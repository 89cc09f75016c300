"""Pictures of a few fixed validation images, the same at every validation: one can watch the masks get better.

Each is a strip about one expression: image, truth, similarity map with its layer, prediction, question and answer.
The answer is the given one, so that there is a mask to see from the first step on.
"""

from collections.abc import Sequence

import numpy as np

from dataloaders.batching.collate import Collator
from dataloaders.questions import worded
from dataloaders.sample import Sample, Turn
from groundscore.annotations.repairs import STRICT, Tolerance
from groundscore.scoring.counts import mask_iou
from groundscore.splits import EvaluationItem, spread_items
from utils.contact_sheet import SheetRow, contact_sheet

CELL = 256  # pixels


def validation_pictures(
    model,
    processor,
    items: Sequence[EvaluationItem],
    *,
    count: int,
    layer: int | str | None,
    tolerance: Tolerance = STRICT,
) -> list[np.ndarray]:
    """`count` pictures uint8 [h, w, 3], of images spread evenly over the split. layer: see `GroundingModel.segment`."""
    chosen = spread_items(items, count, tolerance)
    collate = Collator(processor, max_length=None, check_masks=False)
    was_training = model.training
    model.eval()
    try:
        rows = [_row(model, collate, item, number, layer) for number, item in enumerate(chosen)]
    finally:
        model.train(was_training)
    return [np.asarray(contact_sheet([row], cell=CELL, text_width=CELL)) for row in rows]


def _row(model, collate: Collator, item: EvaluationItem, number: int, layer: int | str | None) -> SheetRow:
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
