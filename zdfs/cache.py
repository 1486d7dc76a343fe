"""What a mount remembers, and for how long: pure data structures, told the time.

    Names    (parent, name) -> inode and inode -> attributes; at most `life_s` old
    Aliases  names of files with several, as the kernel knows them
    Blocks   block versions: immutable, so never stale; bounded by bytes, the oldest go
    Dirty    the unflushed bytes of one block
    Flight   blocks on their way to the dataservers and into the map
    Cut      a truncate on its way to the metaserver
    File     everything known of one inode that is open, dirty or granted here

A block's newest bytes are in the first of these that has it: `dirty`, the flights from the newest
to the oldest, then the version that the map names.
"""

import stat
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from zdfs import blockmap, limits
from zdfs.blockmap import MapEntry, Page
from zdfs.calls import Condition
from zdfs.checksum import Buffer
from zdfs.errors import Failure
from zdfs.ids import BlockNo, Ino, Name, PageNo, Slot, Token, Version
from zdfs.wire import Ack, Attributes


class Names:
    """Names and attributes, each with the time it was learnt."""

    def __init__(self, life_s: float = limits.CACHE_S / 2):
        self.life_s = life_s
        self._names: OrderedDict[tuple[Ino, bytes], tuple[Ino, float]] = OrderedDict()
        self._attributes: OrderedDict[Ino, tuple[Attributes, float]] = OrderedDict()

    def find(self, parent: Ino, name: bytes, now: float) -> Ino | None:
        """The inode under a name, if that is fresh knowledge."""
        found = self._names.get((parent, name))
        return found[0] if found and now - found[1] < self.life_s else None

    def attributes(self, ino: Ino, now: float) -> Attributes | None:
        """An inode's attributes, if they are fresh."""
        found = self._attributes.get(ino)
        return found[0] if found and now - found[1] < self.life_s else None

    def last_known(self, ino: Ino) -> Attributes | None:
        """An inode's attributes, however old."""
        found = self._attributes.get(ino)
        return found[0] if found else None

    def learn(self, attributes: Attributes, now: float) -> None:
        """Attributes from the metaserver; what is older than what we know is passed over."""
        known = self._attributes.get(attributes.ino)
        if known is None or known[0].change <= attributes.change:
            self._attributes[attributes.ino] = (attributes, now)
            self._attributes.move_to_end(attributes.ino)
            if len(self._attributes) > limits.NAMES_CACHED:
                self._attributes.popitem(last=False)

    def enter(self, parent: Ino, name: bytes, attributes: Attributes, now: float) -> None:
        """A name and what it leads to."""
        self.learn(attributes, now)
        self._names[parent, name] = (attributes.ino, now)
        self._names.move_to_end((parent, name))
        if len(self._names) > limits.NAMES_CACHED:
            self._names.popitem(last=False)

    def forget(self, parent: Ino, name: bytes) -> None:
        """A name is gone or leads elsewhere."""
        self._names.pop((parent, name), None)

    def forget_inode(self, ino: Ino) -> None:
        """Attributes have changed in a way we weren't told."""
        self._attributes.pop(ino, None)

    def clear(self) -> None:
        """Forget everything."""
        self._names.clear()
        self._attributes.clear()


class Blocks:
    """Clean block versions, the least recently used go first."""

    def __init__(self, most_bytes: int = limits.CACHED_BYTES):
        self.most_bytes, self.bytes = most_bytes, 0
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


def moved(path: bytes, old: bytes, new: bytes, swapped: bool) -> bytes:
    """A path after a rename of itself or of a directory above it."""
    for before, after in ((old, new), (new, old)) if swapped else ((old, new),):
        if path == before or path.startswith(before + b"/"):
            return after + path[len(before) :]
    return path


class Aliases:
    """Names of files with several, and when the kernel last learnt the attributes there."""

    def __init__(self, life_s: float):
        self._life_s = life_s
        self._seen: OrderedDict[int, dict[bytes, float]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._seen)

    def learnt(self, found: Attributes, path: bytes, now: float) -> None:
        """The kernel has asked for the attributes at a path."""
        if stat.S_ISDIR(found.mode) or (found.nlink < 2 and found.ino not in self._seen):
            return
        self._seen[found.ino] = {**self._fresh(found.ino, now), path: now}
        self._seen.move_to_end(found.ino)
        while max(next(iter(self._seen.values())).values()) < now - self._life_s:
            self._seen.popitem(last=False)

    def _fresh(self, ino: int, now: float) -> dict[bytes, float]:
        seen = self._seen.get(ino, {})
        return {path: at for path, at in seen.items() if at > now - self._life_s}

    def renamed(self, old: bytes, new: bytes, swapped: bool) -> None:
        """Paths have changed."""
        for ino, seen in self._seen.items():
            self._seen[ino] = {moved(path, old, new, swapped): at for path, at in seen.items()}

    def others(self, ino: int, path: bytes | None, now: float) -> list[bytes]:
        """Names at which the kernel may still remember attributes, but this one."""
        return [other for other in self._fresh(ino, now) if other != path]


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
    stored: bool = False  # on all replicas
    landing: bool = False  # a commit that names it is underway: whether it counts is not known
    lost: Failure | None = None  # it never will be committed
    bytes: int = 0


@dataclass(eq=False, slots=True)
class Cut:
    """A truncate underway."""

    size: int
    done: bool = False
    failure: Failure | None = None


@dataclass(slots=True)
class Told:
    """How many of a file's losses the owner of a descriptor was told of (as Linux's errseq_t)."""

    losses: int


@dataclass(eq=False, slots=True)
class File:
    """An inode that this mount works with."""

    ino: Ino
    attributes: Attributes  # as committed
    map_at: float  # when the pages were known to be current
    pages: dict[PageNo, Page] = field(default_factory=dict)
    handles: int = 0
    opening: int = 0
    token: Token = Token(0)  # 0: no grant
    void: Token = Token(0)  # the newest that was given back or lost: never taken up again
    number: int = 0  # of the last commit
    recalled: bool = False
    size: int = 0  # with what is unflushed
    mtime_ns: int | None = None  # of unflushed writes
    dirty: dict[BlockNo, Dirty] = field(default_factory=dict)
    flights: deque[Flight] = field(default_factory=deque)
    abandoned: list[blockmap.Dropped] = field(default_factory=list)
    committing: bool = False
    cut: Cut | None = None  # a truncate underway
    losses: int = 0  # how often unflushed bytes were lost, for good
    error: Failure | None = None  # the newest loss
    moved: Condition = field(default_factory=Condition)  # a flight landed, a commit ended
    expected: int = -1  # offset at which a sequential reader goes on
    ahead: int = 0  # prefetched up to this offset
    fetching: dict[Name, Condition] = field(default_factory=dict)
    kernel_change: int = -1  # change counter that the kernel's pages are of

    @property
    def busy(self) -> bool:
        """Whether something is unflushed."""
        return bool(self.dirty or self.flights or self.mtime_ns is not None)

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
        self.attributes = attributes

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
        if self.mtime_ns is None:
            return known._replace(size=self.size)
        ctime = max(known.ctime_ns, self.mtime_ns)  # a write moves both
        return known._replace(size=self.size, mtime_ns=self.mtime_ns, ctime_ns=ctime)


def version_of(flight: Flight, block: BlockNo) -> Version:
    """The version under which a flight stores a block."""
    return Version(flight.token, flight.sequences[block])
