"""The stochastic skip connection: a policy that picks, for every `[SEG]` token, which hidden state is used.

Legend: S targets, L+1 hidden states, D width, K layers of each target that are scored, H width of a context gate. The
gate starts at zero, so training starts from a uniform choice.

The policy's loss has the gradient of minus the expected reward, the mean over targets of Σ_l π(l) r(l), or an unbiased
estimate of it. A reward is minus the loss of a layer's similarity map, and that map is one dot product away, so that
more layers than the one that prompts SAM can be scored:

    sample         the chosen layer alone, against a baseline (REINFORCE; the reference's form)
    leave_one_out  K layers drawn for every target, each against the mean of the K - 1 others
    expected       all L+1 layers: the sum itself, without chance
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

REFERENCE_GATE, NORMALIZED_GATE, CONTEXT_GATE = GATES = ("reference", "normalized", "context")
ESTIMATORS = ("sample", "leave_one_out", "expected")
BASELINES = ("ema", "critic", "none")
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


def draw_layers(probabilities: Tensor, number: int) -> Tensor:
    """Layers drawn with replacement, int64 [S, number], from float32 [S, L+1].

    As `torch.multinomial` draws one, but without its check of the probabilities, which waits for the device.
    """
    shape = (len(probabilities), number, probabilities.shape[1])
    return (probabilities.unsqueeze(1) / probabilities.new_empty(shape).exponential_()).argmax(dim=2)


def normalized(states: Tensor) -> Tensor:
    """h / ‖h‖₁ of states [..., D], float32."""
    return F.normalize(states.float(), p=1, dim=-1)


class ContextGate(nn.Module):
    """Logits of the layers from all states of a target together: W tanh(V x + b) / H.

    x [(L+1) · D]: the states h[l] / ‖h[l]‖₁ side by side, divided by L+1, so that ‖x‖₁ = 1. A step of Adam at rate lr
    then moves the input of a hidden unit by at most lr through V and lr through b, and a logit by at most lr through W,
    whatever the width, the depth and the size of the states. V is drawn so large that the hidden units differ from the
    start; W is zero.
    """

    def __init__(self, num_layers: int, width: int, hidden: int):
        super().__init__()
        inputs = num_layers * width
        self.inward = nn.Parameter(torch.randn(hidden, inputs) * inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.outward = nn.Parameter(torch.zeros(num_layers, hidden))

    def forward(self, states: Tensor) -> Tensor:
        """Logits float32 [S, L+1] of states [S, L+1, D]."""
        hidden = F.linear(normalized(states).flatten(1) / states.shape[1], self.inward.float(), self.bias.float())
        return F.linear(hidden.tanh(), self.outward.float()) / len(self.bias)


class LayerPolicy(nn.Module):
    """π(l) = softmax over l of ⟨x[l], W[l]⟩, with what its loss needs.

    gate: what x is. "reference": the hidden state h itself. "normalized": h / ‖h‖₁, for this reason. Adam moves every
        entry of W by about the learning rate, in the direction that the gradient's sign says, so that one step moves a
        logit by up to lr · ‖x‖₁. For h itself that is lr times width times mean size of the entries: 1,200 at lr 3e-4,
        width 4096 and size 1 turn noise into certainty within a few steps. With ‖x‖₁ = 1 it is lr, whatever the width
        and the size of the states: `--policy_lr` is the most that a step changes a logit. "context": the logit of every
        layer depends on the states of all of them, see `ContextGate`, whose width is `gate_width`.
    estimator: see the head of this file; samples: K of leave_one_out, at least 2.
    reward: "target", every target has its own, or "batch", one for all targets of a micro-batch together.
    baseline: of the estimator `sample` alone. "ema" is a running mean of the reward, "critic" predicts the reward from
        the mean layer probabilities, "none" is 0. The running mean is that of the steps before, so that no target is
        compared with itself; with reward "batch" it is updated first, as the reference does, which shrinks the
        gradient by 1 - 0.1 / processes and does not turn it.
    """

    def __init__(
        self,
        num_layers: int,
        width: int,
        *,
        gate: str = REFERENCE_GATE,
        estimator: str,
        samples: int,
        reward: str,
        baseline: str,
        beta: float,
        critic_width: int,
        gate_width: int = 64,
    ):
        super().__init__()
        for name, value, known in (
            ("gate", gate, GATES),
            ("estimator", estimator, ESTIMATORS),
            ("baseline_type", baseline, BASELINES),
            ("reward", reward, ("target", "batch")),
        ):
            if value not in known:
                raise ValueError(f'{name}: "{value}" is not one of {", ".join(known)}')
        if estimator == "leave_one_out" and samples < 2:
            raise ValueError(f"policy_samples: {samples}, but leave_one_out compares at least 2 layers of a target")
        if estimator != "sample" and reward == "batch":
            raise ValueError(
                f'reward: "batch" needs the estimator "sample"; {estimator} scores every target separately'
            )
        self.num_layers = num_layers
        self.form = gate
        self.estimator = estimator
        self.samples = samples
        self.reward = reward
        self.baseline = baseline
        self.beta = beta
        if gate == CONTEXT_GATE:
            self.gate = ContextGate(num_layers, width, gate_width)
        else:
            self.gate = nn.Parameter(torch.zeros(num_layers, width))
        if baseline == "critic":
            self.critic = nn.Sequential(nn.Linear(num_layers, critic_width), nn.ReLU(), nn.Linear(critic_width, 1))
        # 0 also says that no reward was seen yet: rewards are negative.
        self.register_buffer("reward_mean", torch.zeros((), dtype=torch.float32))

    def forward(self, states: Tensor) -> Tensor:
        """The logarithms of π, float32 [S, L+1], from states [S, L+1, D], which get no gradient."""
        states = states.detach()
        if self.form == CONTEXT_GATE:
            logits = self.gate(states)
        elif self.form == NORMALIZED_GATE:
            logits = torch.einsum("sld,ld->sl", normalized(states), self.gate.float())
        else:
            logits = torch.einsum("sld,ld->sl", states, self.gate.to(states.dtype))
        return logits.float().log_softmax(dim=1)

    def choose(self, states: Tensor, rule: str, layers: Tensor | None = None) -> PolicySample:
        """Pick a layer per target: rule "sample" or "greedy", or the `layers` given (int64 [S])."""
        log_probabilities = self(states)
        if layers is None:
            if rule == "greedy":
                layers = log_probabilities.argmax(dim=1)
            else:
                layers = draw_layers(log_probabilities.detach().exp(), 1).squeeze(1)
        chosen = log_probabilities.gather(1, layers.unsqueeze(1)).squeeze(1)
        return PolicySample(layers, chosen, log_probabilities)

    def candidates(self, sample: PolicySample) -> Tensor:
        """The layers whose rewards `loss` asks for, int64 [S, K]; except for `expected` the chosen one comes first."""
        chosen = sample.layers.unsqueeze(1)
        if self.estimator == "sample":
            return chosen
        if self.estimator == "expected":
            return torch.arange(self.num_layers, device=chosen.device).expand(len(chosen), -1)
        probabilities = sample.log_probabilities.detach().exp()
        return torch.cat([chosen, draw_layers(probabilities, self.samples - 1)], dim=1)

    def loss(
        self, sample: PolicySample, candidates: Tensor, rewards: Tensor, entropy_weight: float, present: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the step, and its statistics.

        candidates: of this sample; rewards float32 [S, K]: theirs. entropy_weight: of the entropy bonus.
        present: False where the targets are stand-ins for none, which must not move the baseline.
        """
        rewards = rewards.detach()
        if self.estimator == "sample":
            loss, reward, value = self._reinforce(sample, rewards.squeeze(1), present)
        elif self.estimator == "leave_one_out":
            others = (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
            loss = -((rewards - others) * sample.log_probabilities.gather(1, candidates)).mean()
            reward, value = rewards[:, 0].mean(), others[:, 0].mean()
        else:
            expected = (sample.log_probabilities.exp() * rewards).sum(dim=1)
            loss = -expected.mean()
            reward, value = rewards.gather(1, sample.layers.unsqueeze(1)).mean(), expected.detach().mean()
        entropy = sample.entropy.mean()
        chosen = torch.zeros(self.num_layers, device=rewards.device)
        chosen.scatter_add_(0, sample.layers, torch.ones_like(sample.layers, dtype=chosen.dtype))
        statistics = {
            "policy/entropy": entropy.detach(),
            "policy/reward": reward,
            "policy/baseline": value,
            "policy/advantage": reward - value,
            "policy/layers": chosen,
        }
        return loss - entropy_weight * entropy, statistics

    def _reinforce(self, sample: PolicySample, rewards: Tensor, present: bool) -> tuple[Tensor, Tensor, Tensor]:
        """REINFORCE with baseline for the chosen layers' rewards [S]: loss, mean reward and baseline."""
        if self.reward == "batch":
            rewards = rewards.sum().view(1)
        value_loss, value = rewards.new_zeros(()), rewards.new_zeros(())
        if self.baseline == "critic":
            mean_probabilities = sample.log_probabilities.exp().mean(dim=0).detach()
            predicted = self.critic(mean_probabilities.to(self.critic[0].weight.dtype)).float().squeeze()
            value_loss = self.beta * (predicted - rewards).square().mean()
            value = predicted.detach()
        elif self.baseline == "ema":
            before = self.reward_mean.clone()
            if self.training:
                self._update_reward_mean(rewards, present)
            after = self.reward_mean.clone()
            value = after if self.reward == "batch" else torch.where(before == 0, after, before)
        loss = -((rewards - value) * sample.log_probability).mean() + value_loss
        return loss, rewards.mean(), value

    @torch.no_grad()
    def _update_reward_mean(self, rewards: Tensor, present: bool) -> None:
        """Move the running mean by the mean over the targets of all processes; every process must call this."""
        totals = torch.stack([rewards.sum(), rewards.new_full((), rewards.numel())]) * float(present)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(totals)
        # Without a target anywhere the mean stays; a tensor operation, so that the device is not waited for.
        mean = torch.where(totals[1] > 0, totals[0] / totals[1].clamp(min=1), self.reward_mean.float())
        moved = torch.lerp(self.reward_mean.float(), mean, 1 - REWARD_DECAY)
        if self.reward == "target":
            moved = torch.where(self.reward_mean == 0, mean, moved)
        self.reward_mean.copy_(moved)
