"""From a checkpoint back into an engine, or as plain weights."""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkpoints.runs.finding import Position, random_state_file, read_position, read_settings
from checkpoints.runs.resharding import Stored, optimizer_of, put_into, read_states, refuse_code
from checkpoints.torch_files import load_plain
from groundscore.errors import UserError
from utils.distributed import World
from utils.seeding import restore_random_state


def resume(engine: Any, checkpoint: Path, world: World) -> Position:
    """Load weights, optimizer, schedule and random states into a fresh engine; returns where training stood.

    Learning rate, its schedule, betas and weight decay are the engine's own. So are, where another number of processes
    or another ZeRO stage wrote the checkpoint, the shares of the processes; see `resharding.py`.
    Raises `UserError` for a checkpoint of other parameters, or with files that hold more than plain data.
    """
    _check_trained(engine.module, checkpoint)
    refuse_code(checkpoint)
    groups = [_without_parameters(group) for group in optimizer_of(engine).param_groups]
    written, stored = read_position(checkpoint), Stored.read(checkpoint)
    layout = (world.size, engine.zero_optimization_stage(), len(optimizer_of(engine).param_groups))
    if (written.world_size, stored.zero_stage, stored.groups) != layout:
        put_into(engine, stored)
    else:
        loaded, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name, load_module_strict=False)
        if loaded is None:
            raise UserError(f"{checkpoint}: DeepSpeed could not load this checkpoint")
    for group, ours in zip(optimizer_of(engine).param_groups, groups, strict=True):
        group.update(ours)  # the checkpoint's would replace what the command line says
    engine.lr_scheduler.step(engine.lr_scheduler.last_batch_iteration)
    if world.rank < written.world_size:  # a process that is new draws from its seed
        restore_random_state(load_plain(checkpoint / random_state_file(world.rank)))
    return written


def _without_parameters(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _check_trained(model: nn.Module, checkpoint: Path) -> None:
    """DeepSpeed would skip what does not match; we say it."""
    stored = set(read_settings(checkpoint)["trained"])
    ours = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if stored != ours:
        raise UserError(
            f"{checkpoint} contains other parameters than this run trains: {len(ours - stored)} are not stored "
            f"{sorted(ours - stored)[:5]}, {len(stored - ours)} are not trained here {sorted(stored - ours)[:5]}; "
            "use the flags of that run, or pass --no_resume, which moves it aside and starts a new run"
        )


def trained_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The trained parameters and the buffers of a checkpoint in float32, by their names in the model with LoRA.

    Raises `UserError` for files that hold more than plain data.
    """
    with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        refuse_code(checkpoint)
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        if any(checkpoint.glob("*_optim_states.pt")):
            weights = get_fp32_state_dict_from_zero_checkpoint(
                str(checkpoint.parent), tag=checkpoint.name, exclude_frozen_parameters=True
            )
        else:
            weights = read_states(checkpoint / "mp_rank_00_model_states.pt")["module"]  # ZeRO 0 has one file
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def load_trained_weights(model: nn.Module, checkpoint: Path) -> set[str]:
    """Put a checkpoint's weights into a model with LoRA; all trained parameters must be there, and nothing unknown.

    Returns the names of the parameters and buffers that it had.
    """
    weights = trained_weights(checkpoint)
    known = model.state_dict(keep_vars=True)  # a buffer that two modules share has both its names there
    unknown = sorted(set(weights) - set(known))
    missing = sorted(name for name, value in model.named_parameters() if value.requires_grad and name not in weights)
    if unknown or missing:
        raise UserError(
            f"{checkpoint} does not fit the model: {len(missing)} missing {missing[:8]}, "
            f"{len(unknown)} unknown {unknown[:8]}; was the run made with other flags or another base?"
        )
    with torch.no_grad():
        for name, value in weights.items():
            known[name].copy_(value)
    return set(weights)
