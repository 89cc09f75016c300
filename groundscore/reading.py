"""Reading files that nobody vouches for: regular files only, up to a size, and named for what they are.

Every JSON file and every line of JSON in the project is read here, with the same care.
"""

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from groundscore.errors import UserError, shown

try:
    import orjson  # decodes many times faster, but groundscore does without
except ImportError:
    orjson = None

MISSING = "`python -m groundscore layout` says where files go"
MAX_MEGABYTES = "UGROUND_MAX_FILE_MB"
_DEFAULT_MEGABYTES = 4096  # the largest official annotation file, PACO's, has about 1200
MAX_LINE_MEGABYTES = "UGROUND_MAX_LINE_MB"
_DEFAULT_LINE_MEGABYTES = 64
_START = 64
_WIDE = "is {0} text, not UTF-8; convert it: iconv -f {0} -t UTF-8 FILE > NEW"
# Accents and typographic quotes in English texts are lone bytes of Windows-1252; the encodings of Chinese, Japanese,
# Korean and Cyrillic texts put such bytes side by side, or use those of rare signs.
_NOT_WINDOWS_1252 = re.compile(rb"[\xa0-\xff]{2}|[\x82-\x84\x86-\x89\x8b\x98\x9b]")
_CONTENTS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; fetch its content with: git lfs pull",
    b"<!doctype html": "is a web page that was downloaded instead of the file; download it again",
    b"<html": "is a web page that was downloaded instead of the file; download it again",
    b"\x1f\x8b": "is compressed by gzip; unpack it with gunzip first",
    b"bzh": "is compressed by bzip2; unpack it with bunzip2 first",
    b"\xfd7zxz\x00": "is compressed by xz; unpack it with unxz first",
    b"pk\x03\x04": "is a ZIP archive; unpack it first",
    b"\x00\x05\x16\x07": "is a file of macOS beside the real one (AppleDouble); delete it",
    b"\xff\xfe\0\0": _WIDE.format("UTF-32"),
    b"\0\0\xfe\xff": _WIDE.format("UTF-32"),
    b"\xff\xfe": _WIDE.format("UTF-16"),  # as PowerShell writes it
    b"\xfe\xff": _WIDE.format("UTF-16"),
}


def read_bytes(path: Path, *, missing: str = MISSING, megabytes: int = _DEFAULT_MEGABYTES) -> bytes:
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


def user_path(text: str | Path) -> Path:
    """The path that a user or a file names; `~` stands for a home directory where there is one of that user."""
    return Path(os.path.expanduser(text))  # `Path.expanduser` raises RuntimeError for an unknown user


def check_regular(path: Path, *, missing: str) -> None:
    """Refuse what is no regular file or empty, without opening it.

    Opening a FIFO waits, a device may never end, and what the kernel shows as a file of no bytes (`/proc`) may do both.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} is missing; {missing}") from error
    except OSError as error:  # a name that is too long, links in a circle
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:  # a name with a NUL
        raise UserError(f"{path} cannot be read ({error})") from error
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is a FIFO, a socket or a device, not a file")
    if status.st_size == 0:
        raise UserError(f"{path} is empty; {missing}")


def what_it_is(start: bytes) -> str | None:
    """What a file is instead of data, by its first bytes, and what to do about it; None where it may be data."""
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    return next((what for beginning, what in _CONTENTS.items() if start.startswith(beginning)), None)


def read_json(
    path: Path,
    kind: type | None = None,
    *,
    missing: str = MISSING,
    remedy: str = "download it again",
    windows_1252: bool = False,
) -> Any:
    """Returns the value in a UTF-8 JSON file, with or without a byte order mark.

    kind: `list` or `dict`, where the file must hold one. missing, remedy: what to do when there is no such file, or it
    is not JSON. windows_1252: the data set has files in this older encoding too.
    """
    value = parse_json(_decode_text(read_bytes(path, missing=missing), path, windows_1252), str(path), remedy=remedy)
    if kind is not None and not isinstance(value, kind):
        raise UserError(f"{path} must contain a JSON {kind.__name__}, but contains a {type(value).__name__}")
    return value


def _decode_text(raw: bytes, path: Path, windows_1252: bool) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = _decode_windows_1252(raw) if windows_1252 else None
        if text is not None:
            return text
        known = "UTF-8 or Windows-1252" if windows_1252 else "UTF-8"
        name = "GBK (of Chinese Windows)" if _is_gbk(raw) else "another encoding"
        raise UserError(
            f"{path} is not {known} text: byte 0x{raw[error.start]:02X} at {error.start}. It may be {name}; "
            "convert it, such as: iconv -f GBK -t UTF-8 FILE > NEW"
        ) from error


def _decode_windows_1252(raw: bytes) -> str | None:
    """The text, None where it cannot be Windows-1252."""
    if _NOT_WINDOWS_1252.search(raw):
        return None
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:
        return None


def _is_gbk(raw: bytes) -> bool:
    try:
        return any("\u4e00" <= character <= "\u9fff" for character in raw.decode("gb18030"))
    except UnicodeDecodeError:
        return False


def read_lines(path: Path, *, missing: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that hold something, and their numbers from 1. Only a newline ends a line."""
    return ((number, text) for number, _, text in read_lines_at(path, missing=missing))


