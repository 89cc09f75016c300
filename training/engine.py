"""DeepSpeed: optimizer, schedule, precision and ZeRO around the model.

ZeRO 3, which shares the weights among the ranks, needs more than DeepSpeed's own care. DeepSpeed fetches a module's
weights when it is called, on all ranks together, and frees them afterwards. So all of them must call the same modules
in the same order, whatever their batches hold, and no code may use the weight of a module without calling it. In
training the model keeps to that. Validation does not: there every rank has images of its own, and writes answers of any
length. It gets all weights (`whole_weights`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from checkpoints.runs.resharding import is_gate
from groundscore.errors import UserError
from model.decoders.multiscale import ScaleTransformers
from model.decoders.targets import TargetDecoder
from model.losses import TokenHead
from model.policy import REFERENCE_GATE
from training.config import TrainingConfig
from utils.distributed import World

BUCKET = 200_000_000
# Frequencies and positions of rotary embeddings, SAM 3's under either name that transformers gave them; the policy's.
KEEP_FLOAT32 = ("inv_freq", "original_inv_freq", "position_ids", "rope_embeddings_cos", "rope_embeddings_sin")
KEEP_FLOAT32 += ("reward_mean",)
GRADIENT_CLIPPING = 1.0
POLICY_LR = 0.1  # fast enough to find an advantage, too slow for noise to settle: `benchmarks.policy --gate`
GATE_EPSILON = 1e-15  # of Adam: a normalised state has entries of 1 / width, and its gradients are as small
WHOLE_MODULES = (TargetDecoder, ScaleTransformers)  # use the weights of their children, so fetch all of them


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
    muon: bool = False,
    bucket: int = BUCKET,
) -> dict[str, Any]:
    """DeepSpeed's configuration.

    lr, policy_lr, muon: see `build_optimizer`, whose groups follow the same schedule; warm-up starts at the same share
    of their rates.
    overlap: hide communication behind the backward pass (CUDA). bucket: gradients that are reduced together at most; no
    use above the number of all.
    """
    lowest, highest = [warmup_min_lr], [lr]
    if policy_lr is not None:
        lowest.append(warmup_min_lr * policy_lr / lr)
        highest.append(policy_lr)
    if muon:
        lowest.append(warmup_min_lr)
        highest.append(lr)
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
    """AdamW, and Muon for the groups that say `matrices`, that leaves everything as it is while `skip` is set:
    parameters, moments and its count of steps.

    Whatever DeepSpeed does around the optimizer at each ZeRO stage then happens as always.
    """

    skip = False

    def step(self, closure: Any = None) -> Any:
        """An optimizer step, unless `skip` is set."""
        if self.skip:
            return None
        groups = self.param_groups
        matrices = [group for group in groups if group.get("matrices")]
        if not matrices:
            return super().step(closure)
        self.param_groups = [group for group in groups if not group.get("matrices")]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        parameters = [parameter for group in matrices for parameter in group["params"]]
        muon = torch.optim.Muon(parameters)
        muon.param_groups, muon.state = matrices, self.state  # the schedule and checkpoints know these
        muon.step()
        for parameter in parameters:
            self.state[parameter].setdefault("step", torch.zeros(()))  # AdamW wants it in whatever it loads
        return loss


# Of torch's Muon; its updates are scaled to be as large as AdamW's, so that one learning rate does for both
# (Liu et al. 2025, Muon is Scalable for LLM Training).
MUON = {
    "matrices": True,
    "momentum": 0.95,
    "nesterov": True,
    "ns_coefficients": (3.4445, -4.775, 2.0315),
    "ns_steps": 5,
    "eps": 1e-7,
    "adjust_lr_fn": "match_rms_adamw",
}


def gate_learning_rate(model: nn.Module, policy_lr: float | None) -> float | None:
    """The learning rate of the policy's gate, from `--policy_lr`; None where it is that of everything else."""
    if not model.system.uses_policy or model.config.mode == 1:
        if policy_lr is not None:
            what = model.config.system if not model.system.uses_policy else "--mode 1"
            raise UserError(f"--policy_lr {policy_lr}: {what} trains no policy; leave it out")
        return None
    return POLICY_LR if policy_lr is None and model.config.gate != REFERENCE_GATE else policy_lr


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    policy_lr: float | None = None,
    fused: bool = False,
    muon: bool = False,
) -> TrainingOptimizer:
    """torch's AdamW, fused where asked for, which reads and writes everything once, on a CPU too; DeepSpeed's own would
    be compiled at the first start.

    policy_lr: the learning rate of the policy's gate, which then has a group of its own; None if it has `lr` too.
    muon: the weights of linear layers have a group of their own, which torch's Muon trains; not so the LLM's head.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = []
    if policy_lr is not None:
        gate = [trained.pop(name) for name in list(trained) if is_gate(name)]
        groups.append({"params": gate, "lr": policy_lr, "eps": GATE_EPSILON})
    if muon:
        names = [f"{name}.weight" for name, module in model.named_modules() if _is_inner(module)]
        matrices = [trained.pop(name) for name in names if name in trained]
        groups.append({"params": matrices, "lr": lr, **MUON})
    groups.insert(0, {"params": list(trained.values())})
    return TrainingOptimizer(groups, lr=lr, betas=betas, weight_decay=0.0, fused=fused)


def _is_inner(module: nn.Module) -> bool:
    """Whether it is a linear layer from states to states."""
    return isinstance(module, nn.Linear) and not isinstance(module, TokenHead)


def start_engine(model: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], world: World) -> Any:
    """The DeepSpeed engine around `model`, which it moves to the device; its small float32 buffers stay float32."""
    import deepspeed

    kept = {
        name: buffer.detach().clone()
        for name, buffer in model.named_buffers()
        if name.split(".")[-1] in KEEP_FLOAT32 and buffer.dtype == torch.float32
    }
    if config["zero_optimization"]["stage"] == 3:
        _share_weights(model, config, world.device)
    else:
        model.to(world.device)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False, model_parameters=None
    )
    for name, buffer in kept.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, buffer.to(world.device))
    return engine


def engine_of(model: nn.Module, config: TrainingConfig, world: World, precision: str) -> Any:
    """The DeepSpeed engine around `model` as the flags describe it. precision: fp32, bf16 or fp16."""
    muon = config.optimizer == "muon"
    if muon and precision != "fp32":
        raise UserError(f"--optimizer muon: with {precision} DeepSpeed flattens the matrices; add --precision fp32")
    if muon and not hasattr(torch.optim, "Muon"):
        raise UserError(f"--optimizer muon: torch has it from 2.9 on, and this is {torch.__version__}; update torch")
    if config.gradient_checkpointing:
        model.backbone.checkpoint_gradients()
    on_gpu = world.device.type == "cuda"
    policy_lr = gate_learning_rate(model, config.policy_lr)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return start_engine(
        model,
        build_optimizer(
            model,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            policy_lr=policy_lr,
            fused=True,
            muon=muon,
        ),
        engine_config(
            batch_size=config.batch_size,
            accumulation=config.grad_accumulation_steps,
            world_size=world.size,
            precision=precision,
            zero_stage=config.zero_stage,
            lr=config.lr,
            policy_lr=policy_lr,
            muon=muon,
            warmup_min_lr=config.warmup_min_lr,
            warmup_num_steps=config.warmup_num_steps,
            total_steps=config.total_steps,
            overlap=on_gpu,
            bucket=min(BUCKET, trainable),
        ),
        world,
    )


def _share_weights(model: nn.Module, config: dict[str, Any], device: torch.device) -> None:
    """Move the model to the device, each process its share of the weights: there is never room needed for all of them.

    config: DeepSpeed's. Every process has the same model on the CPU.
    """
    import deepspeed

    deepspeed.utils.set_z3_leaf_modules(model, list(WHOLE_MODULES), raise_if_not_found=False)
    model.to(_precision_of(config))  # which DeepSpeed leaves to us here
    deepspeed.zero.Init(module=model, config_dict_or_path=config)
    model.to(device)  # buffers


def _precision_of(config: dict[str, Any]) -> torch.dtype:
    if config["fp16"]["enabled"]:
        return torch.float16
    return torch.bfloat16 if config["bf16"]["enabled"] else torch.float32


@contextmanager
def whole_weights(engine: Any) -> Iterator[None]:
    """Inside, every process has all weights, and may call any module at any time; nothing changes at other stages.

    All processes enter and leave together. Needs room for the whole model.
    """
    if engine.zero_optimization_stage() < 3:
        yield
        return
    import deepspeed

    offload = engine.optimizer.parameter_offload
    engine.empty_partition_cache()
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        for hook in (*offload.forward_hooks, *offload.backward_hooks):  # they would free what is used
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload._register_deepspeed_module(engine.module)
