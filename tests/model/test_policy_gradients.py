"""Every estimator's gradient, averaged over all draws with their probabilities, is the gradient of the mean reward.

The cases are small enough to go through every outcome of chance: 2 targets, 3 layers, at 1 and at 2 processes.
"""

import itertools
import os

import pytest
import torch
from torch import multiprocessing

from model.policy import LayerPolicy, PolicySample

TARGETS, LAYERS, WIDTH = 2, 3, 4
MEAN_BEFORE = -0.7  # the running mean of the reward that every case starts from
CASES = [
    ("sample", "ema", "target"),
    ("sample", "critic", "target"),
    ("sample", "none", "target"),
    ("sample", "ema", "batch"),
    ("sample", "critic", "batch"),
    ("sample", "none", "batch"),
    ("leave_one_out", "none", "target"),
    ("expected", "none", "target"),
]


def case(estimator: str, baseline: str, reward: str, rank: int = 0) -> tuple[LayerPolicy, torch.Tensor, torch.Tensor]:
    """A policy away from uniform, the same on all processes, with states [S, L, D] and rewards [S, L] of one."""
    torch.manual_seed(0)
    policy = LayerPolicy(
        LAYERS, WIDTH, estimator=estimator, samples=2, reward=reward, baseline=baseline, beta=1.0, critic_width=8
    )
    policy.gate.data = torch.randn(LAYERS, WIDTH) / 2
    generator = torch.Generator().manual_seed(10 + rank)
    states = torch.randn(TARGETS, LAYERS, WIDTH, generator=generator)
    rewards = -torch.rand(TARGETS, LAYERS, generator=generator) * 2
    return policy, states, rewards


def outcomes(policy: LayerPolicy):
    """All that may be drawn for one process: candidates int64 [S, K]."""
    if policy.estimator == "expected":
        return [torch.arange(LAYERS).expand(TARGETS, -1)]
    drawn = 1 if policy.estimator == "sample" else policy.samples
    return [
        torch.tensor(layers).view(TARGETS, drawn) for layers in itertools.product(range(LAYERS), repeat=TARGETS * drawn)
    ]


def gate_gradient(policy: LayerPolicy, states, rewards, candidates) -> torch.Tensor:
    """The gate's gradient for one outcome, from the same running mean every time."""
    policy.reward_mean.fill_(MEAN_BEFORE)
    log_probabilities = policy(states)
    layers = candidates[:, 0]
    sample = PolicySample(layers, log_probabilities.gather(1, layers.unsqueeze(1)).squeeze(1), log_probabilities)
    loss, _ = policy.loss(sample, candidates, rewards.gather(1, candidates), 0.0)
    return torch.autograd.grad(loss, policy.gate)[0]


def probability(policy: LayerPolicy, states, candidates) -> float:
    """How likely these candidates are to be drawn; `expected` has no choice."""
    if policy.estimator == "expected":
        return 1.0
    return policy(states).gather(1, candidates).sum().exp().item()


def exact_gradient(policy: LayerPolicy, states, rewards) -> torch.Tensor:
    """Of minus the mean over targets of Σ π(l) r(l)."""
    expected = (policy(states).exp() * rewards).sum(dim=1).mean()
    return torch.autograd.grad(-expected, policy.gate)[0]


def shrinkage(baseline: str, reward: str, processes: int) -> float:
    """The reference's running mean has taken in the reward that it is compared with; ours has not."""
    return 1 - 0.1 / processes if (baseline, reward) == ("ema", "batch") else 1.0


