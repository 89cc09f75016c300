"""Many small records in one block of memory, most often a file that is mapped into it.

Annotation files hold millions of small Python objects. Worker processes that are forked from a process holding them
copy every page they touch, since reading an object changes its reference count. Here the records are JSON text in an
Arrow array that nobody writes to; a record is parsed when it is asked for. Mapped from a file (`index_cache.py`), the
array is shared by all processes of a machine.
"""

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

try:
    import orjson  # encodes many times faster, but groundscore does without
except ImportError:
    orjson = None

NO_KEY = -1
_COLUMNS = [("key", pa.int64()), ("value", pa.large_binary())]

Location = tuple[Path, str]  # an index file, and a table in it


class PackedRecords(Sequence):
    """A read-only sequence of JSON values, each of which may have an integer key."""

    def __init__(self, values: Iterable[Any], keys: Iterable[int] | None = None):
        texts = _pack_texts(values)
        numbers = np.full(len(texts), NO_KEY) if keys is None else np.fromiter(keys, np.int64, len(texts))
        self._adopt(pa.record_batch([pa.array(numbers), texts], pa.schema(_COLUMNS)), None, None)

    @classmethod
    def of_batch(
        cls, batch: pa.RecordBatch, location: Location | None = None, rows: np.ndarray | None = None
    ) -> "PackedRecords":
        """Returns the records of an Arrow batch, or of its `rows`. location: where it was read, to open it again."""
        records = cls.__new__(cls)
        records._adopt(batch, location, rows)
        return records

    def _adopt(self, batch: pa.RecordBatch, location: Location | None, rows: np.ndarray | None) -> None:
        self.batch = batch
        self._location = location
        self._rows = rows
        self._keys = _integers(batch.column(0))
        self._values = batch.column(1)

    @property
    def keys(self) -> np.ndarray:
        """The key of every record, int64 [N]."""
        return self._keys if self._rows is None else self._keys[self._rows]

    def take(self, indices: np.ndarray) -> "PackedRecords":
        """Returns the records at `indices`, without a copy of them."""
        rows = indices if self._rows is None else self._rows[indices]
        return type(self).of_batch(self.batch, self._location, rows)

    def without(self, keys: Iterable[int]) -> "PackedRecords":
        """Returns the records whose key is none of `keys`."""
        left_out = np.fromiter(keys, np.int64)
        return self.take(np.flatnonzero(~np.isin(self.keys, left_out))) if len(left_out) else self

    def __len__(self) -> int:
        return len(self._values) if self._rows is None else len(self._rows)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        row = index if self._rows is None else int(self._rows[index])
        return json.loads(self._values[row].as_py())

    def __reduce__(self):
        """A worker that is not forked opens the file again; only records without a file are copied to it."""
        if self._location is None:
            return type(self).of_batch, (self.batch, None, self._rows)
        return _open_again, (*self._location, self._rows)


def _integers(column: pa.Array) -> np.ndarray:
    """What `to_numpy` gives of int64 values, which would import pandas, where that is installed, for nothing."""
    values = column.buffers()[1]
    return np.frombuffer(values, np.int64, len(column), 8 * column.offset) if len(column) else np.zeros(0, np.int64)


class KeyedRecords:
    """The same, found by integer keys."""

    def __init__(self, values: Mapping[int, Any] | PackedRecords):
        if not isinstance(values, PackedRecords):
            ordered = sorted(values)
            values = PackedRecords((values[key] for key in ordered), ordered)
        self.records = values

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int) -> Any:
        keys = self.records.keys
        index = int(np.searchsorted(keys, key))
        if index == len(keys) or keys[index] != key:
            raise KeyError(key)
        return self.records[index]


class Joined(Sequence):
    """Sequences one after another. parts: the sequences."""

    def __init__(self, parts: Sequence[Sequence]):
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[number][index - int(self._ends[number]) + len(self.parts[number])]


Tables = Mapping[str, PackedRecords | KeyedRecords]


def write_tables(path: Path, tables: Mapping[str, Iterable[Any] | Mapping[int, Any]]) -> None:
    """Write tables to one Arrow file: a mapping becomes `KeyedRecords`, anything else `PackedRecords`."""
    packed = {name: _pack(values) for name, values in tables.items()}
    kinds = [[name, isinstance(records, KeyedRecords)] for name, records in packed.items()]
    schema = pa.schema(_COLUMNS, metadata={"tables": json.dumps(kinds)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for records in packed.values():
            batch = records.records.batch if isinstance(records, KeyedRecords) else records.batch
            writer.write_batch(pa.record_batch(batch.columns, schema))


def _pack(values: Iterable[Any] | Mapping[int, Any]) -> PackedRecords | KeyedRecords:
    if isinstance(values, PackedRecords | KeyedRecords):
        return values
    return KeyedRecords(values) if isinstance(values, Mapping) else PackedRecords(values)


def pack_tables(tables: Mapping[str, Iterable[Any] | Mapping[int, Any]]) -> Tables:
    """Returns the tables in memory, where no file can be written."""
    return {name: _pack(values) for name, values in tables.items()}


def read_tables(path: Path) -> Tables:
    """Returns the tables of a file, mapped into memory."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    metadata = reader.schema.metadata
    tables: dict[str, PackedRecords | KeyedRecords] = {}
    for number, (name, is_keyed) in enumerate(json.loads(metadata[b"tables"])):
        records = PackedRecords.of_batch(reader.get_batch(number), (path, name))
        tables[name] = KeyedRecords(records) if is_keyed else records
    return tables


def _open_again(path: Path, name: str, rows: np.ndarray | None) -> PackedRecords:
    table = read_tables(path)[name]
    records = table.records if isinstance(table, KeyedRecords) else table
    return records if rows is None else records.take(rows)


class Encoded(bytes):
    """The JSON text of a record, as `encode` makes it: a record that is packed as it is."""


def encode(value: Any) -> Encoded:
    """Returns a record's JSON text: as the standard library writes it, without spaces.

    orjson's is the same but for what is no plain ASCII, and numbers that are written with an exponent.
    """
    if orjson is not None:
        try:
            text = orjson.dumps(value)
        except TypeError:  # numbers beyond 64 bits, or what is no JSON at all
            text = b"\x7f"
        if text.isascii() and b"\x7f" not in text and b"0.0000" not in text and not _has_exponent(text):
            return Encoded(text)
    return Encoded(json.dumps(value, separators=(",", ":")).encode())


def _has_exponent(text: bytes) -> bool:
    """Whether a digit stands before an e, in a number or elsewhere."""
    return b"e" in text and b"0e" in text.translate(_AS_ZEROS)


_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)


def _pack_texts(values: Iterable[Any]) -> pa.Array:
    texts, ends = bytearray(), array("q", [0])
    for value in values:
        texts += value if type(value) is Encoded else encode(value)
        ends.append(len(texts))
    return pa.Array.from_buffers(
        pa.large_binary(), len(ends) - 1, [None, pa.py_buffer(ends), pa.py_buffer(texts)], null_count=0
    )
