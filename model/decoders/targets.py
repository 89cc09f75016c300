"""The mask decoders of transformers over the targets of a batch, however long their prompts are, in one call: ZeRO 3
fetches weights call by call on all processes together.

Legend: I images, S targets, m targets of one group, K prompt tokens, N tokens of the decoder's own, C prompt width, G
side of the embedding grid, P = G² its cells, M = 4 G side of a mask.
"""

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel


class TargetDecoder:
    """What makes a mask decoder of transformers, which is the next base, one over targets instead of images."""

    def forward(
        self, features: list[Tensor], positions: Tensor, image: Tensor, dense: Tensor, *sparse: Tensor
    ) -> tuple[Tensor, ...]:
        """Low-resolution mask logits [S, M, M], and object scores [S] where the decoder has them.

        features: of images, the embeddings [I, C, G, G] first; positions [1, C, G, G]; image int64 [S], the image of
        each target; dense broadcastable to [S, C, G, G]; sparse: prompts [m, K, C] of consecutive targets, decoded
        together where K is equal.
        """
        features = self.prepared(features)
        if len(sparse) == 1:
            return self.decoded(features, positions, image, dense, *sparse)
        by_length: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for end, each in zip(accumulate(map(len, sparse)), sparse, strict=True):
            which = torch.arange(end - len(each), end, device=image.device)
            by_length.setdefault(each.shape[1], []).append((which, each))
        order, results = [], []
        for group in by_length.values():
            which = torch.cat([index for index, _ in group])
            prompts = torch.cat([prompt for _, prompt in group])
            order.append(which)
            own = dense if len(dense) == 1 else dense[which]
            results.append(self.decoded(features, positions, image[which], own, prompts))
        back = torch.cat(order).argsort()
        return tuple(torch.cat(each)[back] for each in zip(*results, strict=True))

    def prepared(self, features: list[Tensor]) -> list[Tensor]:
        """The features after what is done once for an image, however many targets it has."""
        return features

    def decoded(
        self, features: list[Tensor], positions: Tensor, image: Tensor, dense: Tensor, sparse: Tensor
    ) -> tuple[Tensor, ...]:
        """`forward` for targets whose prompts [S, K, C] have one length."""
        raise NotImplementedError

    def transformed(
        self, own: Tensor, embeddings: Tensor, positions: Tensor, dense: Tensor, sparse: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States [S, N + K, C] of the decoder's own N tokens [N, C] and the prompts, and features [S, C, G, G].

        embeddings [S, C, G, G]: of each target's image.
        """
        tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse.to(own.dtype)], dim=1)
        cells = (embeddings + dense).flatten(2).transpose(1, 2)
        tokens, cells = two_way(self.transformer, tokens, cells, positions.flatten(2).transpose(1, 2).squeeze(0))
        return tokens, cells.transpose(1, 2).unflatten(2, embeddings.shape[-2:])


def two_way(transformer: nn.Module, tokens: Tensor, cells: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The two-way transformer of a mask decoder: tokens [S, N, C] and cells [S, P, C] after reading each other.

    positions [P, C]: of the cells, the same for all targets. They are projected by themselves and added to the
    projected cells, so that no sum of cells and positions is made and kept for every attention.
    """
    first = tokens
    for number, layer in enumerate(transformer.layers):
        if number == 0:  # which has no positions yet
            tokens = _attend(layer.self_attn, tokens, tokens, tokens)
        else:
            placed = tokens + first
            tokens = tokens + _attend(layer.self_attn, placed, placed, tokens)
        tokens = layer.layer_norm1(tokens)
        read = _attend(layer.cross_attn_token_to_image, tokens + first, cells, cells, key_positions=positions)
        tokens = layer.layer_norm2(tokens + read)
        tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
        attention = layer.cross_attn_image_to_token
        cells = layer.layer_norm4(cells + _attend(attention, cells, tokens + first, tokens, query_positions=positions))
    read = _attend(transformer.final_attn_token_to_image, tokens + first, cells, cells, key_positions=positions)
    return transformer.layer_norm_final_attn(tokens + read), cells


def _attend(
    attention: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    query_positions: Tensor | None = None,
    key_positions: Tensor | None = None,
) -> Tensor:
    """The attention [S, Q, C] of states [S, Q, C] to states [S, K, C]; positions [Q, C] or [K, C] add to the states."""
    projected = (
        _projected(attention.q_proj, query, query_positions),
        _projected(attention.k_proj, key, key_positions),
        attention.v_proj(value),
    )
    heads = (states.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2) for states in projected)
    attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    out = attention.out_proj if hasattr(attention, "out_proj") else attention.o_proj  # SAM's name, SAM 2's
    return out(attended)


def _projected(projection: nn.Linear, states: Tensor, positions: Tensor | None) -> Tensor:
    """`projection(states + positions)`; its parameters are asked for by calling it alone (ZeRO 3)."""
    if positions is None:
        return projection(states)
    of_positions = projection(F.pad(positions.to(states.dtype), (0, 0, 0, 1)))  # the last of nothing, its bias
    return projection(states) + (of_positions[:-1] - of_positions[-1:])


def use_mask_decoder(sam: PreTrainedModel, kind: type[TargetDecoder]) -> None:
    """Give `sam` a mask decoder of this class, with the parameters that it has."""
    with torch.device("meta"):
        decoder = kind(sam.config.mask_decoder_config)
    decoder.load_state_dict(sam.mask_decoder.state_dict(), assign=True)
    sam.mask_decoder = decoder
