"""The policy's gate learns at one speed, whatever the LLM's width and the size of its states."""

import pytest
import torch

from benchmarks.policy import GateCase, entropy_after_noise, found_probabilities
from groundscore.errors import UserError
from model.policy import LayerPolicy
from tests.tiny import tiny_model
from training.engine import build_optimizer, gate_learning_rate

LAYERS = 7
SIZES = (0.02, 0.2, 2.0)


def policy_of(width: int, gate: str) -> LayerPolicy:
    return LayerPolicy(
        LAYERS, width, gate=gate, estimator="expected", samples=4, reward="target", baseline="none", beta=1.0,
        critic_width=1,
    )  # fmt: skip


def moved_logits(width: int, size: float, gate: str, lr: float) -> torch.Tensor:
    """What one step of Adam makes of the logits of targets whose states have much in common, [S, L+1]."""
    torch.manual_seed(0)
    states = size * (torch.randn(LAYERS, width) + torch.randn(16, LAYERS, width) / 4)
    policy = policy_of(width, gate)
    optimizer = torch.optim.AdamW([policy.gate], lr=lr, weight_decay=0.0, eps=1e-15)
    sample = policy.choose(states, "sample")
    policy.loss(sample, policy.candidates(sample), torch.randn(16, LAYERS), 0.0)[0].backward()
    optimizer.step()
    logits = policy(states).detach()
    return logits - logits.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("width", [128, 1024, 4096])
@pytest.mark.parametrize("size", SIZES)
def test_a_step_moves_a_logit_by_the_learning_rate(width, size):
    moved = moved_logits(width, size, "normalized", lr=0.1)
    assert 0.05 < moved.abs().max() < 0.2  # ± 0.1, and the mean of the others taken off


def test_the_reference_s_logits_move_faster_the_wider_and_larger_the_states_are():
    slow = moved_logits(128, 0.2, "reference", lr=3e-4).abs().max()
    assert moved_logits(4096, 0.2, "reference", lr=3e-4).abs().max() > 20 * slow
    assert moved_logits(128, 2.0, "reference", lr=3e-4).abs().max() > 5 * slow


def test_the_size_of_the_states_does_not_matter():
    torch.manual_seed(0)
    policy, states = policy_of(64, "normalized"), torch.randn(5, LAYERS, 64)
    policy.gate.data.normal_()
    for size in SIZES:
        torch.testing.assert_close(policy(size * states), policy(states))
    assert torch.isfinite(policy(torch.zeros_like(states))).all()


@pytest.mark.parametrize(
    ("width", "size", "estimator"),
    [(128, 2.0, "sample"), (128, 0.02, "leave_one_out"), (128, 1.0, "expected"), (1024, 2.0, "sample")],
)
def test_noise_leaves_the_choice_open(width, size, estimator):
    assert entropy_after_noise(GateCase(width=width, size=size, estimator=estimator)) > 0.95


def test_a_better_layer_is_found_with_every_seed():
    assert min(found_probabilities(GateCase(width=128), seeds=5)) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["sample", "leave_one_out", "expected"])
@pytest.mark.parametrize("layers", [33, 41])
def test_both_hold_at_the_width_of_7b(estimator, layers):
    case = GateCase(layers=layers, width=4096, estimator=estimator)
    assert entropy_after_noise(case) > 0.9
    assert min(found_probabilities(case, seeds=5)) > 0.8


def test_the_gate_has_a_learning_rate_of_its_own():
    model, _ = tiny_model(gate="normalized")
    optimizer = build_optimizer(model, lr=1e-3, betas=(0.9, 0.95), policy_lr=gate_learning_rate(model, None))
    rest, gate = optimizer.param_groups
    assert gate["params"] == [model.policy.gate] and gate["lr"] == 0.1 and rest["lr"] == 1e-3
    names = {id(parameter) for parameter in rest["params"]}
    assert len(names) == sum(parameter.requires_grad for parameter in model.parameters()) - 1


def test_the_reference_s_gate_learns_as_all_else_unless_told():
    model, _ = tiny_model(gate="reference")
    assert gate_learning_rate(model, None) is None and gate_learning_rate(model, 0.01) == 0.01
    assert len(build_optimizer(model, lr=1e-3, betas=(0.9, 0.95)).param_groups) == 1


@pytest.mark.parametrize(("system", "settings"), [("LISA", {}), ("UGround", {"mode": 1})])
def test_a_learning_rate_without_a_policy_is_refused(system, settings):
    model, _ = tiny_model(system, **settings)
    assert gate_learning_rate(model, None) is None
    with pytest.raises(UserError, match="--policy_lr 0.1: .* trains no policy"):
        gate_learning_rate(model, 0.1)
