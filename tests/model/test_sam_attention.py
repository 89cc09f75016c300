"""SAM's attention by rows gives what transformers' gives, with a fraction of its memory."""

import pytest
import torch
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionSdpaAttention

from model.decoders import rowwise_attention
from model.decoders.rowwise_attention import RowwiseAttention


def attentions(grid: int, image_size: int):
    """transformers' attention and ours with the same parameters, and an input [2, grid, grid, 16]."""
    torch.manual_seed(0)
    config = SamVisionConfig(hidden_size=16, num_attention_heads=2, image_size=image_size, patch_size=16)
    theirs, ours = SamVisionSdpaAttention(config, 0), RowwiseAttention(config, 0)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    return theirs.double(), ours.double(), torch.randn(2, grid, grid, 16, dtype=torch.float64)


@pytest.mark.parametrize("grid", [8, 12], ids=["as_built", "resampled"])
def test_it_gives_what_transformers_gives_with_the_same_gradients(grid, monkeypatch):
    monkeypatch.setattr(rowwise_attention, "QUERIES_AT_ONCE", 3 * grid)
    theirs, ours, states = attentions(grid, image_size=128)
    results = []
    for attention in (theirs, ours):
        leaf = states.clone().requires_grad_()
        output = attention(leaf)[0]
        output.square().sum().backward()
        results.append([output, leaf.grad, *(parameter.grad for parameter in attention.parameters())])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("numbers", "rows"), [(2**22, 2), (2 * 2 * 16 * 256, 1), (1, 1)], ids=["many", "few", "too_few"]
)
def test_no_bias_of_all_pairs_is_made(monkeypatch, numbers, rows):
    _, ours, states = attentions(16, image_size=256)
    monkeypatch.setattr(rowwise_attention, "QUERIES_AT_ONCE", 32)
    monkeypatch.setattr(rowwise_attention, "CPU_BIAS", numbers)
    sizes = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, attn_mask: sizes.append(attn_mask.shape) or attend(*args, attn_mask=attn_mask),
    )
    ours(states)
    assert sizes == [(2, 2, 16 * rows, 256)] * (16 // rows)
