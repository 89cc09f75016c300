"""Attention of packed rows over what is visible: the common prefix first, causally, then the branches.

A mask makes scaled dot product attention compute the whole square of a row, of which a token sees half at most, and
of other branches nothing. The prefix that all rows begin with sees itself alone, causally, for which there are kernels
without a mask that skip what is hidden; only the tokens behind it need one.

Legend: R rows, T tokens of a row, N heads of queries, K heads of keys and values, C width of a head.
"""

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

PREFIX_FIRST = "prefix_first"  # the name of `prefix_first_attention` among transformers' attentions


def prefix_first_attention(
    module: nn.Module,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Tensor | None,
    *,
    prefix: int = 0,
    **options,
) -> tuple[Tensor, None]:
    """The attention [R, T, N, C] of rows whose first `prefix` tokens see the earlier ones among them, whatever the mask
    says of them; query [R, N, T, C], keys and values [R, K, T, C], attention_mask bool [R, 1, T, T]."""
    if not prefix:
        return sdpa_attention_forward(module, query, keys, values, attention_mask, **options)
    alone = query[:, :, :prefix], keys[:, :, :prefix], values[:, :, :prefix]
    of_prefix, _ = sdpa_attention_forward(module, *alone, None, **{**options, "is_causal": True})
    if prefix == query.shape[2]:
        return of_prefix, None
    mask = attention_mask[:, :, prefix:]
    of_branches, _ = sdpa_attention_forward(module, query[:, :, prefix:], keys, values, mask, **options)
    return torch.cat([of_prefix, of_branches], dim=1), None


AttentionInterface.register(PREFIX_FIRST, prefix_first_attention)
