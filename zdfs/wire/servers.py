"""Messages of dataservers, and of people to servers."""

import enum
from typing import Annotated as A
from typing import NamedTuple

from zdfs import limits
from zdfs.chain import NO_COPIES, CopySet
from zdfs.ids import Epoch, Incarnation, Ino, Name, PageNo, Policy, Round, Slot
from zdfs.records import U32, U64, Between, Length, Since
from zdfs.wire.base import (
    MAP_BYTES,
    Uuid,
    Text,
    Address,
    Bulk,
    Flag,
    Permit,
    Durability,
    Reply,
    Request,
    message,
)
from zdfs.wire.copies import NO_COPY, Copies, CopyReport
from zdfs.wire.parts import (
    Held,
    Put1,
    Wanted,
    Health,
    Event,
    ScrubStatus,
    Claim,
    SessionStatus,
    ServerStatus,
    Done,
)
from zdfs.wire.versions import ONLY_FIRST, Protocols

# --- dataservers to the metaserver -------------------------------------------------------------


class Secret(NamedTuple):
    """What the metaserver seals passes with; numbers grow."""

    number: A[int, U64]
    key: A[bytes, Length(32, 32)]


@message(70)
class Instructions(Reply):
    """What the metaserver tells a dataserver."""

    cluster: A[bytes, Length(0, 16)]  # empty: not founded yet
    epoch: Epoch
    addresses: A[tuple[Address, ...], Length(0, limits.SERVERS)]
    block_bytes: A[int, U32]
    life: A[int, U32]
    claim: Claim
    granted: Flag  # the metaserver has more than half of the votes
    wiped: Flag  # your store is new or old: reconcile all of it
    reconcile: A[int, U64]  # start a reconcile when this number is larger than the last seen
    drops: A[int, U64]  # newest number in the drop queue that may be taken
    refused: Text  # why you may not join; empty: you may
    copies: CopySet = NO_COPIES  # who holds copies of the metadata
    ticket: A[int, U64] = 0  # to be quoted in your next report
    owed: A[int, U64] = 0  # replicas of yours that commits went without: collect them
    secrets: A[tuple[Secret, ...], Length(0, 2), Since(5)] = ()  # present, next; none: no keys
    protocols: A[Protocols, Since(5)] = ONLY_FIRST  # the metaserver's


@message(71)
class Report(Request[Instructions]):
    """A dataserver, each second."""

    slot: Slot
    addresses: A[tuple[Address, ...], Length(limits.SERVERS_MIN, limits.SERVERS)]
    host: A[bytes, Length(0, 64)]
    cluster: A[bytes, Length(0, 16)]
    uuid: Uuid
    life: A[int, U32]
    boot: A[int, U32]
    opened_round: Round  # everything up to it survived into this boot
    synced_round: Round
    health: Health
    promised: Incarnation
    served_incarnation: Incarnation
    served_round: Round
    reconciled: A[int, U64]  # number of the last reconcile that was finished
    events: A[tuple[Event, ...], Length(0, 64)]
    first_event: A[int, U64] = 1  # the number of the first of them; from 1 in each boot
    copy: CopyReport = NO_COPY
    ticket: A[int, U64] = 0  # of the newest answer; 0: this process had none yet
    protocols: A[Protocols, Since(5)] = ONLY_FIRST  # the dataserver's


class InventoryPage(NamedTuple):
    """One map page that has blocks on the asking slot."""

    ino: Ino
    epoch: Epoch
    start: Slot
    page: PageNo
    entries: A[bytes, Length(0, MAP_BYTES)]


@message(72)
class Stock(Reply):
    """A stretch of everything that must stand somewhere; go on behind (ino, page)."""

    pages: A[tuple[InventoryPage, ...], Length(0, limits.INVENTORY_PAGES)]
    end: Flag
    ino: Ino  # how far the maps were examined: further than the last page shown
    page: A[int, Between(-1, 2**63 - 1)]


@message(73)
class Inventory(Request[Stock]):
    """Map pages after (ino, page), in that order, of all files: at most so many."""

    slot: Slot
    ino: Ino
    page: A[int, Between(-1, 2**63 - 1)]  # -1: from the inode's first
    most: A[int, Between(1, limits.INVENTORY_PAGES), Since(5)] = limits.INVENTORY_PAGES


class DropItem(NamedTuple):
    """Versions let go by one transaction."""

    number: A[int, U64]
    ino: Ino
    versions: A[bytes, Length(0, limits.PAGE_BLOCKS * 64 * 20)]


@message(74)
class Drops(Reply):
    """Versions that no map names and that no reader is underway to."""

    items: A[tuple[DropItem, ...], Length(0, limits.LIST_ITEMS)]
    through: A[int, U64]  # with these the queue is done up to here


@message(75)
class TakeDrops(Request[Drops]):
    """Drops after `done`; those up to it are gone from the asker's index, synced."""

    slot: Slot
    uuid: Uuid
    done: A[int, U64]


@message(76)
class Judgement(Reply):
    """One byte per name: 1 keep, 0 garbage."""

    keep: A[bytes, Length(0, limits.LIST_ITEMS)]
    newest: A[int, U64]  # what was let go of is in the drop queue up to here


