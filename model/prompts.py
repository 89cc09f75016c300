"""Reading prompts for generation: what the prompts of an image share is read once, however many there are.

Packed rows hold an image's prompts as branches. Once a row is read, the keys and values of each branch and of the
prefix that it sees are gathered into a context of its own, from which its answer is written.

Legend: B rows of the batch, R prompts, T tokens of a row, C tokens of the longest context, P image tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from dataloaders.batch import PREFIX_BRANCH, Batch

from .backbone import ImageTokens

if TYPE_CHECKING:
    from .grounding import GroundingModel


@dataclass
class ReadPrompts:
    """R prompts, ordered by row and branch, ready to be answered.

    cache: keys and values of every prompt's context. seen: bool [R, 1, 1, C], what its next token sees; with flash-attn
    bool [R, C]. positions [R, 1]: the rotary position of its last token.
    last: L+1 states [R, D] of its last token. unrolled: L+1 states [B, T, D] of the rows.
    image [R]: what it is about. image_places [R, P]: flat indices into B·T of that image's tokens.
    """

    cache: DynamicCache
    seen: Tensor
    positions: Tensor
    last: list[Tensor]
    unrolled: tuple[Tensor, ...]
    image: Tensor
    image_places: Tensor


def read_prompts(model: GroundingModel, batch: Batch, images: ImageTokens) -> ReadPrompts:
    """Read all rows in one pass, packed or not, with padding on either side."""
    embeddings, attention, places = model.embed_rows(batch, images)
    cache = DynamicCache(config=model.language_model.config)
    unrolled = model.language_model(
        inputs_embeds=embeddings,
        attention_mask=attention,
        position_ids=batch.position_ids,
        past_key_values=cache,
        use_cache=True,
        output_hidden_states=True,
    ).hidden_states
    length = batch.input_ids.shape[1]
    if bool(((batch.branches <= PREFIX_BRANCH + 1).all(1) & (batch.branches[:, -1] > PREFIX_BRANCH)).all()):
        return ReadPrompts(  # plain rows, padded on the left, are contexts already
            cache=cache,
            seen=attention[:, :, -1:] if attention.dim() == 4 else attention,
            positions=batch.position_ids[:, -1:],
            last=[states[:, -1] for states in unrolled],
            unrolled=unrolled,
            image=batch.image_index,
            image_places=places + length * torch.arange(len(places), device=places.device).unsqueeze(1),
        )
    row, index, real = (each.to(places.device) for each in contexts(batch.branches.cpu()))
    end = index[:, -1]
    for layer in cache.layers:
        layer.keys, layer.values = (
            states[row[:, None], :, index].transpose(1, 2).contiguous() for states in (layer.keys, layer.values)
        )
    seen = (attention[row, 0, end] if attention.dim() == 4 else attention[row]).gather(1, index) & real
    return ReadPrompts(
        cache=cache,
        seen=seen[:, None, None] if attention.dim() == 4 else seen,
        positions=batch.position_ids[row, end].unsqueeze(1),
        last=[states[row, end] for states in unrolled],
        unrolled=unrolled,
        image=batch.image_index[row],
        image_places=places[row] + length * row.unsqueeze(1),
    )


def contexts(branches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the prompts of packed rows stand: branches [B, T] as in `Batch`.

    Returns the row of each prompt [R], the places of its prefix and its branch in the row [R, C], filled up on the left
    with place 0, and bool [R, C] False for what was filled up.
    """
    rows, places = [], []
    for row, of_row in enumerate(branches):
        for branch in range(PREFIX_BRANCH + 1, int(of_row.max()) + 1):
            rows.append(row)
            places.append(((of_row == PREFIX_BRANCH) | (of_row == branch)).nonzero().squeeze(1))
    longest = max(map(len, places))
    index = torch.zeros((len(places), longest), dtype=torch.int64)
    real = torch.zeros((len(places), longest), dtype=torch.bool)
    for number, own in enumerate(places):
        index[number, longest - len(own) :] = own
        real[number, longest - len(own) :] = True
    return torch.tensor(rows), index, real
