"""The mask decoders of transformers over the targets of a batch, however long their prompts are, in one call: ZeRO 3
fetches weights call by call on all processes together.

Legend: I images, S targets, m targets of one group, K prompt tokens, N tokens of the decoder's own, C prompt width, G
side of the embedding grid, M = 4 G side of a mask.
"""

from itertools import accumulate

import torch
from torch import Tensor
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
        states, features = self.transformer(
            point_embeddings=tokens.unsqueeze(1),
            image_embeddings=embeddings + dense,
            image_positional_embeddings=positions.expand(len(sparse), -1, -1, -1),
            attention_similarity=None,
        )
        return states.squeeze(1), features.squeeze(1).transpose(1, 2).unflatten(2, embeddings.shape[-2:])


def use_mask_decoder(sam: PreTrainedModel, kind: type[TargetDecoder]) -> None:
    """Give `sam` a mask decoder of this class, with the parameters that it has."""
    with torch.device("meta"):
        decoder = kind(sam.config.mask_decoder_config)
    decoder.load_state_dict(sam.mask_decoder.state_dict(), assign=True)
    sam.mask_decoder = decoder
