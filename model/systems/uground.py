"""UGround: a policy picks a layer per `[SEG]` (SSC), its similarity map prompts SAM as a mask (MasP).

Tokens: `[SEG]` and `[REJ]`. States: the layer that the policy chose. Prompts: one text token and the similarity map.
Own losses: Gaussian BCE and Dice on the map; the policy's, with the map losses as negative rewards.

Legend: S targets, K layers scored for each of them, P image tokens, L+1 hidden states, m targets of one image.
"""

import torch
from torch.utils.checkpoint import checkpoint

from groundscore.errors import UserError
from model.batched_losses import losses_of_maps, map_targets
from model.decoders.sam import mask_prompt_side
from model.policy import LayerPolicy
from model.similarity import (
    map_on_cropped_image,
    map_on_padded_image,
    mask_prompt,
    similarity_scores,
)
from model.systems.base import OwnLosses, Prompt, System


class UGround(System):
    uses_policy = True

    def modules(self):
        config = self.config
        try:
            policy = LayerPolicy(
                config.num_layers,
                config.text_config.hidden_size,
                gate=config.gate,
                estimator=config.estimator,
                samples=config.policy_samples,
                reward=config.reward,
                baseline=config.baseline_type,
                beta=config.baseline_beta,
                critic_width=config.critic_hidden_dim,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        return {"policy": policy}

    def default_layer(self):
        return "last" if self.config.eval_legacy or self.config.mode == 1 else "greedy"

    def prompt(self, model, states, batch, layer, layer_choice=None):
        sample = None
        if isinstance(layer, int):
            layers = layer
        elif self.config.mode == 1 or layer == "last":
            layers = states.last_layer
        else:
            # A mixture has many layers; the likeliest stands for them where there can be one only.
            sample = model.policy.choose(states.seg[:, 0], "greedy" if layer == "mixture" else layer, layer_choice)
            layers = sample.layers
        seg, tokens = states.chosen(layers)
        text = model.text_hidden_fcs(seg if self.config.mode == 3 else states.last[:, 0]).unsqueeze(1)
        if sample is not None and layer == "mixture":
            scores = self._mixed_scores(states, sample.log_probabilities.exp())
        else:
            scores = similarity_scores(seg, tokens)
        maps = self._maps(scores, states, batch)
        dense = None
        if self.config.mask_prompt:
            dense = torch.cat([mask_prompt(each, mask_prompt_side(model.sam)) for each in maps])
        layers = layers if sample else torch.full_like(states.image, layers)
        return Prompt(text=text, sparse=text, dense=dense, layers=layers, maps=maps, policy=sample)

    def own_losses(self, model, prompt, states, batch, present):
        config = self.config
        targets = map_targets(batch.masks, batch.ignore)
        bce, dice = losses_of_maps(prompt.maps, targets)
        policy, statistics = None, {}
        if prompt.policy is not None:
            candidates = model.policy.candidates(prompt.policy)
            rewards = -(bce + dice).detach().unsqueeze(1)
            if model.policy.estimator == "expected":
                rewards = self._rewards(states, batch, targets, range(states.last_layer + 1))
            elif candidates.shape[1] > 1:  # the first is the chosen one
                others = self._rewards(states, batch, targets, candidates[:, 1:].unbind(1))
                rewards = torch.cat([rewards, others], dim=1)
            policy, statistics = model.policy.loss(
                prompt.policy, candidates, rewards * float(present), model.loss_weights.entropy, present
            )
        if not config.map_loss:
            bce, dice = bce.detach() * 0.0, dice.detach() * 0.0
        elif config.map_loss_layers == "all":
            bce, dice = self._mean_map_losses(states, batch, targets)
        return OwnLosses(mask_bce=bce, mask_dice=dice, policy=policy, statistics=statistics)

    @torch.no_grad()
    def _rewards(self, states, batch, targets, layers):
        """Rewards [S, K] of `layers`, K numbers or int64 [S]: minus the losses of their maps, one after the other."""
        columns = [self._scores(states, one) for one in layers]
        losses = [losses_of_maps(self._maps(scores, states, batch), targets).sum(dim=0) for scores in columns]
        return -torch.stack(losses, dim=1)

    def _mean_map_losses(self, states, batch, targets):
        """The map losses [S] as means over all layers; maps are made again for the gradient, not kept."""

        def at(layer):
            maps = self._maps(self._scores(states, layer), states, batch)
            return losses_of_maps(maps, targets)

        number = states.last_layer + 1
        total = sum(checkpoint(at, layer, use_reentrant=False, preserve_rng_state=False) for layer in range(number))
        return (total / number).unbind(0)

    def _scores(self, states, layers):
        """Normalised similarities float32 [S, P] of every target at its own layer, int64 [S], or at one for all."""
        return similarity_scores(*states.chosen(layers))

    def _mixed_scores(self, states, probabilities):
        """[S, P]: the normalised similarities of all layers, weighed by their probabilities [S, L+1]."""
        weights = enumerate(probabilities.unbind(1))
        return sum(weight.unsqueeze(1) * self._scores(states, layer) for layer, weight in weights)

    def _maps(self, scores, states, batch):
        """Similarity maps of scores [S, P], per group of targets [m, H, W]."""
        cropped = self.config.map_geometry == "fit" and not self.config.pad_train_clip_images
        place = map_on_cropped_image if cropped else map_on_padded_image
        return [
            place(group, batch.original_sizes[image])
            for group, image in zip(scores.split(states.counts), states.groups, strict=True)
        ]
