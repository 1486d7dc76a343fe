"""Directories, locks and LMDB, made safe: what both stores stand on.

LMDB trusts its file: a page that points beyond the file's end is a SIGBUS, a flipped bit in a page
header a crash, a wrong record, or one that is silently absent.  Three rules answer that:

1. **Checked before it is mapped.**  `find_faults` reads the file as plain bytes (`lmdb.verify`,
   about 70 MB/s): both meta pages, that the file reaches as far as they say, every page that can be
   reached, its bounds, order and counters, the free list.  What has a fault is never given to LMDB.
   Then each key that a walk meets is looked up: branch pages have keys of their own, which may lead
   past what is there.
2. **Every value is sealed** over its key (`schema.seal_value`) and opened at each read.
3. **Any LMDB error in a read is `Damaged`**, in a write `NoSpace` or `Damaged`, at a commit
   `StoreError`: after that nobody knows what is stored.

Nothing that is damaged is ever deleted: it is renamed, by `set_aside`.
"""

import errno
import fcntl
import itertools
import logging
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
from lmdb import verify

from zdfs import schema
from zdfs.errors import Damaged, NoSpace, StartError, StoreError

log = logging.getLogger("zdfs.store")

Lmdb = lmdb.Environment
Txn = Any  # lmdb.Transaction, whose generic parameter says nothing here
_SMALL_DISK_PARTS = 16  # a reserve or a segment is at most this part of its disk
DATA_FILE = "data.mdb"
_FAULTS_SHOWN = 200  # as many as lmdb.verify tells


class Lock:
    """The one process that may use a store directory; the kernel lets go when it dies."""

    def __init__(self, directory: Path):
        path = directory / "lock"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StartError(f"{path}: can't be locked: {error.strerror}") from error
            raise StartError(
                f"{directory}: in use by process {holder}; two nodes on one store would destroy "
                "it: end that process, or give another --store"
            ) from error
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            os.close(self._fd)
            raise StartError(f"{path}: can't be written: {error.strerror}") from error

    def release(self) -> None:
        """Let another process have the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def make_directory(directory: Path) -> None:
    """Make it and its parents, so that they survive a power cut; StartError when that fails."""
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    try:
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            sync_directory(one.parent)
    except OSError as error:
        raise StartError(f"{directory}: can't be made: {error.strerror}") from error
    if not directory.is_dir():
        raise StartError(f"{directory}: not a directory; give another --store")


def remove(paths: Sequence[Path]) -> None:
    """Files of one directory, for good.  StoreError: some may still be there."""
    try:
        for path in paths:
            path.unlink()
        sync_directory(paths[0].parent)
    except OSError as error:
        raise StoreError(f"{paths[0].parent}: can't be cleaned up: {error}") from error


def sync_directory(directory: Path) -> None:
    """Make names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def set_aside(path: Path, label: str) -> Path:
    """Rename to `label`-<n>, the first free n, in the same directory, durably."""
    taken = {one.name for one in path.parent.iterdir()}
    name = next(name for n in range(1, 1 << 31) if (name := f"{label}-{n}") not in taken)
    target = path.rename(path.with_name(name))
    sync_directory(path.parent)
    return target


def total_bytes(directory: Path) -> int:
    """The size of the disk below a directory."""
    stat = os.statvfs(directory)
    return stat.f_blocks * stat.f_frsize