def read_lines_at(path: Path, *, missing: str) -> Iterator[tuple[int, int, str]]:
    """The same with the byte at which each line begins, from which it can be read again."""
    check_regular(path, missing=missing)
    most = _megabytes(MAX_LINE_MEGABYTES, _DEFAULT_LINE_MEGABYTES) << 20
    with path.open("rb") as file:
        number = end = 0
        while line := file.readline(most + 1):
            number += 1
            start, end = end, end + len(line)
            if len(line) > most:
                raise UserError(
                    f"{path}: line {number} has more than {most >> 20} MB; {MAX_LINE_MEGABYTES}=N reads lines of N MB"
                )
            other = what_it_is(line[:_START]) if number == 1 else None
            if other is not None:
                raise UserError(f"{path} {other}")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} is not UTF-8 text: line {number}, byte {error.start}; save it as UTF-8"
                ) from error
            if text.strip():
                yield number, start, text


def parse_json(text: str, where: str, *, remedy: str = "download it again") -> Any:
    """The value of a JSON text. `UserError`, which names `where` it stands, for what is not strictly JSON (NaN and
    Infinity are not), and for an object that has two values under one key."""
    if not text.strip():
        raise UserError(f"{where} is empty; {remedy}")
    try:
        return _decode(text, _STRICT)
    except ValueError as error:
        reason = str(error).partition("; use sys.")[0]  # of a number with thousands of digits, Python's remedy
        raise UserError(f"{where} is not valid JSON ({reason}); {remedy}") from error


def decode_strictly(text: bytes) -> Any:
    """The value of UTF-8 JSON text, which must be strictly JSON as for `parse_json`; ValueError where it is not.

    orjson decodes it where it is installed and would say the same: it makes fractions of numbers beyond 64 bits, and
    keeps the last value of a key that an object has twice.
    """
    if orjson is not None:
        with contextlib.suppress(orjson.JSONDecodeError):
            value = orjson.loads(text)
            if text.translate(_AS_ZEROS).find(_LONG_NUMBER) < 0 and _has_all_entries(value, text):
                return value
    return _decode(text.decode(), _STRICT)


def _has_all_entries(value: Any, text: bytes) -> bool:
    """Whether the objects in a value have as many entries as its text has keys; False also where that is not sure.

    The text has no more keys than colons, and no more than quotes before colons.
    """
    entries = _count_entries(value, text)
    return entries == text.count(b":") or entries == len(_KEY_END.findall(text))


def _count_entries(value: Any, text: bytes) -> int:
    """At most as many entries as all objects in a value have together; less, where a list is not of one kind."""
    if type(value) is list and text.count(b"{") == len(value) and set(map(type, value)) == {dict}:
        return sum(map(len, value))  # objects that hold no others
    return _count_nested_entries(value)


def _count_nested_entries(value: Any) -> int:
    count, level = 0, [value]
    while level:
        objects = [each for each in level if type(each) is dict]
        lists = [each for each in level if type(each) is list and each and type(each[0]) in _NESTED]
        count += sum(map(len, objects))
        level = [inner for each in objects for inner in each.values() if type(inner) in _NESTED]
        level += [inner for each in lists for inner in each]
    return count


def decode_json(text: str) -> Any:
    """The value of a JSON text that this program may have written, in which losses can be NaN; ValueError where it is
    none."""
    return _decode(text, _WITH_NAN)


def _decode(text: str, decoder: json.JSONDecoder) -> Any:
    try:
        return decoder.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        for key, value in pairs:
            if record[key] != value:
                raise ValueError(f"an object has the key {shown(key)} twice, with different values")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


_NESTED = (dict, list)
_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 20  # may be more than 64 bits hold
_KEY_END = re.compile(rb'"[ \t\r\n]*:')
_STRICT = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
_WITH_NAN = json.JSONDecoder(object_pairs_hook=_unique_keys)


def _check_size(path: Path, size: int, megabytes: int) -> None:
    most = _megabytes(MAX_MEGABYTES, megabytes)
    if size > most << 20:
        raise UserError(f"{path} has {size >> 20} MB, more than {most}; {MAX_MEGABYTES}=N reads files of up to N MB")


def most_bytes() -> int:
    """The size above which no file, and no part of an archive, is read."""
    return _megabytes(MAX_MEGABYTES, _DEFAULT_MEGABYTES) << 20


def _megabytes(variable: str, usual: int) -> int:
    """A limit that the environment may lift."""
    text = os.environ.get(variable, str(usual))
    if not text.isdecimal():
        raise UserError(f"{variable}={text} should be a number of megabytes")
    return int(text)
