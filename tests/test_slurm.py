"""Processes that `srun` starts find each other."""

import pytest

from utils.distributed import first_node, slurm_variables

TASK = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
JOB = {"SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "gpu[007-008,20]"}


def test_a_task_of_a_step_knows_who_and_where_it_is():
    assert slurm_variables(TASK | JOB) == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu007",
        "MASTER_PORT": str(20000 + 3456),
    }


def test_an_address_that_is_given_is_kept():
    found = slurm_variables(TASK | JOB | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.1", "29500")


def test_what_runs_in_the_shell_of_a_job_or_without_slurm_is_alone():
    assert slurm_variables({}) is None
    assert slurm_variables(TASK | {"SLURM_JOB_ID": "123456", "SLURM_NODELIST": "gpu[007-008]"}) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("host", "host"),
        ("gpu[007-012,20],login", "gpu007"),
        ("a[1-2]b[3-4],c", "a1b3"),
        ("node-1.cluster,node-2.cluster", "node-1.cluster"),
        ("gpu[3,5-9]", "gpu3"),
    ],
)
def test_the_first_node_of_a_list(nodes, first):
    assert first_node(nodes) == first
