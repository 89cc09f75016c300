"""The caches of generation: what is written lies beside the rest, which is not copied for every token."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from model.backbones import key_value_cache
from model.backbones.key_value_cache import RowCache, WrittenCache

ROWS, HEADS, WIDTH, LAYERS = 2, 3, 4, 2


def states(tokens: int) -> torch.Tensor:
    return torch.randn(2, ROWS, HEADS, tokens, WIDTH)


def read_rows() -> tuple[DynamicCache, RowCache]:
    """transformers' cache and ours, with the same keys and values of five tokens in two layers."""
    torch.manual_seed(0)
    both = DynamicCache(), RowCache()
    for layer in range(LAYERS):
        read = states(5)
        for cache in both:
            cache.update(*read, layer)
    return both


@pytest.mark.parametrize("room", [1, 3, 100])
def test_a_row_that_goes_on_gives_the_keys_and_values_of_a_dynamic_cache(room, monkeypatch):
    monkeypatch.setattr(key_value_cache, "ROOM", room)
    plain, rows = read_rows()
    written = WrittenCache.continuing(rows)
    for tokens in (1, 1, 4, 1):
        for layer in range(LAYERS):
            new = states(tokens)
            for expected, actual in zip(plain.update(*new, layer), written.update(*new, layer), strict=True):
                assert torch.equal(actual, expected)


@pytest.mark.parametrize("room", [1, 100])
def test_beside_shared_rows_only_what_was_written_is_given(room, monkeypatch):
    monkeypatch.setattr(key_value_cache, "ROOM", room)
    written, expected = WrittenCache.beside(read_rows()[1], ROWS), DynamicCache()
    for tokens in (1, 2, 1):
        for layer in range(LAYERS):
            new = states(tokens)
            for other, actual in zip(expected.update(*new, layer), written.update(*new, layer), strict=True):
                assert torch.equal(actual, other)


class _Copied(TorchDispatchMode):
    """The largest result, in numbers, of an operation that puts tensors together."""

    largest = 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        result = call(*args, **(kwargs or {}))
        if call.overloadpacket in (torch.ops.aten.cat, torch.ops.aten.constant_pad_nd):
            self.largest = max(self.largest, result.numel())
        return result


def test_a_token_copies_nothing_of_the_context():
    cache = WrittenCache.continuing(read_rows()[1])
    token = states(1)
    cache.update(*token, 0)  # makes room
    with _Copied() as copied:
        cache.update(*token, 0)
    assert copied.largest == 0
