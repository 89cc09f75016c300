"""How an entry point ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from groundscore.errors import shown

PRINTS = """
from groundscore.errors import run_main

def main(arguments):
    for number in range(100_000):
        print(number)

run_main(main, [])
"""


def test_output_that_nobody_reads_any_more_ends_the_program_quietly():
    program = subprocess.Popen(
        [sys.executable, "-c", PRINTS],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout.readline() == "0\n"
    program.stdout.close()
    assert program.wait(30) == 141
    assert program.stderr.read() == ""
    program.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this platform has no /dev/full")
def test_output_to_a_full_disk_is_said_in_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PRINTS],
            cwd=Path(__file__).parents[2],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device (--debug shows where)\n"


def ending(raised: str, *arguments: str) -> subprocess.CompletedProcess:
    """A program that raises the expression `raised`."""
    code = (
        f"from groundscore.errors import UserError, run_main\ndef main(arguments):\n    raise {raised}\nrun_main(main)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("UserError('a.json: broken')", "error: a.json: broken"),
        ("OSError(28, 'No space left on device', 'out.json')", "error: No space left on device: out.json"),
        ("PermissionError(13, 'Permission denied', 'x')", "error: Permission denied: x"),
        ("OSError(36, 'File name too long', 'a' * 9000)", "error: File name too long: aaa"),
        ("RuntimeError('Error while serializing: No space left on device (os error 28)')", "error: No space left on"),
        (
            "RuntimeError('PytorchStreamWriter failed writing file data/0: file write failed')",
            "error: No space left on",
        ),
        (
            "RuntimeError('no checkpoint') from OSError(28, 'No space left on device', 'a.pt')",
            "error: No space left on device: a.pt",
        ),
        ("RecursionError('maximum')", "error: something is nested too deeply"),
        ("OverflowError('int too large')", "error: OverflowError: int too large"),
        ("UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad')", "error: UnicodeDecodeError: 'utf-8' codec"),
        ("MemoryError()", "error: not enough memory"),
        ("UserError('\\x1b[2J\\u202egpj.exe\\x07')", r"error: \x1b[2J\u202egpj.exe\x07"),
        ("UserError('lone \\udc80 surrogate')", r"error: lone \udc80 surrogate"),
    ],
)
def test_what_a_user_can_cause_is_one_line(raised, said):
    done = ending(raised)
    assert done.returncode == 2
    assert done.stderr.startswith(said) and done.stderr.count("\n") == 1 and len(done.stderr) < 5000
    assert "Traceback" in ending(raised, "--debug").stderr


@pytest.mark.parametrize("raised", ["KeyError('save')", "TypeError('ours')", "ZeroDivisionError()"])
def test_our_own_bugs_keep_their_traceback(raised):
    done = ending(raised)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_warning_cannot_command_the_terminal():
    done = subprocess.run(
        [sys.executable, "-c", WARNING], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stderr == "\\x1b[2J.jpg\n"


WARNING = """
import logging
from groundscore.errors import run_main
run_main(lambda arguments: logging.getLogger("dataloaders").warning("%s", "\\x1b[2J.jpg"))
"""


def test_names_that_are_no_text_can_be_printed():
    code = "from groundscore.errors import run_main\nrun_main(lambda arguments: print('file \\udcff'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "file \\udcff\n")


def test_a_value_in_a_message_costs_nothing_however_large_it_is():
    bomb = []
    for _ in range(60):
        bomb = [bomb, bomb]
    endless = {}
    endless["itself"] = endless

    for value in (bomb, endless, 10**5000, b"x" * 10**7, "y" * 10**7, dict.fromkeys(range(1000), bomb)):
        assert 0 < len(shown(value)) <= 60
    assert shown(["a\n", 1, None, {"b": 2.5}]) == "['a\\n', 1, None, {'b': 2.5}]"


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_program_runs_without_its_streams(tmp_path, closed):
    """And no file that it opens gets the number of one of them."""
    main = "lambda arguments: print(open(arguments[0], 'w').fileno() > 2) or print('said', file=sys.stderr)"
    script = f"import sys; from groundscore.errors import run_main; run_main({main}, sys.argv[1:])"
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" "$2" {closed}', sys.executable, script, tmp_path / "file"],
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0 and (tmp_path / "file").read_text() == ""
