"""Reading files that nobody vouches for: regular files only, up to a size, and named for what they are."""

import os
import stat
from pathlib import Path

from utils.errors import UserError

MAX_MEGABYTES = "UGROUND_MAX_FILE_MB"
_DEFAULT_MEGABYTES = 4096  # the largest official annotation file, PACO's, has about 1200
_START = 64
_CONTENTS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file; run `git lfs pull` where it was cloned",
    b"<!doctype html": "is a web page that was downloaded instead of the file; fetch it anew",
    b"<html": "is a web page that was downloaded instead of the file; fetch it anew",
    b"\x1f\x8b": "is compressed by gzip; unpack it with gunzip first",
    b"bzh": "is compressed by bzip2; unpack it with bunzip2 first",
    b"\xfd7zxz\x00": "is compressed by xz; unpack it with unxz first",
    b"pk\x03\x04": "is a ZIP archive; unpack it first",
    b"\x00\x05\x16\x07": "is a file of macOS beside the real one (AppleDouble); delete it",
}


def read_bytes(
    path: Path, *, missing: str = "see dataloaders/README.md for where files go", megabytes: int = _DEFAULT_MEGABYTES
) -> bytes:
    """The content of a regular file.

    Raises `UserError` for what is no regular file, is too large, or is known to be something else, such as a Git LFS
    pointer. missing: what to say when there is no such file. megabytes: how large it may be, unless
    `UGROUND_MAX_FILE_MB` says so.
    """
    check_regular(path, missing=missing)
    try:
        with path.open("rb") as file:
            _check_size(path, os.fstat(file.fileno()).st_size, megabytes)
            content = file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    other = what_it_is(content[:_START])
    if other is not None:
        raise UserError(f"{path} {other}")
    return content


def check_regular(path: Path, *, missing: str) -> None:
    """Refuse what is no regular file, without opening it: opening a FIFO waits, and a device may never end."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} is missing; {missing}") from error
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        raise UserError(f"{path} cannot be read ({error})") from error
    if stat.S_ISDIR(mode):
        raise UserError(f"{path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is a FIFO, a socket or a device, not a file")


def what_it_is(start: bytes) -> str | None:
    """What a file is instead of data, by its first bytes, and what to do about it; None where it may be data."""
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    return next((what for beginning, what in _CONTENTS.items() if start.startswith(beginning)), None)


def _check_size(path: Path, size: int, megabytes: int) -> None:
    text = os.environ.get(MAX_MEGABYTES, str(megabytes))
    if not text.isdecimal():
        raise UserError(f"{MAX_MEGABYTES}={text} should be a number of megabytes")
    if size > int(text) * 2**20:
        raise UserError(f"{path} has {size >> 20} MB, more than {text}; {MAX_MEGABYTES}=N reads files of up to N MB")
