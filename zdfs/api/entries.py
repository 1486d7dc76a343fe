"""What is in a directory, and what stat says of it."""

import math
import os
import stat
from collections.abc import Iterator
from typing import Any

from zdfs.api.connection import Connection
from zdfs.api.places import Path, decoded, encoded, suppress_nowhere
from zdfs.attributes import NS
from zdfs.ports import Listed
from zdfs.wire import Attributes


def shown(found: Attributes, block_bytes: int) -> os.stat_result:
    """Attributes as `os.stat` has them."""
    times = (found.atime_ns, found.mtime_ns, found.ctime_ns)
    return os.stat_result(
        (found.mode, found.ino, 0, found.nlink, found.uid, found.gid, found.size)
        + tuple(ns // NS for ns in times)
        + tuple(ns / NS for ns in times)
        + times
        + (max(4096, block_bytes), -(-found.stored // 512), found.rdev)
    )


def nanoseconds(seconds: float) -> int:
    """A time as `os.utime` takes it: of a fraction what is whole, downwards."""
    if isinstance(seconds, int):
        return seconds * NS
    fraction, whole = math.modf(seconds)
    return int(whole) * NS + math.floor(fraction * 1e9)


class Entry:
    """One name in a directory, as os.DirEntry; its attributes came with it."""

    __slots__ = ("name", "path", "_found", "_connection")

    def __init__(self, name: Any, path: Any, found: Attributes, connection: Connection):
        self.name, self.path = name, path
        self._found, self._connection = found, connection

    def inode(self) -> int:
        """Its inode number."""
        return self._found.ino

    def is_symlink(self) -> bool:
        """Whether it is a symlink."""
        return stat.S_ISLNK(self._found.mode)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is, or leads to, a directory."""
        return stat.S_ISDIR(self._mode(follow_symlinks))

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is, or leads to, a regular file."""
        return stat.S_ISREG(self._mode(follow_symlinks))

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As it was when it was listed; a symlink is followed now."""
        found = self._found
        if follow_symlinks and self.is_symlink():
            found = self._followed()
        return shown(found, self._connection.volume.block_bytes)

    def _mode(self, follow: bool) -> int:
        if not (follow and self.is_symlink()):
            return self._found.mode
        with suppress_nowhere():
            return self._followed().mode
        return 0

    def _followed(self) -> Attributes:
        whole, operations = encoded(self.path), self._connection.operations
        return self._connection.run(
            operations.again(lambda: operations.stat(whole)), "stat", self.path
        )

    def __fspath__(self) -> Any:
        return self.path

    def __repr__(self) -> str:
        return f"<zdfs.Entry {self.name!r}>"


def listed(connection: Connection, path: Path) -> Iterator[Entry]:
    """The entries of a directory; that it is one is known when this returns."""
    given, operations = os.fspath(path), connection.operations
    whole = encoded(path)
    handle = connection.run(operations.again(lambda: operations.opendir(whole)), "scandir", given)
    return _entries(connection, path, handle)


def _entries(connection: Connection, path: Path, handle: int) -> Iterator[Entry]:
    given, offset = os.fspath(path), 0
    try:
        while page := connection.run(connection.operations.page(handle, offset), "scandir", given):
            offset = page[-1].next
            yield from (_entry(connection, given, one) for one in page)
    finally:
        connection.volume.listings.pop(handle, None)


def _entry(connection: Connection, given: str | bytes, one: Listed) -> Entry:
    name: Any = decoded(one.name, given)
    assert one.attributes is not None, "it was asked for"
    return Entry(name, os.path.join(given, name), one.attributes, connection)
