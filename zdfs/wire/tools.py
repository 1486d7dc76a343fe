"""Messages of the tools that explain: what an outage would cost, why something waits, how much
there is, and who has it open."""

from typing import Annotated as A
from typing import NamedTuple

from zdfs import limits
from zdfs.ids import Ino, Session, Slot
from zdfs.records import U16, U32, U64, Between, Length
from zdfs.wire.base import Address, Flag, NameBytes, Reply, Request, Size, Text, message
from zdfs.wire.locks import FileLock
from zdfs.wire.parts import Blocked

# --- people to the metaserver: before an outage ------------------------------------------------


class Hit(NamedTuple):
    """What an outage would do to a file, as far as the slice shows it (`forecast` says what each
    count means).  A file that reaches into the next slice is named again there."""

    ino: Ino
    size: A[int, U64]
    waits: Flag  # writes
    unread: A[int, U64]  # blocks
    unread_bytes: A[int, U64]
    unread_unsure: A[int, U64]
    lost: A[int, U64]
    lost_bytes: A[int, U64]
    lost_unsure: A[int, U64]


@message(87)
class Forecast(Reply):
    """A slice of all files; go on behind (ino, page)."""

    files: A[int, U64]  # regular files that begin in this slice
    waiting: A[int, U64]  # of these, those whose writes would wait
    hits: A[tuple[Hit, ...], Length(0, limits.HITS)]
    damaged: A[int, U64]  # records that fail their check: what they would say is not counted
    partial: A[tuple[Slot, ...], Length(0, limits.SERVERS)]  # stores not known to be whole
    end: Flag
    ino: Ino
    page: A[int, Between(-1, 2**63 - 1)]


@message(88)
class Foresee(Request[Forecast]):
    """What if these servers went down?  All files behind (ino, page), in that order."""

    down: A[tuple[Slot, ...], Length(0, limits.SERVERS)]  # that would be stopped
    silent: A[tuple[Slot, ...], Length(0, limits.SERVERS)]  # that are down as it is
    name: A[int, U16]  # so many files that lose nothing but writes are to be named
    ino: Ino
    page: A[int, Between(-1, 2**63 - 1)]  # -1: the inode is done


# --- people to the metaserver: why does it wait? -----------------------------------------------


class Party(NamedTuple):
    """A mount that takes part in a dispute, and since when."""

    host: Text
    mount: Text
    since_ms: A[int, U64]


class Held1(NamedTuple):
    """A write grant, and who wants it."""

    ino: Ino
    holder: Party  # since: when it was last heard
    wanted: A[tuple[Party, ...], Length(0, limits.DISPUTES)]  # since: when it was recalled for them


class Locker(NamedTuple):
    """A lock that is held, or waited for."""

    party: Party  # since: when it last asked; held: 0
    lock: FileLock  # its pid means something on the party's machine


@message(118)
class Disputed(Reply):
    """Who has what others may want of a file: the first of each."""

    grants: A[tuple[Held1, ...], Length(0, limits.DISPUTES)]  # without an inode: the recalled ones
    locks: A[tuple[Locker, ...], Length(0, limits.DISPUTES)]
    waiters: A[tuple[Locker, ...], Length(0, limits.DISPUTES)]


@message(119)
class Dispute(Request[Disputed]):
    """Grants and locks of a file; 0: grants and locks that somebody waits for, of all files."""

    ino: Ino


# --- people to the metaserver: how much is there? ----------------------------------------------


class Below(NamedTuple):
    """A directory in a directory."""

    ino: Ino
    name: NameBytes


class Shared(NamedTuple):
    """What has several names: whoever asks counts it once."""

    ino: Ino
    regular: Flag
    size: Size
    stored: A[int, U64]


@message(135)
class DirectorySum(Reply):
    """A slice of a directory; go on behind `after`.  What is in `shared` is not in the sums."""

    names: A[int, U64]  # in this slice, of any type
    files: A[int, U64]  # of these: regular files
    size_bytes: A[int, U64]
    stored_bytes: A[int, U64]  # once; each stands on limits.REPLICAS disks
    below: A[tuple[Below, ...], Length(0, limits.SUMMED)]
    shared: A[tuple[Shared, ...], Length(0, limits.SUMMED)]
    damaged: A[int, U64]  # records that fail their check: what they would say is not counted
    end: Flag
    after: A[bytes, Length(0, limits.NAME_BYTES)]


@message(136)
class SumDirectory(Request[DirectorySum]):
    """How much stands in a directory, but for what is below its directories."""

    ino: Ino
    after: A[bytes, Length(0, limits.NAME_BYTES)]  # b"": from the start


# --- people to the metaserver: who has it open? ------------------------------------------------


class Opener(NamedTuple):
    """A mount that has something open."""

    session: Session
    host: Text
    mount: Text
    silent_ms: A[int, U64]  # since it was last heard


