"""What stands on disk: every key, every record, every header, with its invariants.

**The metaserver** keeps ordered keys.  The first byte is the table, numbers are big-endian u64:

    !                       Superblock   format, store, incarnation; damaged: refuse to start
    c                       Cluster      made once, when the cluster is founded
    t                       Totals       inodes and stored bytes; fsck recounts
    i <ino>                 Inode
    e <parent> <name>       Dirent       count and sum stand in the parent's Inode
    x <ino> <name>          the value    count and sum stand in the Inode
    m <ino> <page>          a map page   `blockmap.pack_page`; count and sum stand in the Inode
    w <ino> <block>         Debt         a replica that is owed; count and sum stand in the Inode
    a <slot>                Account      what a slot is owed in all; fsck recounts
    o <ino>                 Orphan       nlink is 0; let go when no mount has it open
    d <number>              DropRecord   versions to be dropped by dataservers; gone when all have
    r <epoch>               Ring         the addresses of a ring, in order; never changes
    s <slot>                Server       who stands in a slot
    n <session>             SessionRecord
    k <session> <slot u16>  KeptReply    exactly once: the reply to the slot's newest change
    v <number>              EventRecord  the newest limits.EVENTS
    j                       CopySet      which dataservers hold copies of all this
    NUL ...                 the store's own, not copied: its newest commit; the Head of the chain;
                            rounds that some copy has yet to hear; whether it is being filled

Every value is `check u64 | payload`; the check (CRC-64 over key and payload) is verified at each
read.  LMDB can lose a record silently, so **absence is proven**: a parent record holds the count of
its children and the sum (mod 2^64) of their checks: `Inode.entries*` of Dirents, `.pages*` of map
pages, `.xattrs*` of extended attributes, `.owed*` of Debts.  A sum that doesn't match its children
is damage: EIO, never a guess.

**A dataserver** keeps a log (the truth) and an index (LMDB, made anew from the log at will):

    segment-<number, 16 hex digits>.log   a segment header, then records, back to back
    record = header (RECORD_BYTES) | body; a round ends with a ROUND record, so that a torn round is
    known as such; each segment begins with the newest STATE, so that it outlives older segments

    index:  ! -> DataState and log position   b <ino> <block> <token> <sequence u32> -> IndexEntry
            g <segment> -> live bytes

Index values carry checks as above.  The log is synced before any index commit that covers it.

**Copies of the metadata.**  Each round of the metaserver is also a record of a `chain`.  Some
dataservers keep it in their logs, as blocks of inode 0 (block: the round; token: the incarnation;
sequence: the parts that follow), and in a *mirror*, a store in `copy/` with all but NUL records.
"""

import struct
from dataclasses import dataclass
from typing import Annotated as A
from typing import NamedTuple

from zdfs import checksum, limits
from zdfs.chain import CopySet
from zdfs.errors import Damaged
from zdfs.ids import BlockNo, Epoch, Incarnation, Ino, Name, PageNo, Round, Session, Slot, Token
from zdfs.ids import Policy, Version
from zdfs.lineage import Lineage
from zdfs.records import TIME, U16, U32, U64, Between, Length, Since
from zdfs.segments import (  # noqa: F401 (who wants the log's format asks here, too)
    DATA_FORMAT as DATA_FORMAT,
    DATA_FORMAT_MIN as DATA_FORMAT_MIN,
    KIND_BLOCK as KIND_BLOCK,
    KIND_ROUND as KIND_ROUND,
    KIND_STATE as KIND_STATE,
    RECORD_BYTES as RECORD_BYTES,
    RECORD_MAGIC as RECORD_MAGIC,
    SEGMENT_HEADER_BYTES as SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC as SEGMENT_MAGIC,
    RecordHeader as RecordHeader,
    SegmentHeader as SegmentHeader,
    pack_record as pack_record,
    pack_segment as pack_segment,
    record_salt as record_salt,
    unpack_record as unpack_record,
    unpack_segment as unpack_segment,
)

META_FORMAT = 4  # since 3: the superblock's lineage
META_FORMAT_MIN = 3  # that this release reads, and brings to the newest
META_FORMAT_SINCE = 5  # the protocol of the first release that reads it

_U64 = struct.Struct(">Q")
_PAIR = struct.Struct(">QQ")
_SLOT = struct.Struct(">QH")
_NAME = struct.Struct(">QQQI")

