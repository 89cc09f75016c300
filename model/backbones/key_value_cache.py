"""Keys and values for generation: what the prompts of an image share is kept once, a prompt keeps only what it writes.

Rows are read into a `RowCache` and stay there as they are. Where a row holds several prompts, the attention of a
prompt's next token has two parts: the row, of which the prompt sees the prefix and its own branch, and what the prompt
has written itself. Both are scored separately and share one softmax, so that no keys or values are copied for a
prompt. Scaled dot product attention cannot do this: it wants the keys of a prompt in one tensor, and does not give the
sum that its softmax divides by. Where every row holds one prompt there is nothing to share: the row itself grows, and
the model's own attention reads it.

Legend: B rows, R prompts, M most prompts of a row, T tokens of a row, t written tokens, N heads of queries, K heads of
keys and values, G = N / K, C width of a head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

ROOM = 64  # tokens; the rest is copied once for every so many
SHARED_ROWS = "shared_rows"  # the name of `shared_rows_attention` among transformers' attentions


class RowCache:
    """The keys and values [B, K, T, C] of rows, a pair for every layer, as attention layers hand them over."""

    def __init__(self):
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.is_given_away = False

    @property
    def rows(self) -> int:
        """B."""
        return self.layers[0][0].shape[0]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Keep a layer's keys and values, and give them back."""
        assert layer == len(self.layers), "rows are read once"
        self.layers.append((keys.contiguous(), values.contiguous()))
        return self.layers[layer]


class GrowingLayer:
    """Keys and values [R, K, t, C] of one layer, views of the larger tensors that they are written to."""

    def __init__(self, keys: Tensor, values: Tensor):
        self.keys, self.values = self._written_to = keys, values

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add [R, K, n, C] to the keys and the values; gives all of them."""
        start = self.keys.shape[-2]
        end = start + keys.shape[-2]
        if end > self._written_to[0].shape[-2]:
            more = end - start + ROOM
            self._written_to = F.pad(self.keys, (0, 0, 0, more)), F.pad(self.values, (0, 0, 0, more))
        for whole, states in zip(self._written_to, (keys, values), strict=True):
            whole[..., start:end, :] = states
        self.keys, self.values = (whole[..., :end, :] for whole in self._written_to)
        return self.keys, self.values

    def change(self, kept: Tensor, joined: int, forgotten: int) -> None:
        """Go on with the rows `kept`, int64 [k], and with new ones, which have zeros where the others have written; the
        first `forgotten` tokens of all are dropped."""
        length = self.keys.shape[-2] - forgotten
        self._written_to = tuple(
            F.pad(whole[kept, :, forgotten:], (0, 0, 0, 0, 0, 0, 0, joined)) for whole in self._written_to
        )
        self.keys, self.values = (whole[..., :length, :] for whole in self._written_to)


class WrittenCache:
    """The keys and values of what prompts write, for every layer."""

    def __init__(self, layers: list[GrowingLayer]):
        self.layers = layers

    @classmethod
    def continuing(cls, rows: RowCache) -> "WrittenCache":
        """Rows of one prompt each go on as they are; `rows` gives its tensors away."""
        layers = [GrowingLayer(*pair) for pair in rows.layers]
        rows.layers, rows.is_given_away = [], True
        return cls(layers)

    @classmethod
    def beside(cls, rows: RowCache, prompts: int) -> "WrittenCache":
        """An empty one for so many prompts, whose rows stay in `rows`."""
        empty = [[one.new_empty(prompts, one.shape[1], 0, one.shape[3]) for one in pair] for pair in rows.layers]
        return cls([GrowingLayer(*pair) for pair in empty])

    def update(self, keys: Tensor, values: Tensor, layer: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Add a layer's keys and values [R, K, n, C]; gives all of them."""
        return self.layers[layer].append(keys, values)

    def change(self, kept: Tensor, joined: int, forgotten: int) -> None:
        """The same for every layer, see `GrowingLayer`."""
        for layer in self.layers:
            layer.change(kept, joined, forgotten)


