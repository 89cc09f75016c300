"""Reading what `torch.save` wrote. `weights_only=True` runs no code of a file, but lets it ask for memory and time.

So the opcodes of its pickle are looked through first: they may name nothing but what tensors and plain containers need,
and may not nest or repeat values until hashing or walking over them takes for ever.
"""

import io
import pickletools
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import torch

from groundscore.errors import UserError, shown
from groundscore.reading import check_regular

_MAX_PICKLE = 2**24  # bytes; a model of a thousand tensors has about 2**18
_MAX_DEPTH = 100
_MAX_UNFOLDED = 2**24  # values that a walk may meet which visits shared ones again
_OLD_PICKLES = 5  # of a file of before torch 1.6: magic number, version, machine, content, names of the storages
_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_NEEDED = frozenset(
    (
        *("collections.OrderedDict", "torch.Size", "torch.device"),
        *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
        *(f"torch.{kind}Storage" for kind in _STORAGES),
        *(f"torch.{kind}" for kind in _DTYPES),
    )
)
_FILLING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD")


def load_plain(path: Path, classes: Collection[type] = ()) -> Any:
    """What is in a file of `torch.save`, on the CPU, mapped from the file where that can be.

    classes: plain classes that may be in it besides tensors and containers.
    Raises `UserError` for a file that asks for anything else, and what `torch.load` raises.
    """
    check_regular(path, missing="it should be a file of torch.save")
    allowed = _NEEDED | {f"{kind.__module__}.{kind.__qualname__}" for kind in classes}
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
        if is_archive:
            _check_pickle(io.BytesIO(_pickle_of_archive(path)), path, allowed)
        else:
            file.seek(0)
            for _ in range(_OLD_PICKLES):
                _check_pickle(file, path, allowed)
    with torch.serialization.safe_globals(list(classes)):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)


def _pickle_of_archive(path: Path) -> bytes:
    """The pickle that `torch.load` will read, from an archive that is as long as what it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(f"{path} breaks off before its end; download it again") from error
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise UserError(f"{path} is a compressed archive, which torch does not write; it is not read")
    largest = max((entry.file_size for entry in entries if entry.filename.endswith("data.pkl")), default=0)
    if largest > _MAX_PICKLE:
        raise UserError(f"{path} is refused: its pickle has {largest >> 20} MB")
    try:
        # torch's own reader: which of several entries it takes is its choice.
        return torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
    except RuntimeError as error:
        raise UserError(f"{path} is a ZIP archive that torch did not write; download it again") from error


class _Extent:
    """How much a value on the stack of a pickle unfolds to. Containers are filled later, so this may grow."""

    def __init__(self, size: int = 1, depth: int = 0):
        self.size = size
        self.depth = depth

    def take_in(self, items: "list[_Extent]") -> None:
        self.size += sum(item.size for item in items)
        self.depth = max([self.depth, *(item.depth + 1 for item in items)])


def _check_pickle(file: BinaryIO, path: Path, allowed: Collection[str]) -> None:
    """Look through one pickle, which begins where the file stands, and leave the file behind it.

    The opcodes that `torch.load` does not know are its own to refuse.
    """
    begin = file.tell()
    stack: list[_Extent | None] = []  # None is a mark
    memo: dict[int, _Extent] = {}
    try:
        for opcode, argument, position in pickletools.genops(file):
            if position - begin > _MAX_PICKLE:
                raise UserError(f"{path} is refused: its pickle has more than {_MAX_PICKLE >> 20} MB")
            if opcode.name == "GLOBAL" and argument.replace(" ", ".", 1) not in allowed:
                raise UserError(
                    f"{path} is refused: it asks for {shown(argument)}, which a file of tensors does not need, and "
                    "reading it could run foreign code"
                )
            if opcode.name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif opcode.name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif opcode.name == "MARK":
                stack.append(None)
            else:
                _execute(opcode, stack, path)
    except (ValueError, LookupError, AttributeError) as error:  # operations that do not fit together
        raise UserError(f"{path} is not what torch.save writes ({shown(str(error))}); download it again") from error


def _execute(opcode: pickletools.OpcodeInfo, stack: list[_Extent | None], path: Path) -> None:
    """Do to the stack of extents what an opcode does to the stack of values."""
    fixed = [each for each in opcode.stack_before if each not in (pickletools.markobject, pickletools.stackslice)]
    items = []
    if len(fixed) < len(opcode.stack_before):
        while (item := stack.pop()) is not None:
            items.append(item)
    items += [stack.pop() for _ in fixed]
    if not opcode.stack_after:
        return
    made = items.pop() if opcode.name in _FILLING else _Extent()
    made.take_in(items)
    if made.depth > _MAX_DEPTH or made.size > _MAX_UNFOLDED:
        raise UserError(f"{path} is refused: its values are nested or repeated more than those of any model")
    stack.append(made)
