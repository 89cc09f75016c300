"""The attention of SAM's and SAM-HQ's image encoder, some rows of queries at a time.

The bias of relative positions is one number for every pair of positions (of a 64 × 64 grid a gigabyte for 16 heads in
float32); here it is made for some rows of queries at a time and without waiting for the device. The parameters are
those of transformers' class.

Legend: B images or windows, N heads, h w grid of a window, r rows of queries, c width of a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.sam.modeling_sam import SamVisionEncoder, SamVisionSdpaAttention

QUERIES_AT_ONCE = 512
CPU_BIAS = 2**22  # numbers of a bias: a block of more than 32 MB is given back and mapped anew each time (glibc)


class RowwiseAttention(SamVisionSdpaAttention):
    """Attention with decomposed relative positions (Li et al., MViTv2, equation 4), some rows of queries at a time."""

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, None]:
        """[B, h, w, N · c] -> the same shape, and None for the weights, which are never made."""
        batch, height, width, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, height * width, 3, self.num_attention_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [B, N, h · w, c] each
        if not self.use_rel_pos:
            attended = F.scaled_dot_product_attention(query, key, value)
        else:
            attended = self._attend(query.unflatten(2, (height, width)), key, value)
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, -1)), None

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [B, N, h, w, c]; key, value [B, N, h · w, c]; gives [B, N, h · w, c]."""
        height, width = query.shape[2:4]
        by_row, by_column = relative_positions(self.rel_pos_h, height), relative_positions(self.rel_pos_w, width)
        rows = QUERIES_AT_ONCE // width
        if query.device.type == "cpu":
            rows = min(rows, CPU_BIAS // (math.prod(query.shape[:4]) * width))
        rows = max(1, rows)
        attended = []
        for some, positions in zip(query.split(rows, dim=2), by_row.split(rows), strict=True):
            vertical = torch.einsum("bnhwc,hkc->bnhwk", some, positions).flatten(2, 3)
            horizontal = torch.einsum("bnhwc,wkc->bnhwk", some, by_column).flatten(2, 3)
            bias = (vertical.unsqueeze(-1) + horizontal.unsqueeze(-2)).flatten(3)  # [B, N, r · w, h · w]
            attended.append(F.scaled_dot_product_attention(some.flatten(2, 3), key, value, attn_mask=bias))
        return torch.cat(attended, dim=2)


def relative_positions(table: Tensor, side: int) -> Tensor:
    """[side, side, c]: the embedding of every query's distance to every key, from a table [2 · length - 1, c], which is
    resampled where it was made for another length."""
    if len(table) != 2 * side - 1:
        table = F.interpolate(table.T.unsqueeze(0), size=2 * side - 1, mode="linear").squeeze(0).T
    line = torch.arange(side, device=table.device)
    return table[line[:, None] - line[None, :] + side - 1]


def use_rowwise_attention(encoder: SamVisionEncoder) -> None:
    """Give every layer this attention, with the parameters that it has."""
    for layer in encoder.layers:
        with torch.device("meta"):
            attention = RowwiseAttention(encoder.config, layer.window_size)
        attention.load_state_dict(layer.attn.state_dict(), assign=True)
        layer.attn = attention
