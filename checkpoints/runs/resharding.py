"""A checkpoint of another number of processes or another ZeRO stage, put into an engine parameter by parameter.

DeepSpeed's files hold the shares of the processes that wrote them. Here every parameter is put together again (float32
weights, AdamW's two moments) and each process takes its new share: the same numbers, so training continues exactly, up
to the order in which gradients are summed.

    stage 0      the optimizer's state by number of the parameter, in the order of its groups
    stages 1, 2  a flat vector per group; `param_slice_mappings` says which part of it is from which parameter
    stage 3      flat vectors in the order of the groups; of each parameter in turn an equal share, rounded up

The files are pickles, which may name any function to be called, and DeepSpeed calls them. So they are read as plain
data first.
"""

import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkpoints.torch_files import load_plain
from groundscore.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")
GATE = "policy.gate"  # comes after all others, in a group of its own, where it has its own learning rate


@dataclass(frozen=True)
class Stored:
    """The files of a checkpoint, read. parts: what each process kept of the optimizer; none at stage 0."""

    model: dict[str, Any]
    parts: list[dict[str, Any]]

    @classmethod
    def read(cls, checkpoint: Path) -> "Stored":
        """All files of a checkpoint."""
        model = min(checkpoint.glob("*mp_rank_00_model_states.pt"), key=_rank_of)
        parts = sorted(checkpoint.glob("*_optim_states.pt"), key=_rank_of)
        return cls(read_states(model), [read_states(part)["optimizer_state_dict"] for part in parts])

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage that wrote the checkpoint."""
        return int(self.parts[0]["zero_stage"]) if self.parts else 0

    @property
    def optimizer(self) -> dict[str, Any]:
        """AdamW's own state, or that of the first process."""
        outer = self.parts[0] if self.parts else self.model["optimizer"]
        return _inner(outer)

    @property
    def groups(self) -> int:
        """How many groups of parameters the optimizer had."""
        return len(self.optimizer["param_groups"])


@dataclass(frozen=True)
class Whole:
    """All of one parameter, in float32. moments: by AdamW's names."""

    weight: Tensor
    moments: dict[str, Tensor]


def _inner(outer: dict[str, Any]) -> dict[str, Any]:
    """AdamW's state inside what DeepSpeed wraps around it; at stage 0 in float32 it wraps nothing."""
    return outer.get("base_optimizer_state", outer.get("optimizer_state_dict", outer))


def optimizer_of(engine: Any) -> torch.optim.Optimizer:
    """The optimizer that was given to DeepSpeed, below what DeepSpeed wrapped around it."""
    optimizer = engine.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _in_groups(names: Iterable[str], groups: int) -> list[str]:
    """The names of the trained parameters in the order of the optimizer's groups; see `GATE`."""
    return sorted(names, key=lambda name: groups > 1 and is_gate(name))


def is_gate(name: str) -> bool:
    """Whether a parameter is of the policy's gate: one tensor, or those of a context gate."""
    return name == GATE or name.startswith(f"{GATE}.")


def _rank_of(file: Path) -> int:
    found = re.search(r"pp_rank_(\d+)_", file.name)
    return int(found.group(1)) if found else 0


def put_into(engine: Any, stored: Stored) -> None:
    """Weights, moments, counts, schedule and buffers of a checkpoint into a fresh engine of any size and stage."""
    if engine.fp16_enabled():
        raise UserError(
            "--precision fp16: a checkpoint is resumed with the number of processes and the --zero_stage that "
            "wrote it, since the scale of the loss is kept by process; bf16 and fp32 may change both"
        )
    if any(group.get("matrices") for group in optimizer_of(engine).param_groups):
        raise UserError("--optimizer muon: a checkpoint is resumed with the number of processes that wrote it")
    named = {name: parameter for name, parameter in engine.module.named_parameters() if parameter.requires_grad}
    shapes = {name: getattr(parameter, "ds_shape", parameter.shape) for name, parameter in named.items()}
    wholes, steps = _together(stored, shapes)
    optimizer = optimizer_of(engine)
    for share in _shares(engine):
        on = share.device if optimizer.defaults["fused"] else "cpu"  # where torch's AdamW keeps its count
        count = {"step": torch.tensor(steps, dtype=torch.float32, device=on)}
        optimizer.state[share] = count | {moment: torch.zeros_like(share) for moment in MOMENTS}
    with torch.no_grad():
        if engine.zero_optimization_stage() == 0:
            _fill_plain(engine, named, wholes)
        elif engine.zero_optimization_stage() < 3:
            _fill_shared_optimizer(engine, named, wholes)
        else:
            _fill_shared_weights(named, wholes)
        buffers = dict(engine.module.named_buffers())
        for name in stored.model["buffer_names"]:
            buffers[name].copy_(stored.model["module"][name])
    engine.lr_scheduler.load_state_dict(stored.model["lr_scheduler"])
    engine.global_steps, engine.skipped_steps = stored.model["global_steps"], stored.model["skipped_steps"]
    engine.global_samples = stored.model["global_samples"]


# --- from shares to whole parameters ---------------------------------------------------------------------------------


