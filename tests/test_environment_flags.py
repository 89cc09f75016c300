"""Flags of app.py from the environment: the parser that reads the command line reads them, too."""

import os

import pytest

import app
from groundscore.annotations.image_files import MAX_PIXELS
from groundscore.errors import UserError


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("UGROUND_")]:
        monkeypatch.delenv(name)


def test_a_variable_gives_a_flag_and_the_command_line_wins(monkeypatch):
    monkeypatch.setenv("UGROUND_PORT", "7861")
    monkeypatch.setenv("UGROUND_VERSION", "a model/with a space")
    monkeypatch.setenv("UGROUND_LAYER", "3")
    monkeypatch.setenv("UGROUND_SHARE", "true")
    monkeypatch.setenv("UGROUND_AUTH", "-me:--pass=x")
    monkeypatch.setenv("UGROUND_HOST", "")  # as good as unset
    flags = app.build_parser().parse(["--port", "7862"])
    assert (flags.port, flags.version, flags.layer, flags.share) == (7862, "a model/with a space", 3, True)
    assert (flags.auth, flags.host) == ("-me:--pass=x", "127.0.0.1")
    monkeypatch.setenv("UGROUND_SHARE", "false")
    assert app.build_parser().parse([]).share is False


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("UGROUND_PORT", "x", "UGROUND_PORT in the environment: .*positive"),
        ("UGROUND_TAB", "grund", "UGROUND_TAB in the environment: .*ground"),
        ("UGROUND_SHARE", "yes", "UGROUND_SHARE in the environment: .*true or false"),
        ("UGROUND_VERSON", "x", "did you mean UGROUND_VERSION"),
    ],
)
def test_a_variable_that_is_wrong_is_named(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        app.build_parser().parse([])


def test_variables_with_another_meaning_give_no_flags(monkeypatch):
    before = vars(app.build_parser().parse([]))
    for name in (MAX_PIXELS, "UGROUND_PLUGIN", "UGROUND_DEBUG", "UGROUND_CACHE_DIR", "UGROUND_PYTHON"):
        monkeypatch.setenv(name, "1000")
    assert vars(app.build_parser().parse([])) == before
