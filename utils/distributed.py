"""Processes: who we are, how we talk, on which device.

The deepspeed launcher and torchrun set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; under `srun` we take
them from SLURM's variables, and under plain `python` we set them ourselves for a world of one.
"""

import contextlib
import datetime
import gc
import logging
import os
import re
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.distributed.nn  # early: its functions default to the group that exists when it is imported, and keep it

from groundscore.errors import UserError

FIRST_PORT, PORTS = 20000, 20000
TIMEOUT = 1800.0  # seconds


def slurm_variables(environment: Mapping[str, str]) -> dict[str, str] | None:
    """RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT of this task; None where `srun` did not start it.

    In the shell of a batch job or an allocation SLURM sets most of its variables as well, but no step: what runs there
    is alone. MASTER_ADDR and MASTER_PORT may be given; else they are the first node and a port that follows from the
    number of the job, the same on all nodes.
    """
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    if not all(name in environment for name in names) or _in_batch_shell(environment):
        return None
    rank, size, local_rank = (environment[name] for name in names)
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    nodes = nodes or environment.get("SLURM_NODELIST") or "127.0.0.1"
    port = FIRST_PORT + int(environment.get("SLURM_JOB_ID", "0")) % PORTS
    return {
        "RANK": rank,
        "WORLD_SIZE": environment.get("SLURM_STEP_NUM_TASKS", size),
        "LOCAL_RANK": local_rank,
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_node(nodes),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(port),
    }


def _in_batch_shell(environment: Mapping[str, str]) -> bool:
    return "SLURM_JOB_ID" in environment and not {"SLURM_STEP_ID", "SLURM_STEPID"} & set(environment)


def first_node(nodes: str) -> str:
    """The first host of a list in SLURM's notation: "gpu[007-012,20],login" -> "gpu007", "a[1-2]b[3-4]" -> "a1b3"."""
    first = re.match(r"(?:[^\[\],]|\[[^\[\]]*\])+", nodes.strip())
    if first is None:
        raise UserError(f"SLURM's list of nodes is {nodes!r}: no host in it; set MASTER_ADDR to the first node")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group())


@dataclass(frozen=True)
class World:
    """rank: number of this process of `size`; local_rank: its number on this machine; device: where it computes."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @classmethod
    def joined(cls, device: torch.device) -> "World":
        """Returns the world that this process has joined, of one process if none."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            local_rank = int(os.environ.get("LOCAL_RANK", 0))
            return cls(torch.distributed.get_rank(), torch.distributed.get_world_size(), local_rank, device)
        return cls(0, 1, 0, device)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def size_of_machine(self) -> int:
        """Processes on this machine: one for each GPU, or all of them."""
        return min(self.size, torch.cuda.device_count()) if self.device.type == "cuda" else self.size

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, value: Any) -> Any:
        """What the main process passed, on every process; for small objects."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def any(self, value: bool) -> bool:
        """Whether it is true on any process."""
        return bool(self.sum(torch.tensor(float(value), device=self.device)).item())

    def gather(self, value: Any) -> list[Any]:
        """What every process passed, by rank, on every process; for small objects."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def close(self) -> None:
        """The end, where nothing failed: all processes call this, and none leaves while another still listens to it.

        Engines are to be destroyed before, since they hold process groups. The threads of a group that something holds
        live on, and one that lets go of a tensor while Python shuts down aborts the process.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            import deepspeed

            self.barrier()
            gc.collect()
            deepspeed.comm.destroy_process_group()  # torch's, and DeepSpeed forgets its own


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error of a collective says that another process is gone, or hangs."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


@contextlib.contextmanager
def naming_lost_processes(doing: str) -> Iterator[None]:
    """Another process that is gone is a `UserError` inside the `with` block. doing: what was under way."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise UserError(
            f"{doing}: another process died or hangs ({str(error).splitlines()[0]}). Its own log shows the reason; "
            "the last checkpoint is unchanged"
        ) from error


def choose_device(name: str, local_rank: int) -> torch.device:
    """`name` is auto, cpu or cuda."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU; check the driver and the torch build, or use --device cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this machine has no GPU: {torch.cuda.device_count()} are visible; "
            "start fewer processes or widen CUDA_VISIBLE_DEVICES"
        )
    return torch.device("cuda", local_rank)


def join_world(device: str = "auto", local_rank: int = 0, *, timeout: float = TIMEOUT) -> World:
    """Start talking to the other processes (gloo on CPU, nccl on CUDA); call it once, before DeepSpeed is used.

    timeout: seconds that a process waits for the other ranks, now and in every collective, before it gives up.
    """
    _set_launcher_variables(local_rank)
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    where = choose_device(device, local_rank)
    os.environ["DS_ACCELERATOR"] = where.type
    if where.type == "cuda":
        torch.cuda.set_device(where)

    deepspeed = _import_deepspeed()
    if where.type == "cpu":
        _avoid_shared_memory_op()
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if where.type == "cuda" else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=datetime.timedelta(seconds=timeout),
        )
    except torch.distributed.DistError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"process {rank} of {size} did not meet the others at {address} within {timeout:.0f} s "
            f"({str(error).splitlines()[0]}); were all of them started, and can they reach that address?"
        ) from error
    return World(rank=rank, size=size, local_rank=local_rank, device=where)


def adopt_slurm() -> None:
    """Set torch's variables from those of `srun`, unless a launcher has set these."""
    if not {"RANK", "WORLD_SIZE"} <= set(os.environ):
        os.environ.update(slurm_variables(os.environ) or {})


def _set_launcher_variables(local_rank: int) -> None:
    adopt_slurm()
    if {"RANK", "WORLD_SIZE"} <= set(os.environ):
        os.environ.setdefault("LOCAL_RANK", str(local_rank))
        return
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(free_port())


def free_port() -> int:
    """A TCP port that is free on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _import_deepspeed() -> ModuleType:
    """DeepSpeed without its chatter; what can go wrong is checked by us."""
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*reduce_scatter_tensor.*", category=FutureWarning)
    return deepspeed


def _avoid_shared_memory_op() -> None:
    """DeepSpeed would compile a C++ op for CPU collectives (40 s, needs g++ and ninja); gloo does without.

    The name is private to DeepSpeed: where it is gone, we leave things as they are.
    """
    backend = sys.modules.get("deepspeed.comm.torch")  # as an attribute this name is torch itself
    if hasattr(backend, "build_shm_op"):
        backend.build_shm_op = lambda: None
