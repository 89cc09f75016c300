"""Files of a model's directory: shards, JSON, and a directory that appears whole or not at all.

It is written beside its final place and renamed when it is complete; a failure leaves nothing behind.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from checkpoints.ownership import refuse_foreign, write_digests
from checkpoints.streaming import TensorToWrite, check_written, shards_of
from groundscore.errors import UserError
from groundscore.reading import user_path
from model.grounding import GroundingModel


def config_values(model: GroundingModel, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """What `config.json` says of a model; dtype: of the stored weights, if not the model's."""
    values = model.config.to_dict()
    dtype = dtype or next(model.parameters()).dtype
    return values | {"architectures": [type(model).__name__], "dtype": str(dtype).removeprefix("torch.")}


@contextlib.contextmanager
def written_beside(directory: Path, overwrite: bool, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A new directory that takes the place of `directory` if the block succeeds, and disappears if it does not.

    overwrite: replace what is there, if this program wrote it. check: called with the new directory when it is
    complete; where it raises, the new one disappears and the old one stays.
    """
    directory = user_path(directory).resolve()
    if directory.exists() and not overwrite:
        raise UserError(f"{directory} exists already; choose another place, or pass --overwrite")
    if directory.exists():
        refuse_foreign(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.writing-", dir=directory.parent))
    try:
        yield beside
        write_digests(beside)
        _make_readable(beside)
        _sync(beside)
        if check is not None:
            check(beside)
        if directory.exists():
            refuse_foreign(directory)  # writing takes minutes, in which files may have been added
        _replace(directory, beside)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _replace(directory: Path, beside: Path) -> None:
    """Give `beside` its name; what had it before goes only after that."""
    old = None
    if directory.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.replaced-", dir=directory.parent))
        os.rename(directory, old)
    try:
        os.rename(beside, directory)
    except BaseException:
        if old is not None:
            os.rename(old, directory)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _make_readable(directory: Path) -> None:
    """`mkdtemp` makes a directory for its owner alone; give it the mode that `mkdir` would."""
    mask = os.umask(0)
    os.umask(mask)
    directory.chmod(0o777 & ~mask)


def _sync(directory: Path) -> None:
    """Ask the system to write the files to disk before the directory gets its name."""
    for path in [*directory.iterdir(), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_shards(
    tensors: Mapping[str, TensorToWrite],
    directory: Path,
    *,
    single: str,
    index: str,
    shard_bytes: int,
    write: Callable[[Mapping[str, TensorToWrite], Path], Iterator[tuple[str, int]]],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """One file, or numbered shards of about `shard_bytes` with an index, named as transformers does; then all of it
    is read back and compared.

    write: `write_safetensors` or `write_torch`. progress: called with the bytes written and the bytes of all.
    """
    shards = shards_of(tensors, shard_bytes)
    total = sum(tensor.nbytes for tensor in tensors.values())
    free = shutil.disk_usage(directory).free
    if free < total:
        raise UserError(
            f"{directory.parent} has room for {free / 1e9:.1f} GB, and the weights take {total / 1e9:.1f} GB"
        )
    stem, _, suffix = single.rpartition(".")
    files: dict[str, str] = {}
    checksums: dict[Path, dict[str, int]] = {}
    done = 0
    for number, names in enumerate(shards, start=1):
        file = single if len(shards) == 1 else f"{stem}-{number:05}-of-{len(shards):05}.{suffix}"
        files |= dict.fromkeys(names, file)
        written = checksums[directory / file] = {}
        for name, checksum in write({name: tensors[name] for name in names}, directory / file):
            written[name] = checksum
            done += tensors[name].nbytes
            if progress is not None:
                progress(done, total)
    if len(shards) > 1:
        write_json(directory / index, {"metadata": {"total_size": total}, "weight_map": files})
    check_written(checksums)


def save_safetensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
