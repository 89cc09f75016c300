"""The gate in front of Gradio's server: which URLs exist, who may request them, and the headers of every response.

Gradio's server can do more than this page needs (fetch other hosts' files, deep links, developer tools). Only what the
page uses is let through, so that a newer Gradio adds no new entry point.
"""

import json
import re
from collections.abc import Sequence

from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.service.hosts import host_name

# What the page itself fetches. A file's address may not name another host.
_PAGES = re.compile(
    r"/|/readme|/config/?|/login/?|/logout|/favicon\.ico|/theme\.css|/(static|assets|svelte)/.+"
    r"|/gradio_api/(queue/(join|data)|run/\w+|upload|upload_progress|cancel|reset/?|heartbeat/\w+|startup-events|app_id/?|user/?"
    r"|login_check/?|token/?|theme\.css|file=(?!\w+:).+)"
)
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)
_SCHEME = re.compile(r"\s*\w+://")
_BODY = 1 << 20  # bytes of a request that is not an upload


class Beside:
    """ASGI middleware: the service answers below /v1, the page everywhere else. root_path: where a proxy shows both."""

    def __init__(self, app: ASGIApp, service: FastAPI, root_path: str):
        self.app, self.service, self.root_path = app, service, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["path"].removeprefix(self.root_path).startswith("/v1/")
        await (self.service if ours else self.app)(scope, receive, send)


class Gate:
    """ASGI middleware. hosts: names under which the server may be addressed, None for any: on a machine of one's own,
    a foreign name means that some web page had its name point here. frame: another site that may show the page."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None = None, frame: str | None = None):
        self.app, self.hosts = app, hosts
        policy = f"{_POLICY} {frame}" if frame else _POLICY
        self.headers = ((b"content-security-policy", policy.encode()), *_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await PlainTextResponse(refusal[1], status_code=refusal[0])(scope, receive, send)
            return

        if scope["method"] == "POST" and not scope["path"].endswith("/upload"):
            body = await _read(receive)
            if names_a_foreign_file(body):
                await PlainTextResponse("Only uploaded files are read.", status_code=400)(scope, receive, send)
                return
            receive = _replay(body, receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self.headers]
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        if not _PAGES.fullmatch(scope["path"]) or ".." in scope["path"].split("/"):
            return 404, "Not found."
        if self.hosts is not None and host_name(headers.get(b"host", b"").decode("latin-1")) not in self.hosts:
            return 403, (
                "This server answers to its own address only; use http://127.0.0.1 with its port. Behind a proxy, "
                "start it with --auth USER:PASS, which lifts this, and with --root_path PATH if it is shown below one."
            )
        if scope["method"] == "POST" and not scope["path"].endswith("/upload"):
            length = headers.get(b"content-length", b"")
            if not length.isdigit() or int(length) > _BODY:
                return 413, "The request is too large."
        return None


def names_a_foreign_file(body: bytes) -> bool:
    """Whether a JSON request has a file that lies on another host: Gradio would fetch it."""
    try:
        left = [json.loads(body)]
    except (ValueError, RecursionError):
        return False  # not for us to explain
    while left:
        value = left.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and _SCHEME.match(path):
                return True
            left += value.values()
        elif isinstance(value, list):
            left += value
    return False


async def _read(receive: Receive) -> bytes:
    """The whole body; its length is limited by its header."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` as if the body had not been read."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again
