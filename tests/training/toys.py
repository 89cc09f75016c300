"""Starts `toy_run.py` in processes of its own: DeepSpeed and torch.distributed live as long as a process.

They are forked from one process that has imported everything, which saves seconds each time. There is no launcher that
would end the others when one of them fails: they have to find out.
"""

import json
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from utils.distributed import free_port

CONTEXT = multiprocessing.get_context("forkserver")
# What DeepSpeed imports when it starts; a name that another version does not have is passed over.
CONTEXT.set_forkserver_preload(
    [
        "tests.training.toy_run",
        "torch.utils.tensorboard",
        "torch._dynamo",
        "torch._inductor.compile_fx",
        "deepspeed.runtime.zero.muon.original_muon",
    ]
)


@dataclass
class Toy:
    """A run of the toy: its processes by rank, and the file that each of them writes its output to."""

    processes: list[BaseProcess]
    outputs: list[Path]

    def finish(self, timeout: float = 60) -> tuple[list[int], list[str]]:
        """Exit codes and outputs by rank; processes that do not end are killed, and the test fails."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        hanging = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        texts = self.kill()
        assert not hanging, f"processes {hanging} did not end\n" + "\n".join(texts)
        return [process.exitcode for process in self.processes], texts

    def kill(self) -> list[str]:
        """kill -9 to all processes at once; outputs by rank."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        return [output.read_text() for output in self.outputs]

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Wait until the first process has said it."""
        end = time.monotonic() + timeout
        while text not in self.outputs[0].read_text():
            assert time.monotonic() < end and self.processes[0].is_alive(), self.outputs[0].read_text()
            time.sleep(0.01)


def start_toy(directory: Path, *, processes: int = 1, **options) -> Toy:
    """Start a toy run in `directory`; see `toy_run.Options`."""
    directory.mkdir(parents=True, exist_ok=True)
    outputs = [Path(tempfile.mktemp(prefix=f"output_{rank}_", dir=directory)) for rank in range(processes)]
    port, started = free_port(), []
    for rank, output in enumerate(outputs):
        output.touch()
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        variables |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1}
        process = CONTEXT.Process(target=_run, args=(str(directory), json.dumps(options), variables, output))
        process.start()
        started.append(process)
    return Toy(started, outputs)


def toy_run(directory: Path, *, processes: int = 1, patience: float = 60, **options) -> dict:
    """The result of a run that must succeed."""
    codes, outputs = start_toy(directory, processes=processes, **options).finish(patience)
    assert set(codes) == {0}, "\n".join(outputs)
    return result_of(outputs[0])


def result_of(output: str) -> dict:
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def _run(directory: str, options: str, variables: dict, output: Path) -> None:
    from groundscore.errors import run_main
    from tests.training.toy_run import main

    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    multiprocessing.set_start_method("fork", force=True)  # for the workers that read data
    os.environ.update({name: str(value) for name, value in variables.items()})
    run_main(main, [directory, options])
