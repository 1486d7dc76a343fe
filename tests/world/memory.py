"""Ordered keys in memory: the smallest thing that keeps `ports.Transaction`'s word.

Values are kept sealed and opened at each read, as in the real store, so that a test can plant
damage: `values` is what stands on the disk.  `write()` undoes its changes when it is left by an
exception.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager

from zdfs import schema


class Memory:
    """A transaction over a sorted dict."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self._undo: list[tuple[bytes, bytes | None]] | None = None

    def get(self, key: bytes) -> bytes | None:
        value = self.values.get(key)
        return None if value is None else schema.open_value(key, value)

    def scan(
        self, first: bytes, end: bytes, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        if reverse:
            for key in self.keys[bisect_left(self.keys, first) : bisect_left(self.keys, end)][::-1]:
                yield key, schema.open_value(key, self.values[key])
            return
        at = bisect_left(self.keys, first)
        while at < len(self.keys) and self.keys[at] < end:
            key = self.keys[at]
            yield key, schema.open_value(key, self.values[key])
            at += 1
            if at > len(self.keys) or self.keys[at - 1] != key:  # changed under us
                at = bisect_left(self.keys, key + b"\0")

    def put(self, key: bytes, payload: bytes) -> None:
        self._remember(key)
        if key not in self.values:
            insort(self.keys, key)
        self.values[key] = schema.seal_value(key, payload)

    def delete(self, key: bytes) -> bool:
        if key not in self.values:
            return False
        self._remember(key)
        del self.values[key]
        del self.keys[bisect_left(self.keys, key)]
        return True

    def _remember(self, key: bytes) -> None:
        if self._undo is not None:
            self._undo.append((key, self.values.get(key)))

    @contextmanager
    def write(self) -> Iterator["Memory"]:
        """A write block: all or nothing."""
        assert self._undo is None, "write blocks do not nest"
        self._undo = []
        done = False
        try:
            yield self
            done = True
        finally:
            undo, self._undo = self._undo, None
            if not done:
                for key, value in reversed(undo):
                    self.plant(key, value)

    # --- damage on purpose

    def plant(self, key: bytes, value: bytes | None) -> None:
        """A stored value as the disk would have it; None: the record is lost."""
        if value is None:
            if self.values.pop(key, None) is not None:
                del self.keys[bisect_left(self.keys, key)]
        else:
            if key not in self.values:
                insort(self.keys, key)
            self.values[key] = value

    def flip(self, key: bytes, bit: int) -> None:
        """One bit of a stored value."""
        value = bytearray(self.values[key])
        value[bit // 8] ^= 1 << bit % 8
        self.plant(key, bytes(value))
