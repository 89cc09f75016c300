"""Runs a program of the repository as its command line would, without what a start costs.

Ten seconds of processor time go into importing torch, transformers and DeepSpeed. Here the process is forked from one
that has imported them (`tests/training/toys.py`); arguments, environment, outputs and exit code are its own.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.training.toys import CONTEXT

ROOT = Path(__file__).parents[1]


def run_program(
    script: str, arguments: Sequence[object], environment: dict[str, str], *, timeout: float
) -> subprocess.CompletedProcess:
    """`python SCRIPT ARGUMENT...` in the repository, or `python -m MODULE ARGUMENT...` where the script is "-m".

    Returns when nobody writes to its outputs any more.
    """
    words = [script, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as readers:
        pipes = [Path(folder, name) for name in ("stdout", "stderr")]
        for pipe in pipes:
            os.mkfifo(pipe)
        texts = [readers.submit(pipe.read_text) for pipe in pipes]
        process = CONTEXT.Process(target=_run, args=(words, environment, pipes))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout, *(text.result() for text in texts))
        return subprocess.CompletedProcess(words, process.exitcode, *(text.result() for text in texts))


def _run(words: list[str], environment: dict[str, str], pipes: list[Path]) -> None:
    for number, pipe in enumerate(pipes, start=1):
        os.dup2(os.open(pipe, os.O_WRONLY), number)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 for as long as the process lives
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    multiprocessing.set_start_method("fork", force=True)  # for the workers that read data
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
