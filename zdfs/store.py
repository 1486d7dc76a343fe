"""The metaserver's store: LMDB, one synced commit a round.

    DIR/lock            held while a process uses DIR
    DIR/meta/           the LMDB environment

The round's write transaction is opened by its first `write()`, which works in a child of it: an
exception inside undoes only that child.  `end_round` commits the parent, synced, with the round's
number in it; until then nothing of the round is on disk, after it everything is.  A commit that
fails leaves nobody knowing which: the store raises StoreError then and for ever after.

`read()` sees the open round, or the last commit when none is open.
"""

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from zdfs import disk, limits, ports, records, schema
from zdfs.disk import Records, log
from zdfs.errors import Damaged, DamagedStore, StartError, StoreError
from zdfs.ids import Round
from zdfs.measures import Commits

_U64 = struct.Struct(">Q")
_COPY_ON_WRITE = 3  # a record put in this round may cost so many times its bytes


class LmdbStore:
    """`ports.MetaStore` on a directory.

    StartError: in use, another role's, a newer release's; DamagedStore: its file must not be given
    to LMDB.
    """

    def __init__(self, directory: Path, commits: Commits | None = None):
        disk.make_directory(directory)
        _refuse_other_role(directory)
        self._directory = directory
        self._lock = disk.Lock(directory)
        self._failure: str | None = None
        self._txn: disk.Txn = None
        self._child: Records | None = None
        self._dirty = False
        self._round_bytes = 0
        self._commits = commits
        try:
            self._env = _open(directory / "meta")
            try:
                self._synced = self._opened_round()
            except StartError:
                self._env.close()
                raise
        except StartError:
            self._lock.release()
            raise
        self._reserve = disk.share(directory, limits.META_RESERVE_BYTES)

    @property
    def round(self) -> Round:
        """The round that a change made now belongs to."""
        return Round(self._synced + 1)

    @property
    def dirty(self) -> bool:
        """Whether that round has any change."""
        return self._dirty

    @property
    def synced(self) -> Round:
        """The newest round on disk."""
        return self._synced

    @property
    def large(self) -> bool:
        """A commit takes what comes."""
        return False

    def safe(self, synced: bool, change: bool) -> Round:
        """No reply runs ahead of the disk."""
        return self._synced

    def promise(self, number: Round) -> None:
        """Every round is synced at once."""

    def prepare(self) -> bool:
        """Nothing is sent anywhere."""
        return False

    @contextmanager
    def write(self) -> Iterator[ports.Transaction]:
        """A child of the round's transaction; committed into it unless an exception leaves."""
        self._check()
        assert self._child is None, "a write block inside a write block"
        if self._txn is None:
            self._txn = self._begin()
        try:
            with self._env.begin(write=True, parent=self._txn) as txn:
                self._child = Records(txn)
                yield self._child
                self._dirty = True
                self._round_bytes += self._child.bytes_put
        except lmdb.Error as error:
            raise self._fail(f"a change can't join its round: {error}") from error
        finally:
            self._child = None

    @contextmanager
    def read(self) -> Iterator[ports.Reader]:
        """The round's changes so far, over everything committed."""
        self._check()
        if self._child is not None:
            yield self._child
        elif self._txn is not None:
            yield Records(self._txn)
        else:
            try:
                txn = self._env.begin()
            except lmdb.Error as error:
                raise self._fail(f"can't be read: {error}") from error
            with txn:
                yield Records(txn)

    def end_round(self) -> None:
        """Commit the round, synced.  StoreError: it may or may not be on disk; stop."""
        self._check()
        assert self._child is None, "a round ends inside a write block"
        if not self._dirty:
            self._abandon()
            return
        number = self.round
        try:
            Records(self._txn).put(schema.ROUND, _U64.pack(number))
            began = time.monotonic()
            self._txn.commit()
        except (lmdb.Error, Damaged) as error:
            raise self._fail(f"round {number} can't be committed: {error}") from error
        if self._commits is not None:
            self._commits.took(time.monotonic() - began)
            self._commits.wrote(self._round_bytes)
        self._txn = None
        self._dirty = False
        self._round_bytes = 0
        self._synced = number

    def fileno(self) -> int | None:
        """None: `synced` moves only inside end_round."""
        return None

    def woken(self) -> None:
        """Nothing to drain."""

    def free_bytes(self) -> int:
        """What may still be written before growth must be refused: free pages inside the file, and
        disk or map behind it, less the reserve that deleting needs.  <= 0: full."""
        self._check()
        room = min(disk.disk_free(self._directory), disk.map_free(self._env))
        written = self._round_bytes * _COPY_ON_WRITE
        return room + disk.inner_free(self._env) - self._reserve - written

    def close(self) -> None:
        """Let go; a round that was not ended is undone."""
        self._abandon()
        self._env.close()
        self._lock.release()

    def _begin(self) -> disk.Txn:
        try:
            return self._env.begin(write=True)
        except lmdb.Error as error:
            raise self._fail(f"a round can't begin: {error}") from error

    def _abandon(self) -> None:
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
        self._dirty = False
        self._round_bytes = 0

    def _check(self) -> None:
        if self._failure is not None:
            raise StoreError(self._failure)

    def _fail(self, text: str) -> StoreError:
        self._failure = f"{self._directory}: {text}; the node stops, start it again to recover"
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
        return StoreError(self._failure)

    def _opened_round(self) -> Round:
        """The newest committed round; refuses what a newer release wrote."""
        with self.read() as reader:
            try:
                payload = reader.get(schema.ROUND)
                superblock = reader.get(schema.SUPERBLOCK)
            except Damaged as error:
                raise DamagedStore(f"{self._directory}: {error}") from error
        if superblock is not None:
            plain = records.loads(superblock)
            if isinstance(plain, list) and plain and plain[0] > schema.META_FORMAT:
                raise StartError(
                    f"{self._directory}: a store of format {plain[0]}; this release knows format "
                    f"{schema.META_FORMAT}: start it with the newer release, or go back as "
                    "docs/UPGRADING.md says"
                )
        return Round(0 if payload is None else _U64.unpack(payload)[0])


def sound_store(directory: Path, commits: Commits | None = None) -> LmdbStore:
    """A store on a directory; a damaged one is set aside first: there are copies of what it had."""
    try:
        return LmdbStore(directory, commits)
    except DamagedStore as error:
        set_aside(directory, error)
    return LmdbStore(directory, commits)


def set_aside(directory: Path, why: DamagedStore) -> None:
    """Put a damaged store out of the way, whole.  The next open makes a new one."""
    lock = disk.Lock(directory)
    try:
        log.error("%s: set aside as %s", why, disk.set_aside(directory / "meta", "meta.damaged"))
    finally:
        lock.release()


def _refuse_other_role(directory: Path) -> None:
    if (directory / "index").exists() or any(directory.glob("segment-*.log")):
        raise StartError(f"{directory}: holds a dataserver's store; give another --store")


def _open(directory: Path) -> disk.Lmdb:
    """The environment; StartError when LMDB must not be given the file."""
    faults = disk.find_faults(directory)
    for fault in faults[:10]:
        log.error("the metadata in %s is damaged: %s", directory, fault)
    if faults:
        raise DamagedStore(f"{directory / disk.DATA_FILE}: damaged ({faults[0]})")
    try:
        return disk.open_lmdb(directory, limits.META_MAP_BYTES)
    except (lmdb.Error, OSError) as error:
        raise StartError(f"{directory}: can't be opened: {error}") from error
