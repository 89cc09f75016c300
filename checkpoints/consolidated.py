"""What `--weight` names: the tensors of a training of the reference, put together by DeepSpeed's `zero_to_fp32`.

They are one file or, from today's `zero_to_fp32`, a directory named like a file (`pytorch_model.bin/`) with shards and
an index. Weights that are still in pieces, one shard of several and models are refused, with what to pass instead.
"""

import re
from pathlib import Path

from checkpoints.files import (
    ADAPTER_CONFIG,
    CONFIG_FILE,
    TORCH_FILE,
    WEIGHT_LAYOUTS,
    read_config,
    shards_of_index,
)
from checkpoints.hub import find_model
from groundscore.errors import UserError

_INDICES = tuple(index for index, _ in WEIGHT_LAYOUTS)
_NUMBERED = re.compile(r".*-\d{5}-of-\d{5}\.(bin|safetensors|pt|pth)")
_DEEPSPEED_FILES = ("*_model_states.pt", "*_optim_states.pt")


def find_weight(name: str | Path) -> Path:
    """The consolidated file or directory that `--weight` names, here or on the hub; `UserError` for anything else."""
    path = find_model(name, "--weight")
    if path.is_dir():
        if (path / TORCH_FILE).is_dir():  # what zero_to_fp32 wrote into this directory
            path = path / TORCH_FILE
        refuse_deepspeed(path)
        _refuse_models(path)
    else:
        _refuse_parts(path)
    return path


def refuse_deepspeed(path: Path, flag: str = "--weight") -> None:
    """Raise `UserError` for a training checkpoint as DeepSpeed leaves it, which holds weights in pieces by process."""
    for piece in _deepspeed_pieces(path):
        if not (piece.parent / "settings.json").exists():  # which every checkpoint of ours has
            directory = piece.parent.parent if piece.parent.name.startswith("global_step") else piece.parent
            raise UserError(
                f"{flag} {path} is a training checkpoint of DeepSpeed that this program did not write "
                f"({piece.name}): merge its weights with the script beside it, python zero_to_fp32.py "
                f"{directory} OUT, then pass --weight OUT, with its base as --version"
            )


def _deepspeed_pieces(path: Path) -> list[Path]:
    """Files of a DeepSpeed checkpoint: the path itself, or what a checkpoint, their directory or a run holds."""
    if path.is_file():
        return [path] if any(path.match(pattern) for pattern in _DEEPSPEED_FILES) else []
    places = ("", "global_step*/", "*/global_step*/")
    return sorted(piece for place in places for pattern in _DEEPSPEED_FILES for piece in path.glob(place + pattern))


def _refuse_models(path: Path) -> None:
    if (path / ADAPTER_CONFIG).is_file():
        raise UserError(f"--weight {path} is an adapter, which knows its base; pass it as --version, without --weight")
    if (path / CONFIG_FILE).is_file() and "text_config" in read_config(path):
        raise UserError(f"--weight {path} is the directory of a model; pass it as --version, without --weight")


def _refuse_parts(path: Path) -> None:
    refuse_deepspeed(path)
    if path.name.endswith(".index.json"):
        raise UserError(f"--weight {path} is the index of shards, not weights; pass the directory, {path.parent}")
    indices = [path.parent / index for index in _INDICES if (path.parent / index).is_file()]
    if _NUMBERED.fullmatch(path.name) or any(path.name in shards_of_index(index) for index in indices):
        raise UserError(f"--weight {path} is one shard of several; pass the directory that has them all, {path.parent}")
