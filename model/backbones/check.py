"""Does a backbone compute what transformers itself computes? Run it after an update of transformers.

    python -m model.backbones.check --version Qwen3-VL-8B-Instruct --layers 4

`agreement.py` says what is compared. The last line is the verdict; the exit code is 1 where the two differ.
"""

import argparse
from collections.abc import Sequence

from groundscore.errors import UserError, run_main


def main(argv: Sequence[str]) -> int:
    """Compare and report; 1 where the two differ."""
    parser = argparse.ArgumentParser(prog="python -m model.backbones.check", description=__doc__.splitlines()[0])
    parser.add_argument("--version", required=True, metavar="DIR", help="a base's directory, or its config.json")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of images, words and random weights")
    parser.add_argument("--layers", type=int, metavar="N", help="layers that are left of LLM and encoder")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the arithmetic")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    flags = parser.parse_args(argv)
    if flags.layers is not None and flags.layers < 1:
        raise UserError(f"--layers {flags.layers}: must be at least 1")
    from model.backbones.agreement import report

    return report(flags)


if __name__ == "__main__":
    run_main(main)
