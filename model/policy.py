"""The stochastic skip connection: a policy that picks, for every `[SEG]` token, which hidden state is used.

Legend: S targets, L+1 hidden states, D width. The gate starts at zero, so training starts from a uniform choice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

REWARD_DECAY = 0.9


@dataclass
class PolicySample:
    """What the policy did for each target.

    layers int64 [S]; log_probability [S], of the chosen layer; log_probabilities [S, L+1], of every layer.
    """

    layers: Tensor
    log_probability: Tensor
    log_probabilities: Tensor

    @property
    def entropy(self) -> Tensor:
        """[S], in nats."""
        return -(self.log_probabilities.exp() * self.log_probabilities).sum(dim=1)


class LayerPolicy(nn.Module):
    """π(l) = softmax over l of ⟨h[l], W[l]⟩, with the reward baseline that goes with it.

    baseline: "ema" keeps a running mean of the reward (updated before it is used), "critic" predicts the reward from
    the mean layer probabilities, "none" uses 0.
    """

    def __init__(self, num_layers: int, width: int, *, baseline: str, beta: float, critic_width: int):
        super().__init__()
        if baseline not in ("ema", "critic", "none"):
            raise ValueError(f'baseline_type: "{baseline}" is not one of ema, critic, none')
        self.baseline = baseline
        self.beta = beta
        self.gate = nn.Parameter(torch.zeros(num_layers, width))
        if baseline == "critic":
            self.critic = nn.Sequential(nn.Linear(num_layers, critic_width), nn.ReLU(), nn.Linear(critic_width, 1))
        self.register_buffer("reward_mean", torch.zeros((), dtype=torch.float32))

    def log_probabilities(self, states: Tensor) -> Tensor:
        """float32 [S, L+1] from states [S, L+1, D], which get no gradient."""
        logits = torch.einsum("sld,ld->sl", states.detach(), self.gate.to(states.dtype))
        return logits.float().log_softmax(dim=1)

    def choose(self, states: Tensor, rule: str, layers: Tensor | None = None) -> PolicySample:
        """Pick a layer per target: rule "sample" or "greedy", or the `layers` given (int64 [S])."""
        log_probabilities = self.log_probabilities(states)
        if layers is None:
            if rule == "greedy":
                layers = log_probabilities.argmax(dim=1)
            else:
                layers = torch.multinomial(log_probabilities.detach().exp(), 1).squeeze(1)
        chosen = log_probabilities.gather(1, layers.unsqueeze(1)).squeeze(1)
        return PolicySample(layers, chosen, log_probabilities)

    def loss(
        self, sample: PolicySample, rewards: Tensor, entropy_weight: float, present: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """REINFORCE with baseline, and the statistics of the step.

        rewards: float32 [S], one per target, or [1], one for all; detached. entropy_weight: of the entropy bonus.
        present: False where the targets are stand-ins for none, which must not move the baseline.
        """
        rewards = rewards.detach()
        value_loss = rewards.new_zeros(())
        if self.baseline == "critic":
            mean_probabilities = sample.log_probabilities.exp().mean(dim=0).detach()
            value = self.critic(mean_probabilities.to(self.critic[0].weight.dtype)).float().squeeze()
            value_loss = self.beta * (value - rewards).square().mean()
            value = value.detach()
        elif self.baseline == "ema":
            if self.training:
                self._update_reward_mean(rewards, present)
            value = self.reward_mean.clone()
        else:
            value = rewards.new_zeros(())
        advantage = rewards - value
        entropy = sample.entropy.mean()
        loss = -(advantage * sample.log_probability).mean() + value_loss - entropy_weight * entropy
        chosen = torch.zeros(self.gate.shape[0], device=rewards.device)
        chosen.scatter_add_(0, sample.layers, torch.ones_like(sample.layers, dtype=chosen.dtype))
        statistics = {
            "policy/entropy": entropy.detach(),
            "policy/reward": rewards.mean(),
            "policy/baseline": value,
            "policy/advantage": advantage.mean(),
            "policy/layers": chosen,
        }
        return loss, statistics

    @torch.no_grad()
    def _update_reward_mean(self, rewards: Tensor, present: bool) -> None:
        """Move the running mean by the mean over the targets of all processes; every process must call this."""
        totals = torch.stack([rewards.sum(), rewards.new_tensor(float(rewards.numel()))]) * float(present)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(totals)
        # Without a target anywhere the mean stays; a tensor operation, so that the device is not waited for.
        mean = torch.where(totals[1] > 0, totals[0] / totals[1].clamp(min=1), self.reward_mean.float())
        self.reward_mean.lerp_(mean.to(self.reward_mean.dtype), 1 - REWARD_DECAY)
