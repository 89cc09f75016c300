"""Rows attend to their common prefix first: the same results as with one mask over the whole row, and less work."""

import pytest
import torch
from torch import nn

from dataloaders.batching.collate import Collator
from model.backbones.base import row_attention
from model.backbones.row_attention import prefix_first_attention
from tests.tiny import tiny_model, tiny_samples

BRANCHES = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 1, 1, 2, -1]])


@pytest.mark.parametrize("prefix", [1, 4])
def test_results_and_gradients_are_those_of_a_mask_over_the_whole_row(prefix):
    module = nn.Module()
    module.num_key_value_groups = 2
    mask = row_attention(BRANCHES, torch.zeros(0, dtype=torch.int64), None)
    results = []
    for tokens in (0, prefix):
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(2, heads, 9, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2)]
        output, _ = prefix_first_attention(module, *inputs, mask, prefix=tokens, scaling=0.5, dropout=0.0)
        output.square().sum().backward()
        results.append([output, *(each.grad for each in inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_knows_the_prefix_that_all_its_rows_have():
    model, processor = tiny_model()
    batch = Collator(processor)(tiny_samples())
    beginnings = [int((row != 0).int().argmax()) for row in batch.branches]
    assert batch.common_prefix == min(beginnings) > model.config.image_grid**2
    assert batch.to("meta").common_prefix == batch.common_prefix


def test_only_what_is_behind_the_prefix_is_attended_with_a_mask(monkeypatch):
    model, processor = tiny_model()
    batch = Collator(processor)(tiny_samples())
    attend, asked = torch.nn.functional.scaled_dot_product_attention, set()

    def record(query, key, value, attn_mask=None, is_causal=False, **options):
        if key.shape[2] in (batch.common_prefix, batch.input_ids.shape[1]):
            asked.add((query.shape[2], key.shape[2], None if attn_mask is None else attn_mask.shape[2], is_causal))
        return attend(query, key, value, attn_mask=attn_mask, is_causal=is_causal, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    model.read(batch, model.encode_images(batch))
    prefix, length = batch.common_prefix, batch.input_ids.shape[1]
    assert asked == {(prefix, prefix, None, True), (length - prefix, length, length - prefix, False)}


def test_a_prefix_with_padded_image_tokens_keeps_the_mask():
    model, processor = tiny_model(pad_train_clip_images=True)
    batch = Collator(processor)(tiny_samples())
    images = model.encode_images(batch)
    assert model.embed_rows(batch, images).prefix == 0
