"""What the core asks of the world: protocols that `store` and the simulated world both keep.

The contract suites in tests/contract run on every implementation.
"""

import collections
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, TypeVar

from zdfs import wire
from zdfs.calls import Trap
from zdfs.checksum import Buffer, Seal
from zdfs.ids import Epoch, Incarnation, Ino, Name, Round, Session, Slot
from zdfs.keys import Key
from zdfs.schema import DataState, IndexEntry
from zdfs.wire import Attributes

T = TypeVar("T")


class RoundStore(Protocol):
    """What the broker needs of a store: changes gather in a round that is committed as one.

    `round` is the round that a change made now would belong to; `dirty`, whether it has any;
    `large`, whether it should end before more is taken in; `synced`, the newest round that is on
    disk with all before it.  `safe` is the newest round that a reply may report on: one that
    promises disks, one to a change, any other.  `prepare` seals the round, so that it can be sent
    before it is committed (False: nobody waits for it).  `end_round` commits or hands the
    round to the syncing thread; `fileno()` becomes readable when `synced` moved (None: it moves
    only inside end_round); `woken()` drains it.  StoreError from any of them: stop, send nothing.
    """

    @property
    def round(self) -> Round: ...
    @property
    def dirty(self) -> bool: ...
    @property
    def synced(self) -> Round: ...
    @property
    def large(self) -> bool: ...
    def safe(self, synced: bool, change: bool) -> Round: ...
    def promise(self, number: Round) -> None: ...
    def prepare(self) -> bool: ...
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


class Press(IntEnum):
    """Who is in need of a store's time, and of its room."""

    IDLE = 0  # nobody
    BUSY = 1  # somebody reads or writes
    SHORT = 2  # a write waits for room


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

    def append(
        self,
        name: Name,
        seal: Seal,
        epoch: Epoch,
        start: Slot,
        data: Buffer,
        urgent: bool = False,
    ) -> None:
        """Store a version in this round (replacing a damaged record of the same name).
        NoSpace when it would eat the reserve (unless it is urgent); then nothing was stored."""
        ...

    def find(self, name: Name) -> IndexEntry | None:
        """Where it is; None: not here; Damaged: the index can't say."""
        ...

    def read(self, name: Name) -> tuple[IndexEntry, Buffer] | None:
        """Its bytes, verified against the index's seal; None: not here; Damaged: they are bad."""
        ...

    def expect(self, names: Sequence[Name]) -> None:
        """These are read next: the disk may begin with all of them."""
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

    def compact(self, most_bytes: int, press: Press = Press.IDLE) -> bool:
        """Move some live records out of a segment with dead ones; False: nothing to do."""
        ...

    def reclaimable_bytes(self) -> int:
        """What may be stored beyond what `space` says: whoever wants it waits for it a little."""
        ...

    def emptied(self) -> Round | None:
        """A checkpoint makes room once this round is synced: a segment was emptied in it.  None:
        none was."""
        ...

    def winnable(self) -> bool:
        """Whether `compact`, when somebody waits, or the next checkpoint makes room yet."""
        ...

    def rebuild_index(self) -> None:
        """Set the index aside and make it anew from the log (after Damaged from find or scan)."""
        ...

    def harm(self, name: Name, harm: int, seed: int) -> tuple[int, bytes, bytes]:
        """Damage a version's record on purpose (wire.Harm): offset, bytes before, bytes after."""
        ...


class Caller(NamedTuple):
    """Who asks: the socket to answer, the request's head, and, where there are keys, whose it is
    (as the allow-list has it just now)."""

    address: bytes
    head: wire.RequestHead
    key: Key | None = None
    at: float = 0.0  # when it arrived: monotonic, the driver's


class Push(NamedTuple):
    """What a session is told unasked, over the socket and in the version of its heartbeats."""

    address: bytes
    session: Session
    message: wire.Reply
    protocol: int


Handler = Callable[[Any, Caller], Coroutine[Trap, Any, wire.Reply]]


class Reading(NamedTuple):
    """A value that a source of measures found."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


class Meter(Protocol):
    """What a driver tells of the requests that it drives (`measures`)."""

    sources: dict[str, Callable[[], Iterable[Reading]]]  # by who reads it

    def count(self, name: str, amount: float = 1) -> None:
        """On a metric without labels."""
        ...

    def failed(self, kind: type[wire.Message], reply: wire.Reply) -> None:
        """What was made for a request, which may be a failure."""
        ...

    def replied(self, kind: type[wire.Message], took_s: float, disk_s: float) -> None:
        """A reply has left, so long after the request came, and after it was made."""
        ...

    def called(self, kind: type[wire.Message], took_s: float, answer: object) -> None:
        """A call has an answer, or was given up."""
        ...

    def waited(self, operation: str, spent: Mapping[str, float]) -> None:
        """What an operation waited for: seconds, by request."""
        ...


class Room(Protocol):
    """What lives behind a broker."""

    handlers: Mapping[type[wire.Message], Handler]
    pushes: list[Push]  # emptied by the broker after each round
    counts: collections.Counter[str]  # bad messages and the like, shown in status

    @property
    def meter(self) -> Meter: ...
    @property
    def incarnation(self) -> Incarnation: ...
    @property
    def note(self) -> str:
        """Why nothing works yet; "": it does."""
        ...

    @property
    def ended(self) -> bool:
        """Whether another room is to take over."""
        ...

    def welcome(self, caller: Caller, request: wire.Message) -> None:
        """Where there are keys: raises the Failure that refuses this one the request."""
        ...

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


class Run(Protocol):
    """Runs a coroutine of traps in the calling thread (link.run)."""

    def __call__(self, coroutine: Coroutine[Trap, Any, T]) -> T: ...


class Owner(NamedTuple):
    """Whose locks: the kernel's number of a process or an open file description."""

    kind: wire.LockKind
    number: int
    pid: int