def bytes_of_a_prompt(rows: RowCache, tokens: int) -> int:
    """What one prompt keeps when it has written so many tokens beside its row."""
    room = -(-tokens // (ROOM + 1)) * (ROOM + 1)
    return sum(one.shape[1] * room * one.shape[3] * one.element_size() for pair in rows.layers for one in pair)


class SharedRows:
    """The rows that prompts are answered from.

    row: the row of each prompt. seen: bool [R, T], what of its row each prompt sees.
    unwritten: bool [R, 1, 1, t], True where of what is written a token is not the prompt's; None where all are.
    """

    def __init__(self, cache: RowCache, row: Sequence[int], seen: Tensor):
        self.layers = cache.layers
        self.unwritten: Tensor | None = None
        slot = [row[:number].count(of) for number, of in enumerate(row)]
        length = seen.shape[1]
        self.most = max(slot) + 1
        self._index = torch.tensor([row, slot], device=seen.device).unbind()
        hidden = seen.new_zeros(cache.rows, self.most, length)
        hidden[self._index] = ~seen
        self._hidden = hidden.view(cache.rows, 1, self.most, 1, length)

    def begin_at(self, starts: Sequence[int], tokens: int) -> None:
        """Of what is written, `tokens` with the next one, each prompt's own begin at its start."""
        self.unwritten = None
        if any(starts):
            device = self._hidden.device
            before = torch.arange(tokens, device=device) < torch.tensor(starts, device=device).unsqueeze(1)
            self.unwritten = before[:, None, None]

    def spread(self, prompts: Tensor) -> Tensor:
        """[B, K, M · G, C] from [R, K, G, C]: a row's prompts beside one another, zeros where it has fewer."""
        rows = prompts.new_zeros(self._hidden.shape[0], self.most, *prompts.shape[1:])
        rows[self._index] = prompts
        return rows.transpose(1, 2).flatten(2, 3)

    def gather(self, rows: Tensor) -> Tensor:
        """[R, K, G, C] from [B, K, M · G, C]."""
        return rows.unflatten(2, (self.most, -1)).transpose(1, 2)[self._index]

    def hide(self, scores: Tensor) -> Tensor:
        """The scores [B, K, M · G, T], minus infinity where a prompt does not see the token."""
        return scores.unflatten(2, (self.most, -1)).masked_fill(self._hidden, -torch.inf).flatten(2, 3)


def shared_rows_attention(
    module: torch.nn.Module,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    shared: SharedRows,
    **_,
) -> tuple[Tensor, None]:
    """The attention [R, 1, N, C] of one token a prompt to the prompt's row and to what the prompt has written.

    query [R, N, 1, C], keys and values [R, K, t, C]: of what was written. The softmax is computed in float32.
    """
    row_keys, row_values = shared.layers[module.layer_idx]
    query = query.squeeze(2).unflatten(1, (keys.shape[1], -1)) * scaling  # [R, K, G, C]
    row_scores = shared.hide((shared.spread(query) @ row_keys.mT).float())  # [B, K, M · G, T]
    own_scores = (query @ keys.mT).float()  # [R, K, G, t]
    if shared.unwritten is not None:
        own_scores = own_scores.masked_fill(shared.unwritten, -torch.inf)
    own_total = own_scores.logsumexp(-1, keepdim=True)
    total = torch.logaddexp(shared.gather(row_scores.logsumexp(-1, keepdim=True)), own_total)  # [R, K, G, 1]
    of_row = shared.gather((row_scores - shared.spread(total)).exp().to(row_values.dtype) @ row_values)
    of_own = (own_scores - total).exp().to(values.dtype) @ values
    return (of_row + of_own).flatten(1, 2).unsqueeze(1), None


AttentionInterface.register(SHARED_ROWS, shared_rows_attention)


@contextmanager
def attending_to_shared_rows(language_model: PreTrainedModel) -> Iterator[None]:
    """Inside the `with` block the model's layers take `shared=SharedRows` and attend to them."""
    config = language_model.config
    before = config._attn_implementation
    config._attn_implementation = SHARED_ROWS
    try:
        yield
    finally:
        config._attn_implementation = before
