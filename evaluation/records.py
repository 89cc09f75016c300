"""What a running evaluation has on disk: its finished images, so that a killed one resumes, and the lock of its report.

Every process appends a line per finished image to a file of its own. Files belong to a fingerprint of the weights, the
protocol and the split: another checkpoint or question never finds them.
"""

import contextlib
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import torch

from evaluation.report_files import locked_report
from groundscore.errors import UserError
from groundscore.schema import DamagedFile, anything, list_of, mapping, parse, record, set_aside, text, whole
from groundscore.scoring.counts import Row, check_row, row_from_dict
from groundscore.writing import open_locked
from utils.distributed import World

_RESULT = record(
    {
        "item": whole(0),
        "rows": list_of(check_row),
        "silent": whole(0),
        "layers": list_of(whole(0)),
        "predictions": list_of(mapping(anything)),
        "data": text,
        "repaired": list_of(mapping(anything)),
    }
)


@dataclass
class ImageResult:
    """All that was counted of one image.

    item: its index in the split. rows: one per expression. silent: as in `predicting.Predicted`.
    layers: which hidden state prompted each mask. predictions: what `--save_predictions` writes of it.
    data: digest of the image and its annotations, see `batches.digest_of`.
    repaired: what was repaired to read it, as `Repair.to_dict` with "item" and "image".
    """

    item: int
    rows: list[Row]
    silent: int = 0
    layers: list[int] = field(default_factory=list)
    predictions: list[dict] = field(default_factory=list)
    data: str = ""
    repaired: list[dict] = field(default_factory=list)

    def to_line(self) -> str:
        """Returns a line of JSON; `from_line` reads it back."""
        return json.dumps(vars(self) | {"rows": [row.to_dict() for row in self.rows]}) + "\n"

    @classmethod
    def from_line(cls, line: bytes, where: str) -> "ImageResult":
        """Returns the result in a line; raises `DamagedFile` where there is none."""
        content = parse(line, _RESULT, where)
        result = cls(**content | {"rows": [row_from_dict(row) for row in content["rows"]]})
        if not result.rows or {row.item for row in result.rows} != {result.item}:
            raise DamagedFile(f"{where} is damaged (its rows are not those of item {result.item})")
        return result


class PartialResults:
    """Finished images of one split below `directory`, under a fingerprint.

    key: what is evaluated, whatever the weights and the protocol's details; of all that was kept under a key only what
    has the same fingerprint can be used again.
    """

    def __init__(self, directory: Path, fingerprint: str, key: str = ""):
        self.directory, self.fingerprint, self.key = directory, fingerprint, key

    def read(self) -> dict[int, ImageResult]:
        """Returns what earlier calls have finished, by item, whatever the number of processes was.

        The last line of a file may be cut short. A file with another line that cannot be read is named and moved
        aside, and its images are counted again. Files of the same key and another fingerprint are removed, unless
        another process is writing to them.
        """
        for path in self.directory.glob(f"{self.key}-*.partial"):
            if path not in self._files():
                _remove_unless_in_use(path)
        found: dict[int, ImageResult] = {}
        for path in self._files():
            try:
                found |= {result.item: result for result in _results_in(path)}
            except DamagedFile as error:
                print(f"{error}; moved to {set_aside(path).name}, its images are counted again", file=sys.stderr)
        return found

    def open(self, rank: int, world: int) -> "PartialFile":
        """Opens a file of this process's own, to append to."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(rank, world):  # an evaluation of another name may have the first ones
            file = open_locked(self.directory / f"{self.key}-{self.fingerprint}.{number}.partial")
            if file is not None:
                return PartialFile(file)

    def remove(self) -> None:
        """Removes all of it, once the report is written."""
        for path in self._files():
            _remove_unless_in_use(path)
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob(f"{self.key}-{self.fingerprint}.*.partial"))


def _results_in(path: Path) -> list[ImageResult]:
    """The results in a file, without a last line that was cut short; raises `DamagedFile`."""
    *lines, _ = path.read_bytes().split(b"\n")
    return [ImageResult.from_line(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _remove_unless_in_use(path: Path) -> None:
    file = open_locked(path)
    if file is not None:
        path.unlink()
        file.close()


class PartialFile:
    """One process's finished images; used as a context."""

    def __init__(self, file: TextIO):
        self._file = file

    def __enter__(self) -> "PartialFile":
        whole_lines = Path(self._file.name).read_bytes().rpartition(b"\n")
        self._file.truncate(len(whole_lines[0] + whole_lines[1]))
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def add(self, results: Iterable[ImageResult]) -> None:
        """Appends results, past any buffer that `close` could fail on; `UserError` where the disk takes no more."""
        data = "".join(result.to_line() for result in results).encode()
        try:
            while data:
                data = data[os.write(self._file.fileno(), data) :]
        except OSError as error:
            raise UserError(
                f"{self._file.name} cannot be written ({error.strerror}); free some space, or name another file by "
                "--output"
            ) from error


def fingerprint(*parts: object) -> str:
    """A short name for what decides an evaluation's numbers."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights as they were loaded, and over the configuration.

    It says what was evaluated, wherever it was stored: a run and the directory merged from it may differ in it only
    where merging rounds.
    """
    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode() if hasattr(model, "config") else b"")
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def lock_report(report: Path, world: World) -> Iterator[None]:
    """Inside the `with` block no other evaluation writes the report; `UserError` on all processes if one does."""
    with contextlib.ExitStack() as stack:
        problem = None
        if world.is_main:
            try:
                stack.enter_context(locked_report(report))
            except UserError as error:
                problem = str(error)
        problem = world.broadcast(problem)
        if problem is not None:
            raise UserError(problem)
        yield
