"""Errors that a user can mend, and how an entry point reports them."""

import os
import select
import signal
import sys
from collections.abc import Callable, Sequence


class UserError(Exception):
    """Something outside the program is wrong; the message says what, where, and what to do about it."""


def message_of(error: UserError) -> str:
    """The message without the traceback that a `DataLoader` puts before what a worker process raised."""
    _, found, message = str(error).rpartition("UserError: ")
    return message.strip() if found else str(error)


def run_main(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """Run an entry point and exit with its status: 0, 2 for a `UserError` or a file that cannot be read.

    With `--debug` among the arguments the traceback is shown as well.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = main(arguments) or 0
        sys.stdout.flush()
    except (UserError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        if "--debug" in arguments:
            raise
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except BrokenPipeError:
        if not _output_is_cut_off():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python itself flushes at the end
        status = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def _output_is_cut_off() -> bool:
    """Whether nobody reads our output any more, as behind `| head`."""
    output = select.poll()
    output.register(sys.stdout, select.POLLOUT)
    return any(event & select.POLLERR for _, event in output.poll(0))
