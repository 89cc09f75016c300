"""Reading prompts for generation: what the prompts of an image share is read once, however many there are.

Packed rows hold an image's prompts as branches, plain rows one each. All rows are read in one pass, and the answers are
written from where their keys and values then lie.

Legend: B rows of the batch, R prompts, T tokens of a row, P image tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dataloaders.batching.batch import PREFIX_BRANCH, Batch
from model.backbones.key_value_cache import RowCache
from model.backbones.llava import ImageTokens, unroll

if TYPE_CHECKING:
    from model.grounding import GroundingModel


@dataclass
class ReadPrompts:
    """R prompts, ordered by row and branch, ready to be answered.

    cache: keys and values of the rows. row: the row of each prompt. seen: bool [R, T], what its next token sees of it.
    positions [R, 1]: the rotary position of its last token. last: L+1 states [R, D] of its last token.
    unrolled: L+1 states [B, T, D] of the rows.
    image [R]: what it is about. image_places [R, P]: flat indices into B·T of that image's tokens.
    """

    cache: RowCache
    row: list[int]
    seen: Tensor
    positions: Tensor
    last: list[Tensor]
    unrolled: tuple[Tensor, ...]
    image: Tensor
    image_places: Tensor


def read_prompts(model: GroundingModel, batch: Batch, images: ImageTokens) -> ReadPrompts:
    """Read all rows in one pass, packed or not, with padding on either side."""
    embeddings, attention, places = model.embed_rows(batch, images)
    cache = RowCache()
    unrolled = unroll(model.language_model, embeddings, attention, batch.position_ids, cache)
    row_of_prompt, last_token = ends_of_prompts(batch.branches.cpu())
    row, end = (torch.tensor(each, device=places.device) for each in (row_of_prompt, last_token))
    return ReadPrompts(
        cache=cache,
        row=row_of_prompt,
        seen=attention[row, 0, end] if attention.dim() == 4 else attention[row],
        positions=batch.position_ids[row, end].unsqueeze(1),
        last=[states[row, end] for states in unrolled],
        unrolled=unrolled,
        image=batch.image_index[row],
        image_places=places[row] + batch.input_ids.shape[1] * row.unsqueeze(1),
    )


def ends_of_prompts(branches: Tensor) -> tuple[list[int], list[int]]:
    """The row of each prompt, and the index of its last token there; branches [B, T] as in `Batch`."""
    rows, ends = [], []
    for row, of_row in enumerate(branches):
        for branch in range(PREFIX_BRANCH + 1, int(of_row.max()) + 1):
            rows.append(row)
            ends.append(int((of_row == branch).nonzero()[-1]))
    return rows, ends
