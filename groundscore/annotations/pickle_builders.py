"""What the pickles of `restricted_pickle.py` may call: each checks its arguments and makes plain data of them.

numpy's scalars and arrays are read from their bytes by a type of our own making. A numpy type that a pickle builds is
never used: its state can be forged to take bytes for pointers.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from groundscore.errors import shown

_NUMPY_TYPE = re.compile(r"\?|b1|[iu][1248]|f[248]|[SU][1-9]\d{0,4}")
_MAX_DIMENSIONS = 2
_KEYS = (str, bytes, int, float, bool, type(None))


class Refused(Exception):
    """A pickle holds more than plain data."""


@dataclass(frozen=True)
class Builder:
    """A name that a pickle may call, and what is done instead."""

    build: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.build(*arguments)


class TypeString:
    """A numpy type as its code, such as "i8". Byte order: little until the state says otherwise."""

    def __init__(self, code: Any, *_flags: Any):
        if type(code) is not str or not _NUMPY_TYPE.fullmatch(code):
            raise Refused(f"it contains numpy values of the type {shown(code)}")
        self._code = code
        self._order = "<"

    def set_state(self, _version: Any, order: Any, *_rest: Any) -> None:
        """Take the byte order of numpy's state of a type; the rest of it is not needed."""
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"the byte order {shown(order)}")
        self._order = ">" if order == ">" else "<"

    def read(self, raw: Any, count: int) -> np.ndarray:
        """`count` values of their bytes, which `python2_text` may have read as text."""
        kind = np.dtype(self._order + self._code)
        if type(raw) is str:
            raw = raw.encode()
        if type(raw) not in (bytes, bytearray) or len(raw) != count * kind.itemsize:
            raise ValueError("numpy values that do not fill their bytes")
        if kind.kind == "U":  # numpy makes text of any number; this codec refuses what is no character
            raw.decode("utf-32-be" if self._order == ">" else "utf-32-le")
        return np.frombuffer(raw, kind)


class ArrayValues(list):
    """The values of a numpy array, in lists; empty until the state is set."""

    def set_state(self, _version: Any, shape: Any, kind: Any, by_columns: Any, raw: Any) -> None:
        """Take the values of numpy's state of an array: one or two sizes, the `TypeString`, the order and the bytes."""
        if self:
            raise Refused("it sets the state of an array twice")
        self.extend(_nested_lists(raw, kind, shape, "F" if by_columns else "C"))


def python2_text(raw: bytes) -> str | bytes:
    """A string of Python 2, which does not tell its encoding: UTF-8 text, or the bytes themselves.

    The official files have no other text; what is not UTF-8 are the bytes of numpy values, or text to be refused.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def check_keys(keys: list[Any]) -> list[Any]:
    """The keys, none of which takes long to hash."""
    for key in keys:
        if type(key) not in _KEYS:
            raise Refused(f"a {type(key).__name__} is used as a key")
    return keys


def _nested_lists(raw: Any, kind: Any, shape: Any, order: str) -> list:
    sizes = shape if type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape) else ()
    if not 1 <= len(sizes) <= _MAX_DIMENSIONS or (0 in sizes and len(sizes) > 1) or type(kind) is not TypeString:
        raise Refused(f"it contains a numpy array of the shape {shown(shape)}")
    return kind.read(raw, math.prod(sizes)).reshape(sizes, order=order).tolist()


def _numpy_scalar(kind: Any, raw: Any) -> Any:
    if type(kind) is not TypeString:
        raise Refused("it contains a numpy value without a type")
    value = kind.read(raw, 1)[0].item()
    return python2_text(value) if type(value) is bytes else value


def _empty_array(_kind: Any, _shape: Any, _type: Any) -> ArrayValues:
    """What an array is before its state is set."""
    return ArrayValues()


def _array_of_buffer(raw: Any, kind: Any, shape: Any, order: Any, *_axis_order: Any) -> list:
    """Arrays of protocol 5."""
    if order not in ("C", "F"):
        raise Refused(f"it contains a numpy array in the order {shown(order)}")
    return _nested_lists(raw, kind, shape, order)


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocols 0 to 2 write bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused(f"it encodes text as {shown(encoding)}")
    return text.encode("latin-1")


def _bytes(content: Any = b"") -> bytes:
    if type(content) is not bytes:
        raise Refused(f"it makes bytes of a {type(content).__name__}")
    return content


def _bytearray(content: Any = b"", encoding: Any = None) -> bytearray:
    """Python 2 wrote it as text with an encoding."""
    return bytearray(_bytes(content) if encoding is None else _encode(content, encoding))


def _set(items: Any = ()) -> set:
    if type(items) not in (list, tuple):
        raise Refused(f"it makes a set of a {type(items).__name__}")
    return set(check_keys(items))


def _frozenset(items: Any = ()) -> frozenset:
    return frozenset(_set(items))


def _dictionary(pairs: Any = ()) -> dict:
    """An OrderedDict."""
    if type(pairs) not in (list, tuple) or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise Refused("it makes an OrderedDict of something else than pairs")
    check_keys([key for key, _ in pairs])
    return dict(pairs)


def _dictionary_with_default(_factory: Any = None) -> dict:
    """A defaultdict."""
    return {}


def _not_called(*_arguments: Any) -> Any:
    raise Refused("it calls a type that annotations only name")


BUILDERS = {
    ("collections", "OrderedDict"): Builder(_dictionary),
    ("collections", "defaultdict"): Builder(_dictionary_with_default),
    ("_codecs", "encode"): Builder(_encode),
    ("numpy", "dtype"): Builder(TypeString),
    ("numpy", "ndarray"): Builder(_not_called),  # named by every array
}
for _module in ("builtins", "__builtin__"):
    for _name in ("list", "dict", "str", "unicode", "int", "long", "float", "bool"):  # factories of a defaultdict
        BUILDERS[_module, _name] = Builder(_not_called)
    for _name, _build in (("set", _set), ("frozenset", _frozenset), ("bytes", _bytes), ("bytearray", _bytearray)):
        BUILDERS[_module, _name] = Builder(_build)
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    BUILDERS[_module, "scalar"] = Builder(_numpy_scalar)
    BUILDERS[_module, "_reconstruct"] = Builder(_empty_array)
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    BUILDERS[_module, "_frombuffer"] = Builder(_array_of_buffer)
