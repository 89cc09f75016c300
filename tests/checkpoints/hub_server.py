"""A hub on 127.0.0.1 that speaks as much of the protocol as `huggingface_hub` needs to fetch a model."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + 34 * "0"
LARGE = (".bin", ".safetensors", ".pth")  # what the hub keeps with LFS


class Hub:
    """Files of one repository, and what goes wrong with them.

    sent: how often the content of each file was asked for. refusal: status and error code in place of any answer.
    cut: file -> bytes after which the connection ends, once for each entry of the list. garbled: files that arrive
    with other bytes, as often as said. before: called with a file's name before its content is sent.
    """

    def __init__(self, repository: str, files: dict[str, bytes]):
        self.repository, self.files = repository, files
        self.sent: Counter[str] = Counter()
        self.refusal: tuple[int, str] | None = None
        self.revisions = {"main", COMMIT}
        self.cut: dict[str, list[int]] = {}
        self.garbled: Counter[str] = Counter()
        self.before: Callable[[str], None] = lambda name: None

    def listed(self, name: str) -> dict:
        content = self.files[name]
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        found = {"path": name, "rfilename": name, "type": "file", "size": len(content), "oid": git, "blobId": git}
        if name.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            found["lfs"] = {"sha256": digest, "oid": digest, "size": len(content), "pointerSize": 100}
        return found


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        hub = self.hub
        if hub.refusal is not None:
            return self._send(hub.refusal[0], {"X-Error-Code": hub.refusal[1]}, b"{}")
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._describe("/".join(parts[2:4]), parts[4], "/".join(parts[5:]))
        name = "/".join(parts[4:])
        if "/".join(parts[:2]) != hub.repository or name not in hub.files:
            return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
        listed = hub.listed(name)
        etag = listed.get("lfs", {}).get("sha256") or listed["oid"]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}
        if not with_body:
            return self._send(200, headers | {"Content-Length": str(listed["size"])}, None)
        hub.sent[name] += 1
        hub.before(name)
        content = hub.files[name]
        if hub.garbled[name] > 0:
            hub.garbled[name] -= 1
            content = bytes(len(content))
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        body = content[start:]
        cut = hub.cut[name].pop(0) if hub.cut.get(name) else len(body)
        headers["Content-Length"] = str(len(body))
        self._send(206 if start else 200, headers, body[:cut])
        if cut < len(body):
            self.close_connection = True

    def _describe(self, repository: str, kind: str, revision: str) -> None:
        if repository != self.hub.repository:
            return self._send(401, {"X-Error-Code": "RepoNotFound"}, b"{}")
        if revision not in self.hub.revisions:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
        listed = [self.hub.listed(name) for name in self.hub.files]
        info = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": listed}
        self._send(200, {"X-Repo-Commit": COMMIT}, json.dumps(listed if kind == "tree" else info).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes | None) -> None:
        self.send_response(status)
        if body is not None:
            headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(body)


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """The address of a server for `hub`, which runs inside the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def files_below(directory: Path, folder: str = "") -> dict[str, bytes]:
    """The files of a directory as those of a repository, below `folder`."""
    prefix = f"{folder}/" if folder else ""
    return {prefix + path.name: path.read_bytes() for path in directory.iterdir()}
