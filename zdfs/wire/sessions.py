"""Messages between mounts and the metaserver: the session."""

from typing import Annotated as A

from zdfs import limits
from zdfs.ids import Incarnation, Ino, Session
from zdfs.records import U32, U64, Between, Length, Since
from zdfs.wire.base import Permit, Uuid, Text, Flag, Durability, Reply, Request, message
from zdfs.wire.locks import FileLock
from zdfs.wire.parts import ClusterMap, Blocked, Recalled, Opening, Holding, Done
from zdfs.wire.versions import ONLY_FIRST, Protocols

# --- mounts to the metaserver: the session -----------------------------------------------------


@message(10, Durability.LOGGED)
class SessionOpened(Reply):
    """A session is born."""

    session: Session
    cluster: Uuid
    block_bytes: A[int, Between(limits.BLOCK_BYTES_MIN, limits.BLOCK_BYTES_MAX)]
    map: ClusterMap
    clock_ns: int  # the metaserver's, for mtimes of one clock
    life_ms: A[int, U32]  # how long the session lives without a heartbeat
    permit: Permit = b""  # for all files
    protocols: A[Protocols, Since(5)] = ONLY_FIRST  # the metaserver's


@message(11)
class OpenSession(Request[SessionOpened]):
    """A mount starts.  The nonce makes a repeat harmless."""

    nonce: Uuid
    host: Text
    mount: Text
    protocols: A[Protocols, Since(5)] = ONLY_FIRST  # the mount's


@message(12)
class CloseSession(Request[Done]):
    """A mount ends; its grants and handles go with it."""


@message(13)
class Beaten(Reply):
    """Answer to a heartbeat: what pushes may have lost."""

    number: A[int, U64]  # the heartbeat's
    map: ClusterMap | None  # only when the sender's is older
    recalls: A[tuple[Recalled, ...], Length(0, limits.LIST_ITEMS)]
    announce: Flag  # the metaserver is new: say Announce
    told: A[int, U64]  # the number of the newest Changed that was pushed to this session
    permit: Permit = b""  # for all files


@message(14)
class Beat(Request[Beaten]):
    """Each second, over the session's own DEALER, which pushes come back on."""

    number: A[int, U64]  # grows by one
    heard: A[int, U64]  # the newest whose reply arrived: who hears none can't be recalled
    map_version: A[int, U64]
    blocked: A[tuple[Blocked, ...], Length(0, limits.SERVERS)]
    closed: A[tuple[Opening, ...], Length(0, limits.LIST_ITEMS)]  # last handle closed
    returned: A[tuple[Recalled, ...], Length(0, limits.LIST_ITEMS)]  # grants no longer needed


@message(19)
class Announced(Reply):
    """It is noted, in memory: nothing was changed."""

    protocols: A[Protocols, Since(5)] = ONLY_FIRST  # the metaserver's


@message(15)
class Announce(Request[Announced]):
    """After a restart of the metaserver: what this mount has open and holds."""

    openings: A[tuple[Opening, ...], Length(0, limits.LIST_ITEMS)]
    holdings: A[tuple[Holding, ...], Length(0, limits.LIST_ITEMS)]
    locks: A[tuple[FileLock, ...], Length(0, limits.LOCKS_TOLD)]
    incarnation: Incarnation  # of the metaserver that is told; another one passes the locks over
    last: Flag  # nothing follows
    protocols: A[Protocols, Since(5)] = ONLY_FIRST  # the mount's


@message(16)
class Recall(Reply):
    """Push: flush, commit and return this grant."""

    recalled: Recalled


@message(17)
class MapChanged(Reply):
    """Push: a server came or went."""

    map: ClusterMap


@message(18)
class Changed(Reply):
    """Push: somebody changed what this mount has looked at, or the metaserver stops looking after
    it; told once, until it looks again."""

    number: A[int, U64]  # grows by one for a session, while the metaserver lives
    inos: A[tuple[Ino, ...], Length(1, limits.LIST_ITEMS)]