SUPERBLOCK = b"!"
CLUSTER = b"c"
TOTALS = b"t"
ROUND = b"\x00round"  # the newest committed round, u64: the store's own, in each transaction
OWN = b"\x00"  # what a store keeps for itself
FIRST, BEYOND = b"\x01", b"\xff"  # the keys that are copied stand between these
HEAD = b"\x00head"
OUTBOX = b"\x00out"
FILLING = b"\x00fill"
STARTS = b"\x00starts"
COPY_SET = b"j"
CHECK_BYTES = 8

Uuid = A[bytes, Length(16, 16)]


def check(key: bytes, payload: bytes) -> int:
    """A record's check; parents sum these (mod 2^64)."""
    return checksum.check(key, payload)


def seal_value(key: bytes, payload: bytes) -> bytes:
    """A payload as it is stored."""
    return _U64.pack(checksum.check(key, payload)) + payload


def open_value(key: bytes, value: bytes) -> bytes:
    """The payload of a stored value; Damaged when its check fails."""
    payload = value[CHECK_BYTES:]
    if len(value) < CHECK_BYTES or _U64.unpack_from(value)[0] != checksum.check(key, payload):
        raise Damaged(f"the record {describe(key)} fails its checksum", key=key)
    return payload


def describe(key: bytes) -> str:
    """A key for people."""
    tables = {
        b"i": "inode", b"e": "directory entry", b"x": "extended attribute", b"m": "map page",
        b"o": "orphan", b"d": "drop", b"r": "ring", b"s": "server", b"n": "session",
        b"k": "kept reply", b"v": "event", b"b": "block", b"g": "segment",
        b"w": "debt", b"a": "account",
    }  # fmt: skip
    table = tables.get(key[:1])
    if table is None or len(key) < 9:
        return {b"!": "superblock", b"c": "cluster", b"t": "totals"}.get(key, repr(key))
    rest = f" {key[9:]!r}" if key[:1] in b"ex" else f" {key[9:].hex()}" if key[9:] else ""
    return f"{table} {_U64.unpack_from(key, 1)[0]}{rest}"


# --- the metaserver's keys ---------------------------------------------------------------------


def inode_key(ino: Ino) -> bytes:
    """i <ino>"""
    return b"i" + _U64.pack(ino)


def entry_key(parent: Ino, name: bytes) -> bytes:
    """e <parent> <name>; without a name: the prefix of a directory's entries."""
    return b"e" + _U64.pack(parent) + name


def xattr_key(ino: Ino, name: bytes) -> bytes:
    """x <ino> <name>; without a name: the prefix of an inode's attributes."""
    return b"x" + _U64.pack(ino) + name


def page_key(ino: Ino, page: PageNo) -> bytes:
    """m <ino> <page>"""
    return b"m" + _PAIR.pack(ino, page)


def page_prefix(ino: Ino) -> bytes:
    """The prefix of all map pages of an inode."""
    return b"m" + _U64.pack(ino)


def page_of_key(key: bytes) -> tuple[Ino, PageNo]:
    """Inode and page number of a map page's key."""
    ino, page = _PAIR.unpack_from(key, 1)
    return Ino(ino), PageNo(page)


def debt_key(ino: Ino, block: BlockNo) -> bytes:
    """w <ino> <block>; its first nine bytes are the prefix of all debts of an inode."""
    return b"w" + _PAIR.pack(ino, block)


def debt_of_key(key: bytes) -> tuple[Ino, BlockNo]:
    """Inode and block of a debt's key."""
    ino, block = _PAIR.unpack_from(key, 1)
    return Ino(ino), BlockNo(block)


def number_key(table: bytes, number: int) -> bytes:
    """<table> <number>: orphans, drops, rings, servers, sessions, events, accounts."""
    assert len(table) == 1
    return table + _U64.pack(number)


def number_of_key(key: bytes) -> int:
    """The number in such a key (or the first number of any longer key)."""
    number: int = _U64.unpack_from(key, 1)[0]
    return number


def kept_key(session: Session, slot: int) -> bytes:
    """k <session> <slot>"""
    return b"k" + _SLOT.pack(session, slot)


def kept_of_key(key: bytes) -> tuple[Session, int]:
    """Session and slot of a kept reply's key."""
    session, slot = _SLOT.unpack_from(key, 1)
    return Session(session), slot


