"""The hidden states of the `[SEG]` targets, and of the image tokens beside them, at any layer.

A policy chooses the layer on the device. Selecting the states of that layer must neither wait for the device nor cost
memory that grows with the number of layers: forward, each layer contributes what was chosen from it to one result;
backward, the gradient is added to each layer's own gradient as it comes by, so that none is held for all of them.

Legend: S targets, c tokens per target, L+1 hidden states, P cells of the largest grid of the batch, K positions of a
target, D width, R rows of T tokens, H W size of an image.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dataloaders.batching.batch import Geometry
from model.backbones.base import EncodedImages


@dataclass
class TargetStates:
    """What a system may build its prompts from.

    unrolled: the L+1 hidden states [R, T, D] of the rows.
    seg_positions [S, c]: flat indices into R·T of the positions that predict the tokens of each target; None where
        `written` holds their states.
    cell_positions [S, P]: flat indices into R·T of the cells of the grid of each target's image (see `Batch`).
    image [S]: the image of each target.
    images: the encoded images of the batch.
    groups: the image of each group of targets; counts: targets per group. Targets are ordered by group. A group is
        an image in training and an answer in generation.
    geometries, sizes: of the image of each group, as the backbone sees it and (H, W).
    written [S, c, L+1, D]: the states of targets that were generated, which no row holds.
    map_lines: what puts scores of cells on the image of each group (`similarity.map_lines`), once a map was made.
    factor [S, D]: what the target states that `chosen` returns are multiplied by, see `redrawn`; None for nothing.
    """

    unrolled: tuple[Tensor, ...]
    seg_positions: Tensor | None
    cell_positions: Tensor
    image: Tensor
    images: EncodedImages | None
    groups: list[int]
    counts: list[int]
    geometries: list[Geometry]
    sizes: list[tuple[int, int]]
    written: Tensor | None = None
    map_lines: list[tuple[Tensor, Tensor]] | None = None
    factor: Tensor | None = None

    def redrawn(self, rate: float, uniform: Tensor) -> "TargetStates":
        """The same with dropout at `rate` on the state of each target, by random numbers [S, D] from 0 to 1."""
        return replace(self, factor=(uniform >= rate) / (1 - rate))

    @property
    def last_layer(self) -> int:
        """Index of the last hidden state."""
        return len(self.unrolled) - 1

    def at_every_target(self, layer: int) -> Tensor:
        """int64 [S]: one layer, for all targets."""
        return torch.full_like(self.image, layer)

    @property
    def seg(self) -> Tensor:
        """[S, c, L+1, D]: the targets' states at every layer, without a graph; what a policy looks at."""
        if self.written is not None:
            return self.written
        layers = [states.detach().flatten(0, 1)[self.seg_positions] for states in self.unrolled]
        return torch.stack(layers, dim=2)

    @property
    def last(self) -> Tensor:
        """[S, c, D], the states after the final norm."""
        if self.written is not None:
            return self.written[:, :, -1]
        return self.unrolled[-1].flatten(0, 1)[self.seg_positions]

    def chosen(self, layers: Tensor | int) -> tuple[Tensor, Tensor]:
        """The state [S, D] of each (single-token) target and those of its image's cells [S, P, D], at its own layer.

        layers: int64 [S], or one for all.
        """
        states, tokens = self._chosen(layers)
        return states if self.factor is None else states * self.factor.to(states.dtype), tokens

    def _chosen(self, layers: Tensor | int) -> tuple[Tensor, Tensor]:
        if self.written is not None:
            tokens = select_states(self.unrolled, layers, self.cell_positions)
            if isinstance(layers, int):
                return self.written[:, 0, layers], tokens
            index = layers.view(-1, 1, 1).expand(-1, 1, self.written.shape[-1])
            return self.written[:, 0].gather(1, index).squeeze(1), tokens
        selected = select_states(
            self.unrolled, layers, torch.cat([self.seg_positions[:, :1], self.cell_positions], dim=1)
        )
        return selected[:, 0], selected[:, 1:]


def select_states(unrolled: tuple[Tensor, ...], layers: Tensor | int, positions: Tensor) -> Tensor:
    """[S, K, D]: the states at the flat positions [S, K] of R·T, for each target at its own layer.

    layers: int64 [S], or one for all. Backward works through hooks on the hidden states, which must therefore be the
    tensors that the next layer reads.
    """
    if isinstance(layers, int):
        return unrolled[layers].flatten(0, 1)[positions]
    *earlier, last = unrolled
    gradient = _SelectedGradient(layers, positions)
    if torch.is_grad_enabled() and last.requires_grad:
        trained = [layer for layer, states in enumerate(earlier) if states.requires_grad]
        for layer in trained:
            earlier[layer].register_hook(gradient.adder(layer, final=layer == trained[0]))
    return _SelectStates.apply(last, earlier, gradient)


class _SelectedGradient:
    """The gradient of the selected states [S, K, D] on its way to the layers that they came from."""

    def __init__(self, layers: Tensor, positions: Tensor):
        self.layers = layers
        self.positions = positions
        self.value: Tensor | None = None

    def of_layer(self, layer: int) -> Tensor:
        """[S · K, D]: the part for one layer, zero for the targets of others."""
        mine = (self.layers == layer).view(-1, 1, 1)
        return torch.where(mine, self.value, torch.zeros_like(self.value)).flatten(0, 1)

    def adder(self, layer: int, *, final: bool):
        """A hook that adds this layer's part to the gradient [R, T, D] of its states; the final one forgets it."""

        def add(grad: Tensor) -> Tensor | None:
            if self.value is None:  # backward from something that the selected states have no part in
                return None
            total = grad.flatten(0, 1).index_add(0, self.positions.flatten(), self.of_layer(layer).to(grad.dtype))
            if final:
                self.value = None
            return total.view_as(grad)

        return add


class _SelectStates(torch.autograd.Function):
    """Only the last hidden state is an input of the graph: since all the others lead to it, its gradient, which this
    node gives, is there before any hook of theirs is called."""

    @staticmethod
    def forward(ctx, last: Tensor, earlier: list[Tensor], gradient: _SelectedGradient) -> Tensor:
        ctx.gradient, ctx.shape, ctx.number = gradient, last.shape, len(earlier)
        selected = last.flatten(0, 1)[gradient.positions]
        for layer, states in enumerate(earlier):
            mine = (gradient.layers == layer).view(-1, 1, 1)
            selected = torch.where(mine, states.flatten(0, 1)[gradient.positions], selected)
        return selected

    @staticmethod
    def backward(ctx, grad: Tensor):
        gradient, (rows, length, width) = ctx.gradient, ctx.shape
        gradient.value = grad
        of_last = grad.new_zeros(rows * length, width)
        of_last.index_add_(0, gradient.positions.flatten(), gradient.of_layer(ctx.number))
        return of_last.view(rows, length, width), None, None
