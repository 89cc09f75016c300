"""DeepSpeed: optimizer, schedule, precision and ZeRO around the model."""

from typing import Any

import torch
from torch import nn

from checkpoints.runs.resharding import GATE
from groundscore.errors import UserError
from training.zero3 import share_weights
from utils.distributed import World

BUCKET = 200_000_000
KEEP_FLOAT32 = ("inv_freq", "original_inv_freq", "reward_mean")
GRADIENT_CLIPPING = 1.0
POLICY_LR = 0.1  # fast enough to find an advantage, too slow for noise to settle: `benchmarks.policy --gate`
GATE_EPSILON = 1e-15  # of Adam: a normalised state has entries of 1 / width, and its gradients are as small


def engine_config(
    *,
    batch_size: int,
    accumulation: int,
    world_size: int,
    precision: str,
    zero_stage: int,
    lr: float,
    warmup_min_lr: float,
    warmup_num_steps: int,
    total_steps: int,
    overlap: bool,
    policy_lr: float | None = None,
    bucket: int = BUCKET,
) -> dict[str, Any]:
    """DeepSpeed's configuration.

    lr, policy_lr: see `build_optimizer`; both follow the same schedule, and warm-up starts at the same share of them.
    overlap: hide communication behind the backward pass (CUDA). bucket: gradients that are reduced together at most; no
    use above the number of all.
    """
    lowest, highest = [warmup_min_lr], [lr]
    if policy_lr is not None:
        lowest.append(warmup_min_lr * policy_lr / lr)
        highest.append(policy_lr)
    return {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": batch_size * accumulation * world_size,
        "scheduler": {
            "type": "WarmupDecayLR",
            "params": {
                "total_num_steps": total_steps,
                "warmup_min_lr": lowest,
                "warmup_max_lr": highest,
                "warmup_num_steps": max(warmup_num_steps, 1),
                "warmup_type": "linear",
            },
        },
        "fp16": {"enabled": precision == "fp16"},
        "bf16": {"enabled": precision == "bf16"},
        "gradient_clipping": GRADIENT_CLIPPING,
        "zero_optimization": {
            "stage": zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": overlap,
            "reduce_scatter": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": BUCKET,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


class TrainingOptimizer(torch.optim.AdamW):
    """AdamW that leaves everything as it is while `skip` is set: parameters, moments and its count of steps.

    Whatever DeepSpeed does around the optimizer at each ZeRO stage then happens as always.
    """

    skip = False

    def step(self, closure=None):
        return None if self.skip else super().step(closure)


def gate_learning_rate(model: nn.Module, policy_lr: float | None) -> float | None:
    """The learning rate of the policy's gate, from `--policy_lr`; None where it learns as everything else does."""
    if not model.system.uses_policy or model.config.mode == 1:
        if policy_lr is not None:
            what = model.config.system if not model.system.uses_policy else "--mode 1"
            raise UserError(f"--policy_lr {policy_lr}: {what} trains no policy; leave it out")
        return None
    return POLICY_LR if policy_lr is None and model.config.gate == "normalized" else policy_lr


def build_optimizer(
    model: nn.Module, *, lr: float, betas: tuple[float, float], policy_lr: float | None = None, fused: bool = False
) -> TrainingOptimizer:
    """torch's AdamW, fused where asked for: DeepSpeed's own would be compiled at the first start.

    policy_lr: the learning rate of the policy's gate, which then has a group of its own; None if it has `lr` too.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [{"params": list(trained.values())}]
    if policy_lr is not None:
        gate = trained.pop(GATE)
        groups = [{"params": list(trained.values())}, {"params": [gate], "lr": policy_lr, "eps": GATE_EPSILON}]
    return TrainingOptimizer(groups, lr=lr, betas=betas, weight_decay=0.0, fused=fused)


def start_engine(model: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], world: World):
    """The DeepSpeed engine around `model`, which it moves to the device; its small float32 buffers stay float32."""
    import deepspeed

    kept = {
        name: buffer.detach().clone()
        for name, buffer in model.named_buffers()
        if name.split(".")[-1] in KEEP_FLOAT32 and buffer.dtype == torch.float32
    }
    if config["zero_optimization"]["stage"] == 3:
        share_weights(model, config, world.device)
    else:
        model.to(world.device)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False, model_parameters=None
    )
    for name, buffer in kept.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, buffer.to(world.device))
    return engine


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """The LLM's layers are run again in the backward pass instead of keeping what they computed."""
    llm, options = model.language_model, {"use_reentrant": False}
    if hasattr(llm, "activation_checkpointing_enable"):  # the newer name
        llm.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def schedule_value(step: int, *, lr: float, warmup_min_lr: float, warmup_num_steps: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step`, counted from 0, as WarmupDecayLR (linear) computes it."""
    warmup = max(warmup_num_steps, 2)
    if step < warmup:
        return warmup_min_lr + (lr - warmup_min_lr) * step / warmup
    return warmup_min_lr + (lr - warmup_min_lr) * max(0.0, (total_steps - step) / max(1.0, total_steps - warmup))
