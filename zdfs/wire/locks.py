"""Messages about locks, between mounts and the metaserver.

A lock belongs to an *owner*: what the kernel calls so (a process, or an open file description),
as numbered by the mount.  `Lock` and `Unlock` come through a slot and are answered at once; who has
to wait asks again, when it is told to (TryAgain) and now and then.  Both do no harm when they are
run twice in a row, so their replies are kept in memory only; what was sent to an earlier life of
the metaserver is refused (Unavailable) and asked again.
"""

import enum
from typing import Annotated as A
from typing import NamedTuple

from zdfs import limits
from zdfs.ids import Incarnation, Ino
from zdfs.records import U32, U64, Length
from zdfs.wire.base import Durability, Flag, Reply, Request, Size, message
from zdfs.wire.parts import Attributes, Done

# --- mounts to the metaserver: locks -----------------------------------------------------------


class LockKind(enum.IntEnum):
    """Two kinds that know nothing of one another, as on Linux."""

    POSIX = 0  # fcntl: a range of bytes
    FLOCK = 1  # flock: the whole file


class Verdict(enum.IntEnum):
    """What became of a request for a lock."""

    GRANTED = 0
    CONFLICT = 1  # with somebody else's
    LATER = 2  # the metaserver has restarted and does not know yet what is held


class Span(NamedTuple):
    """Bytes of a file, both ends included, and how they are locked."""

    first: Size
    last: Size  # limits.FILE_BYTES: to the end, however far that is
    exclusive: Flag  # for writing; else shared

    def meets(self, other: "Span") -> bool:
        """Whether they have a byte in common."""
        return self.first <= other.last and other.first <= self.last

    def excludes(self, other: "Span") -> bool:
        """Whether two owners can't have both."""
        return self.meets(other) and (self.exclusive or other.exclusive)


class FileLock(NamedTuple):
    """A lock that an owner has or wants."""

    ino: Ino
    kind: LockKind
    owner: A[int, U64]
    pid: A[int, U32]  # of the process that asked, on its own machine
    span: Span


@message(60, Durability.LOGGED)
class Locked(Reply):
    """Whether it is granted.  Logged: the end of a mount that had the lock before is, too."""

    verdict: Verdict
    incarnation: Incarnation  # of the metaserver that says so
    attributes: Attributes | None  # of the file, when granted: what its next reader must see
    holder: FileLock | None  # when tested: what is in the way; its pid is 0 on another mount


@message(61)
class Lock(Request[Locked]):
    """Lock bytes, whatever of them this owner has already.  EDEADLK: it would wait for ever."""

    claim: FileLock
    waiter: A[int, U64]  # the mount's number of who waits for it; 0: nobody


@message(62, Durability.LOGGED)
class Unlocked(Reply):
    """The bytes are free."""


@message(63)
class Unlock(Request[Unlocked]):
    """Give back what this owner has of these bytes."""

    claim: FileLock


@message(64)
class StopWaiting(Request[Done]):
    """A waiter was interrupted."""

    waiter: A[int, U64]


@message(65)
class TestLock(Request[Locked]):
    """F_GETLK: could this be locked?"""

    claim: FileLock


@message(66)
class TryAgain(Reply):
    """Push: what these waited for may be free."""

    waiters: A[tuple[A[int, U64], ...], Length(1, limits.LOCK_WAITERS)]