def _together(stored: Stored, shapes: Mapping[str, torch.Size]) -> tuple[dict[str, Whole], float]:
    """Every trained parameter by name, and AdamW's count of steps."""
    if stored.zero_stage == 0:
        return _from_plain(stored, shapes)
    join = _from_slices if stored.zero_stage < 3 else _from_equal_shares
    states = [_inner(part)["state"] for part in stored.parts]
    joined = {"weight": join(stored, [part[_weights_key(part)] for part in stored.parts], shapes)}
    for moment in MOMENTS:
        vectors = [[state[number][moment] for number in sorted(state)] for state in states]
        joined[moment] = join(stored, vectors, shapes)
    wholes = {
        name: Whole(joined["weight"][name], {moment: joined[moment][name] for moment in MOMENTS}) for name in shapes
    }
    return wholes, float(states[0][0]["step"])


def _weights_key(part: Mapping[str, Any]) -> str:
    return "single_partition_of_fp32_groups" if "single_partition_of_fp32_groups" in part else "fp32_flat_groups"


def _from_plain(stored: Stored, shapes: Mapping[str, torch.Size]) -> tuple[dict[str, Whole], float]:
    masters = [master for group in stored.model["optimizer"].get("fp32_groups", ()) for master in group]
    states = stored.optimizer["state"]
    wholes = {}
    for number, name in enumerate(_in_groups(shapes, stored.groups)):
        weight = masters[number] if masters else stored.model["module"][name]  # in fp32 the model's own weights
        wholes[name] = Whole(weight, {moment: states[number][moment] for moment in MOMENTS})
    return wholes, float(states[0]["step"])


def _from_slices(stored: Stored, vectors: list[list[Tensor]], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """vectors: by process, by group."""
    pieces: dict[str, list[Tensor]] = {name: [] for name in shapes}
    for part, groups in zip(stored.parts, vectors, strict=True):
        for vector, slices in zip(groups, part["param_slice_mappings"], strict=True):
            for name, piece in slices.items():
                pieces[name].append(vector[piece.start : piece.start + piece.numel])
    return {name: torch.cat(found)[: shapes[name].numel()].view(shapes[name]) for name, found in pieces.items()}


def _from_equal_shares(
    stored: Stored, vectors: list[list[Tensor]], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """vectors: by process, in the order of the parameters."""
    flats, wholes, begin = [torch.cat(parts) for parts in vectors], {}, 0
    for group in stored.model["param_shapes"]:
        for name in group:
            length = -(-shapes[name].numel() // len(flats))
            shares = [flat[begin : begin + length] for flat in flats]
            wholes[name] = torch.cat(shares)[: shapes[name].numel()].view(shapes[name])
            begin += length
    return wholes


# --- from whole parameters to new shares -----------------------------------------------------------------------------


def _shares(engine: Any) -> list[Tensor]:
    """What the optimizer of this process updates."""
    if engine.zero_optimization_stage() == 3:
        return engine.optimizer.fp32_partitioned_groups_flat
    return [share for group in optimizer_of(engine).param_groups for share in group["params"]]


def _fill_plain(engine: Any, named: Mapping[str, nn.Parameter], wholes: Mapping[str, Whole]) -> None:
    optimizer = optimizer_of(engine)
    state, names = optimizer.state, _in_groups(named, len(optimizer.param_groups))
    for name, master in zip(names, _shares(engine), strict=True):
        master.copy_(wholes[name].weight)
        named[name].copy_(wholes[name].weight)  # in fp32 the same one
        for moment, value in wholes[name].moments.items():
            state[master][moment].copy_(value)


def _fill_shared_optimizer(engine: Any, named: Mapping[str, nn.Parameter], wholes: Mapping[str, Whole]) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    engine.optimizer._lazy_init_hp_params_optimizer_state()  # else only the first step connects moments and parameters
    for name, parameter in named.items():
        whole = wholes[name]
        parameter.copy_(whole.weight)
        safe_set_full_fp32_param(parameter, whole.weight.to(parameter.device))
        for moment, value in whole.moments.items():
            safe_set_full_optimizer_state(parameter, value.to(parameter.device), moment)


def _fill_shared_weights(named: Mapping[str, nn.Parameter], wholes: Mapping[str, Whole]) -> None:
    import deepspeed
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    for name, parameter in named.items():
        whole = wholes[name]
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if rank == 0:
                parameter.copy_(whole.weight)
        safe_set_local_fp32_param(parameter, _share(whole.weight, rank, size).to(parameter.device))
        for moment, value in whole.moments.items():
            safe_set_local_optimizer_state(parameter, _share(value, rank, size).to(parameter.device), moment)


def _share(whole: Tensor, rank: int, size: int) -> Tensor:
    """The part of a process, the last one's filled up with zeros."""
    length = -(-whole.numel() // size)
    padded = torch.nn.functional.pad(whole.flatten().float(), (0, length * size - whole.numel()))
    return padded[rank * length : (rank + 1) * length]


# --- DeepSpeed's files ------------------------------------------------------------------------------------------------


def read_states(file: Path) -> Any:
    """What `torch.save` wrote, its tensors mapped from the file.

    Raises `UserError` for a file with anything but containers, tensors and DeepSpeed's four plain classes; nothing of
    it is run.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    try:
        return load_plain(file, [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address])
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} contains more than DeepSpeed writes, and reading it could run foreign code; take checkpoints only "
            f"from runs of this project ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise UserError(f"{file} is not what torch.save writes ({str(error).splitlines()[0]})") from error


def refuse_code(checkpoint: Path) -> None:
    """Raise `UserError` unless all files that DeepSpeed would read are plain data. Reads no tensor."""
    for file in sorted(checkpoint.glob("*.pt")):
        read_states(file)