def after(prefix: bytes) -> bytes:
    """The first key behind all keys that start with `prefix`."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\xff" * 64


# --- the metaserver's records ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Superblock:
    """The store itself.  `incarnation` grows at each start and is synced before serving."""

    format: A[int, U32]
    uuid: Uuid
    incarnation: Incarnation
    lineage: A[Lineage, Since(4)] = ()  # which releases wrote here


@dataclass(frozen=True, slots=True)
class Cluster:
    """The founding; `epoch` is the ring that new files go to."""

    uuid: Uuid
    block_bytes: A[int, Between(limits.BLOCK_BYTES_MIN, limits.BLOCK_BYTES_MAX)]
    replicas: A[int, Between(limits.REPLICAS, limits.REPLICAS)]
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Totals:
    """Running sums for statfs."""

    inodes: A[int, U64]
    stored_bytes: A[int, U64]


@dataclass(frozen=True, slots=True)
class Inode:
    """A file of any type.  Times are ns since 1970; `mode` has the type bits.

    Invariants: nlink 0 <=> an Orphan stands beside it; `change` grows with every change; `token`
    is the highest ever granted; `number` is that of the last commit; directories: `parent` is where
    ".." leads (the root's is itself) and nlink is 2 + subdirectories; of others it is the directory
    that they were made in or last moved to, which may be gone: whose policy they follow.
    """

    mode: A[int, U32]
    uid: A[int, U32]
    gid: A[int, U32]
    nlink: A[int, U32]
    size: A[int, Between(0, limits.FILE_BYTES)]
    stored: A[int, U64]  # sum of the map entries' stored bytes
    atime_ns: A[int, TIME]
    mtime_ns: A[int, TIME]
    ctime_ns: A[int, TIME]
    rdev: A[int, U64]
    change: A[int, U64]
    parent: Ino
    target: A[bytes, Length(0, limits.SYMLINK_BYTES)]
    epoch: Epoch
    start: Slot
    token: Token
    number: A[int, U64]
    entries: A[int, U64]
    entries_sum: A[int, U64]
    pages: A[int, U64]
    pages_sum: A[int, U64]
    xattrs: A[int, U64]
    xattrs_sum: A[int, U64]
    owed: A[int, U64]  # Debts of its blocks
    owed_sum: A[int, U64]
    policy: Policy


class Dirent(NamedTuple):
    """A directory entry."""

    ino: Ino
    mode: A[int, U32]  # only the type bits


class Orphan(NamedTuple):
    """Nothing names the inode any more; its map pages are let go slice by slice."""

    since_ns: int


class Debt(NamedTuple):
    """A commit went without this replica of a version, which the map still names."""

    slot: Slot
    version: Version
    stored: A[int, U32]  # bytes
    since_ns: int


class Account(NamedTuple):
    """Sums of a slot's Debts.  It is made with the ring, and never missing."""

    replicas: A[int, U64]
    stored: A[int, U64]  # bytes
    since_ns: int  # since when it has been owed anything without a break; 0: it isn't
    moved: A[int, U64]  # grows with each change


class DropRecord(NamedTuple):
    """Versions that a transaction let go of: `blockmap.pack_dropped`."""

    ino: Ino
    versions: A[bytes, Length(0, limits.PAGE_BLOCKS * 64 * 20)]


@dataclass(frozen=True, slots=True)
class Ring:
    """Addresses in ring order."""

    addresses: A[
        tuple[A[str, Length(1, limits.ADDRESS_BYTES)], ...],
        Length(limits.SERVERS_MIN, limits.SERVERS),
    ]


@dataclass(frozen=True, slots=True)
class Server:
    """Who stands in a slot.  `life` grows when its store is declared lost or old.

    `opened_round`: everything up to it survived into `boot`; `synced_round`: the newest it ever
    reported as synced.  A store that opens below that is an old copy.  `dropped`: newest number of
    the drop queue it acknowledged.  `reconciled` < `reconcile`: it has yet to check itself against
    the maps.  `refill`: its vote counts again once that reconcile is finished (its store was lost
    or old).  `skipped`: commits go ahead without it.  `down`: the newest event about it said so.
    `heard`: the number of its newest event that is in the list, counted from 1 in each boot.
    """

    uuid: Uuid
    life: A[int, U32]
    boot: A[int, U32]
    opened_round: Round
    synced_round: Round
    dropped: A[int, U64]
    reconcile: A[int, U64]
    reconciled: A[int, U64]
    refill: A[int, U64]
    skipped: bool
    down: bool = False
    heard: A[int, U64] = 0


class SessionRecord(NamedTuple):
    """A mount that lives.  `blocked`: for whom its writes wait, as the newest events said."""

    nonce: Uuid
    host: A[str, Length(0, limits.TEXT_BYTES)]
    mount: A[str, Length(0, limits.TEXT_BYTES)]
    born_ns: int
    blocked: A[tuple[Slot, ...], Length(0, limits.SERVERS)] = ()


class KeptReply(NamedTuple):
    """The reply to a slot's newest change: its operation, and its body as on the wire."""

    sequence: A[int, U64]
    operation: A[int, U16]
    body: A[bytes, Length(0, limits.HEAD_BYTES)]


class EventRecord(NamedTuple):
    """Damage, repair, outage, ..."""

    at_ns: int
    kind: A[str, Length(0, limits.TEXT_BYTES)]
    text: A[str, Length(0, limits.TEXT_BYTES)]


# --- the dataserver's index --------------------------------------------------------------------

STATE = b"!"


class ScrubState(NamedTuple):
    """How far the scrub is, recorded now and then: after a crash it reads a little again."""

    began_ns: int = 0  # of the pass underway; 0: none is
    after: Name | None = None  # read so far, in the order of names
    done_bytes: A[int, U64] = 0
    ended_ns: int = 0  # of the newest full pass


@dataclass(frozen=True, slots=True)
class DataState:
    """A dataserver's identity and vote.  In the index, and as STATE records in the log."""

    format: A[int, U32]
    uuid: Uuid
    cluster: A[bytes, Length(0, 16)]  # empty: not founded
    slot: Slot
    block_bytes: A[int, U32]  # the cluster's, as the metaserver said; 0: it hasn't yet
    life: A[int, U32]
    promised: Incarnation  # claims of lower incarnations are refused for ever
    served_incarnation: Incarnation
    served_round: Round
    reconciled: A[int, U64]
    wanted: A[int, U64]  # newest reconcile it was told of; beyond the last: blocks may be missing
    dropped: A[int, U64]  # newest number of M's drop queue that is done
    damaged: A[int, U64]
    repaired: A[int, U64]
    copies: CopySet  # the newest that a metaserver told
    scrub: ScrubState = ScrubState()
    lineage: A[Lineage, Since(4)] = ()  # which releases wrote here


class Position(NamedTuple):
    """How far into the log the index reaches: everything before it is in the index."""

    segment: A[int, U64]
    offset: A[int, U64]
    round: Round
    previous: A[int, U32]  # header checksum of the record before
    boot: A[int, U32]


class IndexHead(NamedTuple):
    """The index's own record under STATE."""

    state: DataState
    position: Position


class IndexEntry(NamedTuple):
    """Where a block version stands in the log, and what must be there."""

    segment: int
    offset: int  # of the record header
    length: int
    crc16: int
    crc32c: int
    epoch: Epoch
    start: Slot


_INDEX = struct.Struct(">QQIHIQI")
INDEX_KEY_BYTES = 1 + _NAME.size


def block_key(name: Name) -> bytes:
    """b <ino> <block> <token> <sequence>"""
    return b"b" + _NAME.pack(name.ino, name.block, *name.version)


def name_of_key(key: bytes) -> Name:
    """The name in a block's key."""
    ino, block, token, sequence = _NAME.unpack_from(key, 1)
    return Name(Ino(ino), BlockNo(block), Version(Token(token), sequence))


def pack_index(entry: IndexEntry) -> bytes:
    """An index entry's payload."""
    return _INDEX.pack(*entry)


def unpack_index(payload: bytes) -> IndexEntry:
    """The inverse; Damaged on a wrong length."""
    if len(payload) != _INDEX.size:
        raise Damaged("an index entry of a wrong length")
    segment, offset, length, crc16, crc32c, epoch, start = _INDEX.unpack(payload)
    return IndexEntry(segment, offset, length, crc16, crc32c, Epoch(epoch), Slot(start))


assert limits.PAGE_BLOCKS * 26 + 64 < 2038, "a map page must stay in one LMDB node"
assert U16 and CHECK_BYTES == _U64.size
