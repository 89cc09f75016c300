"""Fetching downloads: from servers that break off, stall, change their files or have none."""

import hashlib
import http.server
import io
import json
import os
import threading
import time
import zipfile
from dataclasses import replace

import pytest

from dataloaders.downloads import Download, Fact
from dataloaders.prepare.fetching import Options, fetch
from tests.dataloaders.official_downloads import run, zip_of


class Server:
    """Files over HTTP on 127.0.0.1. faults: what happens to the next answers, one each: "break", "stall"."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.ranges: list[str | None] = []
        self.with_ranges, self.tag = True, '"one"'
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *words):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request) -> None:
        body, wanted = self.files.get(request.path.lstrip("/")), request.headers.get("Range")
        self.ranges.append(wanted)
        if body is None:
            request.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.with_ranges else 0
        if request.headers.get("If-Range", self.tag) != self.tag:
            start = 0
        fault = self.faults.pop(0) if self.faults else ""
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body) - start))
        request.send_header("ETag", self.tag)
        request.end_headers()
        request.wfile.write(body[start : start + 1000] if fault else body[start:])
        if fault == "stall":
            request.wfile.flush()
            time.sleep(1.5)


@pytest.fixture
def server():
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


BODY = bytes(range(256)) * 40


def small_zip(size: int = 6000) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("train2014/a.jpg", os.urandom(size))
    return out.getvalue()


def download_of(server: Server, body: bytes, file: str = "a.zip", **more) -> Download:
    server.files[file] = body
    digest = Fact(f"sha256:{hashlib.sha256(body).hexdigest()}")
    values = {"size": Fact(len(body)), "digests": (digest,), **more}
    return Download(
        file, "a file", Fact("https://example.org"), Fact("none"), url=Fact(f"{server.url}/{file}"), **values
    )


QUICK = Options(pause=0.0, timeout=0.4, retries=2)


@pytest.mark.parametrize("fault", ["break", "stall"])
def test_a_download_goes_on_where_the_connection_broke_off_or_stalled(fault, server, tmp_path):
    body = small_zip()
    download = download_of(server, body)
    server.faults = [fault, fault]

    result = fetch([download], tmp_path, QUICK, say=[].append)

    assert result.done == [download]
    assert (tmp_path / "a.zip").read_bytes() == body
    assert server.ranges == [None, "bytes=1000-", "bytes=2000-"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


def test_a_download_that_was_killed_goes_on_at_the_next_call(server, tmp_path):
    body = small_zip()
    download = download_of(server, body)
    (tmp_path / ".a.zip.part").write_bytes(body[:500])
    (tmp_path / ".a.zip.part.json").write_text(json.dumps({"validator": server.tag, "total": len(body)}))

    fetch([download], tmp_path, QUICK, say=[].append)

    assert server.ranges == ["bytes=500-"]
    assert (tmp_path / "a.zip").read_bytes() == body


@pytest.mark.parametrize("change", ["other tag", "no ranges"])
def test_a_download_begins_anew_where_the_file_changed_or_the_server_cannot_go_on(change, server, tmp_path):
    body = small_zip()
    download = download_of(server, body)
    (tmp_path / ".a.zip.part").write_bytes(b"old content")
    (tmp_path / ".a.zip.part.json").write_text(json.dumps({"validator": '"zero"', "total": 9000}))
    server.with_ranges = change != "no ranges"

    fetch([download], tmp_path, QUICK, say=[].append)

    assert (tmp_path / "a.zip").read_bytes() == body


def test_a_server_that_only_breaks_off_is_given_up_with_what_came_kept(server, tmp_path):
    download = download_of(server, small_zip())
    (tmp_path / ".a.zip.part").write_bytes(b"PK")
    server.http.shutdown()
    server.http.server_close()

    result = fetch([download], tmp_path, QUICK, say=[].append)

    assert "the same command goes on later" in result.failed[download]
    assert (tmp_path / ".a.zip.part").read_bytes() == b"PK"


@pytest.mark.parametrize(
    ("body", "more", "reason"),
    [
        (BODY, {"size": Fact(99)}, "has 10240 bytes, the official one 99"),
        (BODY, {"digests": (Fact("md5:00"),)}, "has the digest md5:"),
        (b"<!DOCTYPE html><html>Sign in</html>", {"size": None, "digests": ()}, "is a web page"),
    ],
)
def test_a_wrong_file_is_refused_at_once_and_nothing_of_it_stays(body, more, reason, server, tmp_path):
    download = download_of(server, body, **more)

    result = fetch([download], tmp_path, QUICK, say=[].append)

    assert reason in result.failed[download]
    assert len(server.ranges) == 1
    assert list(tmp_path.iterdir()) == []


def test_another_edition_is_taken_where_the_user_says_so(server, tmp_path):
    download = download_of(server, BODY, size=Fact(99), digests=(Fact("md5:00"),))

    result = fetch([download], tmp_path, replace(QUICK, unchecked=True), say=[].append)

    assert result.done == [download]


def test_a_missing_file_and_one_that_only_a_person_gets_are_told_with_the_page(server, tmp_path):
    gone = replace(download_of(server, BODY), url=Fact(f"{server.url}/gone.zip"))
    by_hand = replace(gone, file="b.zip", url=None)

    result = fetch([gone, by_hand], tmp_path, QUICK, say=[].append)

    assert "answers 404" in result.failed[gone] and "https://example.org" in result.failed[gone]
    assert result.manual == [by_hand]


def test_a_mirror_has_all_files_by_their_names_and_several_come_at_once(server, tmp_path, capsys):
    server.files = {"pub/train2014.zip": small_zip(), "pub/refcoco%2B.zip": small_zip()}

    words = ("--sets", "refcoco+", "--mirror", f"{server.url}/pub/", "--unchecked", "--jobs", "2", "--rate", "1M")
    assert run("fetch", "--dataset_dir", tmp_path, *words) == 0

    assert sorted(path.name for path in (tmp_path / "downloads").iterdir()) == ["refcoco+.zip", "train2014.zip"]
    assert "fetched  refcoco+.zip" in capsys.readouterr().out


def test_a_rate_limits_all_downloads_together(server, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    downloads = [download_of(server, BODY, file, digests=()) for file in ("a.json", "b.json", "c.json")]

    fetch(downloads, tmp_path, replace(QUICK, rate=10240.0, jobs=1), say=[].append)

    assert 1.5 < max(waited) <= 3.0  # each file is a second's worth: the third has to wait for those before it, too


def test_copies_of_another_size_are_refused_unless_the_user_says_so(tmp_path, capsys):
    (tmp_path / "mine/deep").mkdir(parents=True)
    zip_of(tmp_path / "mine/deep/train2014.zip", {"train2014/a.jpg": b"x"})
    words = ("fetch", "--dataset_dir", tmp_path / "data", "--sets", "refcoco", "--from", tmp_path / "mine")

    assert run(*words) == 1
    assert "the official file 13510573713" in capsys.readouterr().out
    assert run(*words, "--unchecked", "--copy") == 1  # refcoco.zip is not there

    assert not (tmp_path / "data/downloads/train2014.zip").is_symlink()
