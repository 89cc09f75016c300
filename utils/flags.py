"""Command lines: a parser that accepts hyphens, suggests the flag that was meant, and knows `--plugin`."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from groundscore.errors import UserError
from utils.plugins import HELP as PLUGIN_HELP


class _Help(argparse.HelpFormatter):
    """Help that ends in the default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.default not in (None, False, "", argparse.SUPPRESS)
        return f"{action.help} (default: %(default)s)" if shown else action.help


class FlagParser(argparse.ArgumentParser):
    """argparse that accepts hyphens for underscores, suggests what was meant, and raises `UserError`.

    refused: names of flags that do not exist here, with the reason to give to those who pass them.
    """

    def __init__(self, *, refused: dict[str, str] | None = None, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=_Help, **kwargs)
        self.refused = refused or {}
        self.add_argument("--plugin", metavar="MODULE", default=self.argument_default or "", help=PLUGIN_HELP)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The values of all flags; raises `UserError` for an unknown flag."""
        namespace, unknown = self.parse_known_args([_underscores(token) for token in argv])
        if unknown:
            self.error(self._about(unknown[0]))
        return namespace

    def setting(self, name: str, text: str) -> tuple[str, Any]:
        """The destination and the value of the flag `name` for which a file gives `text`; a switch is true or false."""
        action = self._option_string_actions.get(f"--{name.replace('-', '_')}")
        if action is None:
            self.error(self._about(f"--{name}"))
        if action.nargs != 0:
            return action.dest, vars(self.parse([f"--{name}={text}"]))[action.dest]
        if text.lower() not in ("true", "false"):
            self.error(f"--{name} {text}: a switch is true or false")
        return action.dest, action.const if text.lower() == "true" else not action.const

    def words_for(self, dest: str, value: Any) -> list[str]:
        """The words of a command line that set `dest` to `value`; none where a switch is off and has no opposite."""
        actions = [action for action in self._actions if action.dest == dest]
        if actions[0].nargs != 0:
            flag, text = actions[0].option_strings[0], str(value)
            return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
        return [action.option_strings[0] for action in actions if action.const == value]

    def _about(self, token: str) -> str:
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
        raise UserError(f"{message}\n`python {self.prog} --help` lists the flags")


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
