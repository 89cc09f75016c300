"""Command lines: a parser that accepts hyphens for underscores and suggests the flag that was meant."""

import argparse
import difflib
from collections.abc import Sequence
from typing import NoReturn

from groundscore.errors import UserError
from groundscore.scoring import UNITS
from groundscore.terminal import wrapped


class _Help(argparse.HelpFormatter):
    """Help that ends in the default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.default not in (None, False, "", argparse.SUPPRESS)
        return f"{action.help} (default: %(default)s)" if shown else action.help


class PageHelp(argparse.RawDescriptionHelpFormatter):
    """Help whose description keeps its lines where they fit the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return wrapped(super()._fill_text(text, width, indent), width)


class UserParser(argparse.ArgumentParser):
    """argparse that accepts hyphens for underscores, suggests what was meant, and raises `UserError`.

    refused: names of flags that do not exist here, with the reason to give to those who pass them.
    """

    def __init__(self, *, refused: dict[str, str] | None = None, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=_Help, **kwargs)
        self.refused = refused or {}

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The values of all flags; raises `UserError` for an unknown flag."""
        tokens = [_underscores(token) for token in argv]
        # Before argparse, which would only say that the flag that was meant is missing.
        for token in tokens[: tokens.index("--")] if "--" in tokens else tokens:
            flag = token.partition("=")[0]
            if flag.startswith("--") and " " not in token and flag not in self._option_string_actions:
                self.error(self.about(token))
        namespace, unknown = self.parse_known_args(tokens)
        if unknown:
            self.error(self.about(unknown[0]))
        return namespace

    def about(self, token: str) -> str:
        """What to say about an argument that nothing took."""
        flag = token.partition("=")[0]
        if not flag.startswith("--"):
            return f"unexpected argument {token!r}: values belong to a flag, and lists are written without spaces"
        if flag[2:] in self.refused:
            return f"{flag} is not a flag of {self.prog}: {self.refused[flag[2:]]}. Leave it out."
        known = [name for action in self._actions for name in action.option_strings]
        close = difflib.get_close_matches(flag, known, n=1)
        return f"unknown flag {flag}" + (f"; did you mean {close[0]}?" if close else "")

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` in place of ending the program."""
        program = f"python {self.prog}" if self.prog.endswith(".py") else self.prog
        raise UserError(f"{message}\n`{program} --help` lists the flags")


def _underscores(token: str) -> str:
    """`--vis-save-path=a-b` -> `--vis_save_path=a-b`."""
    if not token.startswith("--"):
        return token
    name, equals, value = token[2:].partition("=")
    return "--" + name.replace("-", "_") + equals + value


def positive(text: str) -> int:
    """The value type of flags that are at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def count(text: str) -> int:
    """The value type of flags that are at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def add_counting_flags(parser: argparse._ActionsContainer) -> None:
    """Adds the flags that choose between conventions of counting."""
    parser.add_argument(
        "--unit",
        choices=UNITS,
        default=UNITS[0],
        help="what has the weight of one in plain and GRES scores: each expression, all of a ref, or all about an "
        "object (default: expression); the report has the others under their names",
    )
    parser.add_argument(
        "--gres_reference",
        action="store_true",
        help="count gRefCOCO and RefZOM as the reference does: rejected expressions keep their masks",
    )


def add_reading_flags(parser: argparse._ActionsContainer) -> None:
    """Adds the flags that say how predictions of other tools are read; what they may be is checked there."""
    parser.add_argument(
        "--ids",
        metavar="KIND",
        help="what the names of mask files or arrays are: expression, sentence, image, ref, object or number (default: "
        "the kind that knows them all)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="value above which a pixel of a floating-point mask belongs to it: 0 for logits, 0.5 for probabilities",
    )
