"""Tensors to files one at a time, so that a model can be written that was never in memory as a whole.

safetensors' own writer wants all tensors of a file at once and copies them; the format (a length, a JSON header, the
bytes: https://github.com/huggingface/safetensors#format) can be written as they come.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from checkpoints.files import open_tensors
from groundscore.errors import UserError

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
