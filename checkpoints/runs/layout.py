"""Names of files and directories, and the smallest operations on them."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundscore.errors import naming

LATEST = "ckpt_model"
BEST = "best_ckpt_model"
LATEST_FILE = "latest"
MARKER = "complete.json"
SETTINGS = "settings.json"
SCORES = "scores.json"
WRITING = ".writing-"
REPLACED = ".replaced-"


@dataclass
class Position:
    """Where training stands.

    step: optimizer steps done. samples: items of the data consumed, over all processes. world_size: processes.
    skipped: steps among them whose update was left out because of bad numbers.
    """

    step: int
    samples: int
    world_size: int
    skipped: int = 0


def tag_of(step: int) -> str:
    return f"global_step{step}"


def random_state_file(rank: int) -> str:
    return f"random_state_rank_{rank}.pt"


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file beside and rename it, so that it is there as a whole or as it was."""
    beside = path.with_name(f".{path.name}.writing")
    with naming(path), beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def sync(path: Path) -> None:
    """Ask the system to write a file or the names in a directory to disk before what follows."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """The same for a directory and its files."""
    for entry in [*(child for child in path.iterdir() if child.is_file()), path]:
        sync(entry)
