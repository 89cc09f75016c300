"""How an entry point ends."""

import subprocess
import sys
from pathlib import Path

PRINTS = """
from utils.errors import run_main

def main(arguments):
    for number in range(100_000):
        print(number)

run_main(main, [])
"""


def test_output_that_nobody_reads_any_more_ends_the_program_quietly():
    program = subprocess.Popen(
        [sys.executable, "-c", PRINTS],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout.readline() == "0\n"
    program.stdout.close()
    assert program.wait(30) == 141
    assert program.stderr.read() == ""
    program.stderr.close()