@pytest.mark.parametrize("estimator, baseline, reward", CASES)
def test_the_gradient_over_all_draws_is_that_of_the_mean_reward(estimator, baseline, reward):
    policy, states, rewards = case(estimator, baseline, reward)
    average = sum(
        probability(policy, states, drawn) * gate_gradient(policy, states, rewards, drawn) for drawn in outcomes(policy)
    )
    expected = exact_gradient(policy, states, rewards) * shrinkage(baseline, reward, 1)
    torch.testing.assert_close(average, expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 1e-2


@pytest.mark.parametrize("estimator, baseline, reward", CASES)
def test_the_mean_of_many_draws_is_within_its_error_of_the_exact_gradient(estimator, baseline, reward):
    policy, states, rewards = case(estimator, baseline, reward)
    torch.manual_seed(1)
    gradients = []
    for _ in range(400):
        candidates = policy.candidates(policy.choose(states, "sample"))
        gradients.append(gate_gradient(policy, states, rewards, candidates).flatten())
    gradients = torch.stack(gradients)
    exact = exact_gradient(policy, states, rewards).flatten() * shrinkage(baseline, reward, 1)
    error = gradients.std(dim=0) / len(gradients) ** 0.5
    assert ((gradients.mean(dim=0) - exact).abs() <= 4 * error + 1e-6).all()


def test_variance_falls_from_no_baseline_over_leave_one_out_to_none():
    variances = {}
    for estimator, baseline in (("sample", "none"), ("sample", "ema"), ("leave_one_out", "none"), ("expected", "none")):
        policy, states, rewards = case(estimator, baseline, "target")
        exact = exact_gradient(policy, states, rewards)
        variances[estimator, baseline] = sum(
            probability(policy, states, drawn)
            * (gate_gradient(policy, states, rewards, drawn) - exact).square().sum().item()
            for drawn in outcomes(policy)
        )
    none, ema, several, every = variances.values()
    assert every < 1e-9 < several < none and ema < none


def test_entropy_bonus_pulls_towards_the_uniform_choice():
    policy, states, rewards = case("expected", "none", "target")
    sample = policy.choose(states, "sample")
    loss, _ = policy.loss(sample, policy.candidates(sample), torch.zeros_like(rewards), 0.5)
    (gradient,) = torch.autograd.grad(loss, policy.gate)
    with torch.no_grad():
        policy.gate -= 0.1 * gradient
    assert policy.choose(states, "sample").entropy.mean() > sample.entropy.mean()


def test_a_stand_in_for_no_target_leaves_the_running_mean():
    policy, states, rewards = case("sample", "ema", "target")
    sample = policy.choose(states, "sample")
    policy.reward_mean.fill_(MEAN_BEFORE)
    policy.loss(sample, policy.candidates(sample), rewards[:, :1] * 0, 0.0, present=False)
    assert policy.reward_mean.item() == pytest.approx(MEAN_BEFORE)


def test_the_first_running_mean_is_that_of_the_first_step():
    policy, states, rewards = case("sample", "ema", "target")
    sample = policy.choose(states, "sample")
    _, statistics = policy.loss(sample, policy.candidates(sample), rewards[:, :1], 0.0)
    assert policy.reward_mean.item() == pytest.approx(rewards[:, 0].mean().item())
    assert statistics["policy/baseline"].item() == pytest.approx(rewards[:, 0].mean().item())


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"estimator": "all"}, "estimator"),
        ({"estimator": "leave_one_out", "samples": 1}, "policy_samples"),
        ({"estimator": "expected", "reward": "batch"}, "reward"),
    ],
)
def test_impossible_choices_are_refused(choice, message):
    settings = {"estimator": "sample", "samples": 2, "reward": "target", "baseline": "ema", "beta": 1.0}
    with pytest.raises(ValueError, match=message):
        LayerPolicy(LAYERS, WIDTH, critic_width=8, **settings | choice)


def test_two_processes_average_to_the_gradient_over_both(tmp_path):
    multiprocessing.spawn(_check_two_processes, (str(tmp_path / "store"),), nprocs=2)


def _check_two_processes(rank: int, store: str) -> None:
    """What two processes' mean gradient is over all joint outcomes, for every case; raises where it is wrong."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for estimator, baseline, reward in CASES:
        policy = case(estimator, baseline, reward)[0]
        both = [case(estimator, baseline, reward, process)[1:] for process in (0, 1)]
        states, rewards = both[rank]
        average = torch.zeros_like(policy.gate)
        if estimator == "sample":
            # All joint outcomes, in the same order everywhere, since the running mean is shared.
            for joint in itertools.product(outcomes(policy), repeat=2):
                chances = [probability(policy, each[0], one) for each, one in zip(both, joint, strict=True)]
                average += chances[0] * chances[1] * gate_gradient(policy, states, rewards, joint[rank])
        else:
            for drawn in outcomes(policy):
                average += probability(policy, states, drawn) * gate_gradient(policy, states, rewards, drawn)
        total = exact_gradient(policy, states, rewards)
        torch.distributed.all_reduce(average)
        torch.distributed.all_reduce(total)
        torch.testing.assert_close(average, total * shrinkage(baseline, reward, 2), rtol=1e-4, atol=1e-5)
    torch.distributed.destroy_process_group()
