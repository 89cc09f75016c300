"""LLaVA's parts: who sees whom in a row, and the projector."""

import pytest
import torch

from dataloaders.batching.collate import Collator
from groundscore.errors import UserError
from model.backbones.base import row_attention
from model.backbones.language_model import flash_attention_rows
from model.backbones.llava import build_projector
from tests.tiny import tiny_model, tiny_samples

BRANCHES = torch.tensor([[0, 0, 0, 1, 1, 2, 2, -1]])
IMAGE = torch.tensor([1, 2])


def seen_by(attention, token):
    return attention[0, 0, token].nonzero().squeeze(1).tolist()


def test_a_branch_sees_the_prefix_and_itself():
    attention = row_attention(BRANCHES, IMAGE, None)
    assert seen_by(attention, 2) == [0, 1, 2]
    assert seen_by(attention, 4) == [0, 1, 2, 3, 4]
    assert seen_by(attention, 6) == [0, 1, 2, 5, 6]


def test_padding_sees_itself_and_nobody_else_sees_it():
    attention = row_attention(BRANCHES, IMAGE, None)
    assert 7 in seen_by(attention, 7)
    assert not attention[0, 0, :7, 7].any()


def test_the_padded_part_of_an_image_is_seen_by_nobody():
    attention = row_attention(BRANCHES, IMAGE, torch.tensor([True, False]))
    assert seen_by(attention, 2) == [0, 1]
    assert seen_by(attention, 4) == [0, 1, 3, 4]


def test_flash_attention_takes_plain_rows_only():
    plain = torch.tensor([[0, 0, 1, 1, -1]])
    assert flash_attention_rows(plain, None, packed=False).tolist() == [[True, True, True, True, False]]
    with pytest.raises(UserError, match="packed rows"):
        flash_attention_rows(BRANCHES, None, packed=True)
    with pytest.raises(UserError, match="padded CLIP"):
        flash_attention_rows(plain, torch.ones(2, dtype=torch.bool), packed=False)


def test_the_mask_is_made_for_the_scores_once_for_all_layers():
    model, processor = tiny_model()
    batch = Collator(processor)(tiny_samples())
    rows, masks = model.embed_rows(batch, model.encode_images(batch)), []
    for layer in model.language_model.layers:
        layer.register_forward_pre_hook(lambda _, arguments: masks.append(arguments[1]))
    model.backbone.unroll(rows)
    assert len(masks) > 1 and len({id(mask) for mask in masks}) == 1
    assert torch.equal(masks[0] == 0, rows.attention) and torch.equal(masks[0].isinf(), ~rows.attention)


@pytest.mark.parametrize("packed", [True, False])
def test_a_batch_knows_whether_its_rows_are_packed(packed):
    _, processor = tiny_model()
    batch = Collator(processor, packed=packed)(tiny_samples())
    assert batch.packed is packed and batch.to("meta").packed is packed


@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
def test_attention_that_would_add_the_mask_to_the_scores_is_refused(attention):
    """It would let every token see every other."""
    model, processor = tiny_model()
    model.backbone.use_attention(attention)
    with pytest.raises(UserError, match=f'attention "{attention}" .*use sdpa or flash_attention_2'):
        model(Collator(processor)(tiny_samples()))


@pytest.mark.parametrize("kind", ["resampler", "mlp0x_gelu", "mlpx_gelu"])
def test_an_unknown_projector_is_named_with_the_known_ones(kind):
    with pytest.raises(UserError, match=f'"{kind}": known are linear, mlp2x_gelu'):
        build_projector(kind, 4, 8)
