"""The policy's gate learns at one speed, whatever the LLM's width and the size of its states."""

import pytest
import torch

from benchmarks.policy import GateCase, entropy_after_noise, found_probabilities
from checkpoints import export_reference, load_model, save_model
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
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, weight_decay=0.0, eps=1e-15)
    sample = policy.choose(states, "sample")
    policy.loss(sample, policy.candidates(sample), torch.randn(16, LAYERS), 0.0)[0].backward()
    optimizer.step()
    logits = policy(states).detach()
    return logits - logits.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("gate", ["normalized", "context"])
@pytest.mark.parametrize("width", [128, 1024, 4096])
@pytest.mark.parametrize("size", SIZES)
def test_a_step_moves_a_logit_by_the_learning_rate(width, size, gate):
    moved = moved_logits(width, size, gate, lr=0.1)
    assert 0.03 < moved.abs().max() < 0.2  # ± 0.1, and the mean of the others taken off


def test_the_reference_s_logits_move_faster_the_wider_and_larger_the_states_are():
    slow = moved_logits(128, 0.2, "reference", lr=3e-4).abs().max()
    assert moved_logits(4096, 0.2, "reference", lr=3e-4).abs().max() > 20 * slow
    assert moved_logits(128, 2.0, "reference", lr=3e-4).abs().max() > 5 * slow


@pytest.mark.parametrize("gate", ["normalized", "context"])
def test_the_size_of_the_states_does_not_matter(gate):
    torch.manual_seed(0)
    policy, states = policy_of(64, gate), torch.randn(5, LAYERS, 64)
    (policy.gate if gate == "normalized" else policy.gate.outward).data.normal_()
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


def test_noise_leaves_the_choice_open_to_a_context_gate():
    assert entropy_after_noise(GateCase(width=128, gate="context", estimator="expected")) > 0.95


def right_choices(gate: str) -> float:
    """How often a trained policy picks the layer that is better, 1 or 2, where the state of layer 0 alone tells."""
    torch.manual_seed(0)
    policy, sign = policy_of(32, gate), torch.randn(32)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.0, eps=1e-15)
    for _ in range(150):
        states, better = torch.randn(64, LAYERS, 32), torch.randint(1, 3, (64,))
        states[:, 0] += (better * 2 - 3).unsqueeze(1) * sign
        sample = policy.choose(states, "greedy")
        rewards = torch.nn.functional.one_hot(better, LAYERS).float()
        policy.loss(sample, policy.candidates(sample), rewards, 0.0)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    return (sample.layers == better).float().mean().item()


def test_a_context_gate_alone_chooses_by_the_states_of_other_layers():
    assert right_choices("normalized") < 0.7
    assert right_choices("context") > 0.9


def test_a_context_gate_starts_uniform_and_returns_from_a_checkpoint(tmp_path):
    fresh = policy_of(32, "context")(torch.randn(4, LAYERS, 32)).exp()
    torch.testing.assert_close(fresh, torch.full((4, LAYERS), 1 / LAYERS))
    model, processor = tiny_model(gate="context", gate_hidden_dim=8)
    save_model(model, processor, tmp_path / "model")
    loaded, _, _ = load_model(tmp_path / "model", precision="fp32")
    states = torch.randn(3, model.config.num_layers, model.config.width)
    torch.testing.assert_close(loaded.policy(states), model.policy(states))
    with pytest.raises(UserError, match='the reference has no gate "context"'):
        export_reference(model, processor, tmp_path / "reference", vision_tower="clip")


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["sample", "leave_one_out", "expected"])
@pytest.mark.parametrize("layers", [33, 41])
def test_both_hold_at_the_width_of_7b(estimator, layers):
    case = GateCase(layers=layers, width=4096, estimator=estimator)
    assert entropy_after_noise(case) > 0.9
    assert min(found_probabilities(case, seeds=5)) > 0.8


def test_all_tensors_of_a_context_gate_are_in_one_group():
    model, _ = tiny_model(gate="context")
    optimizer = build_optimizer(model, lr=1e-3, betas=(0.9, 0.95), policy_lr=gate_learning_rate(model, None))
    _, gate = optimizer.param_groups
    assert {id(each) for each in gate["params"]} == {id(each) for each in model.policy.gate.parameters()}
    assert gate["lr"] == 0.1


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
