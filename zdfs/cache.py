"""What a mount remembers, and for how long: pure data structures, told the time.

    Blocks   block versions: immutable, so never stale; bounded by bytes, the oldest go
    Dirty    the unflushed bytes of one block
    Flight   blocks on their way to the dataservers and into the map
    Cut      a truncate or a punched hole on its way to the metaserver
    Kept     attributes that were set and are not sent yet
    File     everything known of one inode that is open, dirty or granted here

A block's newest bytes are in the first of these that has it: `dirty`, the flights from the newest
to the oldest, then the version that the map names.
"""

import stat
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from zdfs import blockmap, limits
from zdfs.blockmap import MapEntry, Page
from zdfs.calls import Condition
from zdfs.checksum import Buffer
from zdfs.errors import Failure
from zdfs.ids import BlockNo, Ino, Name, PageNo, Slot, Token, Version
from zdfs.wire import Ack, Attributes


class Blocks:
    """Clean block versions, the least recently used go first."""

    def __init__(self, most_bytes: int = limits.CACHED_BYTES):
        self.most_bytes, self.bytes = most_bytes, 0
        self.hits = self.misses = 0  # of readers
        self._blocks: OrderedDict[Name, Buffer] = OrderedDict()

    def get(self, name: Name) -> Buffer | None:
        """The bytes of a version."""
        found = self._blocks.get(name)
        if found is not None:
            self._blocks.move_to_end(name)
        return found

    def put(self, name: Name, data: Buffer) -> None:
        """Remember a verified version."""
        if name in self._blocks:
            return
        self._blocks[name] = data
        self.bytes += len(data)
        while self.bytes > self.most_bytes and self._blocks:
            _, old = self._blocks.popitem(last=False)
            self.bytes -= len(old)

    def __contains__(self, name: Name) -> bool:
        return name in self._blocks


@dataclass(eq=False, slots=True)
class Dirty:
    """Unflushed bytes of one block: data[low:] is ours, data[:low] is to be read from below.

    Bytes beyond len(data) are those of the version below, if that reaches further.
    """

    data: bytearray
    low: int
    since: float

    def touches(self, first: int, end: int) -> bool:
        """Whether bytes first..end can join without a gap."""
        return first <= len(self.data) and end >= self.low

    def put(self, first: int, piece: Buffer) -> None:
        """Bytes that touch."""
        end = first + len(piece)
        if end > len(self.data):
            self.data.extend(bytes(end - len(self.data)))
        self.data[first:end] = piece
        self.low = min(self.low, first)

    def whole(self, reach: int) -> bool:
        """Whether nothing shows through of what is below and reaches so far."""
        return self.low == 0 and len(self.data) >= reach

    def fill(self, below: Buffer) -> None:
        """Take in what shows through from below (its visible bytes)."""
        had = len(self.data)
        if len(below) > had:
            self.data.extend(below[had:])
        reach = min(self.low, len(below))
        self.data[:reach] = below[:reach]
        self.data[reach : self.low] = bytes(self.low - reach)
        self.low = 0

    def over(self, below: Buffer) -> bytearray:
        """These bytes laid over others; both stay as they are."""
        laid = Dirty(bytearray(self.data), self.low, 0.0)
        laid.fill(below)
        return laid.data


@dataclass(eq=False, slots=True)
class Flight:
    """Blocks that were handed over together; committed in the order of the file's flights."""

    blocks: dict[BlockNo, Dirty]
    sequences: dict[BlockNo, int]
    token: Token
    size: int = 0  # how far its blocks reach
    entries: dict[BlockNo, MapEntry] = field(default_factory=dict)
    acks: dict[Slot, Ack] = field(default_factory=dict)
    owed: frozenset[Slot] = frozenset()  # it goes without these (policy quorum)
    stored: bool = False  # on all replicas but those
    landing: bool = False  # a commit that names it is underway: whether it counts is not known
    lost: Failure | None = None  # it never will be committed
    bytes: int = 0


@dataclass(eq=False, slots=True)
class Cut:
    """A change of the map that is no write, underway."""

    done: bool = False
    failure: Failure | None = None


class Kept(NamedTuple):
    """Set behind what is unflushed, and to be sent behind it; None leaves a field as it is."""

    since: float  # the first of it
    ctime_ns: int  # when the last of it was
    mode: int | None = None  # permission bits
    atime_ns: int | None = None
    mtime_ns: int | None = None
    was_mode: int | None = None  # permission bits that `mode` replaces: no others

    def since_sent(self, sent: "Kept", at: float, found: Attributes) -> "Kept":
        """What was set since then is left when that has come back as `found`."""
        return self._replace(
            since=at,
            mode=None if self.mode == sent.mode else self.mode,
            atime_ns=None if self.atime_ns == sent.atime_ns else self.atime_ns,
            mtime_ns=None if self.mtime_ns == sent.mtime_ns else self.mtime_ns,
            was_mode=stat.S_IMODE(found.mode),
        )

    def over(self, known: Attributes) -> Attributes:
        """Attributes, as they are with it."""
        mode = known.mode if self.mode is None else stat.S_IFMT(known.mode) | self.mode
        return known._replace(
            mode=mode,
            atime_ns=known.atime_ns if self.atime_ns is None else self.atime_ns,
            mtime_ns=known.mtime_ns if self.mtime_ns is None else self.mtime_ns,
            ctime_ns=max(known.ctime_ns, self.ctime_ns),
        )


@dataclass(slots=True)
class Told:
    """How many of a file's losses the owner of a descriptor was told of (as Linux's errseq_t)."""

    losses: int
    broken: Failure | None = None  # every call fails so, for good: a lock was lost


