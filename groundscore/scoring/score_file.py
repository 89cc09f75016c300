"""What a scorer keeps on disk: a line that says of which benchmark, then a line for every image that is counted.

A file is appended to as images are counted, by one process at a time; of a program that was killed while it wrote, the
last line is cut short, and forgotten.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from groundscore.errors import UserError, shown
from groundscore.schema import DamagedFile, anything, list_of, mapping, one_of, parse, record, text, whole
from groundscore.scoring.counts import QuestionCounts, Row, check_row, row_from_dict
from groundscore.scoring.metrics import kind_of
from groundscore.splits import OpenSplit
from groundscore.writing import open_locked, write_lines

FORMAT = "groundscore scorer 1"
_HEADER = record({"format": one_of(FORMAT), "split": text, "images": whole(0), "data": text})
_COUNTED = record({"rows": list_of(check_row), "repaired": list_of(mapping(anything))})


class CountedImage(NamedTuple):
    """The counts of all expressions of an image, and what was repaired in its annotations."""

    rows: list[Row]
    repaired: list[dict[str, Any]]


def header_of(benchmark: OpenSplit) -> dict[str, Any]:
    """What two files have alike if they may be merged."""
    return {"format": FORMAT, "split": benchmark.spec, "images": len(benchmark), "data": benchmark.digest}


def write_score_file(path: Path, benchmark: OpenSplit, images: Iterable[CountedImage]) -> None:
    """Writes a file, whole or not at all."""
    write_lines(path, [_header_line(benchmark), *map(_line, images)])


def read_score_file(path: Path, benchmark: OpenSplit) -> tuple[list[CountedImage], int]:
    """Returns the images of a file, and where its last whole line ends.

    Raises `UserError` where it cannot be read or is one of another benchmark, `DamagedFile` where a line is not of one
    image of this benchmark, each once.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    first, *lines, last = content.split(b"\n") if b"\n" in content else (content, b"")
    header = parse(first, _HEADER, f"{path}, line 1")
    if header != header_of(benchmark):
        raise UserError(
            f"{path} has the counts of {shown(header['split'])}, {header['images']} images, which is not "
            f"{benchmark.spec} as it is on disk, {len(benchmark)} images; remove it, or name another file"
        )
    images: dict[int, CountedImage] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path}, line {number}"
        counted = parse(line, _COUNTED, where)
        rows = [row_from_dict(row) for row in counted["rows"]]
        item = rows[0].item if rows else -1
        if not 0 <= item < len(benchmark) or item in images:
            raise DamagedFile(f"{where} is damaged (item {item} is counted already, or no item of the benchmark)")
        _check_rows(rows, benchmark, where)
        images[item] = CountedImage(rows, counted["repaired"])
    return list(images.values()), len(content) - len(last)


class OpenScoreFile:
    """A file that nobody else may write to. images: what it had when it was opened."""

    def __init__(self, path: Path, benchmark: OpenSplit):
        self.path = path
        self.images: list[CountedImage] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_locked(path)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from error
        if self._file is None:
            raise UserError(
                f"{path} is in use by another scorer; give each process a file of its own, or close() the scorer before"
            )
        header = _header_line(benchmark)
        try:
            if header.encode().startswith(path.read_bytes()[: len(header)]) and path.stat().st_size < len(header):
                self._file.truncate(0)  # new, or killed before its first line was whole
                self._append(header)
            else:
                self.images, end = read_score_file(path, benchmark)
                self._file.truncate(end)
        except UserError:
            self.close()
            raise

    def add(self, image: CountedImage) -> None:
        """Appends an image."""
        self._append(_line(image))

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _append(self, line: str) -> None:
        data = line.encode()
        try:
            while data:
                data = data[os.write(self._file.fileno(), data) :]
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror}); free some space") from error


def _check_rows(rows: Sequence[Row], benchmark: OpenSplit, where: str) -> None:
    """Raises `DamagedFile` for rows that are not those of the expressions of one item, in their order."""
    number = rows[0].item
    item = benchmark[number]
    named = [(number, item.path_below(benchmark.root), index) for index in range(len(item.expressions))]
    kinds = {isinstance(row, QuestionCounts) for row in rows}
    if [(row.item, row.image, row.expression) for row in rows] != named or kinds != {kind_of(benchmark.spec) == "muse"}:
        raise DamagedFile(f"{where} is damaged (its rows are not those of item {number})")


def _header_line(benchmark: OpenSplit) -> str:
    return json.dumps(header_of(benchmark)) + "\n"


def _line(image: CountedImage) -> str:
    return json.dumps({"rows": [row.to_dict() for row in image.rows], "repaired": image.repaired}) + "\n"
