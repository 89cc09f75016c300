"""What things cost, in time and memory, one command a file: `python -m benchmarks.step --help`."""

import argparse

from groundscore.flags import PageHelp


def benchmark_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Returns the parser of `python -m benchmarks.NAME` with --debug; description: the module's docstring."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=PageHelp,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser
