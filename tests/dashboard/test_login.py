"""A dashboard behind --auth: nothing is given to those who have not said who they are."""

import httpx
import pytest

from tests.dashboard.test_server import ask, png
from tests.dashboard.visits import Visit, files_below, running, shown, tiny_session


@pytest.fixture(scope="module")
def server():
    with running(tiny_session(), None, "--auth", "me:se:cret") as server:
        yield server


class Member(Visit):
    """A visit of someone who has logged in first."""

    def __init__(self, url: str):
        reply = httpx.post(f"{url}login", data={"username": "me", "password": "se:cret"})
        assert reply.status_code == 200
        super().__init__(url, cookies=reply.cookies)


def test_a_member_gets_an_answer_and_a_stranger_none_of_its_files(server):
    member = Member(server.url)
    assert "[SEG 2]" in shown(ask(member, png(), "Where?"))
    mask = next(name for name in files_below(server.folder) if name.endswith("mask_1.png"))
    address = f"{server.url}gradio_api/file={server.folder / mask}"
    assert member.http.get(address).status_code == 200
    assert httpx.get(address).status_code == 401


@pytest.mark.parametrize("path", ["config", "gradio_api/queue/data?session_hash=x"])
def test_a_stranger_sees_nothing(server, path):
    assert httpx.get(server.url + path).status_code == 401


def test_a_stranger_cannot_upload(server):
    assert httpx.post(f"{server.url}gradio_api/upload", files={"files": ("a.png", png())}).status_code == 401


@pytest.mark.parametrize("user,password", [("me", "wrong"), ("", ""), ("me:se", "cret")])
def test_wrong_credentials_are_refused(server, user, password):
    reply = httpx.post(f"{server.url}login", data={"username": user, "password": password})
    assert reply.status_code >= 400 and "access-token" not in str(reply.cookies)
