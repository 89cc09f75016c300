"""Tensors and directories of a model to disk: tensors one at a time, directories whole or not at all.

A model is written that was never in memory as a whole. safetensors' own writer wants all tensors of a file at once and
copies them; the format (a length, a JSON header, the bytes: https://github.com/huggingface/safetensors#format) can be
written as they come. A directory is written beside its final place and renamed when it is complete.
"""

import contextlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from checkpoints.digests import refuse_foreign, write_digests
from checkpoints.files import open_tensors
from groundscore.errors import UserError
from groundscore.progress import data_size
from groundscore.reading import user_path
from groundscore.writing import sync_to_disk, write_json
from model.grounding import GroundingModel

SAFETENSORS_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor of known shape and type, whose values are read when they are written."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Size of the stored values."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def value(self) -> Tensor:
        """The tensor on the CPU, in its type, contiguous, and not part of a larger storage."""
        tensor = self.read().detach().to("cpu", self.dtype)
        assert tuple(tensor.shape) == self.shape
        if tensor.untyped_storage().nbytes() == self.nbytes:
            return tensor.contiguous()
        return tensor.clone(memory_format=torch.contiguous_format)


def in_memory(tensors: Mapping[str, Tensor]) -> dict[str, TensorToWrite]:
    """Tensors that are there already."""
    return {
        name: TensorToWrite(tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)
        for name, tensor in tensors.items()
    }


def write_safetensors(tensors: Mapping[str, TensorToWrite], path: Path) -> Iterator[tuple[str, int]]:
    """Write one file; yields the name and the checksum of every tensor after its bytes."""
    # Wide types first: then every tensor lies at a multiple of its own width.
    names = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        kind = SAFETENSORS_TYPES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            data = _bytes_of(tensors[name].value())
            file.write(data)
            yield name, zlib.crc32(data)


def write_torch(tensors: Mapping[str, TensorToWrite], path: Path) -> Iterator[tuple[str, int]]:
    """The same as a file of `torch.save`, which needs all tensors of the file in memory."""
    values = {name: tensor.value() for name, tensor in tensors.items()}
    torch.save(values, path)
    for name, value in values.items():
        yield name, zlib.crc32(_bytes_of(value))


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def shards_of(tensors: Mapping[str, TensorToWrite], shard_bytes: int) -> list[list[str]]:
    """Names, in order, split into files of about `shard_bytes`."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def check_written(files: Mapping[Path, Mapping[str, int]]) -> None:
    """Read the tensors of each file back and compare their checksums with those of what was to be written."""
    wrong, total = [], 0
    for path, checksums in files.items():
        total += len(checksums)
        found = open_tensors(path)
        for name, checksum in checksums.items():
            if name not in found or zlib.crc32(_bytes_of(found[name])) != checksum:
                wrong.append(name)
            if path.suffix == ".safetensors":
                found = open_tensors(path)  # lets go of the pages that were read, which count as memory of ours
    if wrong:
        raise UserError(
            f"{len(wrong)} of {total} tensors read back differently ({wrong[0]}, …), so nothing is kept; "
            "is the disk faulty?"
        )


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
        raise UserError(f"{directory} already exists; choose another directory, or pass --overwrite")
    if directory.exists():
        refuse_foreign(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.writing-", dir=directory.parent))
    try:
        yield beside
        write_digests(beside)
        _make_readable(beside)
        for path in [*beside.rglob("*"), beside]:
            sync_to_disk(path)
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
            f"No space left on device: {directory.parent} has room for {data_size(free)}, and the weights take "
            f"{data_size(total)}; free some space, or choose another directory"
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
        write_json(directory / index, {"metadata": {"total_size": total}, "weight_map": files}, sort_keys=True)
    check_written(checksums)


def save_safetensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors that are in memory as transformers expects them."""
    save_file(tensors, path, metadata={"format": "pt"})
