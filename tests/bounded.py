"""Running a piece of code in a process of its own with little memory, for attacks that would otherwise take it all."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_bounded(code: str, *arguments: object, megabytes: int = 500, seconds: int = 120) -> str:
    """What `code` prints. Its process may take so much memory on top of what its imports took, and so much time.

    In the code `limit()` sets the limit, to be called after the imports; `refused(call)` is the message of the
    `UserError` that a call must end in.
    """
    preamble = f"""
        import resource, sys
        from groundscore.errors import UserError
        def limit():
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + {megabytes} * 2**20,) * 2)
        def refused(call):
            try:
                call()
            except UserError as error:
                return str(error)
            raise AssertionError("it was not refused")
    """
    program = textwrap.dedent(preamble) + textwrap.dedent(code)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
