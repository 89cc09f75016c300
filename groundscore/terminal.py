"""Text that fits the terminal it is printed on."""

import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

NARROWEST = 20  # characters; a terminal that says less, such as 0, does not know


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Characters in a line of the terminal that `stream` (default: standard output) is, or as COLUMNS says; None for a
    file or a pipe, whose lines have no limit."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) >= NARROWEST:
        return int(columns)
    try:
        found = os.get_terminal_size((stream or sys.stdout).fileno()).columns
    except (OSError, ValueError, AttributeError):  # no terminal; a stream without a file
        return None
    return found if found >= NARROWEST else None


def wrapped(text: str, width: int | None) -> str:
    """`text` with every line that is too long broken between words and indented as it began."""
    if width is None:
        return text
    return "\n".join(piece for line in text.split("\n") for piece in _broken(line, width))


def _broken(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    left, right = (re.split(r" {3,}", line.strip(), maxsplit=1) + [""])[:2]
    if right:  # a command, and what it does in a column of its own
        return [*_broken(indent + left, width), *_broken(f"{indent}    {right}", width)]
    indent += "  " if line.lstrip().startswith("- ") else ""
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def two_columns(rows: Sequence[tuple[str, str]], width: int | None) -> str:
    """Names and what they mean, wrapped beside each other, or below where there is no room; indented by 2."""
    widest = max(len(name) for name, _ in rows) + 4
    if width is None:
        return "\n".join(f"  {name:{widest - 2}}{text}" for name, text in rows)
    lines = []
    for name, text in rows:
        beside = widest <= width // 2
        first = f"  {name:{widest - 2}}" if beside else " " * 6
        lines += [] if beside else [f"  {name}"]
        later = " " * (widest if beside else 6)
        lines += textwrap.wrap(text, width, initial_indent=first, subsequent_indent=later, break_long_words=False)
    return "\n".join(lines)


def fitted(text: str, width: int | None) -> str:
    """Text with Markdown tables for a terminal: a table that is too wide becomes a block for each of its rows, and
    other lines that are too long are broken between words."""
    if width is None:
        return text
    lines, parts = text.split("\n"), []
    while lines:
        count = next((at for at, line in enumerate(lines) if not line.startswith("|")), len(lines))
        if count > 2:  # head, rule and rows
            table, lines = lines[:count], lines[count:]
            parts += table if max(map(len, table)) <= width else _blocks(table, width)
        else:
            parts += _broken(lines.pop(0), width)
    return "\n".join(parts)


def _blocks(table: Sequence[str], width: int) -> list[str]:
    """A Markdown table as blocks: the first cell of a row, and below it the others with their headings."""
    head, _, *rows = [[cell.strip().replace("\\|", "|") for cell in _cells(line)] for line in table]
    lines: list[str] = []
    for row in rows:
        pairs = [(name, cell) for name, cell in zip(head[1:], row[1:], strict=True) if cell not in ("", "-")]
        lines += [""] if lines else []
        lines += _broken(row[0], width)
        if pairs:
            lines += two_columns(pairs, width).split("\n")
    return lines


def _cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return re.split(r"(?<!\\)\|", line.strip().strip("|"))
