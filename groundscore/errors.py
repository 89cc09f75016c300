"""Errors that a user can mend, and how an entry point reports them."""

import contextlib
import errno
import io
import itertools
import logging
import os
import reprlib
import select
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Something outside the program is wrong; the message says what, where, and what to do about it."""


def message_of(error: UserError) -> str:
    """The message without the traceback that a `DataLoader` puts before what a worker process raised."""
    _, found, message = str(error).rpartition(f"{type(error).__name__}: ")
    return message.strip() if found else str(error)


class _Excerpts(reprlib.Repr):
    """`repr` of the beginning of a value, whose lists may be long, deep, or refer to one another."""

    def __init__(self):
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = 80

    def repr_int(self, value: int, level: int) -> str:
        bits = value.bit_length()  # Python refuses to write out what has thousands of digits
        return repr(value) if bits <= 256 else f"<a number of {bits} bits>"

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value[: self.maxother])

    repr_bytearray = repr_bytes

    def repr_dict(self, value: dict, level: int) -> str:
        if level <= 0 and value:
            return "{...}"
        items = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value[key], level - 1)}"
            for key in itertools.islice(value, self.maxdict)
        ]
        return "{" + ", ".join([*items, *(["..."] if len(value) > self.maxdict else [])]) + "}"

    def repr_instance(self, value: Any, level: int) -> str:
        return self.repr_list(value, level) if isinstance(value, list) else super().repr_instance(value, level)


def shown(value: Any, length: int = 60) -> str:
    """A value that came from a file as text for a message: at most `length` characters, no control characters.

    Unlike a whole `repr` that is cut afterwards, its cost does not depend on the size of the value.
    """
    return _EXCERPTS.repr(value)[:length]


_EXCERPTS = _Excerpts()


def printable(text: str, limit: int = 4000) -> str:
    """`text` as a terminal may see it: control and direction characters escaped, cut to `limit` characters.

    Newlines and tabs stay, and what joins letters in Persian or people in emoji. What comes from files (names,
    expressions, messages about them) could otherwise move the cursor, hide lines or reverse what is read.
    """
    if len(text) > limit:
        text = f"{text[: limit // 2]} … {text[-limit // 2 :]}"
    return "".join(c if c in _HARMLESS or unicodedata.category(c) not in _UNPRINTABLE else ascii(c)[1:-1] for c in text)


_UNPRINTABLE = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
_HARMLESS = "\n\t\u200c\u200d"


class _PrintableFormatter(logging.Formatter):
    """For warnings: they name files and quote what is in them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def describe(error: BaseException) -> str:
    """One line about an error that no code of ours expected: what, and of an `OSError` which file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, RecursionError):
        return "something is nested too deeply (RecursionError)"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error or 'MemoryError'})"
    return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system inside the `with` block name a file: those of writing (a full disk) do not by themselves."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


# What libraries say that do not pass the system's error on: safetensors, PyTorch.
_FULL_DISK_WORDS = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "PytorchStreamWriter failed writing file")


def full_disk(error: BaseException) -> str | None:
    """One line where an error is, or follows from, a disk that takes no more; None for any other error."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return describe(each)
        if any(words in str(each) for words in _FULL_DISK_WORDS):
            return f"{os.strerror(errno.ENOSPC)}: {str(each).splitlines()[0][:200]}"
        each = each.__cause__ or each.__context__
    return None


def run_main(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """Run an entry point and exit with its status: 0, or 2 for what a user, a file or a disk has caused.

    That is a `UserError`, and as the last net any `OSError`, `RecursionError`, `OverflowError`, `UnicodeError` or
    `MemoryError`, and what a full disk makes of a library: these end in one line that points to `--debug`, with which
    the traceback is shown.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be no text at all
    logging.lastResort.setFormatter(_PrintableFormatter())  # of all loggers that have no handler of their own
    try:
        status = main(arguments) or 0
        sys.stdout.flush()
    except UserError as error:
        if "--debug" in arguments:
            raise
        print(f"error: {printable(message_of(error))}", file=sys.stderr)
        status = 2
    except BrokenPipeError:
        if not _output_is_cut_off():
            raise
        _let_go_of_output()
        status = 128 + signal.SIGPIPE
    except (OSError, RecursionError, OverflowError, UnicodeError, MemoryError) as error:
        if "--debug" in arguments:
            raise
        print(f"error: {printable(describe(error))} (--debug shows where)", file=sys.stderr)
        status = 2
        try:
            sys.stdout.flush()
        except OSError:  # the output itself goes to a full disk
            _let_go_of_output()
    except Exception as error:
        full = full_disk(error)
        if full is None or "--debug" in arguments:
            raise
        print(f"error: {printable(full)} (--debug shows where)", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def _open_missing_streams() -> None:
    """Give a process that was started without a stream (`>&-`) an empty one; else the next file would get its number,
    and be written to."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _let_go_of_output() -> None:
    """Let what Python itself flushes at the end go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _output_is_cut_off() -> bool:
    """Whether nobody reads our output any more, as behind `| head`."""
    output = select.poll()
    output.register(sys.stdout, select.POLLOUT)
    return any(event & select.POLLERR for _, event in output.poll(0))
