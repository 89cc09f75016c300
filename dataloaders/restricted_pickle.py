"""Reading the pickles of the referring data sets without running what is in them.

A pickle names functions to be called, any functions. Annotations need containers, strings, numbers and the scalars and
arrays of numpy; every other name is refused.
"""

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError


def _encode(text: str, encoding: str) -> bytes:
    """How protocols 0 to 2 write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding}")
    return text.encode("latin-1")


def _numpy_scalar(dtype: np.dtype, data: bytes = b"") -> Any:
    if dtype.hasobject:
        raise pickle.UnpicklingError("a numpy scalar that holds an object")
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def _empty_array(kind: type, shape: tuple, dtype: Any) -> np.ndarray:
    """What numpy's arrays are before their state is set."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"an array of kind {kind}")
    return np.ndarray.__new__(np.ndarray, (0,), np.dtype("b"))


def _array_of_buffer(buffer: bytes, dtype: np.dtype, shape: tuple, order: str, axis_order: tuple | None = None):
    """Arrays of protocol 5."""
    if dtype.hasobject:
        raise pickle.UnpicklingError("a numpy array that holds objects")
    array = np.frombuffer(buffer, dtype=dtype)
    if order == "K" and axis_order is not None:
        return array.reshape([shape[axis] for axis in axis_order]).transpose(np.argsort(axis_order))
    return array.reshape(shape, order=order)


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
}
for _module in ("builtins", "__builtin__"):
    for _kind in (list, dict, tuple, set, frozenset, bytearray, bytes, str, int, float, complex, bool):
        _ALLOWED[_module, _kind.__name__] = _kind
    _ALLOWED[_module, "unicode"] = str
    _ALLOWED[_module, "long"] = int
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "scalar"] = _numpy_scalar
    _ALLOWED[_module, "_reconstruct"] = _empty_array
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _ALLOWED[_module, "_frombuffer"] = _array_of_buffer


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def restricted_unpickle(path: str | Path) -> Any:
    """The value in a pickle of plain data; anything else in it is a `UserError` and is not run."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _RestrictedUnpickler(file, encoding="utf-8", errors="replace").load()
    except FileNotFoundError as error:
        raise UserError(f"annotation file {path} is missing; see dataloaders/README.md for where files go") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: {error}. Annotations hold lists, dictionaries, text and numbers only; fetch the file "
            "from its official source."
        ) from error
    except Exception as error:  # a damaged pickle fails in any of its operations
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); fetch it anew") from error
