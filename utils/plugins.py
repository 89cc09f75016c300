"""Plugins: modules of a user that add a system, a data-set family or a metric, named by `--plugin` and by nothing else.

A checkpoint only records which plugins it needs; it never makes one of them run.
"""

import importlib
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from groundscore.errors import UserError, shown

HELP = "modules that add systems, families or metrics, found here or on PYTHONPATH, joined by commas"


def import_plugins(argv: Sequence[str]) -> None:
    """Import the modules that `--plugin` names, before the flags are parsed: plugins may add flags of their own.

    argv: the command line without the program. Raises `UserError` for a module that is missing or cannot be imported.
    """
    for index, token in enumerate(argv):
        flag, equals, value = token.partition("=")
        if flag == "--plugin":
            following = argv[index + 1] if index + 1 < len(argv) else ""
            for name in plugin_names(value if equals else following):
                _import(name)


def plugin_names(text: str) -> list[str]:
    """The names in a `--plugin` value."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_plugins(names: Iterable[str], source: str) -> None:
    """Raise `UserError` for the first plugin that `source`, a run or a model, records and that is not imported."""
    absent = next((name for name in names if name not in sys.modules), None)
    if absent is not None:
        raise UserError(f"{source} was made with the plugin {shown(absent)}; pass --plugin {shown(absent)[1:-1]}")


def _import(name: str) -> None:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # behind everything else: a plugin must not replace a module of ours
    try:
        importlib.import_module(name)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(f"--plugin {name}: no module of that name in {Path.cwd()} or on PYTHONPATH") from error
        raise UserError(f"--plugin {name}: it imports {error.name}, which is not installed") from error
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error}, {place.filename}, line {place.lineno}"
        raise UserError(f"--plugin {name} cannot be imported ({reason})") from error
