"""What a running evaluation has counted so far, on disk, so that a killed one goes on where it stopped.

Every process appends a line per finished image to a file of its own. Files belong to a fingerprint of the weights, the
protocol and the split: another checkpoint or question never finds them.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from utils.reading import decode_json
from utils.scoring.counts import Row, row_from_dict


@dataclass
class ImageResult:
    """All that was counted about one image.

    item: its place in the split. rows: one per expression. silent: as in `Predicted`.
    layers: which hidden state prompted each mask. predictions: what `--save_predictions` writes of it.
    """

    item: int
    rows: list[Row]
    silent: int = 0
    layers: list[int] = field(default_factory=list)
    predictions: list[dict] = field(default_factory=list)

    def to_line(self) -> str:
        return json.dumps(vars(self) | {"rows": [row.to_dict() for row in self.rows]}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "ImageResult":
        """Raises ValueError, KeyError or TypeError where the line is none."""
        content = decode_json(line)
        return cls(**content | {"rows": [row_from_dict(row) for row in content["rows"]]})


class PartialResults:
    """Finished images of one split below `directory`, under a fingerprint."""

    def __init__(self, directory: Path, fingerprint: str):
        self.directory, self.fingerprint = directory, fingerprint

    def read(self) -> dict[int, ImageResult]:
        """What earlier calls have finished, whatever the number of processes was; a line cut short is left out."""
        found = {}
        for path in self._files():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    result = ImageResult.from_line(line)
                except (ValueError, KeyError, TypeError):
                    continue
                found[result.item] = result
        return found

    def open(self, rank: int) -> "PartialFile":
        """This process's file, to append to."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return PartialFile(self.directory / f"{self.fingerprint}.{rank}.partial")

    def remove(self) -> None:
        """Forget it all, once the report is written."""
        for path in self._files():
            path.unlink()
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob(f"{self.fingerprint}.*.partial"))


class PartialFile:
    """One process's finished images; used as a context."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "PartialFile":
        cut_short = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        self._file = self.path.open("a", encoding="utf-8")
        if cut_short:
            self._file.write("\n")
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def add(self, results: Iterable[ImageResult]) -> None:
        self._file.writelines(result.to_line() for result in results)
        self._file.flush()


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
