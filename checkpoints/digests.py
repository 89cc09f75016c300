"""Digests of files: whether a file still holds what was written."""

import hashlib
from pathlib import Path
from typing import Any

BLOCK = 1 << 22


def digest_of(path: Path) -> str:
    """BLAKE2 (128 bits) of a file's bytes, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def digest_of_text(text: str) -> str:
    """BLAKE2 (128 bits) of a text in UTF-8, in hexadecimal."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_record(path: Path) -> dict[str, Any]:
    """Size and digest of a file, as our markers and lists of digests hold them."""
    return {"bytes": path.stat().st_size, "blake2b": digest_of(path)}
