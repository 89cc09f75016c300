"""UGround: a policy picks a layer per `[SEG]` (SSC), its similarity map prompts SAM as a mask (MasP).

Tokens: `[SEG]` and `[REJ]`. States: the layer that the policy chose. Prompts: one text token and the similarity map.
Own losses: Gaussian BCE and Dice on the map; REINFORCE with the map losses as negative reward.
"""

import torch

from ..losses import map_losses
from ..policy import LayerPolicy
from ..sam import mask_prompt_side
from ..similarity import (
    gaussian_target,
    map_on_cropped_image,
    map_on_padded_image,
    mask_prompt,
    similarity_scores,
)
from .base import OwnLosses, Prompt, System


class UGround(System):
    uses_policy = True

    def modules(self):
        config = self.config
        policy = LayerPolicy(
            config.num_layers,
            config.text_config.hidden_size,
            baseline=config.baseline_type,
            beta=config.baseline_beta,
            critic_width=config.critic_hidden_dim,
        )
        return {"policy": policy}

    def default_layer(self):
        return "last" if self.config.eval_legacy or self.config.mode == 1 else "greedy"

    def prompt(self, model, states, batch, layer, layer_choice=None):
        last = torch.full_like(states.image, states.seg.shape[2] - 1)
        sample = None
        if self.config.mode == 1 or layer == "last":
            layers = last
        elif isinstance(layer, int):
            layers = torch.full_like(last, layer)
        else:
            sample = model.policy.choose(states.seg[:, 0], layer, layer_choice)
            layers = sample.layers
        text = model.text_hidden_fcs(states.at(layers if self.config.mode == 3 else last)).unsqueeze(1)
        maps = self._maps(states, layers, batch)
        dense = None
        if self.config.mask_prompt:
            dense = torch.cat([mask_prompt(each, mask_prompt_side(model.sam)) for each in maps])
        return Prompt(text=text, sparse=text, dense=dense, layers=layers, maps=maps, policy=sample)

    def _maps(self, states, layers, batch):
        """The similarity map of every target at its layer, per group [m, H, W]."""
        order, scores = [], []
        for layer in layers.unique().tolist():
            targets = (layers == layer).nonzero().squeeze(1)
            order.append(targets)
            scores.append(similarity_scores(states.seg[targets, 0, layer], states.image_tokens(layer, targets)))
        scores = torch.cat(scores)[torch.cat(order).argsort()] if order else states.seg.new_zeros((0, 1))
        cropped = self.config.map_geometry == "fit" and not self.config.pad_train_clip_images
        place = map_on_cropped_image if cropped else map_on_padded_image
        return [
            place(group, batch.original_sizes[image])
            for group, image in zip(scores.split(states.counts), states.groups, strict=True)
        ]

    def own_losses(self, model, prompt, states, batch, present):
        bce, dice = [], []
        for maps, masks, ignore in zip(prompt.maps, batch.masks, batch.ignore, strict=True):
            if len(maps):
                one_bce, one_dice = map_losses(maps, gaussian_target(masks), ignore)
                bce.append(one_bce)
                dice.append(one_dice)
        bce, dice = torch.cat(bce), torch.cat(dice)
        policy, statistics = None, {}
        if prompt.policy is not None:
            rewards = -(bce + dice).detach() * float(present)
            if self.config.reward == "batch":
                rewards = rewards.sum().view(1)
            policy, statistics = model.policy.loss(prompt.policy, rewards, self.config.entropy_weight, present)
        if not self.config.map_loss:
            bce, dice = bce.detach() * 0.0, dice.detach() * 0.0
        return OwnLosses(mask_bce=bce, mask_dice=dice, policy=policy, statistics=statistics)
