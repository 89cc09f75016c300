"""Many small records in one block of memory.

Annotation files hold millions of small Python objects. Worker processes that are forked from a process holding them
copy every page they touch, since reading an object changes its reference count. Here the records are JSON text in one
`bytes` and their places in one array, which nobody writes to; a record is parsed when it is asked for.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class PackedRecords(Sequence):
    """A read-only sequence of JSON values."""

    def __init__(self, values: Iterable[Any]):
        texts = [json.dumps(value, separators=(",", ":")).encode() for value in values]
        self._ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        self._text = b"".join(texts)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self._ends[index - 1] if index else 0
        return json.loads(self._text[start : self._ends[index]])


class KeyedRecords:
    """The same, found by integer keys."""

    def __init__(self, values: dict[int, Any]):
        self._keys = np.array(sorted(values), dtype=np.int64)
        self._records = PackedRecords(values[key] for key in self._keys.tolist())

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, key: int) -> Any:
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            raise KeyError(key)
        return self._records[place]
