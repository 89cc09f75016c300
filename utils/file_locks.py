"""Files that one process at a time may have: the lock goes with the process, however that ends."""

import errno
import fcntl
import os
from pathlib import Path
from typing import TextIO


def open_locked(path: Path) -> TextIO | None:
    """The file, created where there is none and open to append to, locked until it is closed; None if another has it.

    A disk that knows no locks gives the file to everybody.
    """
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.close()
                return None
            return file
        if _is_still(file, path):
            return file
        file.close()  # its owner removed it in between


def _is_still(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
