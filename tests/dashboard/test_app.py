"""app.py: flags, and what is refused before anything is started."""

import os
import socket

import pytest

import app
from dashboard import TABS, serving
from dashboard.serving import Server, choose_tabs, credentials
from groundscore.errors import UserError
from inference.limits import Limits


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--version", "x", "--share"], "protect it with --auth"),
        (["--version", "x", "--share", "--auth", "me"], "--auth must be USER:PASS"),
        (["--version", "x", "--auth", ":secret"], "--auth must be USER:PASS"),
        (["--version", "x", "--auth", "me:"], "--auth must be USER:PASS"),
        (["--tab", "ground"], "needs --version"),
        (["--tab", "grond"], "invalid choice"),
        (["--prot", "80"], "did you mean --port"),
    ],
)
def test_wrong_flags_are_explained_before_anything_is_started(flags, message):
    with pytest.raises(UserError, match=message):
        app.main(flags)


def test_a_password_may_have_colons():
    assert credentials("me:a:b") == ("me", "a:b")
    assert credentials(None) is None


def test_every_tab_can_be_reached_alone():
    for name in TABS:
        assert choose_tabs(name, "x") == [name]
        assert callable(TABS[name].load())
    assert choose_tabs(None, "x") == list(TABS)
    assert "ground" not in choose_tabs(None, None)


def test_a_port_that_is_taken_is_named():
    flags = app.build_parser().parse(["--version", "x", "--tab", "Ground"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags.port = taken.getsockname()[1]
        server = Server(flags, Limits(), lambda tell: None)
        try:
            with pytest.raises(UserError, match=rf"127\.0\.0\.1: port {flags.port} is in use.*--port"):
                server.start()
        finally:
            server.close()
    assert not server.folder.exists()


def test_it_listens_to_this_machine_only_by_default():
    assert app.build_parser().parse([]).host == "127.0.0.1"
    assert serving.LOOPBACK[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "70000"], "--port 70000: ports end at 65535"),
        (["--host", "nosuch.invalid"], "--host nosuch.invalid is not an address of this machine"),
    ],
)
def test_an_address_that_cannot_be_is_refused_at_once(flags, message):
    server = Server(app.build_parser().parse(["--tab", "runs", *flags]), Limits(), lambda tell: None)
    with pytest.raises(UserError, match=message):
        server.start()
    server.close()


def test_a_hub_id_may_be_fetched(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    server = Server(app.build_parser().parse(["--tab", "runs"]), Limits(), lambda tell: None)
    server.start()
    server.close()
    assert "HF_HUB_OFFLINE" not in os.environ
