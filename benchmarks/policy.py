"""The policy: bias and variance of its gradient estimators, and how fast its gate learns.

    python -m benchmarks.policy                        the shipped miniature base, 48 images, 1000 draws
    python -m benchmarks.policy --version runs/quickstart
    python -m benchmarks.policy --gate --seeds 5       noise and a true advantage, at any width; reads nothing

The map loss of every layer is taken once for each target; layers are then drawn again and again from the policy, and
each estimator's gradient of the gate is compared with the exact one, the expectation over all layers.
"Bias" is the distance of the mean of all draws from the exact gradient, "noise of the mean" what chance alone would
make of it; "deviation" is that of a single draw. All are shares of the exact gradient's length. Running mean and
critic are set to the mean reward, where training leads them.

With --gate: the share of the uniform entropy that is left after 100 steps of rewards that are pure noise of
0.2, and the probabilities that a layer with a true advantage of 0.1 under that noise has after 300, seed by seed.
"reference" is the gate on raw states at lr 3e-4, the recipes'.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import benchmark_parser
from groundscore.errors import UserError, run_main

if TYPE_CHECKING:
    from torch import Tensor

    from model.policy import LayerPolicy


@dataclass(frozen=True)
class Estimator:
    """Settings of a `LayerPolicy`."""

    estimator: str
    baseline: str = "none"
    reward: str = "target"
    samples: int = 4

    @property
    def name(self) -> str:
        """Its name in the table."""
        if self.estimator == "leave_one_out":
            return f"leave_one_out, {self.samples} layers"
        if self.estimator == "expected":
            return "expected, all layers"
        return f"sample, baseline {self.baseline}, reward per {self.reward}"


ESTIMATORS = (
    *(Estimator("sample", baseline, "batch") for baseline in ("none", "ema", "critic")),
    *(Estimator("sample", baseline) for baseline in ("none", "ema", "critic")),
    *(Estimator("leave_one_out", samples=samples) for samples in (2, 4, 8)),
    Estimator("expected"),
)


def main(argv: Sequence[str]) -> None:
    """Prints a line per estimator, or with --gate per case."""
    parser = benchmark_parser("policy", __doc__)
    parser.add_argument("--version", type=Path, help="a run or a merged checkpoint (default: the base of --base)")
    parser.add_argument("--base", type=Path, default=Path("miniature/weights"), help="base models (miniature/weights)")
    parser.add_argument("--dataset_dir", type=Path, default=Path("dataset/miniature"))
    parser.add_argument("--val_dataset", default="refcoco|unc|val", metavar="SPLIT", help="whose images are read")
    parser.add_argument("--images", type=int, default=48, metavar="N")
    parser.add_argument("--draws", type=int, default=1000, metavar="N")
    group = parser.add_argument_group("how fast the gate learns")
    group.add_argument("--gate", action="store_true", help="measure this instead; needs no model and no data")
    group.add_argument("--layers", type=int, nargs="+", default=[33, 41], metavar="N", help="hidden states (33 41)")
    group.add_argument("--widths", type=int, nargs="+", default=[128, 1024, 4096], metavar="N")
    group.add_argument("--sizes", type=float, nargs="+", default=[0.02, 0.2, 2.0], metavar="X", help="of the states")
    group.add_argument("--seeds", type=int, default=5, metavar="N", help="of the advantage (5)")
    flags = parser.parse_args(argv)
    if flags.gate:
        return print_gate(flags)
    for name in ("base", "dataset_dir"):
        if not getattr(flags, name).is_dir():
            raise UserError(f"--{name} {getattr(flags, name)}: no such directory")
    print(report(flags))


def print_gate(flags: argparse.Namespace) -> None:
    """One line for each case as it is done; the reference's form is shown for the noise alone."""
    reference_lr = 3e-4
    print("| layers | width | size of states | estimator | noise: entropy left | reference | advantage: probability |")
    print("|---" * 7 + "|")
    for layers, width, size in itertools.product(flags.layers, flags.widths, flags.sizes):
        for estimator in ("sample", "leave_one_out", "expected"):
            case = GateCase(layers=layers, width=width, size=size, estimator=estimator)
            reference = entropy_after_noise(replace(case, gate="reference", lr=reference_lr))
            found = " ".join(f"{probability:.2f}" for probability in found_probabilities(case, seeds=flags.seeds))
            left = entropy_after_noise(case)
            print(f"| {layers} | {width} | {size} | {estimator} | {left:.3f} | {reference:.3f} | {found} |", flush=True)


