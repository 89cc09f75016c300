"""A mask decoder against transformers' own forward: `python -m model.decoders.check --vision_pretrained PATH`.

PATH is a directory of transformers, with its weights or without, or a `config.json` alone. Run it after an upgrade of
transformers; `agreement.py` says what is compared.
"""

import argparse
from collections.abc import Sequence

from groundscore.errors import run_main
from groundscore.reading import user_path


def main(argv: Sequence[str]) -> None:
    """Prints the largest differences; exits with an error where one is above the tolerance."""
    parser = argparse.ArgumentParser(prog="python -m model.decoders.check", description=__doc__)
    parser.add_argument("--vision_pretrained", type=user_path, required=True, metavar="PATH", help="the decoder")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts, and of weights that are not there")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    flags = parser.parse_args(argv)
    from model.decoders.agreement import report

    report(flags)


if __name__ == "__main__":
    run_main(main)
