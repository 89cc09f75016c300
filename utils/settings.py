"""Settings, each declared once: a field of a dataclass holds all that flags, checks, stored values and tables need.

    @dataclass
    class PointSettings:
        read_num_points: int = option(60, "model", "READ: most points per target", check=whole(1, 10**4), stored=True)

Whoever has settings (a system, a data-set family, the training loop) declares such a class in its own file; `compose`
joins the classes into the settings of a program, `add_setting` makes the flags, `check_settings` checks the values.
"""

import argparse
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from groundscore.errors import UserError

# What it means to resume a run from a checkpoint with another value of a setting:
FREE = "free"  # no number of the run depends on it; not reported
REPORTED = "reported"  # training continues differently; reported
RANKING = "ranking"  # as REPORTED, and scores from before do not compare with those from now on
FIXED = "fixed"  # what the checkpoint holds has no meaning with another value; refused


# --- rules -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must be: `holds` decides, `text` gives words that follow "must be"."""

    text: str
    holds: Callable[[Any], bool]


def whole(low: int, high: int) -> Rule:
    """A whole number from `low` to `high`."""
    return Rule(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def number(low: float, high: float) -> Rule:
    """A number from `low` to `high`."""
    return Rule(f"a number from {low:g} to {high:g}", lambda value: _is_number(value) and low <= value <= high)


def at_least(low: float) -> Rule:
    """A number that is at least `low`."""
    return Rule(f"at least {low:g}", lambda value: _is_number(value) and value >= low)


def above(low: float) -> Rule:
    """A number above `low`."""
    return Rule(f"above {low:g}", lambda value: _is_number(value) and value > low)


def one_of(*values: Any) -> Rule:
    """One of `values`, of the same type."""
    kinds = {type(value) for value in values}
    return Rule("one of " + ", ".join(map(str, values)), lambda value: type(value) in kinds and value in values)


FRACTION = Rule("at least 0 and below 1", lambda value: _is_number(value) and 0 <= value < 1)
SHARE = Rule("from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


# --- declarations ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Setting:
    """One declared setting, as `settings_of` returns it.

    kind: bool, int, float or str; a value may also be None where the default is.
    group: the heading of the flag in `--help`.
    on_resume: FREE, REPORTED, RANKING or FIXED.
    names: of a bool, the flag that turns it on and the one that turns it off; () for `--name` and `--no_name`.
    aliases: other names of the flag.
    stored: the value belongs to the model and is stored in its configuration. As a flag it is unset by default, and
        overrides the configuration only where it is given.
    inference: a stored setting that may also be overridden after training.
    default_text: the default as help shows it, where it is not simply the value.
    common: most users set it, and the short help lists it.
    """

    name: str
    kind: type
    default: Any
    group: str
    help: str
    on_resume: str = REPORTED
    choices: tuple = ()
    check: Rule | None = None
    names: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    stored: bool = False
    inference: bool = False
    default_text: str = ""
    common: bool = False


def option(default: Any, group: str, help: str, **more: Any) -> Any:
    """A dataclass field that is a setting. `more`: other fields of `Setting`, from `on_resume` on."""
    unknown = set(more) - {item.name for item in dataclasses.fields(Setting)}
    if unknown:
        raise TypeError(f"option() has no {sorted(unknown)[0]}")
    return dataclasses.field(default=default, metadata={"group": group, "help": help, **more})


def settings_of(*declared: type) -> dict[str, Setting]:
    """The settings that dataclasses declare, by name and in order; fields that are no settings are left out."""
    found = {}
    for part in declared:
        types = typing.get_type_hints(part)
        for item in dataclasses.fields(part):
            if "help" in item.metadata:
                if item.name in found:
                    raise TypeError(f"{part.__name__} declares {item.name}, which is declared already")
                values = {"default": item.default, **item.metadata}
                found[item.name] = Setting(name=item.name, kind=_value_type(types[item.name]), **values)
    return found


@functools.cache
def compose(name: str, *declared: type, base: type = object) -> type:
    """A dataclass of all settings that `declared` dataclasses have; those stored in a model are None until given.

    base: a class whose methods and fields it also has.
    """
    fields = []
    for part in declared:
        types = typing.get_type_hints(part)
        for item in dataclasses.fields(part):
            default = None if item.metadata.get("stored") else item.default
            metadata = {**item.metadata, "default": item.metadata.get("default", item.default)}
            fields.append((item.name, types[item.name], dataclasses.field(default=default, metadata=metadata)))
    settings_of(*declared)  # refuses names that are declared twice
    return dataclasses.make_dataclass(name, fields, bases=(base,))


def pick(declared: type, values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass of settings with those of `values` that it declares, otherwise its defaults."""
    return declared(**{name: values[name] for name in settings_of(declared) if name in values})


def check_settings(values: Mapping[str, Any], settings: Mapping[str, Setting]) -> None:
    """Raise `UserError` for the first value that is out of its range; values that are None are unset."""
    for name, setting in settings.items():
        value = values[name]
        if value is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name} {value}: must be a finite number")
        if setting.check is not None and not setting.check.holds(value):
            raise UserError(f"--{name} {value}: must be {setting.check.text}")


def _value_type(annotation: Any) -> type:
    """The type of a field, without the None of `int | None`."""
    if isinstance(annotation, types.UnionType):
        return next(member for member in typing.get_args(annotation) if member is not type(None))
    return annotation


# --- flags -----------------------------------------------------------------------------------------------------------

LONGEST_METAVAR = 32  # characters of a flag's choices beside its name


def add_setting(group: Any, setting: Setting) -> None:
    """Add the flag of a setting to an argparse parser or group."""
    if setting.kind is bool:
        on, *off = setting.names or (setting.name, f"no_{setting.name}")
        text = setting.help
        if off:
            value = setting.default_text or ("on" if setting.default else "off")
            text += f" (default: {value}; --{off[0]} turns it off)"
        group.add_argument(f"--{on}", dest=setting.name, action="store_true", help=text)
        for name in off:
            group.add_argument(f"--{name}", dest=setting.name, action="store_false", help=argparse.SUPPRESS)
        return
    text, metavar = setting.help, {int: "N", float: "X", str: "TEXT"}[setting.kind]
    if setting.choices:
        known = "{" + ",".join(map(str, setting.choices)) + "}"
        if len(known) <= LONGEST_METAVAR:
            metavar = known
        else:  # would not fit a line of its own
            text += f": {', '.join(map(str, setting.choices))}"
    if setting.default_text or setting.default not in (None, ""):
        text += f" (default: {setting.default_text or setting.default})"
    group.add_argument(
        *(f"--{name}" for name in (setting.name, *setting.aliases)),
        dest=setting.name,
        type=setting.kind,
        choices=setting.choices or None,
        metavar=metavar,
        help=text.replace("%", "%%"),
    )
