"""What messages are made of, and those that anybody sends to anybody."""

import enum
from typing import Annotated as A
from typing import NamedTuple

from zdfs import limits
from zdfs.chain import NO_COPIES, CopySet
from zdfs.checksum import Seal
from zdfs.errors import Failure, revive
from zdfs.ids import Epoch, Incarnation, Ino, Name, PageNo, Round, Session, Slot, Token
from zdfs.lineage import Lineage
from zdfs.records import TIME, U16, U32, U64, Between, Length, Since
from zdfs.wire.base import (
    MAP_BYTES,
    Uuid,
    NameBytes,
    Text,
    Address,
    Size,
    Flag,
    Durability,
    Reply,
    Request,
    message,
)
from zdfs.wire.versions import ONLY_FIRST, Protocols

# --- what messages are made of -----------------------------------------------------------------


class Role(enum.IntEnum):
    """Who answers at a port."""

    META = 1
    DATA = 2


class State(enum.IntEnum):
    """A dataserver's life (DESIGN 8)."""

    DOWN = 0  # silent for limits.DOWN_S
    JOINING = 1  # not yet accepted, or not yet reconciled
    RECOVERING = 2  # takes writes, serves what it has, fetches the rest
    SERVING = 3


class Held(enum.IntEnum):
    """What a dataserver says of one block version."""

    OK = 0
    MISSING = 1
    DAMAGED = 2
    NOT_YET = 3  # missing, and a rebuild is underway


class Attributes(NamedTuple):
    """What stat shows, and where the blocks stand."""

    ino: Ino
    mode: A[int, U32]  # with the type bits
    nlink: A[int, U32]
    uid: A[int, U32]
    gid: A[int, U32]
    rdev: A[int, U64]
    size: Size
    stored: A[int, U64]  # bytes stored: st_blocks = ceil(stored / 512)
    atime_ns: A[int, TIME]
    mtime_ns: A[int, TIME]
    ctime_ns: A[int, TIME]
    change: A[int, U64]  # grows with every change of content, size or attributes
    epoch: Epoch
    start: Slot
    xattrs: A[int, U64]  # how many extended attributes: of 0 nobody need ask


class Entry(NamedTuple):
    """A directory entry with its inode's attributes."""

    name: NameBytes
    attributes: Attributes


class MapPage(NamedTuple):
    """One page of a file's block map, packed as in `blockmap`."""

    page: PageNo
    entries: A[bytes, Length(0, MAP_BYTES)]


class Put1(NamedTuple):
    """A block version to store; its bytes are the bulk frame of the same position."""

    name: Name
    seal: Seal
    epoch: Epoch
    start: Slot
    length: A[int, Between(0, limits.BLOCK_BYTES_MAX)]


class Wanted(NamedTuple):
    """A block version that somebody must have, as the map names it."""

    name: Name
    seal: Seal
    epoch: Epoch
    start: Slot
    length: A[int, Between(0, limits.BLOCK_BYTES_MAX)]


class Ack(NamedTuple):
    """What a commit quotes of a dataserver's acknowledgements."""

    slot: Slot
    uuid: Uuid
    life: A[int, U32]
    boot: A[int, U32]
    round: Round


class Member(NamedTuple):
    """One slot of the ring, as the cluster map shows it."""

    slot: Slot
    address: Address
    uuid: Uuid
    life: A[int, U32]
    state: State
    skipped: Flag  # commits go ahead without it (zdfs faults skip)
    host: A[bytes, Length(0, 64)]  # same host id as yours: it can be reached by ipc


class ClusterMap(NamedTuple):
    """Who is where and how; the version grows with every change."""

    version: A[int, U64]
    epoch: Epoch
    members: A[tuple[Member, ...], Length(0, limits.SERVERS)]
    copies: CopySet = NO_COPIES  # the journal set: who holds copies of the metadata


class Blocked(NamedTuple):
    """Writes that wait on a mount."""

    slot: Slot  # for whom
    since_ms: A[int, U64]  # for how long
    writers: A[int, U32]
    quorum: Flag  # also by policy quorum: fewer than two servers of some block are left


class Rebuild(NamedTuple):
    """Progress of a recovery; totals are exact."""

    done: A[int, U64]  # blocks
    total: A[int, U64]
    done_bytes: A[int, U64]
    elapsed_ms: A[int, U64]
    total_bytes: A[int, U64]
    bytes_per_s: A[int, U64]  # lately