class OpenFile(NamedTuple):
    """A file that a mount has open."""

    session: Session
    ino: Ino
    parent: Ino  # the directory that it was made in or last moved to
    below: Flag  # that leads to what was asked for; else only another of its names may
    names: A[int, U32]  # 0: removed
    writes: Flag  # the mount has the write grant
    wanted: A[int, U32]  # mounts that wait for it to give that back
    locks: A[int, U32]  # ranges that its programs have locked
    lockers: A[tuple[A[int, U32], ...], Length(0, limits.LOCKERS)]  # processes, on its machine


@message(137)
class OpenFiles(Reply):
    """A slice of what is open; go on behind (session, ino)."""

    files: A[tuple[OpenFile, ...], Length(0, limits.OPEN_TOLD)]
    mounts: A[tuple[Opener, ...], Length(0, limits.OPEN_TOLD)]  # of these files
    settled: Flag  # false: the metaserver has restarted, and some mount has yet to say what it has
    end: Flag
    session: Session
    ino: Ino


@message(138)
class FindOpen(Request[OpenFiles]):
    """What mounts have open: this inode, or anything below it; what may be below by another name,
    too.  In the order of (session, ino), from behind these."""

    top: Ino
    session: Session
    ino: Ino


# --- a mount, of itself ------------------------------------------------------------------------


class Asked(NamedTuple):
    """A question that a call is waiting for the answer to."""

    address: Address
    request: Text  # the message's name


class Underway(NamedTuple):
    """A call of a program that has taken a while."""

    operation: Text
    ino: Ino  # of the directory, where `name` is given
    name: A[bytes, Length(0, limits.NAME_BYTES)]
    path: A[bytes, Length(0, limits.PATH_SHOWN)]  # as last known, its end; empty: not known
    pid: A[int, U32]  # of the thread
    uid: A[int, U32]
    since_ms: A[int, U64]
    asked: A[tuple[Asked, ...], Length(0, 4)]  # nothing: it waits for something in the mount


class Refusal(NamedTuple):
    """An error that a call was answered with."""

    at_ns: int
    operation: Text
    ino: Ino
    name: A[bytes, Length(0, limits.NAME_BYTES)]
    path: A[bytes, Length(0, limits.PATH_SHOWN)]
    pid: A[int, U32]
    uid: A[int, U32]
    number: A[int, U16]  # errno
    text: Text


class Pace1(NamedTuple):
    """How long a server takes to answer (of late), beside the others."""

    address: Address
    kind: Text  # read, write, ask
    mean_us: A[int, U64]
    median_us: A[int, U64]  # of the other servers; 0: there is none
    answers: A[int, U64]  # so far
    age_ms: A[int, U64]  # of the newest answer


@message(89)
class Explained(Reply):
    """What a mount knows of its waits and failures: the extended attribute `insight.NAME` of its
    root, for whoever is on its machine.  Packed as `records` does, not framed."""

    meta: Address
    mount: Text
    meta_silent_ms: A[int, U64]  # 0: it answers
    blocked: A[tuple[Blocked, ...], Length(0, limits.DISPUTES)]
    dirty_bytes: A[int, U64]
    calls: A[tuple[Underway, ...], Length(0, limits.EXPLAINED)]  # the oldest
    more: A[int, U64]  # calls that are not named
    refusals: A[tuple[Refusal, ...], Length(0, limits.EXPLAINED)]  # the newest, oldest first
    paces: A[tuple[Pace1, ...], Length(0, limits.EXPLAINED)]  # the slowest


# --- anybody to a server: how does it do? ------------------------------------------------------


class Label(NamedTuple):
    """One of the labels that tell the series of a metric apart."""

    name: Text
    value: Text


class Sample(NamedTuple):
    """One number, as Prometheus has it: a histogram is many (`_bucket`, `_count`, `_sum`)."""

    name: Text
    labels: A[tuple[Label, ...], Length(0, 8)]  # in the order of their names
    value: float


@message(106)
class Measures(Reply):
    """Numbers of one process (docs/MONITORING.md says what each means), whole metrics in the order
    of their names.  More of them: ask again behind `more`."""

    role: Text  # meta, data, mount
    at_ms: A[int, U64]  # of a clock that never jumps: differences of two answers are rates
    at_ns: int
    samples: A[tuple[Sample, ...], Length(0, limits.LIST_ITEMS)]
    more: Text  # empty: that was all


@message(107)
class GetMeasures(Request[Measures]):
    """Which numbers?  Metrics are named without `_total`, `_bucket`, `_count` and `_sum`."""

    names: A[tuple[Text, ...], Length(0, limits.LIST_ITEMS)]  # none: all of them
    after: Text  # go on behind this metric; empty: from the first
