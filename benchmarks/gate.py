"""How fast the policy's gate learns, whatever the LLM's width and the size of its states: noise and a true advantage.

A step of the recipes has 10 micro-batches of 2 images with some 3 targets. Half of the variance of a target's states is
the layer's own, the same for all targets, which is the worst case: all targets then move a logit in one direction.
Rewards are noise, independent for every target and layer; where there is an advantage, one layer has it.

Legend: S targets of a step, L+1 hidden states, D width.
"""

import math
from dataclasses import dataclass

import torch

from model.policy import LayerPolicy
from training.engine import GATE_EPSILON, POLICY_LR

TARGETS = 10 * 2 * 3
KNOWN_TARGETS = 120  # whose states are drawn once; every step is of some of them
MEAN_REWARD, NOISE, ADVANTAGE = -1.5, 0.2, 0.1
NOISE_STEPS, ADVANTAGE_STEPS, WARM_UP = 100, 300, 100


@dataclass(frozen=True)
class GateCase:
    """A policy and what it sees: L+1 layers of D entries of this size (their standard deviation)."""

    layers: int = 33
    width: int = 4096
    size: float = 1.0
    gate: str = "normalized"
    estimator: str = "leave_one_out"
    lr: float = POLICY_LR


@dataclass(frozen=True)
class Learned:
    """The entropy as a share of the uniform one; the mean probability of the layer with the advantage."""

    entropy: float
    probability: float


def learn(case: GateCase, *, steps: int, advantage: float, seed: int) -> Learned:
    """Train the gate alone with AdamW and the recipes' warm-up."""
    torch.manual_seed(seed)
    better = 7 * seed % case.layers
    states = torch.randn(case.layers, case.width) + torch.randn(KNOWN_TARGETS, case.layers, case.width)
    states *= case.size / 2**0.5
    policy = LayerPolicy(
        case.layers, case.width, gate=case.gate, estimator=case.estimator, samples=4, reward="target", baseline="ema",
        beta=1.0, critic_width=1,
    )  # fmt: skip
    optimizer = torch.optim.AdamW([policy.gate], betas=(0.9, 0.95), weight_decay=0.0, eps=GATE_EPSILON)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = case.lr * min(1.0, step / WARM_UP)
        chosen = torch.randint(KNOWN_TARGETS, (TARGETS,))
        rewards = MEAN_REWARD + NOISE * torch.randn(TARGETS, case.layers)
        rewards[:, better] += advantage
        sample = policy.choose(states[chosen], "sample")
        candidates = policy.candidates(sample)
        policy.loss(sample, candidates, rewards.gather(1, candidates), entropy_weight=0.0)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        sample = policy.choose(states, "greedy")
    return Learned(
        entropy=sample.entropy.mean().item() / math.log(case.layers),
        probability=sample.log_probabilities.exp().mean(dim=0)[better].item(),
    )


def entropy_after_noise(case: GateCase, *, seed: int = 0) -> float:
    """The share of the uniform entropy that is left after 100 steps of noise; what was found was not there."""
    return learn(case, steps=NOISE_STEPS, advantage=0.0, seed=seed).entropy


def found_probabilities(case: GateCase, *, seeds: int) -> list[float]:
    """For each seed the mean probability, after 300 steps, of the layer that is better."""
    return [learn(case, steps=ADVANTAGE_STEPS, advantage=ADVANTAGE, seed=seed).probability for seed in range(seeds)]