class ScrubStatus(NamedTuple):
    """How far a dataserver's check of all that it holds is.

    What was found is that of the pass underway, or else of the newest one of this start: copies
    with bad bytes, copies missing from here or other than the map says, copies too many here; and
    how many of all these were healed (fetched anew, or dropped).
    """

    began_ns: int  # of the pass underway; 0: it rests
    ended_ns: int  # of the newest full pass; 0: none ended yet
    done_bytes: A[int, U64]
    total_bytes: A[int, U64]
    bytes_per_s: A[int, U64]  # at which it reads; 0: as fast as it can
    damaged: A[int, U64]
    missing: A[int, U64]
    excess: A[int, U64]
    healed: A[int, U64]


class Health(NamedTuple):
    """What a dataserver reports of itself each second."""

    state: State
    total_bytes: A[int, U64]
    free_bytes: A[int, U64]  # what may still be stored
    blocks: A[int, U64]
    used_bytes: A[int, U64]
    rebuild: Rebuild | None
    damaged: A[int, U64]  # found since the store was made
    repaired: A[int, U64]
    refused: A[int, U64]  # bad messages
    engine: Text  # checksum engine
    scrub: ScrubStatus | None = None


class Event(NamedTuple):
    """Something people should know: damage, repair, outage, ..."""

    at_ns: int
    kind: Text
    text: Text


class Claim(NamedTuple):
    """One M (DESIGN 9): a metaserver's incarnation and the newest round it knows to be synced."""

    incarnation: Incarnation
    served_incarnation: Incarnation
    served_round: Round


class Recalled(NamedTuple):
    """A grant that somebody else waits for."""

    ino: Ino
    token: Token


class Opening(NamedTuple):
    """A mount's newest open of an inode; `opening` only grows within a session."""

    ino: Ino
    opening: A[int, U64]


class Holding(NamedTuple):
    """A grant a mount holds, announced again after the metaserver restarted."""

    ino: Ino
    token: Token
    number: A[int, U64]  # of its last commit that was answered


class SessionStatus(NamedTuple):
    """A mount, for `zdfs status`."""

    session: Session
    host: Text
    mount: Text
    blocked: A[tuple[Blocked, ...], Length(0, limits.SERVERS)]
    protocols: A[Protocols, Since(5)] = ONLY_FIRST  # that it speaks


class ServerStatus(NamedTuple):
    """A dataserver, for `zdfs status`."""

    member: Member
    health: Health
    silent_ms: A[int, U64]
    owed: A[int, U64]  # replicas that commits went without, by policy quorum
    owed_bytes: A[int, U64]
    owed_since_ns: int  # 0: nothing is owed
    protocols: A[Protocols, Since(5)] = ONLY_FIRST  # that it speaks, as it last reported


# --- anybody to anybody ------------------------------------------------------------------------


@message(1)
class Failed(Reply):
    """The failure that a request met; see `errors`.  The same in every version, for ever."""

    code: A[int, U16]
    number: A[int, U16]
    text: Text
    details: A[tuple[A[int, U64], ...], Length(0, 64)]

    def failure(self) -> Failure:
        """As an exception."""
        return revive(self.code, self.number, self.text, self.details)

    @classmethod
    def of(cls, error: Failure) -> "Failed":
        """From an exception."""
        text = error.text[: limits.TEXT_BYTES // 4]
        return cls(error.code, error.number, text, tuple(error.details[:64]))


@message(2, Durability.LOGGED)
class Done(Reply):
    """It is done, and logged if it was a change."""


@message(3)
class Identity(Reply):
    """Who answers here."""

    role: Role
    release: Text
    cluster: A[bytes, Length(0, 16)]  # empty: not founded
    uuid: Uuid  # of the store
    slot: Slot
    state: State
    faults: Flag
    host: A[bytes, Length(0, 64)]
    meta: A[str, Length(0, limits.ADDRESS_BYTES)]  # where a dataserver's metaserver is
    note: Text  # why it isn't serving
    clock_ns: int = 0  # its time as it answers
    protocols: A[Protocols, Since(5)] = ONLY_FIRST  # that it speaks
    format: A[int, U32, Since(5)] = 0  # of its store; 0: it doesn't say
    lineage: A[Lineage, Since(5)] = ()  # who wrote that store


@message(4)
class Identify(Request[Identity]):
    """Who are you?"""
