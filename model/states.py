"""The hidden states of the `[SEG]` targets, and of the image tokens beside them, at any layer.

Legend: S targets, n tokens per target, L+1 hidden states, P image tokens, D width, G groups of targets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .backbone import ImageTokens


@dataclass
class TargetStates:
    """What a system may build its prompts from.

    seg [S, n, L+1, D]: states of the positions that predict the tokens of each target, at every layer.
    unrolled: the L+1 hidden states [R, T, D] of the rows, only read where image tokens are asked for.
    image_places [S, P]: flat indices into R·T of the image tokens that belong to each target.
    image [S]: the image of each target.
    images: the image tokens and CLIP states of the batch.
    groups: the image of each group of targets; counts: targets per group. Targets are ordered by group. A group is
        an image in training and an answer in generation.
    """

    seg: Tensor
    unrolled: tuple[Tensor, ...]
    image_places: Tensor
    image: Tensor
    images: ImageTokens
    groups: list[int]
    counts: list[int]

    @property
    def last(self) -> Tensor:
        """[S, n, D], the states after the final norm."""
        return self.seg[:, :, -1]

    def at(self, layers: Tensor) -> Tensor:
        """[S, D]: the state of each (single-token) target at its own layer; `layers` int64 [S]."""
        return self.seg[:, 0].gather(1, layers.view(-1, 1, 1).expand(-1, 1, self.seg.shape[-1])).squeeze(1)

    def image_tokens(self, layer: int, targets: Tensor) -> Tensor:
        """[s, P, D]: the image tokens at one layer for the chosen targets (int64 [s])."""
        return self.unrolled[layer].flatten(0, 1)[self.image_places[targets]]


def gather_states(unrolled: tuple[Tensor, ...], positions: Tensor) -> Tensor:
    """[S, n, L+1, D]: every layer's state at flat positions [S, n] of R·T."""
    return torch.stack([states.flatten(0, 1)[positions] for states in unrolled], dim=2)
