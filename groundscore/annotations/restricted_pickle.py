"""Reading the pickles of the referring data sets without running what is in them.

A pickle is a program: its opcodes build values on a stack and may call any function. This reader knows the opcodes that
plain data needs (containers, text, numbers) in the forms of all protocols and refuses every other. What a pickle calls
is never a function of Python or numpy but one of the few builders in `pickle_builders.py`, which make containers,
numbers and text of checked arguments: a numpy scalar becomes a Python number, an array a list.

Time and memory are proportional to the file. Containers may be shared, but only as far as a walk over the result still
costs what the file costs.

A file all of whose operations are among `_HARMLESS` is read by Python's own reader, thirteen times faster: they make
lists, dictionaries, text and numbers, and cannot name a function, hash a container or ask for more memory than they
bring. What it cannot read is read again here, which says why.
"""

import codecs
import io
import pickle
import re
import struct
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from pickletools import code2op
from typing import Any

from groundscore.annotations.pickle_builders import (
    BUILDERS,
    ArrayValues,
    Builder,
    Refused,
    TypeString,
    check_keys,
    python2_text,
)
from groundscore.errors import UserError, shown
from groundscore.reading import read_bytes

_MAX_DEPTH = 100  # of containers in containers; annotations have about five
_GROWTH = 20  # how many times its file's size a value may have; keys, repeated in two bytes each, make it about 8
_SMALL = 1 << 20  # up to this size a value is not compared with its file
_INTEGER_BYTES = 8
_CONTAINERS = (list, tuple, dict, set, frozenset, ArrayValues)


def restricted_unpickle(path: str | Path) -> Any:
    """The value in a pickle of plain data; anything else in it is a `UserError` and is not run."""
    path = Path(path)
    data = read_bytes(path)
    try:
        return unpickle_plain(data)
    except Refused as error:
        raise UserError(
            f"{path} is refused: {error}. Annotations contain lists, dictionaries, text and numbers only; fetch "
            "the file from its official source."
        ) from error
    except (ValueError, LookupError, TypeError, struct.error) as error:  # operations that do not fit together
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {shown(str(error))}); download it again"
        ) from error


def unpickle_plain(data: bytes) -> Any:
    """The value in the bytes of a pickle.

    Raises `Refused` for what is no plain data, and ValueError, LookupError, TypeError or struct.error for damage.
    """
    value = _read_harmless(data) if _is_harmless(data) else _Reader(data).read()
    _size(value, _largest(data), {})
    return value


# Operations whose arguments have a known size or end with their line, then one that brings text of a stated length, or
# the end. Remembered values have numbers below 2^22: Python's reader makes a list of as many entries as the largest.
_HARMLESS = re.compile(
    rb"(?:[\]}(esauldN\x88\x89\x94]|[qhK].|[rj]..[\0-\x3f]\0|M..|J.{4}|G.{8}|\x80[\0-\x05]|\x95.{8}"
    rb"|[pg][0-9]{1,6}\n|I-?[0-9]{1,18}\n|L-?[0-9]{1,18}L?\n|F-?[0-9.]{1,30}\n|S'[^'\n]*'\n|S\"[^\"\n]*\"\n|V[^\\\n]*\n)*+"
    rb"(?:([XT])(.{4})|([U\x8c])(.)|\.)",
    re.DOTALL,
)


def _is_harmless(data: bytes) -> bool:
    """Whether a pickle has operations of `_HARMLESS` only."""
    at = 0
    while found := _HARMLESS.match(data, at):
        size = found[2] or found[4]
        if size is None:
            return True
        at = found.end() + int.from_bytes(size, "little")
    return False


class _PlainUnpickler(pickle.Unpickler):
    """Python's reader, which finds no function."""

    def find_class(self, module: str, name: str) -> Any:
        raise Refused(f"it asks for {shown(module)}, {shown(name)}")


def _read_harmless(data: bytes) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except Exception:  # text of another encoding, or damage
        return _Reader(data).read()


def _largest(data: bytes) -> int:
    return max(_SMALL, _GROWTH * len(data))


