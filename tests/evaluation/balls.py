"""Images of noise with known targets, and a stand-in for a model that finds them."""

from pathlib import Path

import numpy as np
import torch

from groundscore.splits import EvaluationItem
from model.outputs import Answer, ForcedMasks

FIRST_HEIGHT = 20  # image n is n pixels higher: the oracle tells them apart by it


def item_of(
    number: int, expressions: int, *, ignored: bool = False, empty: int | None = None, dataset: str = "balls"
) -> EvaluationItem:
    """An image of noise with some rectangles; expression `empty` has no pixel."""
    rng = np.random.default_rng(number)
    size = (FIRST_HEIGHT + number, 30)
    masks = np.zeros((expressions, *size), np.uint8)
    for index in range(expressions):
        if index != empty:
            masks[index, index : index + 8, number : number + 12] = 1
    ignore = None
    if ignored:
        ignore = np.zeros(size, bool)
        ignore[:3] = True
    names = [f"ball {index}" for index in range(expressions)]
    return EvaluationItem(
        image_path=Path(f"{number}.jpg"),
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        expressions=names,
        kind="referring",
        masks=masks,
        ignore=ignore,
        exists=[index != empty for index in range(expressions)],
        dataset=dataset,
        split="val",
        number=number,
        ref_ids=[10 + index for index in range(expressions)],
        may_be_absent=dataset == "grefcoco",
    )


def muse_item(number: int, *targets: int) -> EvaluationItem:
    """An image with a question per entry of `targets`, which asks for so many bars."""
    item = item_of(number, len(targets), dataset="MultiReasonSeg")
    item.kind = "reasoning with names"
    item.answers = [" and ".join(["bar [SEG]"] * count) + "." for count in targets]
    item.target_masks, item.target_names = [], [["bar"] * count for count in targets]
    for question, count in enumerate(targets):
        masks = np.zeros((count, *item.image.shape[:2]), np.uint8)
        for target in range(count):
            masks[target, 4 * target : 4 * target + 3, question : question + 10] = 1
        item.target_masks.append(masks)
    item.masks = np.stack([masks.any(0) for masks in item.target_masks]).astype(np.uint8)
    item.index = 40 + number
    return item


class Oracle:
    """Stands for a model that draws every target's mask, and for an empty target a square of 25 pixels.

    missed: expressions that it draws nothing for. rejected: (image, expression) pairs where it writes `[REJ]`, and
    drawn ones elsewhere. It answers one question about "ball N" with two halves of the mask.
    """

    def __init__(self, model, processor, items, *, missed: str = "", rejected=()):
        self.model, self.processor, self.items = model, processor, items
        self.missed, self.rejected = missed, set(rejected)

    def __getattr__(self, name):
        return getattr(self.model, name)

    def item(self, size) -> EvaluationItem:
        return next(item for item in self.items if item.image.shape[0] == size[0])

    def logits(self, item: EvaluationItem, index: int) -> torch.Tensor:
        mask = item.masks[index] != 0
        if item.expressions[index] == self.missed:
            mask = np.zeros_like(mask)
        elif not item.exists[index]:
            mask = np.zeros_like(mask)
            mask[:5, :5] = True
        return torch.from_numpy(np.where(mask, 3.0, -3.0)).float()

    def force(self, batch, decided, layer=None):
        masks, written = [], []
        for size, kinds in zip(batch.original_sizes, batch.target_is_seg):
            item = self.item(size)
            assert all(kinds) and len(kinds) == len(item.expressions)
            masks.append(torch.stack([self.logits(item, index) for index in range(len(kinds))]))
            number = size[0] - FIRST_HEIGHT
            ids = self.model.config.seg_token_ids[0], self.model.config.rej_token_ids[0]
            written += [ids[(number, index) in self.rejected] for index in range(len(kinds))]
        assert len(decided) == len(written)
        layers = torch.full((len(written),), 3)
        return ForcedMasks(masks, torch.tensor(written), layers, None)

    def generate(self, batch, max_new_tokens, layer=None):
        answers = []
        branches = [(row, n) for row, each in enumerate(batch.branches) for n in range(1, int(each.max()) + 1)]
        for row, branch in branches:
            item = self.item(batch.original_sizes[batch.image_index[row]])
            asked = self.processor.decode(batch.input_ids[row][batch.branches[row] == branch].tolist())
            index = int(asked.split("ball ")[1][0])
            halves = self.logits(item, index).repeat(2, 1, 1)  # two targets that make up the mask
            halves[0, : halves.shape[1] // 2] = halves[1, halves.shape[1] // 2 :] = -3
            present = item.exists[index]
            seg = [0, 1] if present else []
            answers.append(Answer([5], seg, halves if present else halves[:0], [1, 2][: 2 * present], None, []))
        return answers
