"""The cache with room: the same keys and values as transformers', which are not copied for every token."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from model import key_value_cache
from model.key_value_cache import give_room

ROWS, HEADS, WIDTH = 2, 3, 4


def caches() -> tuple[DynamicCache, DynamicCache]:
    """Two with the same keys and values of five tokens in two layers; the second has room."""
    torch.manual_seed(0)
    states = [(torch.randn(ROWS, HEADS, 5, WIDTH), torch.randn(ROWS, HEADS, 5, WIDTH)) for _ in range(2)]
    both = DynamicCache(), DynamicCache()
    for cache in both:
        for number, layer in enumerate(states):
            cache.update(*layer, number)
    give_room(both[1])
    return both


@pytest.mark.parametrize("room", [1, 3, 100])
def test_it_gives_the_keys_and_values_of_a_dynamic_cache(room, monkeypatch):
    monkeypatch.setattr(key_value_cache, "ROOM", room)
    plain, roomy = caches()
    for tokens in (1, 1, 4, 1):
        for layer in range(2):
            new = torch.randn(2, ROWS, HEADS, tokens, WIDTH)
            for expected, actual in zip(plain.update(*new, layer), roomy.update(*new, layer), strict=True):
                assert torch.equal(actual, expected)
        assert roomy.get_seq_length() == plain.get_seq_length()


class _Copied(TorchDispatchMode):
    """The largest result, in numbers, of an operation that puts tensors together."""

    largest = 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        result = call(*args, **(kwargs or {}))
        if call.overloadpacket in (torch.ops.aten.cat, torch.ops.aten.constant_pad_nd):
            self.largest = max(self.largest, result.numel())
        return result


def test_a_token_copies_nothing_of_the_context():
    _, cache = caches()
    token = torch.randn(2, ROWS, HEADS, 1, WIDTH)
    cache.update(*token, 0)  # makes room
    with _Copied() as copied:
        cache.update(*token, 0)
    assert copied.largest == 0
