"""Processes that `srun` started: what torch.distributed needs to know, from SLURM's variables."""

import re
from collections.abc import Mapping

from groundscore.errors import UserError

FIRST_PORT, PORTS = 20000, 20000


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
