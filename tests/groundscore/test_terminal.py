"""Text that fits the terminal."""

import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from groundscore.progress import ProgressBar, data_size
from groundscore.terminal import fitted, terminal_width, two_columns, wrapped

TABLE = """\
**Scores**

| split             | answer    | gIoU             | cIoU | note |
|-------------------|-----------|------------------|------|------|
| ReasonSeg\\|val    | generated | 67.9 (60.1–75.2) | 70.1 | -    |
| refcoco\\|unc\\|val | given     | 12.0 (10.0–14.0) | 9.8  | late |

- given: the answer is forced on the model, word by word, however long it may be"""


def test_a_wide_table_becomes_blocks_and_a_narrow_one_stays():
    assert fitted(TABLE, None) == TABLE
    assert fitted(TABLE, 80).splitlines()[:6] == TABLE.splitlines()[:6]

    narrow = fitted(TABLE, 40)
    assert max(map(len, narrow.splitlines())) <= 40
    assert (
        "ReasonSeg|val\n  answer  generated\n  gIoU    67.9 (60.1–75.2)\n  cIoU    70.1\n\nrefcoco|unc|val\n" in narrow
    )
    assert "  note    late" in narrow


def test_lines_are_broken_between_words_and_keep_their_indent():
    assert wrapped("  one two three\n- four five", 10) == "  one two\n  three\n- four\n  five"
    assert wrapped("  do it     what it does", 16) == "  do it\n      what it\n      does"
    assert wrapped("a_name_that_is_too_long", 10) == "a_name_that_is_too_long"


@pytest.mark.parametrize("width", [30, 40, 80, 200])
def test_names_stand_beside_what_they_mean_or_above_it(width):
    text = two_columns([("/image PATH", "look at another image " * 3), ("/quit", "exit")], width)
    assert max(map(len, text.splitlines())) <= width
    assert text.split() == two_columns([("/image PATH", "look at another image " * 3), ("/quit", "exit")], None).split()


def test_the_width_is_that_of_the_terminal_unless_columns_says_otherwise(monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.delenv("COLUMNS", raising=False)
    with open(theirs, "w") as stream, open(os.devnull, "w") as file:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 57, 0, 0))
        assert terminal_width(stream) == 57
        assert terminal_width(file) is None
        monkeypatch.setenv("COLUMNS", "44")
        assert terminal_width(stream) == terminal_width(file) == 44
    os.close(ours)


@pytest.mark.parametrize(("count", "text"), [(0, "0 bytes"), (1536, "1.5 kB"), (3_400_000, "3.4 MB"), (2e9, "2.0 GB")])
def test_sizes_have_a_unit_that_shows_them(count, text):
    assert data_size(count) == text


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_bar_never_wraps(columns, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", str(columns))
    bar = ProgressBar("R-refcoco+|unc|val generated", stream=(shown := Terminal()))
    bar.show(3, 1500, "  gIoU 66.5  cIoU 64.4")
    (line,) = shown.getvalue().split("\r\x1b[K")[1:]
    assert len(line) < columns and line.endswith("3/1500  gIoU 66.5  cIoU 64.4")
