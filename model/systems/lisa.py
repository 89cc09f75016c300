"""LISA (Lai et al., CVPR 2024): the last hidden state of `[SEG]` is the only prompt.

Tokens: `[SEG]`. States: the last. Prompt: one text token. Own losses: none.
"""

import torch

from model.systems.base import Prompt, System


class LISA(System):
    def prompt(self, model, states, batch, layer, layer_choice=None):
        text = model.text_hidden_fcs(states.last)
        layers = torch.full_like(states.image, states.last_layer)
        return Prompt(text=text, sparse=text, dense=None, layers=layers)