def _size(value: Any, largest: int, sizes: dict[int, int], depth: int = 0) -> int:
    """How many numbers and characters a walk over a container meets, at most `largest`.

    sizes: of finished containers by identity, so that each is visited once.
    """
    if type(value) not in _CONTAINERS:
        return _size([value], largest, sizes)
    if id(value) in sizes:
        return sizes[id(value)]
    if depth == _MAX_DEPTH:
        raise Refused(f"its containers are nested more than {_MAX_DEPTH} deep, or contain themselves")
    size = 1
    items: Iterable[Any] = chain(value, value.values()) if type(value) is dict else value
    for item in items:
        kind = type(item)
        if kind is str:
            size += 1 + len(item)
            if not item.isascii():
                item.encode()  # half of a surrogate pair is no text: UnicodeEncodeError
        elif kind in (int, float, bool) or item is None:
            size += 1
        elif kind in (bytes, bytearray):
            size += 1 + len(item)
        elif kind in _CONTAINERS:
            size += _size(item, largest, sizes, depth + 1)
        else:
            raise Refused("it contains a function or a numpy type by itself, or an array without content")
        if size > largest:
            raise Refused("its containers refer to one another so often that they unfold to far more than the file")
    sizes[id(value)] = size
    return size


class _Reader:
    """Executes the opcodes of one pickle. Every `load_…` is named after its opcode; see `_ALIKE` for the others."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below the open marks
        self._memo: dict[int, Any] = {}
        self._left = _largest(data)  # what builders may still copy: one value of the memo can be the argument of many

    def read(self) -> Any:
        """Returns the value of the pickle; raises as `unpickle_plain`."""
        data, operations = self._data, _OPERATIONS
        while True:
            code = data[self._at]
            self._at += 1
            if code == _STOP:
                return self._stack.pop()
            operation = operations.get(code)
            if operation is None:
                known = code2op.get(chr(code))
                if known is None:
                    raise ValueError(f"byte {self._at - 1} is not an opcode")
                raise Refused(f"it asks for the operation {known.name}")
            operation(self)

    # What the operations share.

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if count < 0 or len(taken) < count:
            raise ValueError("it breaks off")
        self._at += count
        return taken

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> bytes:
        end = self._data.index(b"\n", self._at)
        line = self._data[self._at : end]
        self._at = end + 1
        return line

    def _since_mark(self) -> list[Any]:
        """What was pushed since the latest mark, taken off the stack."""
        items = self._stack
        self._stack = self._below.pop()
        return items

    def _top(self, kind: type) -> Any:
        """The value on top of the stack, which must be of this very type."""
        value = self._stack[-1]
        if type(value) is not kind:
            raise Refused(f"it fills a {type(value).__name__} as if it were a {kind.__name__}")
        return value

    # Structure.

    def load_mark(self) -> None:
        if len(self._below) == _MAX_DEPTH:
            raise Refused(f"its containers are nested more than {_MAX_DEPTH} deep")
        self._below.append(self._stack)
        self._stack = []

    def load_proto(self) -> None:
        if self._number(1) > 5:
            raise ValueError("a protocol that does not exist")

    def load_frame(self) -> None:
        self._take(8)  # how much to read at once; all of it is here

    def load_put(self) -> None:
        self._memo[int(self._line())] = self._stack[-1]

    def load_memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def load_get(self) -> None:
        self._stack.append(self._memo[int(self._line())])

    def put_numbered(self, size: int) -> None:
        """Remember the top of the stack under a number of `size` bytes."""
        self._memo[self._number(size)] = self._stack[-1]

    def get_numbered(self, size: int) -> None:
        """Push what is remembered under a number of `size` bytes."""
        self._stack.append(self._memo[self._number(size)])

    def push_new(self, make: Callable[[], Any]) -> None:
        """Push a constant or an empty container."""
        self._stack.append(make())

    def push_sized(self, size: int, make: Callable[[bytes], Any]) -> None:
        """Push what `make` makes of the bytes that follow their length, a number of `size` bytes."""
        self._stack.append(make(self._take(self._number(size))))

    # Numbers.

    def load_int(self) -> None:
        line = self._line()
        self._stack.append({b"00": False, b"01": True}.get(line, _whole(line)))

    def load_long(self) -> None:
        self._stack.append(_whole(self._line().removesuffix(b"L")))

    def load_binint(self) -> None:
        self._stack.append(struct.unpack("<i", self._take(4))[0])

    def load_binint1(self) -> None:
        self._stack.append(self._number(1))

    def load_binint2(self) -> None:
        self._stack.append(self._number(2))

    def load_long1(self) -> None:
        size = self._number(1)
        if size > _INTEGER_BYTES:
            raise Refused(f"it contains a number of {size} bytes")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def load_float(self) -> None:
        self._stack.append(float(self._line()))

    def load_binfloat(self) -> None:
        self._stack.append(struct.unpack(">d", self._take(8))[0])

    # Text and bytes.

    def load_string(self) -> None:
        quoted = self._line().strip()
        if len(quoted) < 2 or quoted[:1] != quoted[-1:] or quoted[:1] not in (b"'", b'"'):
            raise ValueError("text without quotes")
        self._stack.append(python2_text(codecs.escape_decode(quoted[1:-1])[0]))

    def load_unicode(self) -> None:
        self._stack.append(self._line().decode("raw-unicode-escape"))

    # Containers.

    def load_list(self) -> None:
        items = self._since_mark()
        self._stack.append(items)

    def load_tuple(self) -> None:
        items = self._since_mark()
        self._stack.append(tuple(items))

    def push_tuple(self, count: int) -> None:
        """Replace the topmost `count` values by a tuple of them."""
        items = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def load_dict(self) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._set_items(items)

    def load_frozenset(self) -> None:
        items = self._since_mark()
        self._stack.append(frozenset(check_keys(items)))

    def load_append(self) -> None:
        item = self._stack.pop()
        self._top(list).append(item)

    def load_appends(self) -> None:
        items = self._since_mark()
        self._top(list).extend(items)

    def load_setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self._since_mark())

    def _set_items(self, items: list[Any]) -> None:
        """Keys and values by turns, into the dictionary on top of the stack."""
        self._top(dict).update(zip(check_keys(items[::2]), items[1::2], strict=True))

    def load_additems(self) -> None:
        items = self._since_mark()
        self._top(set).update(check_keys(items))

    # Calls.

    def load_global(self) -> None:
        self._find(self._line().decode(), self._line().decode())

    def load_stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._find(module, name)

    def _find(self, module: Any, name: Any) -> None:
        builder = BUILDERS.get((module, name)) if type(module) is type(name) is str else None
        if builder is None:
            raise Refused(f"it asks for {shown(module)}, {shown(name)}")
        self._stack.append(builder)

    def load_reduce(self) -> None:
        arguments = self._stack.pop()
        builder = self._top(Builder)
        if type(arguments) is not tuple:
            raise ValueError("a call without arguments")
        self._spend(arguments)
        self._stack[-1] = builder(*arguments)

    def load_build(self) -> None:
        """Only numpy's types and arrays get a state, and those on the stack are ours."""
        state = self._stack.pop()
        target = self._stack[-1]
        if type(target) not in (TypeString, ArrayValues) or type(state) is not tuple:
            raise Refused("it sets the state of an object")
        self._spend(state)
        target.set_state(*state)

    def _spend(self, arguments: tuple) -> None:
        self._left -= sum(len(argument) for argument in arguments if hasattr(argument, "__len__"))
        if self._left < 0:
            raise Refused("it copies a value so often that the copies are far larger than the file")


