"""Prompts of an image, packed in one row, are answered as by themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dataloaders.batching.batch import Batch
from dataloaders.batching.collate import Collator
from dataloaders.sample import Sample, Turn
from model.backbones import key_value_cache
from model.backbones.base import Backbone
from model.backbones.key_value_cache import GrowingLayer, RowCache, SharedRows, WrittenCache, shared_rows_attention
from model.backbones.language_model import LanguageModelBackbone
from model.generation import SHARE_OF_FREE, ends_of_prompts
from model.systems import SYSTEMS
from tests.tiny import picture, tiny_model

QUESTIONS = (
    ("What is the ball?", "Where is the tree left of the house, and what is near it?", "Boat?"),
    ("Is there a house in this image?",),
    ("The green one.", "What is the small red ball left of the house in this image?"),
)


def samples() -> list[Sample]:
    found = []
    for number, questions in enumerate(QUESTIONS):
        image = picture(number, 40 + 10 * number, 60)
        turns = [(Turn(question, None),) for question in questions]
        found.append(
            Sample(Path("x.jpg"), image, turns, np.zeros((0, *image.shape[:2]), np.uint8), None, "test", "test")
        )
    return found


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("padded_clip, side", [(False, "left"), (True, "right")])
def test_packed_prompts_are_answered_as_plain_ones(system, padded_clip, side):
    model, processor = tiny_model(system, pad_train_clip_images=padded_clip)
    model.eval()
    # Whatever is written first leads to a target next, so that there are masks to compare.
    for token in model.config.seg_token_ids:
        model.lm_head.weight.data[token] *= 4

    plain = model.generate(Collator(processor, packed=False, padding_side="left")(samples()), max_new_tokens=12)
    packed = model.generate(Collator(processor, padding_side=side)(samples()), max_new_tokens=12)

    assert [answer.token_ids for answer in packed] == [answer.token_ids for answer in plain]
    assert len({tuple(answer.token_ids) for answer in plain}) > 1
    for one, other in zip(packed, plain, strict=True):
        assert one.layers == other.layers and one.seg_indices == other.seg_indices
        torch.testing.assert_close(one.mask_logits, other.mask_logits, rtol=1e-4, atol=1e-4)


def test_plain_prompts_may_be_padded_on_either_side():
    model, processor = tiny_model()
    questions = [sample for sample in samples() if len(sample.conversations) == 1] + samples()[:1]
    left, right = (
        model.eval().generate(Collator(processor, packed=False, padding_side=side)(questions), max_new_tokens=8)
        for side in ("left", "right")
    )
    assert [answer.token_ids for answer in left] == [answer.token_ids for answer in right]


def test_a_packed_image_is_read_once():
    model, processor = tiny_model()
    read = []
    first = model.language_model.layers[0]
    first.register_forward_pre_hook(lambda layer, arguments: read.append(tuple(arguments[0].shape)))
    batch = Collator(processor)(samples()[:1])
    model.eval().generate(batch, max_new_tokens=2)
    assert read[0] == (1, batch.input_ids.shape[1], 32)
    assert read[1:] in ([], [(3, 1, 32)])


def test_a_prompt_ends_with_the_last_token_of_its_branch():
    assert ends_of_prompts(torch.tensor([[0, 0, 1, 1, 1, 2], [0, 0, 1, -1, -1, -1]])) == ([0, 0, 1], [4, 5, 2])


class _Attention(torch.nn.Module):
    layer_idx = 0


@pytest.mark.parametrize("heads, shared_heads", [(4, 4), (4, 2)], ids=["as many keys", "grouped queries"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_attention_in_two_parts_is_attention_to_both(heads, shared_heads, dtype, tolerance):
    """Rows with one, three and two prompts, and what each prompt sees is its own."""
    torch.manual_seed(0)
    row, width, length, written = [0, 1, 1, 1, 2, 2], 8, 11, 5
    rows = RowCache()
    row_keys, row_values = rows.update(*torch.randn(2, 3, shared_heads, length, width).to(dtype), 0)
    seen = torch.rand(len(row), length) > 0.4
    seen[:, 0] = True
    query = torch.randn(len(row), heads, 1, width).to(dtype)
    keys, values = torch.randn(2, len(row), shared_heads, written, width).to(dtype)

    actual, _ = shared_rows_attention(
        _Attention(), query, keys, values, None, scaling=0.3, shared=SharedRows(rows, row, seen)
    )

    both = [torch.cat([of_row[row], own], dim=2).float() for of_row, own in ((row_keys, keys), (row_values, values))]
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.float(),
        *both,
        attn_mask=torch.nn.functional.pad(seen, (0, written), value=True)[:, None, None],
        scale=0.3,
        enable_gqa=True,
    )
    torch.testing.assert_close(actual.float(), expected.transpose(1, 2), atol=tolerance, rtol=tolerance)


def generated(model, batch: Batch, tokens: int) -> tuple[list, int]:
    """The answers, and the bytes of the keys and values that were kept at the end of writing them."""
    kept = []

    class Counting(WrittenCache):
        def update(self, keys, values, layer, *_, **__):
            found = super().update(keys, values, layer)
            storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in self._all()}
            kept.append(sum(storages.values()))
            return found

        def _all(self):
            return [one for layer in self.layers for one in layer._written_to]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.backbones.language_model.WrittenCache", Counting)
        answers = model.generate(batch, max_new_tokens=tokens)
    return answers, max(kept)


def prompts_of_one_image(count: int) -> list[Sample]:
    image = picture(1, 50, 60)
    turns = [(Turn(f"Where is the ball number {number}?", None),) for number in range(count)]
    return [Sample(Path("x.jpg"), image, turns, np.zeros((0, 50, 60), np.uint8), None, "test", "test")]


def test_a_further_prompt_keeps_the_keys_and_values_of_its_own_tokens_only():
    model, processor = tiny_model()
    model.eval().config.text_config.eos_token_id = -1
    config, collate, tokens = model.config.text_config, Collator(processor), 9
    of_a_token = 2 * config.num_hidden_layers * config.hidden_size * 4
    kept = {}
    for count in (2, 5, 9):
        batch = collate(prompts_of_one_image(count))
        _, kept[count] = generated(model, batch, tokens)
    # Beside the row, which holds the tokens of all prompts once, there is room for what each prompt writes.
    room = 1 + key_value_cache.ROOM
    assert {count: kept[count] / of_a_token for count in kept} == {count: count * room for count in kept}


def no_memory(torch_error: bool) -> Exception:
    if torch_error:
        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    return RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("of_cuda", [True, False])
def test_where_memory_ends_half_the_prompts_are_answered_at_a_time(of_cuda, monkeypatch, caplog):
    model, processor = tiny_model()
    model.eval().config.text_config.eos_token_id = -1
    batch = Collator(processor)(prompts_of_one_image(7))
    expected = model.generate(batch, max_new_tokens=6)
    sizes, append = [], GrowingLayer.append

    def append_to_small_memory(self, keys, values):
        sizes.append(keys.shape[0])
        if keys.shape[0] > 2 and self.keys.shape[2] >= 3:
            raise no_memory(of_cuda)
        return append(self, keys, values)

    monkeypatch.setattr(GrowingLayer, "append", append_to_small_memory)
    told = []
    actual = model.generate(batch, max_new_tokens=6, on_token=lambda index, token: told.append((index, token)))

    assert [answer.token_ids for answer in actual] == [answer.token_ids for answer in expected]
    for number, answer in enumerate(actual):
        torch.testing.assert_close(answer.mask_logits, expected[number].mask_logits, atol=1e-4, rtol=1e-4)
        assert [token for index, token in told if index == number] == answer.token_ids
    assert list(dict.fromkeys(sizes)) == [7, 4, 2, 1]
    assert caplog.text.count("out of memory with 7 prompts at a time") == caplog.text.count("out of memory") == 1

    sizes.clear()
    model.generate(batch, max_new_tokens=6)
    assert max(sizes) == 2, "later batches begin with what was enough"


def test_an_error_that_is_not_about_memory_is_raised(monkeypatch):
    model, processor = tiny_model()
    monkeypatch.setattr(GrowingLayer, "append", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        model.eval().generate(Collator(processor)(prompts_of_one_image(3)), max_new_tokens=6)


def test_no_more_prompts_are_answered_at_a_time_than_memory_is_free_for(monkeypatch):
    model, processor = tiny_model()
    model.eval().config.text_config.eos_token_id = -1
    batch = Collator(processor)(prompts_of_one_image(7))
    expected = model.generate(batch, max_new_tokens=6)
    config = model.config.text_config
    of_a_prompt = 2 * config.num_hidden_layers * config.hidden_size * 4 * (1 + key_value_cache.ROOM)
    sizes, append = [], GrowingLayer.append
    monkeypatch.setattr("model.generation.free_memory", lambda device: int(3.5 * of_a_prompt / SHARE_OF_FREE))
    monkeypatch.setattr(GrowingLayer, "append", lambda self, *one: sizes.append(len(one[0])) or append(self, *one))
    actual = model.generate(batch, max_new_tokens=6)
    assert list(dict.fromkeys(sizes)) == [3, 1]
    assert [answer.token_ids for answer in actual] == [answer.token_ids for answer in expected]


def answers_of_unequal_lengths(packed: bool):
    """A model, a batch of nine prompts about two images, and the model's answers without an end and with one.

    The token that ends an answer is one that the model writes early in some answers, late or never in others.
    """
    model, processor = tiny_model()
    model.eval().config.text_config.eos_token_id = -1
    for token in model.config.seg_token_ids:
        model.lm_head.weight.data[token] *= 4
    questions = [*prompts_of_one_image(6), *samples()[:1]]
    batch = Collator(processor, packed=packed, padding_side="left")(questions)
    endless = [answer.token_ids for answer in model.generate(batch, max_new_tokens=12)]
    written = {token for answer in endless for token in answer} - set(model.config.seg_token_ids)
    ends = {token: [answer.index(token) if token in answer else 12 for answer in endless] for token in written}
    end = max(ends, key=lambda token: (len(set(ends[token])), token))
    assert len(set(ends[end])) > 2, "the answers do not differ in length"
    model.config.text_config.eos_token_id = end
    return model, batch, [answer[:length] for answer, length in zip(endless, ends[end], strict=True)]


@pytest.mark.parametrize("rereading", [False, True], ids=["cache", "rereading"])
@pytest.mark.parametrize("at_a_time", [None, 4, 2, 1])
def test_prompts_join_and_leave_while_others_are_written(at_a_time, rereading, monkeypatch):
    """Every step reads the prompts alone whose answers go on, and no answer changes."""
    if rereading:
        monkeypatch.setattr(LanguageModelBackbone, "stepping", Backbone.stepping)
    model, batch, expected = answers_of_unequal_lengths(packed=True)
    one_by_one = model.generate(batch, max_new_tokens=12)
    model.prompts_at_a_time, steps = at_a_time, []
    unroll = type(model.backbone).unroll
    monkeypatch.setattr(
        type(model.backbone),
        "unroll",
        lambda self, rows, *rest, **more: steps.append(len(rows.embeddings)) or unroll(self, rows, *rest, **more),
    )

    answers = model.generate(batch, max_new_tokens=12)

    assert [answer.token_ids for answer in answers] == expected
    for answer, other in zip(answers, one_by_one, strict=True):
        assert answer.seg_indices == other.seg_indices
        torch.testing.assert_close(answer.mask_logits, other.mask_logits, rtol=1e-4, atol=1e-4)
    steps = steps[1:]  # the first reads the rows
    needed = sum(len(answer) if len(answer) < 12 else 11 for answer in expected)
    assert max(steps) <= (at_a_time or len(expected))
    if at_a_time:
        assert sum(steps) == needed
    else:
        assert needed <= sum(steps) < len(expected) * len(steps)


def test_plain_rows_leave_when_their_answers_end(monkeypatch):
    model, batch, expected = answers_of_unequal_lengths(packed=False)
    sizes, append = [], GrowingLayer.append
    monkeypatch.setattr(GrowingLayer, "append", lambda self, *one: sizes.append(len(one[0])) or append(self, *one))
    answers = model.generate(batch, max_new_tokens=12)
    assert [answer.token_ids for answer in answers] == expected
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < len(expected) == sizes[0]
