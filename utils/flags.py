"""Command lines of UGround: the parser of groundscore that knows `--plugin`, and reads and writes single settings."""

import difflib
import os
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from groundscore.errors import UserError
from groundscore.flags import UserParser
from utils.plugins import HELP as PLUGIN_HELP

# A plugin runs because a command line names it; `--debug` is looked for there; UGROUND_MAX_PIXELS limits all images
# that are read, not those of Qwen-VL.
_COMMAND_LINE_ONLY = ("help", "plugin", "debug", "max_pixels")


class FlagParser(UserParser):
    """A parser with `--plugin`.

    environment: a name such as UGROUND: variables like UGROUND_PORT then give flags that the command line does not.
    """

    def __init__(self, *, environment: str = "", **kwargs):
        self.environment = environment
        if environment:
            kwargs.setdefault("epilog", f"{environment}_NAME=VALUE in the environment gives --name VALUE.")
        super().__init__(**kwargs)
        self.add_argument("--plugin", metavar="MODULE", default=self.argument_default or "", help=PLUGIN_HELP)

    def parse(self, argv: Sequence[str]) -> Namespace:
        """The values of all flags; raises `UserError` for an unknown flag."""
        return super().parse([*self._from_environment(), *argv])

    def _from_environment(self) -> list[str]:
        """The words of a command line for the variables that give flags; an empty one gives none."""
        if not self.environment:
            return []
        actions = {f"{self.environment}_{action.dest.upper()}": action for action in reversed(self._actions)}
        words = []
        for variable, value in sorted(os.environ.items()):
            if not value or not variable.startswith(f"{self.environment}_"):
                continue
            action = actions.get(variable)
            if action is None:
                meant = difflib.get_close_matches(variable, actions, n=1, cutoff=0.9)
                if meant:
                    raise UserError(f"{variable} in the environment gives no flag; did you mean {meant[0]}?")
            elif action.dest not in _COMMAND_LINE_ONLY:
                try:
                    words += self.words_for(*self.setting(action.option_strings[0].removeprefix("--"), value))
                except UserError as error:
                    raise UserError(f"{variable} in the environment: {error}") from None
        return words

    def setting(self, name: str, text: str) -> tuple[str, Any]:
        """The destination and the value of the flag `name` for which a file gives `text`; a switch is true or false."""
        action = self._option_string_actions.get(f"--{name.replace('-', '_')}")
        if action is None:
            self.error(self.about(f"--{name}"))
        if action.nargs != 0:
            return action.dest, vars(super().parse([f"--{name}={text}"]))[action.dest]
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