def _whole(digits: bytes) -> int:
    if len(digits) > 21:
        raise Refused(f"it contains a number of {len(digits)} digits")
    return int(digits)


_STOP = ord(".")
# Operations that differ in the size of a number or in what they make, by name: method and arguments.
_MAKERS = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple}
_MAKERS |= {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TEXTS = {"BINSTRING": python2_text, "BINUNICODE": bytes.decode, "BINBYTES": bytes}
_ALIKE: dict[str, tuple[Any, ...]] = {
    **{name: (_Reader.push_new, make) for name, make in _MAKERS.items()},
    **{f"TUPLE{count}": (_Reader.push_tuple, count) for count in (1, 2, 3)},
    **{f"SHORT_{name}": (_Reader.push_sized, 1, make) for name, make in _TEXTS.items()},
    **{name: (_Reader.push_sized, 4, make) for name, make in _TEXTS.items()},
    "BINUNICODE8": (_Reader.push_sized, 8, bytes.decode),
    "BINBYTES8": (_Reader.push_sized, 8, bytes),
    "BYTEARRAY8": (_Reader.push_sized, 8, bytearray),
    **{name: (_Reader.put_numbered, size) for name, size in (("BINPUT", 1), ("LONG_BINPUT", 4))},
    **{name: (_Reader.get_numbered, size) for name, size in (("BINGET", 1), ("LONG_BINGET", 4))},
}


def _operation(name: str) -> Callable[[_Reader], None] | None:
    """Returns the operation of an opcode, None for one that plain data does not need."""
    if name in _ALIKE:
        method, *arguments = _ALIKE[name]
        return lambda reader: method(reader, *arguments)
    return getattr(_Reader, f"load_{name.lower()}", None)


_OPERATIONS = {ord(code): operation for code, known in code2op.items() if (operation := _operation(known.name))}
