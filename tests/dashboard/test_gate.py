"""The door of the dashboard, alone."""

import anyio
import pytest

from dashboard.gate import Gate, names_a_foreign_file


def knock(path: str, *, method="GET", headers=(), body=b"", hosts=None) -> tuple[int, bytes]:
    """Status and body of the gate's reply; the application behind it answers 200 with the body it got."""

    async def behind(scope, receive, send):
        got = (await receive()).get("body", b"")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": got})

    async def visit():
        sent = []
        scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
        pieces = [body[i : i + 3] for i in range(0, len(body), 3)] or [b""]

        async def receive():
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(message):
            sent.append(message)

        await Gate(behind, hosts)(scope, receive, send)
        return sent[0]["status"], sent[1]["body"]

    return anyio.run(visit)


def post(body: bytes, length: bytes | None = None) -> tuple[int, bytes]:
    headers = [(b"content-length", length or str(len(body)).encode())]
    return knock("/gradio_api/queue/join", method="POST", headers=headers, body=body)


def test_a_request_reaches_the_application_whole():
    assert post(b'{"data": ["path", {"path": "a.png"}]}') == (200, b'{"data": ["path", {"path": "a.png"}]}')


@pytest.mark.parametrize("length", [b"", b"-1", b"x", b"99999999"])
def test_a_request_of_unknown_or_great_length_is_refused(length):
    assert post(b"{}", length or b"x")[0] == 413
    assert knock("/gradio_api/queue/join", method="POST", body=b"{}")[0] == 413


@pytest.mark.parametrize(
    "path", ["/", "/config", "/assets/a.js", "/gradio_api/file=/tmp/x.png", "/gradio_api/run/predict"]
)
def test_what_the_page_uses_is_there(path):
    assert knock(path)[0] == 200


@pytest.mark.parametrize(
    "path", ["/x", "//", "/assets/../x", "/gradio_api/file=http://x", "/gradio_api/mcp", "/config/x"]
)
def test_everything_else_is_not(path):
    assert knock(path)[0] == 404


def test_the_host_is_checked_where_the_server_is_ones_own():
    hosts = ("127.0.0.1", "localhost", "[::1]")
    for host, status in ((b"localhost:7860", 200), (b"[::1]:1", 200), (b"evil.example", 403), (b"", 403)):
        assert knock("/", headers=[(b"host", host)], hosts=hosts)[0] == status
    assert knock("/", headers=[(b"host", b"evil.example")])[0] == 200


@pytest.mark.parametrize(
    "body,foreign",
    [
        (b'{"path": "http://x"}', True),
        (b'[[{"a": {"path": "\\u0068ttps://x"}}]]', True),
        (b'{"path": "/tmp/http://x"}', False),
        (b'{"prompt": "see http://x"}', False),
        (b"{", False),
        (b"[" * 100_000, False),
    ],
)
def test_files_on_other_hosts_are_recognised(body, foreign):
    assert names_a_foreign_file(body) == foreign