@message(77)
class Judge(Request[Judgement]):
    """Which of these versions may still count, now or later?"""

    names: A[tuple[Name, ...], Length(1, limits.LIST_ITEMS)]


# --- dataservers to one another ----------------------------------------------------------------


@message(84)
class Fetched(Reply):
    """What the server has of each wanted block; a bulk frame for each (empty unless OK)."""

    held: A[tuple[Held, ...], Length(0, limits.BLOCKS)]
    busy: Flag  # somebody reads or writes here: take your time
    data: Bulk


@message(85)
class Fetch(Request[Fetched]):
    """Like Get, to heal the asker: neither counts as work of somebody's, nor asks for a repair."""

    cluster: Uuid
    blocks: A[tuple[Wanted, ...], Length(1, limits.BLOCKS)]


# --- anybody to dataservers --------------------------------------------------------------------


@message(90, Durability.SYNCED)
class Stored(Reply):
    """Every block of the Put is on this server's disk."""

    uuid: Uuid
    life: A[int, U32]
    boot: A[int, U32]
    round: Round


@message(91)
class Put(Request[Stored]):
    """Store block versions.  Equal name and seal: acknowledged again; equal name only: refused."""

    cluster: Uuid
    blocks: A[tuple[Put1, ...], Length(1, limits.BLOCKS)]
    permit: Permit = b""  # empty: no keys here, or the asker needs none
    data: Bulk = ()


@message(92)
class Got(Reply):
    """What the server has of each wanted block; a bulk frame for each (empty unless OK)."""

    held: A[tuple[Held, ...], Length(0, limits.BLOCKS)]
    data: Bulk


@message(93)
class Get(Request[Got]):
    """Read block versions.  Checked before they are sent; `repair`: heal what is not OK, and should
    be by the metaserver's map."""

    cluster: Uuid
    blocks: A[tuple[Wanted, ...], Length(1, limits.BLOCKS)]
    repair: Flag
    permit: Permit = b""


@message(94)
class Checked(Reply):
    """What the server has, read and verified just now."""

    held: A[tuple[Held, ...], Length(0, limits.BLOCKS)]


@message(95)
class Check(Request[Checked]):
    """For `zdfs where` and fsck: like Get, without bytes, without repair."""

    cluster: Uuid
    blocks: A[tuple[Wanted, ...], Length(1, limits.BLOCKS)]


# --- people to servers -------------------------------------------------------------------------


@message(110)
class Status(Reply):
    """All of `zdfs status`."""

    cluster: A[bytes, Length(0, 16)]
    note: Text  # why nothing works yet
    block_bytes: A[int, U32]
    policy: Policy  # of the root: what holds where nothing else was said
    incarnation: Incarnation
    servers: A[tuple[ServerStatus, ...], Length(0, limits.SERVERS)]
    sessions: A[tuple[SessionStatus, ...], Length(0, limits.SESSIONS)]
    events: A[tuple[Event, ...], Length(0, 256)]  # the newest
    refused: A[int, U64]  # bad messages that the metaserver got since its start
    copies: Copies = Copies(0, ())


@message(111)
class GetStatus(Request[Status]):
    """How is it?"""


@message(112)
class Skip(Request[Done]):
    """Let commits go ahead without this slot (needs --faults)."""

    slot: Slot
    on: Flag


class Harm(enum.IntEnum):
    """Ways to damage a replica on purpose."""

    FLIP = 1  # flip bits of the stored bytes
    TRUNCATE = 2  # zero the second half of the stored bytes
    LOSE = 3  # forget the record
    STALE = 4  # an older version's bytes, sealed as the newer: only the map's seal shows it


@message(113)
class Harmed(Reply):
    """What was done: bytes at `offset` of the block before and after."""

    offset: A[int, U32]
    before: A[bytes, Length(0, 64)]
    after: A[bytes, Length(0, 64)]


@message(114)
class Corrupt(Request[Harmed]):
    """Damage this version in the store, behind its checksums (needs --faults)."""

    name: Name
    harm: Harm
    seed: A[int, U64]


@message(115)
class Scrubbing(Reply):
    """How far it is."""

    finished: Flag  # a full pass that began after this run was first asked for
    left: A[int, U64]  # of what it found: still not healed
    scrub: ScrubStatus  # of that pass, once it is finished


@message(116)
class Scrub(Request[Scrubbing]):
    """Check all that you hold, at once, as fast as you can.  Asked again: how far is it?"""

    cluster: Uuid
    run: Uuid  # whose pass it is


class Happened(NamedTuple):
    """An event, and its place in the list."""

    number: A[int, U64]
    at_ns: int
    kind: Text
    text: Text


@message(117)
class Events(Reply):
    """What happened, oldest first."""

    events: A[tuple[Happened, ...], Length(0, limits.EVENTS_TOLD)]
    gap: Flag  # events before these, and after what was asked for, are not kept any more
    incarnation: Incarnation


@message(86)
class GetEvents(Request[Events]):
    """What happened after the event of this number?"""

    after: A[int, U64]
    last: A[int, Between(0, limits.EVENTS_TOLD)]  # not 0: the newest so many instead
    wait_ms: A[int, Between(0, 10_000)]  # until something happens