def report(flags: argparse.Namespace) -> str:
    """The table, one line for each estimator."""
    import torch

    from checkpoints.processing import GroundingProcessor
    from evaluation.layer_analysis import layer_rewards
    from groundscore.splits import evaluation_set
    from inference.model_flags import load_flagged_model

    options = argparse.Namespace(
        version=str(flags.version or flags.base / "llava"),
        vision_tower=None if flags.version else str(flags.base / "clip"),
        vision_pretrained=None if flags.version else str(flags.base / "sam_miniature.pth"),
        model_key=None if flags.version else "UGround",
        weight=None,
        lora_alpha=16,
        load_in_8bit=False,
        load_in_4bit=False,
        precision="fp32",
        device="cpu",
        layer=None,
        verify=False,
        debug=flags.debug,
    )
    model, processor = load_flagged_model(options)
    if not flags.version:  # as the quickstart trains the base
        model.config.pad_train_clip_images = True
        processor = GroundingProcessor(model.config, processor.tokenizer)
    items = evaluation_set(flags.val_dataset, flags.dataset_dir)
    states, rewards = layer_rewards(model, processor, items, limit=flags.images)
    best = rewards.argmax(dim=1).bincount(minlength=rewards.shape[1])
    gate = model.policy.gate.detach()
    lines = [
        f"{len(rewards)} targets, {rewards.shape[1]} layers, {flags.draws} draws",
        f"mean reward of each layer: {' '.join(f'{value:.3f}' for value in rewards.mean(dim=0))}",
        f"targets that it is best for: {' '.join(map(str, best.tolist()))}",
        "",
        "| estimator | maps per target | bias | noise of the mean | deviation |",
        "|---|---|---|---|---|",
    ]
    torch.manual_seed(0)
    for estimator in ESTIMATORS:
        lines.append(_line(estimator, gate, states, rewards, flags.draws))
    return "\n".join(lines)


def _line(estimator: Estimator, gate: Tensor, states: Tensor, rewards: Tensor, draws: int) -> str:
    """One estimator's line. gate [L+1, D]; states [S, L+1, D]; rewards [S, L+1]."""
    import torch

    policy = build_policy(estimator, gate, states, rewards)
    probabilities = policy(states).exp()
    exact = torch.autograd.grad(-(probabilities * rewards).sum(dim=1).mean(), policy.gate)[0]
    gradients = torch.stack([_draw(policy, states, rewards) for _ in range(draws)])
    length = exact.norm()
    off = (gradients - exact).flatten(1).norm(dim=1).square().mean().sqrt() / length
    bias = (gradients.mean(dim=0) - exact).norm() / length
    maps = {"sample": 1, "leave_one_out": estimator.samples, "expected": rewards.shape[1]}[estimator.estimator]
    return f"| {estimator.name} | {maps} | {bias:.3f} | {off / draws**0.5:.3f} | {off:.2f} |"


def build_policy(estimator: Estimator, gate: Tensor, states: Tensor, rewards: Tensor) -> LayerPolicy:
    """Returns a policy with this gate and its baseline at the mean reward, where training leads it."""
    import torch

    from model.policy import LayerPolicy

    policy = LayerPolicy(
        *gate.shape,
        estimator=estimator.estimator,
        samples=estimator.samples,
        reward=estimator.reward,
        baseline=estimator.baseline,
        beta=1.0,
        critic_width=8,
    )
    with torch.no_grad():
        policy.gate.copy_(gate)
        total = (policy(states).exp() * rewards).sum(dim=1).mean()
        if estimator.reward == "batch":
            total = total * len(rewards)
        policy.reward_mean.copy_(total)
        if estimator.baseline == "critic":
            policy.critic[-1].weight.zero_()
            policy.critic[-1].bias.copy_(total)
    return policy.eval()


def _draw(policy: LayerPolicy, states: Tensor, rewards: Tensor) -> Tensor:
    """The gate's gradient for one draw of layers."""
    import torch

    sample = policy.choose(states, "sample")
    candidates = policy.candidates(sample)
    loss, _ = policy.loss(sample, candidates, rewards.gather(1, candidates), 0.0)
    return torch.autograd.grad(loss, policy.gate)[0]


# --- how fast the gate learns -----------------------------------------------------------------------------------------
#
# A step of the recipes has 10 micro-batches of 2 images with some 3 targets. Half of the variance of a target's states
# is the layer's own, the same for all targets, which is the worst case: all targets then move a logit in one direction.
# Rewards are noise, independent for every target and layer; where there is an advantage, one layer has it.

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
    lr: float | None = None  # None: training's


@dataclass(frozen=True)
class Learned:
    """The entropy as a share of the uniform one; the mean probability of the layer with the advantage."""

    entropy: float
    probability: float


def learn(case: GateCase, *, steps: int, advantage: float, seed: int) -> Learned:
    """Train the gate alone with AdamW and the recipes' warm-up."""
    import torch

    from model.policy import LayerPolicy
    from training.engine import GATE_EPSILON, POLICY_LR

    torch.manual_seed(seed)
    better = 7 * seed % case.layers
    states = torch.randn(case.layers, case.width) + torch.randn(KNOWN_TARGETS, case.layers, case.width)
    states *= case.size / 2**0.5
    policy = LayerPolicy(
        case.layers, case.width, gate=case.gate, estimator=case.estimator, samples=4, reward="target", baseline="ema",
        beta=1.0, critic_width=1,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(policy.parameters(), betas=(0.9, 0.95), weight_decay=0.0, eps=GATE_EPSILON)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = (POLICY_LR if case.lr is None else case.lr) * min(1.0, step / WARM_UP)
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


if __name__ == "__main__":
    run_main(main)
