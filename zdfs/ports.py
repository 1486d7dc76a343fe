"""What the core asks of the world: protocols that `store` and the simulated world both keep.

The contract suites in tests/contract run on every implementation.
"""

import collections
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from zdfs import wire
from zdfs.calls import Trap
from zdfs.checksum import Buffer, Seal
from zdfs.ids import Epoch, Incarnation, Name, Round, Session, Slot
from zdfs.schema import DataState, IndexEntry
from zdfs.wire import Attributes


class RoundStore(Protocol):
    """What the broker needs of a store: changes gather in a round that is committed as one.

    `round` is the round that a change made now would belong to; `dirty`, whether it has any;
    `synced`, the newest round that is on disk with all before it.  `end_round` commits or hands the
    round to the syncing thread; `fileno()` becomes readable when `synced` moved (None: it moves
    only inside end_round); `woken()` drains it.  StoreError from any of them: stop, send nothing.
    """

    @property
    def round(self) -> Round: ...
    @property
    def dirty(self) -> bool: ...
    @property
    def synced(self) -> Round: ...
    def end_round(self) -> None: ...
    def fileno(self) -> int | None: ...
    def woken(self) -> None: ...
    def close(self) -> None: ...


class Reader(Protocol):
    """Ordered keys, read.  Values are payloads: the check is verified below (Damaged)."""

    def get(self, key: bytes) -> bytes | None: ...
    def scan(
        self, first: bytes, end: bytes, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with first <= key < end, in order (or backwards)."""
        ...


class Transaction(Reader, Protocol):
    """Ordered keys, read and written."""

    def put(self, key: bytes, payload: bytes) -> None: ...
    def delete(self, key: bytes) -> bool:
        """False when there was none."""
        ...


class MetaStore(RoundStore, Protocol):
    """The metaserver's store.

    `write()` is a child of the round's transaction: an exception inside it undoes only itself.
    `read()` sees the round's changes so far.  Neither outlives a round.
    """

    def write(self) -> AbstractContextManager[Transaction]: ...
    def read(self) -> AbstractContextManager[Reader]: ...
    def free_bytes(self) -> int:
        """What may still be written before growth must be refused; <= 0: full."""
        ...


class Space(NamedTuple):
    """A dataserver's disk."""

    total_bytes: int
    free_bytes: int  # what may still be stored; 0: full
    used_bytes: int
    blocks: int


class BlockStore(RoundStore, Protocol):
    """The dataserver's store: a log of block versions and an index.

    `state` is its identity; `set_state` replaces it in this round.  `boot` counts the opens,
    `opened_round` is the newest round that survived into this boot.
    """

    @property
    def state(self) -> DataState: ...
    @property
    def boot(self) -> int: ...
    @property
    def opened_round(self) -> Round: ...
    def set_state(self, state: DataState) -> None: ...

    def append(self, name: Name, seal: Seal, epoch: Epoch, start: Slot, data: Buffer) -> None:
        """Store a version in this round (replacing a damaged record of the same name).
        NoSpace when it would eat the reserve; then nothing was stored."""
        ...

    def find(self, name: Name) -> IndexEntry | None:
        """Where it is; None: not here; Damaged: the index can't say."""
        ...

    def read(self, name: Name) -> tuple[IndexEntry, Buffer] | None:
        """Its bytes, verified against the index's seal; None: not here; Damaged: they are bad."""
        ...

    def drop(self, names: Sequence[Name]) -> None:
        """Forget versions, in the index, with this round."""
        ...

    def scan(self, after: Name | None, count: int) -> list[tuple[Name, IndexEntry]]:
        """The next `count` versions in the order of names; Damaged as `find`."""
        ...

    def checkpoint(self) -> None:
        """Commit the index up to the newest synced round: drops up to there are durable."""
        ...

    @property
    def checkpointed(self) -> Round:
        """Drops made in rounds up to this are durable."""
        ...

    def space(self) -> Space: ...

    def oldest_unsynced_s(self) -> float:
        """How long the oldest round has been waiting for its sync; 0.0: none is."""
        ...

    def compact(self, most_bytes: int) -> bool:
        """Move some live records out of a mostly dead segment; False: nothing to do."""
        ...

    def rebuild_index(self) -> None:
        """Set the index aside and make it anew from the log (after Damaged from find or scan)."""
        ...

    def harm(self, name: Name, harm: int, seed: int) -> tuple[int, bytes, bytes]:
        """Damage a version's record on purpose (wire.Harm): offset, bytes before, bytes after."""
        ...


class Caller(NamedTuple):
    """Who asks: the socket to answer, and the request's head."""

    address: bytes
    head: wire.RequestHead


Handler = Callable[[Any, Caller], Coroutine[Trap, Any, wire.Reply]]


class Room(Protocol):
    """What lives behind a broker."""

    handlers: Mapping[type[wire.Message], Handler]
    pushes: list[tuple[bytes, Session, wire.Reply]]  # emptied by the broker after each round
    counts: collections.Counter[str]  # bad messages and the like, shown in status

    @property
    def incarnation(self) -> Incarnation: ...
    def admit(self, head: wire.RequestHead, request: wire.Message) -> wire.Reply | None:
        """For a change (it has a slot): the kept reply of a repeat, None for a new one.
        Raises the Failure that refuses it."""
        ...

    def keep(self, head: wire.RequestHead, reply: wire.Reply) -> None:
        """Remember the reply to a change, in the same round."""
        ...

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        ...


class Volume(Protocol):
    """The file system of one mount.  Paths are absolute; failures are errors.Failure.

    lookup and stat know what is written here and not yet flushed.  A hidden name (`hide`, `rename`)
    reaches its inode in every operation until it is unlinked; no listing shows it.
    """

    @property
    def block_bytes(self) -> int: ...
    async def lookup(self, path: bytes) -> Attributes: ...
    async def stat(self, handle: int) -> Attributes: ...
    async def open(self, path: bytes, flags: int) -> tuple[int, bool]:
        """A handle (> 0), and whether the kernel may keep its pages.  Honours O_TRUNC."""
        ...

    def outdated(self, handle: int) -> bool:
        """Whether attributes that were told before the open are not those that it found."""
        ...

    async def create(self, path: bytes, mode: int, uid: int, gid: int, flags: int) -> int: ...
    async def read(self, handle: int, size: int, offset: int) -> Buffer: ...
    async def write(self, handle: int, data: memoryview, offset: int) -> int:
        """`data` is valid only during the call; the offset means nothing under O_APPEND."""
        ...

    async def flush(self, handle: int) -> None:
        """close(2); after Interrupted the data is flushed later."""
        ...

    async def fsync(self, handle: int) -> None: ...
    async def release(self, handle: int) -> None: ...
    async def truncate(self, path: bytes | None, handle: int | None, size: int) -> None: ...
    async def make(
        self, path: bytes, mode: int, uid: int, gid: int, rdev: int = 0, target: bytes = b""
    ) -> None: ...
    async def unlink(self, path: bytes) -> None: ...
    async def rmdir(self, path: bytes) -> None: ...
    async def readlink(self, path: bytes) -> bytes: ...
    async def link(self, old: bytes, new: bytes) -> None: ...
    async def rename(self, old: bytes, new: bytes, flags: int, hidden: bytes = b"") -> None:
        """`hidden`: what is at `new` now is open here; this name reaches it from now on, whether
        the rename succeeds or fails, and unlinking it only ends the name unless it is an orphan."""
        ...

    async def is_open(self, path: bytes) -> bool: ...
    async def hide(self, path: bytes, hidden: bytes) -> None: ...
    async def set_attributes(
        self,
        path: bytes | None,
        handle: int | None,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        now: bool = False,
    ) -> None:
        """None: leave it.  `now`: the times that are not None are to be the present."""
        ...

    async def opendir(self, path: bytes) -> int: ...
    async def readdir(
        self, handle: int, offset: int
    ) -> Sequence[tuple[bytes, Attributes | None, int]]:
        """(name, attributes, next offset) from an offset, "." and ".." too; empty: the end."""
        ...

    async def releasedir(self, handle: int) -> None: ...
    async def getxattr(self, path: bytes, name: bytes) -> bytes: ...
    async def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None: ...
    async def listxattr(self, path: bytes) -> Sequence[bytes]: ...
    async def removexattr(self, path: bytes, name: bytes) -> None: ...
    async def statfs(self) -> wire.Space: ...
    async def sync_all(self) -> None: ...
