"""How many processes the quickstart starts is measured."""

import os
import subprocess
import sys

import pytest

from utils.cores import processes_that_pay


@pytest.mark.parametrize(
    "work_of_two, expected", [(200, 2), (150, 2), (130, 1), (100, 1)], ids=["cores", "nearly", "threads", "quota"]
)
def test_a_second_process_has_to_do_half_as_much_again(work_of_two, expected):
    assert processes_that_pay({1: 100, 2: work_of_two}.__getitem__) == expected


def test_the_best_of_several_measurements_counts():
    measured = {1: iter([50, 100]), 2: iter([0, 199, 120])}
    assert processes_that_pay(lambda number: next(measured[number])) == 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not bind processes to processors")
def test_one_processor_is_for_one_process():
    bind = "import os, runpy; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    program = f"{bind}; runpy.run_module('utils.cores', run_name='__main__')"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "1\n"


def test_the_program_says_one_or_two():
    told = subprocess.run([sys.executable, "-m", "utils.cores"], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout in ("1\n", "2\n")
