"""A key-value cache with room for more: a further token is written beside the others, which stay where they are.

transformers' dynamic cache makes a new tensor of all keys and one of all values for every layer and token; with many
answers at a time that moves as many bytes as reading the weights does.
"""

import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens; the rest is copied once for every so many


class RoomyLayer(DynamicLayer):
    """A layer's keys and values [R, N, T, C], views of the larger tensors that they are written to."""

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = self._written_to = layer.keys, layer.values

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Add [R, N, t, C] to the keys and the values; gives all of them."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._written_to[0].shape[-2]:
            more = end - start + ROOM
            self._written_to = F.pad(self.keys, (0, 0, 0, more)), F.pad(self.values, (0, 0, 0, more))
        for whole, states in zip(self._written_to, (key_states, value_states), strict=True):
            whole[..., start:end, :] = states
        self.keys, self.values = (whole[..., :end, :] for whole in self._written_to)
        return self.keys, self.values


def give_room(cache: DynamicCache) -> None:
    """Let a cache that holds the prompts take what is written after them."""
    cache.layers = [RoomyLayer(layer) for layer in cache.layers]
