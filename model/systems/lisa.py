"""LISA (Lai et al., CVPR 2024): the last hidden state of `[SEG]` is the only prompt.

Tokens: one `[SEG]` per target. States: the last. Prompt: one text token. Own losses: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.systems.base import Prompt, System

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from dataloaders.batching.batch import Batch
    from model.states import TargetStates


class LISA(System):
    """`[SEG]`'s last state, projected, prompts SAM."""

    def prompt(
        self,
        model: PreTrainedModel,
        states: TargetStates,
        batch: Batch,
        layer: str | int,
        layer_choice: Tensor | None = None,
    ) -> Prompt:
        """Returns one text token per target; `layer` does not matter."""
        text = model.text_hidden_fcs(states.last)  # [S, 1, C]
        return Prompt(text=text, sparse=text, layers=states.at_every_target(states.last_layer))
