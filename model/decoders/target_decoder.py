"""SAM's mask decoder, called once for the targets of a batch, however long their prompts are.

ZeRO 3 fetches the weights of a module when it is called, on all processes together: how often that happens must not
depend on what a process's batch holds.

Legend: I images, S targets, K prompt tokens, C prompt width, G side of the embedding grid, M = 4 G.
"""

from itertools import accumulate

import torch
from torch import Tensor
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder


class TargetDecoder(SamMaskDecoder):
    """transformers' class, whose parameters it has, over targets instead of images."""

    def forward(self, embeddings: Tensor, positions: Tensor, image: Tensor, dense: Tensor, *sparse: Tensor) -> Tensor:
        """Low-resolution mask logits [S, M, M].

        embeddings [I, C, G, G]; positions [1, C, G, G]; image int64 [S], the image of each target; dense broadcastable
        to [S, C, G, G]; sparse: prompts [m, K, C] of consecutive targets, decoded together where K is equal.
        """
        if len(sparse) == 1:
            return self._decode(embeddings, positions, image, dense, *sparse)
        by_length: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for end, each in zip(accumulate(map(len, sparse)), sparse, strict=True):
            places = torch.arange(end - len(each), end, device=image.device)
            by_length.setdefault(each.shape[1], []).append((places, each))
        order, masks = [], []
        for group in by_length.values():
            places = torch.cat([place for place, _ in group])
            prompts = torch.cat([prompt for _, prompt in group])
            order.append(places)
            own = dense if len(dense) == 1 else dense[places]
            masks.append(self._decode(embeddings, positions, image[places], own, prompts))
        return torch.cat(masks)[torch.cat(order).argsort()]

    def _decode(self, embeddings: Tensor, positions: Tensor, image: Tensor, dense: Tensor, sparse: Tensor) -> Tensor:
        masks, _ = super().forward(
            image_embeddings=embeddings[image],
            image_positional_embeddings=positions.expand(len(image), -1, -1, -1),
            sparse_prompt_embeddings=sparse.unsqueeze(1),
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return masks[:, 0, 0]


def use_target_decoder(sam: SamModel) -> None:
    """Give `sam` this decoder, with the parameters that it has."""
    with torch.device("meta"):
        decoder = TargetDecoder(sam.mask_decoder.config)
    decoder.load_state_dict(sam.mask_decoder.state_dict(), assign=True)
    sam.mask_decoder = decoder
