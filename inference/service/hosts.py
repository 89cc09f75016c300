"""Under which names a server may be addressed, and from which sites."""

import re
from collections.abc import Mapping, Sequence

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # addresses that this machine alone can reach
OWN_HOSTS = ("127.0.0.1", "localhost", "[::1]")  # how requests to them name the host


def host_name(host: str) -> str:
    """`localhost:7860` -> `localhost`, `[::1]:7860` -> `[::1]`."""
    return re.sub(r":\d+$", "", host).lower()


def refusal(headers: Mapping[str, str], hosts: Sequence[str] | None) -> str | None:
    """Why a request is refused, or None. hosts: the names of the server, None where any will do: on a machine of one's
    own, a foreign name means that some web page had its name point here, or sends its visitors' browsers."""
    if hosts is None:
        return None
    if host_name(headers.get("host", "")) not in hosts:
        return "this service answers to its own address only; start it with --api_key to use it under other names"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "this service answers no other site's pages"
    return None