class Listed(NamedTuple):
    """One entry of a directory.  Of "." and "..", and where nobody asked for more, only the inode
    and the type are known."""

    name: bytes
    ino: Ino
    mode: int
    attributes: Attributes | None
    next: int  # the offset behind it


class Volume(Protocol):
    """The file system of one mount, by inode number.  Failures are errors.Failure.

    `_ino` is done to an inode, `_at` to a name in a directory, the rest to a handle.  Attributes
    are with what is written here and not yet flushed.
    """

    on_change: Callable[[Ino, Attributes | None], None]
    """Called, and must not wait, when another mount has changed what was looked at here, with the
    attributes as they were known until now."""

    @property
    def block_bytes(self) -> int: ...
    def last_place(self, ino: Ino) -> bytes | None:
        """The path that an inode was last found under; None: not remembered."""
        ...

    def last_known(self, ino: Ino) -> Attributes | None:
        """An inode's attributes as last seen; None: not remembered."""
        ...

    def names_in(self, ino: Ino) -> Sequence[bytes]:
        """The names in a directory that a kernel may believe."""
        ...

    async def lookup_at(self, parent: Ino, name: bytes) -> Attributes: ...
    async def stat_ino(self, ino: Ino) -> Attributes: ...
    async def set_ino(
        self,
        ino: Ino,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        atime_now: bool = False,
        mtime_now: bool = False,
    ) -> Attributes:
        """None: leave it.  `_now`: to be the present, whatever was given."""
        ...

    async def open_ino(self, ino: Ino, flags: int) -> tuple[int, bool]:
        """A handle (> 0), and whether the kernel may keep its pages.  Honours O_TRUNC."""
        ...

    def may_be_mapped(self, handle: int) -> bool:
        """Whether a program here may have a mapping to write to the file of a handle."""
        ...

    def known_mode(self, handle: int) -> int:
        """The mode of an open file, as last seen."""
        ...

    def outdated(self, handle: int) -> bool:
        """Whether attributes that were told before the open may not be those that it found."""
        ...

    async def create_at(
        self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, flags: int, umask: int = 0
    ) -> tuple[int, Attributes]: ...
    async def read(self, handle: int, size: int, offset: int) -> Buffer: ...
    async def write(self, handle: int, data: memoryview, offset: int, append: bool) -> int:
        """`data` is valid only during the call; the offset means nothing when it appends."""
        ...

    async def flush(self, handle: int) -> None:
        """close(2); after Interrupted the data is flushed later."""
        ...

    async def fsync(self, handle: int) -> None: ...
    async def fsyncdir(self) -> None: ...
    async def release(self, handle: int) -> None: ...
    async def truncate_ino(self, ino: Ino, handle: int | None, size: int) -> None: ...
    async def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None: ...
    async def lseek(self, handle: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE only."""
        ...

    async def copy_file_range(
        self, source: int, offset: int, target: int, at: int, length: int
    ) -> int: ...
    async def lock(self, handle: int, owner: Owner, span: wire.Span, waits: bool) -> None:
        """EAGAIN when it is not to wait; a refused change of a flock has given back what was."""
        ...

    async def unlock(self, handle: int, owner: Owner, span: wire.Span) -> None: ...
    async def test_lock(
        self, handle: int, owner: Owner, span: wire.Span
    ) -> wire.FileLock | None: ...
    def stale(self, handle: int) -> int | None:
        """A number for `dropped`, if the kernel's pages are older than what is known."""
        ...

    def dropped(self, handle: int, change: int) -> None: ...
    async def make_at(
        self,
        parent: Ino,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        rdev: int = 0,
        target: bytes = b"",
        umask: int = 0,
    ) -> Attributes: ...
    async def unlink_at(self, parent: Ino, name: bytes) -> None: ...
    async def rmdir_at(self, parent: Ino, name: bytes) -> None: ...
    async def readlink_ino(self, ino: Ino) -> bytes: ...
    async def link_at(self, ino: Ino, parent: Ino, name: bytes) -> Attributes: ...
    async def rename_at(
        self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int = 0
    ) -> None: ...
    async def opendir_ino(self, ino: Ino) -> int: ...
    async def readdir(
        self, handle: int, offset: int, plus: bool = True, most: int = ...
    ) -> Sequence[Listed]:
        """Entries from an offset, at most about so many, "." and ".." too; empty: the end.  `plus`:
        attributes are wanted; there may be none all the same."""
        ...

    async def releasedir(self, handle: int) -> None: ...
    async def getxattr_ino(self, ino: Ino, name: bytes) -> bytes: ...
    def lacks(self, ino: Ino, name: bytes) -> bool:
        """Whether an inode is known to have no such attribute; asks nobody."""
        ...

    async def setxattr_ino(
        self, ino: Ino, name: bytes, value: bytes, flags: int, ends_sgid: bool = False
    ) -> None: ...
    async def listxattr_ino(self, ino: Ino) -> Sequence[bytes]: ...
    async def removexattr_ino(self, ino: Ino, name: bytes) -> None: ...
    async def statfs(self) -> wire.Space: ...
    async def sync_all(self) -> None: ...