def share(directory: Path, wanted_bytes: int) -> int:
    """`wanted_bytes`, or less where the disk is small."""
    return min(wanted_bytes, total_bytes(directory) // _SMALL_DISK_PARTS)


def disk_free(directory: Path) -> int:
    """What an unprivileged process could still write."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


# --- LMDB --------------------------------------------------------------------------------------


def find_faults(directory: Path) -> list[str]:
    """Why LMDB must not be given this file; empty: it may.  What was never made has no
    fault."""
    path = directory / DATA_FILE
    if not directory.exists():
        return []
    try:
        found: list[str] = verify.verify(str(path), subdir=False)  # type: ignore[no-untyped-call]
    except verify.VerifyError as error:
        return [str(error)]
    except (OSError, ValueError, IndexError, RecursionError, MemoryError) as error:
        return [f"can't be read: {error!r}"]
    except struct.error as error:
        return [f"can't be parsed: {error}"]
    return found or _lost_keys(directory)


def _lost_keys(directory: Path) -> list[str]:
    """Keys that are there and that a look-up doesn't find, of a file whose pages are in order."""
    try:
        with lmdb.open(os.fspath(directory), readonly=True, lock=False) as env:
            with env.begin(buffers=True) as txn, txn.cursor() as walk:
                # Not by a second cursor: that one looks first where it stands.
                lost = (bytes(key) for key in walk.iternext(values=False) if txn.get(key) is None)
                return [
                    f"{schema.describe(key)} is there and is not found: a branch page is damaged"
                    for key in itertools.islice(lost, _FAULTS_SHOWN)
                ]
    except lmdb.Error as error:
        return [f"can't be walked: {error}"]


def open_lmdb(directory: Path, map_bytes: int) -> Lmdb:
    """A synced environment in its own directory; lmdb.Error when it can't be opened.  The caller
    has looked for faults."""
    if not directory.exists():
        _create(directory, map_bytes)
    return _open(directory, map_bytes)


def _create(directory: Path, map_bytes: int) -> None:
    """Made beside, then renamed: a file without its first pages is damage, never a new store."""
    new = directory.with_name(directory.name + ".new")
    new.mkdir(exist_ok=True)
    for name in (DATA_FILE, "lock.mdb"):
        (new / name).unlink(missing_ok=True)
    _open(new, map_bytes).close()
    fd = os.open(new / DATA_FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(new)
    new.rename(directory)
    sync_directory(directory.parent)


def _open(directory: Path, map_bytes: int) -> Lmdb:
    return lmdb.open(
        os.fspath(directory),
        map_size=map_bytes,
        sync=True,
        metasync=True,
        writemap=False,
        readahead=False,
        max_spare_txns=1,
        max_readers=16,
    )


def inner_free(env: Lmdb) -> int:
    """Bytes of pages inside the file that no committed tree uses: LMDB writes there first.  (The
    free list's own few pages are counted too; the reserve is larger than they are.)"""
    stat = env.stat()
    used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] + 2
    return max(0, env.info()["last_pgno"] + 1 - used) * int(stat["psize"])


def map_free(env: Lmdb) -> int:
    """Bytes by which the file may still grow inside its map."""
    info = env.info()
    return int(info["map_size"]) - (info["last_pgno"] + 1) * int(env.stat()["psize"])


class Records:
    """Sealed records in ordered keys, read and written inside one LMDB transaction."""

    __slots__ = ("_txn", "_changes", "bytes_put")

    def __init__(self, txn: Txn):
        self._txn = txn
        self._changes = 0
        self.bytes_put = 0

    def get(self, key: bytes) -> bytes | None:
        """The payload; None: no such record; Damaged: it fails its check."""
        try:
            value = self._txn.get(key)
        except lmdb.Error as error:
            raise Damaged(f"the record {schema.describe(key)} can't be read: {error}") from error
        return None if value is None else schema.open_value(key, value)

    def scan(
        self, first: bytes, end: bytes, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with first <= key < end, in order (or backwards).  Changes made meanwhile through
        this object are seen."""
        try:
            with self._txn.cursor() as cursor:
                found = _seek_below(cursor, end) if reverse else cursor.set_range(first)
                while found:
                    key, value = cursor.item()
                    if key < first if reverse else key >= end:
                        return
                    changes = self._changes
                    yield key, schema.open_value(key, value)
                    if changes != self._changes:
                        found = (
                            _seek_below(cursor, key) if reverse else cursor.set_range(key + b"\0")
                        )
                    else:
                        found = cursor.prev() if reverse else cursor.next()
        except lmdb.Error as error:
            raise Damaged(f"records from {schema.describe(first)} on: {error}") from error

    def put(self, key: bytes, payload: bytes) -> None:
        """Store a record, sealed."""
        self._changes += 1
        self.bytes_put += len(key) + len(payload)
        try:
            self._txn.put(key, schema.seal_value(key, payload))
        except lmdb.MapFullError as error:
            raise NoSpace("the store's map is full") from error
        except lmdb.Error as error:
            raise Damaged(f"the record {schema.describe(key)} can't be put: {error}") from error

    def delete(self, key: bytes) -> bool:
        """Forget a record; False when there was none."""
        self._changes += 1
        try:
            return bool(self._txn.delete(key))
        except lmdb.Error as error:
            raise Damaged(f"the record {schema.describe(key)} can't be deleted: {error}") from error


def _seek_below(cursor: Any, end: bytes) -> bool:
    """To the last key below `end`."""
    return bool(cursor.prev() if cursor.set_range(end) else cursor.last())