@dataclass(eq=False, slots=True)
class File:
    """An inode that this mount works with."""

    ino: Ino
    attributes: Attributes  # as committed
    map_at: float  # when the pages were known to be current
    pages: dict[PageNo, Page] = field(default_factory=dict)
    handles: int = 0
    writers: int = 0  # those of them that write
    awaited: int = 0  # opens underway
    opening: int = 0
    token: Token = Token(0)  # 0: no grant
    void: Token = Token(0)  # the newest that was given back or lost: never taken up again
    number: int = 0  # of the last commit
    granted_at: float = 0.0
    recalled: bool = False
    size: int = 0  # with what is unflushed
    mtime_ns: int | None = None  # of unflushed writes
    overtaken: bool = False  # another mount has changed it since its attributes came
    kept: Kept | None = None  # as long as something is unflushed or being committed
    dirty: dict[BlockNo, Dirty] = field(default_factory=dict)
    flights: deque[Flight] = field(default_factory=deque)
    abandoned: list[blockmap.Dropped] = field(default_factory=list)
    committing: bool = False
    syncing: int = 0  # who waits for commits to be on disks
    cut: Cut | None = None  # a truncate or the like underway: no write meanwhile
    losses: int = 0  # how often unflushed bytes were lost, for good
    error: Failure | None = None  # the newest loss
    unheard: bool = False  # no writer was told of it
    moved: Condition = field(default_factory=Condition)  # a flight landed, a commit ended
    expected: int = 0  # offset at which a sequential reader goes on
    run: int = 0  # bytes that were read so
    ahead: int = 0  # prefetched up to this offset
    fetching: dict[Name, Condition] = field(default_factory=dict)
    kernel_change: int = -1  # change counter that the kernel's pages are of

    @property
    def busy(self) -> bool:
        """Whether something is unflushed."""
        return bool(self.dirty or self.flights or self.kept or self.mtime_ns is not None)

    def opened(self, writes: bool) -> Told:
        """A handle more.  The next that writes is told of a loss that no writer was told of."""
        told = Told(self.losses - self.unheard)
        self.handles += 1
        if writes:
            self.writers, self.unheard = self.writers + 1, False
        return told

    def released(self, told: Told, writes: bool) -> None:
        """A handle less."""
        self.handles -= 1
        if writes:
            self.writers -= 1
            self.unheard |= not self.writers and told.losses < self.losses

    def written(self, end: int, at_ns: int) -> None:
        """Unflushed bytes up to `end`: that moves the time, whatever it was set to."""
        self.size, self.mtime_ns = max(self.size, end), at_ns
        if self.kept is not None:
            self.kept = self.kept._replace(mtime_ns=None)

    def keeps(self, at: float) -> bool:
        """Whether something that was set by then is not sent yet."""
        return self.kept is not None and self.kept.since <= at

    def give_up(self, token: Token) -> None:
        """A grant has ended; a late reply that still names it changes nothing.  The map ends with
        it: what was learnt under it, attributes too, says nothing of what others did since."""
        self.void = max(self.void, token)
        if self.token and self.token <= self.void:
            self.token = Token(0)
            self.pages.clear()

    def learn(self, attributes: Attributes) -> None:
        """Attributes from the metaserver; replies may overtake one another.

        Under our own grant nobody else changes the content: the kernel's pages stay right.
        """
        if attributes.change <= self.attributes.change:
            return
        if self.token and self.kernel_change == self.attributes.change:
            self.kernel_change = attributes.change
        self.attributes, self.overtaken = attributes, False

    def entry(self, block: BlockNo) -> MapEntry | None:
        """What the map names (its page must be known); None: a hole."""
        page, position = blockmap.page_of(block)
        entries = self.pages[page]
        return entries[position] if position < len(entries) else None

    def knows(self, block: BlockNo) -> bool:
        """Whether the block's map page is here."""
        return blockmap.page_of(block)[0] in self.pages

    def unflushed(self, block: BlockNo) -> Iterator[Dirty]:
        """Unflushed bytes of a block, the newest first."""
        if block in self.dirty:
            yield self.dirty[block]
        for flight in reversed(self.flights):
            if block in flight.blocks:
                yield flight.blocks[block]

    def commit_entries(self, flight: Flight) -> None:
        """The map as it is once a flight is committed."""
        for block, entry in flight.entries.items():
            page, position = blockmap.page_of(block)
            if page in self.pages:
                entries = list(self.pages[page])
                entries += [None] * (position + 1 - len(entries))
                entries[position] = entry
                self.pages[page] = tuple(entries)

    def shown(self) -> Attributes:
        """Attributes with what is unflushed."""
        if not self.busy:
            return self.attributes
        known = self.attributes
        known = known._replace(size=self.size, stored=max(known.stored, self._filled()))
        if self.kept is not None:
            known = self.kept.over(known)
        if self.mtime_ns is None:
            return known
        ctime = max(known.ctime_ns, self.mtime_ns)  # a write moves both
        return known._replace(mtime_ns=self.mtime_ns, ctime_ns=ctime)

    def unflushed_blocks(self) -> set[BlockNo]:
        """Blocks with unflushed bytes."""
        return set(self.dirty).union(*(flight.blocks for flight in self.flights))

    def _filled(self) -> int:
        """Bytes stored once all is flushed: who sees no blocks in a file takes it for empty (tar
        does).  What isn't known of the map counts as holes."""
        filling = sum(
            len(next(self.unflushed(block)).data)
            for block in self.unflushed_blocks()
            if not (self.knows(block) and self.entry(block))
        )
        return min(self.attributes.stored + filling, self.size)


def version_of(flight: Flight, block: BlockNo) -> Version:
    """The version under which a flight stores a block."""
    return Version(flight.token, flight.sequences[block])
