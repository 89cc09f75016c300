"""Reading what `torch.save` wrote. `weights_only=True` runs nothing of a file, but lets it ask for memory."""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError
from utils.reading import check_regular

_HEAD = 64 * 2**20  # of a file in the format before 1.6, which begins with its pickles
_MAX_PICKLE = 2**28
_ASKS_FOR_MEMORY = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")


def load_plain(path: Path) -> Any:
    """What is in a file of `torch.save`, on the CPU, mapped from the file where that can be.

    Raises `UserError` for a call that tensors and plain data do not need, and what `torch.load` raises.
    """
    check_regular(path, missing="it should be a file of torch.save")
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    if _ASKS_FOR_MEMORY.search(_pickle_of(path, is_archive)):
        raise UserError(f"{path} is refused: it makes a bytearray, which tensors do not need")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)


def _pickle_of(path: Path, is_archive: bool) -> bytes:
    if not is_archive:
        with path.open("rb") as file:
            return file.read(_HEAD)
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith("data.pkl"):
                if entry.file_size > _MAX_PICKLE:
                    raise UserError(f"{path} is refused: its pickle has {entry.file_size >> 20} MB")
                return archive.read(entry)
    return b""
