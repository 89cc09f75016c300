"""Command lines of UGround: the parser of groundscore that knows `--plugin`, and reads and writes single settings."""

from typing import Any

from groundscore.flags import UserParser
from utils.plugins import HELP as PLUGIN_HELP


class FlagParser(UserParser):
    """A parser with `--plugin`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_argument("--plugin", metavar="MODULE", default=self.argument_default or "", help=PLUGIN_HELP)

    def setting(self, name: str, text: str) -> tuple[str, Any]:
        """The destination and the value of the flag `name` for which a file gives `text`; a switch is true or false."""
        action = self._option_string_actions.get(f"--{name.replace('-', '_')}")
        if action is None:
            self.error(self.about(f"--{name}"))
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
