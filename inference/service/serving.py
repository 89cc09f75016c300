"""From the flags of `app.py` to a running service, alone or beside the dashboard, and its clean end."""

import logging
import signal
import socket
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundscore.errors import UserError
from groundscore.flags import positive
from groundscore.reading import user_path
from inference.background import BackgroundModel
from inference.limits import Limits
from inference.model_flags import check_version
from inference.service.hosts import LOOPBACK, OWN_HOSTS
from inference.service.keys import Keys, read_keys

if TYPE_CHECKING:
    from fastapi import FastAPI

    from inference.service.desk import Desk
    from inference.session import ChatSession

ALONE, BESIDE = "alone", "beside"
FIRST_PORT, LAST_FREE, LAST_PORT = 7860, 7959, 65535


def add_service_flags(parser: ArgumentParser) -> None:
    """Adds the flags of the service."""
    group = parser.add_argument_group("service")
    group.add_argument(
        "--api",
        nargs="?",
        const=ALONE,
        choices=(ALONE, BESIDE),
        help=f"answer questions over HTTP (docs/service.md): {ALONE}, or {BESIDE} the page",
    )
    group.add_argument(
        "--api_key",
        metavar="KEYS",
        help="keys, joined by commas, of which requests must present one; other users of this machine see a command "
        "line, not a variable or a file",
    )
    group.add_argument("--api_key_file", type=Path, metavar="FILE", help="the same, one a line")
    group.add_argument(
        "--timeout", type=positive, default=Limits.timeout, metavar="S", help="longest time to an answer in seconds"
    )
    group.add_argument(
        "--max_batch", type=positive, default=Limits.together, metavar="N", help="questions answered at a time"
    )


def keys_of(flags: Namespace) -> Keys:
    """The keys that the flags name; raises `UserError` where the service would be open to more than it should."""
    keys = read_keys(flags.api_key, flags.api_key_file)
    if not keys and (flags.share or flags.auth):
        shut = "--share opens a public address" if flags.share else "--auth protects the page only"
        raise UserError(f"{shut}: give the service keys of its own with --api_key_file FILE or UGROUND_API_KEY")
    return keys


def hosts_of(flags: Namespace, keys: Keys) -> tuple[str, ...] | None:
    """The names under which a server with these flags may be addressed; None for any."""
    return OWN_HOSTS if flags.host in LOOPBACK and not keys else None


def service(flags: Namespace, limits: Limits, model: BackgroundModel) -> "tuple[FastAPI, Desk]":
    """The service as an ASGI application, and its desk, which is to be started and closed."""
    from inference.service.api import build_api
    from inference.service.desk import Desk

    keys = keys_of(flags)
    desk = Desk(model, limits)
    return build_api(desk, limits, keys, hosts=hosts_of(flags, keys), root_path=flags.root_path or ""), desk


def serve(flags: Namespace, limits: Limits) -> None:
    """Run the service that the flags of `app.py` describe until it is interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    server = ServiceServer(flags, limits, lambda tell: load_session(flags, limits, tell))
    try:
        check_version(flags.version)
        fetch_version(flags.version)
        server.start()
        server.wait()
    finally:
        server.close()


def fetch_version(version: str) -> None:
    """A model on the hub is fetched before the port opens: a mistyped path looks like the name of one."""
    if not user_path(version).exists():
        from checkpoints.hub import find_model

        find_model(version, "--version")


def load_session(
    flags: Namespace, limits: Limits, tell: Callable[[str], None], too_long: str = "Ask more briefly"
) -> "ChatSession":
    """A chat session with the checkpoint that the flags name; reports progress by `tell(text)`. too_long: see
    `ChatSession`."""
    tell("loading libraries")
    from inference.model_flags import load_flagged_model
    from inference.session import ChatSession

    tell("loading weights")
    model, processor = load_flagged_model(flags)
    tell("ready")
    return ChatSession(model, processor, layer=flags.layer, max_new_tokens=limits.answer, too_long=too_long)


class ServiceServer:
    """The service alone, on a port of its own.

    load: returns the model; called in a thread with a function that reports progress.
    """

    def __init__(self, flags: Namespace, limits: Limits, load: "Callable[[Callable[[str], None]], ChatSession]"):
        if flags.version is None:
            raise UserError("--api needs --version DIR, the checkpoint to use")
        if flags.share or flags.auth:
            wrong = "--share" if flags.share else "--auth"
            raise UserError(f"{wrong} is for the page, which --api {ALONE} has not; --api_key protects the service")
        if flags.tab:
            raise UserError(f"--tab is for the page; show both with --api {BESIDE}")
        self.flags, self.limits = flags, limits
        self.open_to_all = flags.host not in LOOPBACK and not keys_of(flags)
        self.model = BackgroundModel(load, "/".join(Path(flags.version).parts[-2:]))
        self.url = ""
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Open the port and begin to load the model."""
        import uvicorn

        api, self.desk = service(self.flags, self.limits, self.model)
        listener = listen(self.flags.host, self.flags.port)
        config = uvicorn.Config(
            api,
            log_level="warning",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
            proxy_headers=False,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="http", daemon=True
        )
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)
        self.model.start()
        self.desk.start()
        host = f"[{self.flags.host}]" if ":" in self.flags.host else self.flags.host
        self.url = f"http://{host}:{listener.getsockname()[1]}"
        print(f"UGround answers on {self.url}/v1/ground  (Ctrl-C ends it)", flush=True)
        if self.open_to_all:
            print("WARNING: everyone who can reach this address can use it; --api_key_file FILE requires a key")

    def wait(self) -> None:
        """Until Ctrl-C, or until the process is asked to end."""
        wait_for_the_end()

    def close(self) -> None:
        """Stop; answers that run are given up."""
        if self._server is not None:
            self.desk.close()
            self._server.should_exit = True
            self._thread.join(10)


def wait_for_the_end() -> None:
    """Returns on Ctrl-C, or when the process is asked to end."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(1):  # an endless wait would let no signal through on some systems
        pass


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens on a port, without one the first free from 7860; raises `UserError`."""
    check_address(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in [port] if port else range(FIRST_PORT, LAST_FREE + 1):
        try:
            return socket.create_server((host, number), family=family, backlog=256)
        except OSError:
            continue
    raise no_port(host, port)


def check_address(host: str, port: int | None) -> None:
    """Raises `UserError` for a port or a name that no machine has."""
    if port is not None and port > LAST_PORT:
        raise UserError(f"--port {port}: ports end at {LAST_PORT}")
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        raise UserError(f"--host {host} is not an address of this machine ({error.strerror})") from None


def no_port(host: str, port: int | None) -> UserError:
    """The error for ports that cannot be had."""
    taken = (
        f"all ports from {FIRST_PORT} to {LAST_FREE} are in use"
        if port is None
        else f"port {port} is in use or not allowed"
    )
    return UserError(f"cannot listen on {host}: {taken}; choose another one with --port N")
