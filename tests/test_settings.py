"""A setting is declared once: flags, checks and stored values follow from the field."""

import argparse
from dataclasses import dataclass

import pytest

from groundscore.errors import UserError
from utils.settings import FIXED, add_setting, check_settings, compose, option, pick, settings_of, whole


@dataclass
class Kite:
    tails: int = option(2, "model", "how many tails", check=whole(1, 9), on_resume=FIXED, stored=True)
    colour: str = option("red", "look", "its colour", choices=("red", "blue"))
    flies: bool = option(True, "look", "whether it is up")
    length: float | None = option(None, "look", "metres of string", default_text="as long as needed")
    note: str = ""  # no setting


@dataclass
class Wind:
    speed: float = option(3.5, "air", "metres per second")


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    for setting in settings_of(Kite).values():
        add_setting(parser, setting)
    return parser.parse_args(argv)


def test_flags_follow_from_the_fields(capsys):
    given = vars(parsed("--tails", "3", "--colour=blue", "--no_flies", "--length", "2"))
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())

    assert given == {"tails": 3, "colour": "blue", "flies": False, "length": 2.0}
    assert "how many tails (default: 2)" in text and "metres of string (default: as long as needed)" in text
    assert "--colour {red,blue}" in text and "note" not in text


def test_what_a_model_stores_is_unset_until_it_is_given():
    both = compose("Both", Kite, Wind)

    assert both().tails is None and both().speed == 3.5 and both(tails=4).tails == 4
    assert settings_of(both)["tails"].default == 2 and settings_of(both)["tails"].on_resume == FIXED
    assert pick(Kite, {"tails": 5, "speed": 1.0}) == Kite(tails=5)


def test_a_name_is_declared_once():
    with pytest.raises(TypeError, match="declares tails, which is declared already"):
        compose("Twice", Kite, Kite)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tails": 10}, "--tails 10: must be a whole number from 1 to 9"),
        ({"length": float("nan")}, "--length nan: must be a finite number"),
    ],
)
def test_a_value_out_of_its_range_is_named(values, words):
    unset = dict.fromkeys(settings_of(Kite))
    with pytest.raises(UserError, match=words):
        check_settings(unset | values, settings_of(Kite))
    check_settings(unset | {"tails": 9}, settings_of(Kite))
