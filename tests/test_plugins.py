"""`--plugin MODULE`: code of the user's own, run because the command line names it and for no other reason."""

import sys

import pytest

from groundscore.errors import UserError
from training.arguments import parse_arguments
from utils.plugins import check_plugins, import_plugins


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with a working and a broken plugin; modules and the search path are restored."""
    (tmp_path / "good_plugin.py").write_text("LOADED = True\n")
    (tmp_path / "bad_plugin.py").write_text("1 / 0\n")
    (tmp_path / "needy_plugin.py").write_text("import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("good_plugin", "bad_plugin", "needy_plugin"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("argv", [["--plugin", "good_plugin"], ["--batch_size", "1", "--plugin=good_plugin"]])
def test_a_plugin_is_imported_from_the_current_directory_before_flags_are_parsed(folder, argv):
    config = parse_arguments(argv)

    assert sys.modules["good_plugin"].LOADED
    assert config.to_dict()["plugin"] == "good_plugin"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent_plugin", "no module of that name"),
        ("bad_plugin", "division by zero"),
        ("needy_plugin", "no_such_thing, which is not installed"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named(folder, name, words):
    with pytest.raises(UserError, match=f"--plugin {name}.*{words}"):
        import_plugins(["--plugin", name])


def test_a_recorded_plugin_is_asked_for_and_never_imported(folder):
    with pytest.raises(UserError, match="this run was made with the plugin 'good_plugin'; pass --plugin good_plugin"):
        check_plugins(["good_plugin"], "this run")
    assert "good_plugin" not in sys.modules
