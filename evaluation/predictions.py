"""What `--save_predictions` writes of an image: a line for every expression, masks as COCO RLE."""

from evaluation.batches import Part
from evaluation.predicting import Predicted
from groundscore.scoring.masks import encode_mask


def predictions_of(spec: str, part: Part, predicted: Predicted, rows: list) -> list[dict]:
    """One object per expression of a part, in the form that `eval.py --predictions` reads.

    The mask of a rejected expression is kept where one was drawn: `--gres_reference` counts it.
    """
    masks = predicted.masks.cpu().numpy()
    lines = []
    first = 0
    for place, expression in enumerate(part.questions.expressions):
        count = predicted.counts[place]
        own = [encode_mask(mask) for mask in masks[first : first + count]]
        first += count
        line = {"split": spec, "image": part.image, "expression": expression}
        if part.index is not None:
            line["index"] = part.index
        if part.questions.separate:
            line |= {"present": bool(own), "masks": own}
        else:
            line |= {"present": rows[place].present, "mask": own[0] if masks[first - 1].any() else None}
        if predicted.texts[place] is not None:
            line["answer"] = predicted.texts[place]
        lines.append(line)
    return lines
