"""The service beside the page: one port, one model, each with its own door."""

import httpx
import pytest

import app
from dashboard.serving import Server
from groundscore.errors import UserError
from inference.limits import Limits
from tests.dashboard.visits import running
from tests.inference.service.services import ANSWER, KEY, GivenWords, ask


def test_page_and_service_answer_on_one_port():
    flags = ("--api", "beside", "--auth", "someone:secret", "--api_key", KEY, "--embed_in", "https://huggingface.co")
    with running(GivenWords(), None, *flags, "--root_path", "/uground") as server:
        url = server.url.rstrip("/").removesuffix("/uground")
        page = httpx.get(url, follow_redirects=True)
        assert page.status_code == 200 and "gradio" in page.text
        assert page.headers["content-security-policy"].endswith("frame-ancestors 'self' https://huggingface.co")
        assert ask(url).status_code == 401  # the page's password does not open the service
        key = {"Authorization": f"Bearer {KEY}"}
        for path in ("", "/uground"):  # whether the proxy removes its part of the address or not
            assert ask(url + path, headers=key).json()["answer"] == ANSWER
        described = httpx.get(f"{url}/v1/openapi.json").json()
        assert described["servers"] == [{"url": "/uground"}]
        assert httpx.get(f"{url}/gradio_api/info").status_code == 404


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--version", "x", "--auth", "a:b"], "--auth protects the page only: give the service keys"),
        (["--version", "x", "--auth", "a:b", "--share"], "--share opens a public address: give the service keys"),
        ([], "--api needs --version"),
        (["--version", "x", "--tab", "data"], "and a tab that uses it"),
        (["--version", "x", "--embed_in", "huggingface.co; script-src *"], "should be a site"),
    ],
    ids=["auth", "share", "no version", "no model", "no site"],
)
def test_a_service_that_would_be_open_or_empty_is_refused(flags, message):
    parsed = app.build_parser().parse(["--api", "beside", *flags])
    with pytest.raises(UserError, match=message):
        Server(parsed, Limits(), lambda tell: None)
