"""Who may ask: keys that requests present as `Authorization: Bearer KEY`."""

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from groundscore.errors import UserError
from groundscore.reading import read_bytes

_SHORTEST = 16


class Keys:
    """Keys of the service, as digests; with none, everyone may ask."""

    def __init__(self, keys: Sequence[str] = ()):
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, authorization: str | None) -> bool:
        """Whether a request with this header may ask; takes as long for any wrong key."""
        if not self._digests:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        known = [hmac.compare_digest(given, digest) for digest in self._digests]  # all of them, whichever fits
        return any(known) and scheme.lower() == "bearer"


def read_keys(text: str | None, file: Path | None) -> Keys:
    """The keys of `--api_key`, joined by commas, and of `--api_key_file`, one a line; raises `UserError`."""
    keys = [key.strip() for key in (text or "").split(",") if key.strip()]
    if text is not None and not keys:
        raise UserError("--api_key is empty")
    if file is not None:
        try:
            lines = read_bytes(file, missing="--api_key_file names a file of keys").decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{file} is not UTF-8 text") from None
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise UserError(f"{file} has no keys; write one a line")
        keys += found
    for key in keys:
        if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(
                f"an API key has at least {_SHORTEST} letters, digits or signs and no space; make one by: "
                "python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
    return Keys(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
