"""The dashboard over HTTP, asked by ordinary and by hostile visitors."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from inference.limits import Limits
from tests.dashboard.visits import Visit, files_below, running, server_path, shown, tiny_session

LIMITS = Limits(upload_mb=1, pixels=10**6, prompt=300, targets=4)


def png(seed: int = 0, size: tuple[int, int] = (30, 44)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A valid PNG of side × side black pixels, a few kilobytes long."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def server():
    with running(tiny_session(), LIMITS) as server:
        yield server


@pytest.fixture
def visit(server):
    visit = Visit(server.url)
    yield visit
    visit.close()


def ask(visit: Visit, content: bytes, prompt: str, name: str = "photo.png", **options) -> list[dict]:
    uploaded = visit.upload(name, content)
    assert uploaded.status_code == 200, uploaded.text
    return visit.ask(visit.picture(server_path(uploaded), name), prompt, **options)


def test_a_visitor_gets_text_masks_and_files(server, visit):
    messages = ask(visit, png(), "Where is the ball?")

    page = shown(messages)
    assert messages[-1]["msg"] == "process_completed" and messages[-1]["success"]
    assert "[SEG 1]" in page and "[SEG 2]" in page
    assert len([m for m in messages if m["msg"] == "process_generating"]) > 3  # it streams
    names = {name.rpartition("/")[2] for name in files_below(server.folder)}
    assert {"thumbnail.jpg", "mask_2.png", "similarity_1.jpg"} <= names


def test_html_is_shown_and_never_obeyed(visit):
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>${alert(3)}{{alert(4)}}"
    messages = ask(visit, png(1), evil, name="<svg onload=alert(5)>.png")
    last = messages[-1]["output"]["data"]
    answers = [part for part in last if isinstance(part, str)]
    assert not any("<script" in text or "<img src=x" in text for text in answers)


@pytest.mark.parametrize(
    "content,prompt,sentence",
    [
        (b"not a picture", "Where?", "not an image"),
        (png()[:120], "Where?", "damaged"),
        (b"", "Where?", "The image is empty; choose another one"),
        (bomb(2000), "Where?", "2000 × 2000 pixels, more than 1000000"),
        (bomb(30000), "Where?", "too many pixels"),
        (png(size=(1, 500)), "Where?", "strip"),
        (png(), "", "type what you are looking for"),
        (png(), " \n ", "type what you are looking for"),
        (png(), "kite " * 100, "at most 300 are read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "Where?", "not an image"),
    ],
    ids=["garbage", "cut", "empty", "large", "bomb", "strip", "no prompt", "blank prompt", "long prompt", "svg"],
)
def test_bad_input_is_answered_by_a_sentence(server, visit, content, prompt, sentence):
    page = shown(ask(visit, content, prompt))
    assert sentence in page
    assert "Traceback" not in page and str(server.folder) not in re.sub(
        r'"path": "[^"]*"|"url": "[^"]*"|file=[^"&\\]*', "", page
    )


def test_a_question_without_a_picture_is_answered_by_a_sentence(visit):
    assert "choose an image first" in shown(visit.ask(None, "Where?"))


def test_too_large_an_upload_is_refused(visit):
    assert visit.upload("large.png", bytes(2 << 20)).status_code == 413


def test_an_oversized_request_is_refused(server):
    reply = httpx.post(f"{server.url}gradio_api/queue/join", content=b"[" * (2 << 20))
    assert reply.status_code == 413


def test_a_broken_request_gets_no_traceback(server):
    for body in (b"{", b'{"data": 3}', b'{"data": [], "fn_index": 9999, "session_hash": "x"}'):
        reply = httpx.post(
            f"{server.url}gradio_api/queue/join", content=body, headers={"content-type": "application/json"}
        )
        assert reply.status_code >= 400
        assert "Traceback" not in reply.text and "site-packages" not in reply.text


@pytest.mark.parametrize("name", ["../../../evil.png", "..\\evil.png", "/etc/evil.png", "a/../../evil.png", "\x00.png"])
def test_an_uploaded_name_cannot_leave_the_folder(server, visit, name):
    reply = visit.upload(name, png(5))
    if reply.status_code == 200:
        assert Path(server_path(reply)).resolve().is_relative_to(server.folder.resolve())


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "app.py",
        "{cwd}/app.py",
        "{cwd}/dashboard/serving.py",
        "{folder}/../uground.txt",
        "{folder}/%2e%2e/%2e%2e/etc/passwd",
        "{folder}",
        "file:///etc/passwd",
        "http://127.0.0.1:1/",
        "https://example.org/x.png",
        "//etc/passwd",
        "\\\\host\\share",
    ],
)
def test_files_that_are_not_the_dashboards_are_not_served(server, path):
    path = path.format(cwd=os.getcwd(), folder=server.folder)
    reply = httpx.get(f"{server.url}gradio_api/file={path}", follow_redirects=True)
    assert reply.status_code in (403, 404), (path, reply.text[:200])
    assert "root:" not in reply.text and "import" not in reply.text


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=https://example.org",
        "/gradio_api/deep_link?session_hash=x",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/runs",
        "/gradio_api/vibe-code",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/gradio_api/dev/reload",
        "/gradio_api/call/on_ask",
    ],
)
def test_what_the_page_does_not_use_is_not_there(server, path):
    assert httpx.get(server.url.rstrip("/") + path).status_code == 404


def test_a_picture_on_the_servers_disk_cannot_be_asked_about(visit, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(9))
    page = shown(visit.ask(visit.picture(str(tmp_path / "secret.png")), "Where?"))
    assert "[SEG 1]" not in page


@pytest.mark.parametrize("address", ["http://example.org/x.png", " HTTPS://example.org/x.png", "ftp://example.org/x"])
def test_a_picture_from_another_host_is_not_fetched(visit, address):
    for data in (visit.picture(address), {"deep": [visit.picture(address)]}):
        (refused,) = visit.ask(data, "Where?")
        assert refused["status"] == 400 and "Only uploaded files" in refused["text"]


def test_another_hosts_name_is_refused(server):
    assert httpx.get(server.url, headers={"host": "evil.example"}).status_code == 403
    assert httpx.get(server.url, headers={"host": "localhost:1234"}).status_code == 200


def test_the_page_needs_no_other_host(server):
    reply = httpx.get(server.url)
    assert "default-src 'self'" in reply.headers["content-security-policy"]
    theme = httpx.get(f"{server.url}theme.css").text
    assert "url" in theme and not re.search(r"@import|url\([\"']?(https?:)?//", theme)


def test_the_readme_is_a_page(server):
    reply = httpx.get(f"{server.url}readme")
    assert reply.status_code == 200 and "UGround trains multimodal language models" in reply.text


def test_visitors_have_their_own_history_and_folder(server):
    before = {path.name for path in server.folder.glob("visitor-*")}
    one, other = Visit(server.url), Visit(server.url)
    ask(one, png(3), "the first visitor's question")
    ask(other, png(4), "the second visitor's question")

    page = shown(ask(one, png(3), "and again"))

    assert "the first visitor" in page and "the second visitor" not in page
    assert len({path.name for path in server.folder.glob("visitor-*")} - before) == 2


def test_forgetting_touches_the_visitors_own_only(server):
    one, other = Visit(server.url), Visit(server.url)
    ask(one, png(3), "the first visitor's question")
    ask(other, png(4), "the second visitor's question")

    page = shown(one.trigger(one.event("ground-forget", "click"), [None]))

    assert "The answer appears here." in page and "the first visitor" not in page
    assert "the second visitor" in shown(ask(other, png(4), "and again"))
    assert "the first visitor" not in shown(ask(one, png(3), "and again"))


def test_opening_a_turn_that_is_not_there_shows_nothing(visit):
    event = visit.event("ground-talk", "select")
    for index in (99, -5):
        messages = visit.trigger(event, [None], event_data={"index": index, "value": None})
        assert messages[-1]["success"] and "[SEG" not in shown(messages)
