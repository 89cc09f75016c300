"""UGround: a policy picks a layer per `[SEG]` (SSC), its similarity map prompts SAM as a mask (MasP).

Tokens: `[SEG]` and `[REJ]`. States: the layer that the policy chose. Prompts: one text token and the similarity map.
Own losses: Gaussian BCE and Dice on the map; the policy's, with the map losses as negative rewards.

Legend: S targets, K layers scored for each of them, P cells of the largest grid, L+1 hidden states.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from groundscore.errors import UserError
from model.systems.base import LAYER_RULES, OwnLosses, Prompt, System
from utils.settings import FIXED, RANKING, above, at_least, number, option, whole

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from dataloaders.batching.batch import Batch
    from model.losses import MapTargets
    from model.states import TargetStates


@dataclass
class UGroundSettings:
    """The layer policy and the similarity map."""

    mode: int = option(
        3,
        "policy",
        "1 last layer, 2 sampled layer for the map, 3 sampled layer for map and text",
        choices=(1, 2, 3),
        stored=True,
    )
    gate: str = option(
        "reference",
        "policy",
        "what the policy sees of a layer: its normalized state, the normalized states of all layers (context), or the "
        "reference's raw one, with which it learns faster the wider the LLM is",
        default_text="normalized for a policy that starts here, otherwise the checkpoint's",
        choices=("normalized", "context", "reference"),
        stored=True,
    )
    gate_hidden_dim: int = option(
        64, "policy", "width of the context gate's hidden layer", check=whole(1, 2**17), on_resume=FIXED, stored=True
    )
    estimator: str = option(
        "leave_one_out",
        "policy",
        "layers whose maps are scored per target: the sampled one, several, or all",
        default_text="leave_one_out; sample where --baseline_type or --reward batch is given",
        choices=("sample", "leave_one_out", "expected"),
        stored=True,
    )
    policy_samples: int = option(
        4, "policy", "layers per target that leave_one_out scores", check=whole(2, 1000), stored=True
    )
    baseline_type: str = option(
        "ema",
        "policy",
        "baseline of the reward with --estimator sample",
        choices=("ema", "critic", "none"),
        stored=True,
    )
    critic_hidden_dim: int = option(
        128, "policy", "width of the critic's hidden layer", check=whole(1, 2**17), on_resume=FIXED, stored=True
    )
    baseline_beta: float = option(1.0, "policy", "weight of the critic's regression", check=number(0, 1e6), stored=True)
    reward: str = option(
        "target",
        "policy",
        "a reward per target, or the reference's one per micro-batch",
        choices=("target", "batch"),
        stored=True,
    )
    eval_legacy: bool = option(
        False,
        "policy",
        "outside training use the last layer, even if a policy was trained",
        on_resume=RANKING,
        stored=True,
    )
    mask_prompt: bool = option(True, "policy", "prompt SAM with the similarity map", stored=True)
    map_loss: bool = option(True, "policy", "train the similarity map against the mask", stored=True)
    map_loss_layers: str = option(
        "chosen",
        "policy",
        "which maps that loss trains: the chosen layer's, or those of all layers",
        choices=("chosen", "all"),
        stored=True,
    )
    policy_lr: float | None = option(
        None,
        "policy",
        "highest learning rate of the policy's gate: with --gate normalized and context the most by which a step "
        "changes a layer's logit",
        default_text="0.1; with --gate reference that of --lr",
        check=above(0),
    )
    entropy_weight: float = option(
        0.0, "policy", "weight of the policy's entropy bonus at the first step", check=at_least(0)
    )
    entropy_weight_end: float | None = option(
        None,
        "policy",
        "its weight at the last step, changing linearly",
        default_text="as at the first",
        check=at_least(0),
    )


class UGround(System):
    """The state and the similarity map of the layer that a policy chooses prompt SAM."""

    settings = UGroundSettings
    when_new = {"gate": "normalized"}
    uses_policy = True

    @classmethod
    def complete(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Returns the settings with the estimator that a baseline or a reward per micro-batch is about."""
        if given.get("reward") == "batch" and given.get("estimator") not in (None, "sample"):
            raise UserError(
                f"--reward batch needs --estimator sample; {given['estimator']} scores every target separately"
            )
        if "baseline_type" in given or given.get("reward") == "batch":
            return {"estimator": "sample", **given}
        return given

    def default_layer(self) -> str:
        """Returns "greedy", or "last" for a model without a policy or with `eval_legacy`."""
        return "last" if self.config.eval_legacy or self.config.mode == 1 else "greedy"

    def layer_rule(self, layer: str | int | None) -> str | int:
        """Returns the layer rule to use outside training; `UserError` also for a policy's where `mode` trains none."""
        if self.config.mode == 1 and layer in LAYER_RULES and layer != "last":
            raise UserError(f'layer "{layer}": mode 1 trains no policy; use "last" or an index')
        return super().layer_rule(layer)

    def modules(self) -> dict[str, nn.Module]:
        """Builds the layer policy; `UserError` for settings that exclude each other."""
        from model.policy import LayerPolicy

        config = self.config
        try:
            policy = LayerPolicy(
                config.num_layers,
                config.width,
                gate=config.gate,
                estimator=config.estimator,
                samples=config.policy_samples,
                reward=config.reward,
                baseline=config.baseline_type,
                beta=config.baseline_beta,
                critic_width=config.critic_hidden_dim,
                gate_width=config.gate_hidden_dim,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        return {"policy": policy}

    def prompt(
        self,
        model: PreTrainedModel,
        states: TargetStates,
        batch: Batch,
        layer: str | int,
        layer_choice: Tensor | None = None,
    ) -> Prompt:
        """Returns a text token and, with `mask_prompt`, a mask prompt per target."""
        from model.similarity import similarity_scores

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
        text = model.text_hidden_fcs(seg if self.config.mode == 3 else states.last[:, 0]).unsqueeze(1)  # [S, 1, C]
        if sample is not None and layer == "mixture":
            scores = self._mixed_scores(states, sample.log_probabilities.exp())
        else:
            scores = similarity_scores(seg, tokens)
        maps = self.similarity_maps(scores, states)
        dense = model.decoder.mask_prompts(maps) if self.config.mask_prompt else None
        layers = layers if sample else states.at_every_target(layers)
        return Prompt(text=text, sparse=text, layers=layers, dense=dense, maps=maps, policy=sample)

    def own_losses(
        self, model: PreTrainedModel, prompt: Prompt, states: TargetStates, batch: Batch, present: bool
    ) -> OwnLosses:
        """Returns the losses of the similarity maps and, where a policy acted, the policy's loss and statistics."""
        import torch

        from model.losses import losses_of_maps, map_targets

        config = self.config
        targets = map_targets(batch.masks, batch.ignore)
        bce, dice = losses_of_maps(prompt.maps, targets)
        policy, statistics = None, {}
        if prompt.policy is not None:
            candidates = model.policy.candidates(prompt.policy)  # [S, K]
            rewards = -(bce + dice).detach().unsqueeze(1)
            if model.policy.estimator == "expected":
                rewards = self._rewards(states, targets, range(states.last_layer + 1))
            elif candidates.shape[1] > 1:  # the first is the chosen one
                others = self._rewards(states, targets, candidates[:, 1:].unbind(1))
                rewards = torch.cat([rewards, others], dim=1)
            policy, statistics = model.policy.loss(
                prompt.policy, candidates, rewards * float(present), model.loss_weights.entropy, present
            )
        if not config.map_loss:
            bce, dice = bce.detach() * 0.0, dice.detach() * 0.0
        elif config.map_loss_layers == "all":
            bce, dice = self._mean_map_losses(states, targets)
        return OwnLosses(mask_bce=bce, mask_dice=dice, policy=policy, statistics=statistics)

    def _rewards(self, states: TargetStates, targets: list[MapTargets], layers: Iterable[int | Tensor]) -> Tensor:
        """Returns rewards [S, K] of K `layers`, numbers or int64 [S]: minus the losses of their maps, without a graph.

        Every layer is scored once, since the states of a target at its own layer are selected from those of all; the
        maps of one layer are made and let go before those of the next.
        """
        import torch

        from model.losses import losses_of_maps

        with torch.no_grad():
            scores = torch.stack([self._scores(states, layer) for layer in range(states.last_layer + 1)])  # [L+1, S, P]
            targets_in_order, losses = torch.arange(scores.shape[1], device=scores.device), []
            for layer in layers:
                own = scores[layer] if isinstance(layer, int) else scores[layer, targets_in_order]
                losses.append(losses_of_maps(self.similarity_maps(own, states), targets).sum(dim=0))
            return -torch.stack(losses, dim=1)

    def _mean_map_losses(self, states: TargetStates, targets: list[MapTargets]) -> tuple[Tensor, Tensor]:
        """Returns the map losses [S] as means over all layers; maps are recomputed for the gradient, not kept."""
        from torch.utils.checkpoint import checkpoint

        from model.losses import losses_of_maps

        def losses_at(layer: int) -> Tensor:
            maps = self.similarity_maps(self._scores(states, layer), states)
            return losses_of_maps(maps, targets)

        layers = range(states.last_layer + 1)
        total = sum(checkpoint(losses_at, layer, use_reentrant=False, preserve_rng_state=False) for layer in layers)
        return (total / len(layers)).unbind(0)

    def _scores(self, states: TargetStates, layers: Tensor | int) -> Tensor:
        """Returns normalised similarities float32 [S, P] of every target at its own layer int64 [S], or at one."""
        from model.similarity import similarity_scores

        return similarity_scores(*states.chosen(layers))

    def _mixed_scores(self, states: TargetStates, probabilities: Tensor) -> Tensor:
        """Returns the normalised similarities [S, P] of all layers, weighted by their probabilities [S, L+1]."""
        weights = enumerate(probabilities.unbind(1))
        return sum(weight.unsqueeze(1) * self._scores(states, layer) for layer, weight in weights)
