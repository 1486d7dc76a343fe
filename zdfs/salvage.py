"""Files from nothing but block records: the decisions of `zdfs meta rebuild`.  Pure.

What is known is what the dataservers' indexes list, side by side in the order of names (`Merge`).
What is not known is which version of a block the lost maps named.  This is what can be said:

    a committed version     stood on all three of its places, on two at the very least
    a version on one place  of three whose servers are whole: never committed, or let go of since
    the newest of several   may have been put a moment before the end, and not committed; an older
                            one may have been let go of a moment before the end, and not dropped

A server is whole when it has all that it was last told to have: one that was being rebuilt proves
nothing by what it lacks, and neither does a silent one.

A version that no map can have named does not count either, nor say anything of its file: one that
is longer than a block, that stands behind the end of the longest file, or on another ring.  A mount
that means harm puts such ones.  A dataserver takes none, but may have taken them once.

So of the versions that may have been committed the newest counts, whether or not it can be read: an
older one in its place might be old bytes, and nobody would know.  What can't be read is EIO, as
ever.  Where no version may have been committed, none counts.  Each version that does not count is
kept beside it (`rebuild` copies it to a file of its own), because dataservers drop what no map
names.

Of a file nothing else is known: its size ends with its last block (where that was shortened, or a
hole followed, it was another), its name, owner, mode and times are gone.  An empty file has no
block, so it is gone; so are directories, symlinks and whatever else is no regular file.  What was
removed or cut off a moment before the end may be there again, whole or in part.
"""

import heapq
import itertools
import stat
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from zdfs import addresses, blockmap, copies, limits, placement
from zdfs.blockmap import MapEntry
from zdfs.chain import CopySet
from zdfs.checksum import Seal
from zdfs.errors import StartError
from zdfs.ids import EPOCH, BlockNo, Epoch, Incarnation, Ino, Name, PageNo, Policy, Round, Slot
from zdfs.ids import Token, incarnation_of
from zdfs.schema import Dirent, Inode, Server
from zdfs.tables import MASK, Tables
from zdfs.wire import Recollection, Version1, Versions

COMMITTED = 2  # a commit has put its versions on so many places at least
UNHEARD = 1024  # starts of a metaserver that a server may know of which is not heard
MOST_DOUBTS = 1000  # more are counted, not kept
MODE = stat.S_IFREG | 0o600  # whose they were isn't known: only root may look


# --- may it be done at all? --------------------------------------------------------------------


class Accepted(NamedTuple):
    """Losses that somebody has agreed to."""

    holes: bool = False  # blocks that nobody has any more read as zeros
    copies: bool = False  # whole copies of the metadata are given up


class Plan(NamedTuple):
    """A cluster as its dataservers know it."""

    ring: tuple[str, ...]
    cluster: bytes
    block_bytes: int
    told: Mapping[Slot, Recollection]  # by those that answered
    heard: frozenset[Slot]  # ... and have a store of this cluster
    whole: frozenset[Slot]  # ... that lacks nothing
    missing: tuple[Slot, ...]  # blocks that had all copies on these look like holes; empty: none
    promised: Incarnation  # no metaserver that served had a higher one, if `sure`
    sure: bool
    incarnation: Incarnation  # the new store's
    copies: CopySet  # the newest journal set that anybody was told of

    @property
    def sized(self) -> bool:
        """Whether a dataserver knows the block size; else somebody has said it."""
        return any(one.block_bytes for one in self.told.values())


def agree(
    ring: tuple[str, ...],
    told: Mapping[Slot, Recollection],
    block_bytes: int | None,
    accepted: Accepted = Accepted(),
) -> Plan:
    """What dataservers say, put together; slots that `told` lacks are done without.

    StartError: they contradict one another or the command line, they have a metaserver, they keep
    whole copies of the metadata, or blocks may be missing (if neither was accepted).
    """
    for slot, one in told.items():
        _check_one(ring, slot, one)
    clusters = {one.cluster: slot for slot, one in told.items() if one.cluster}
    if not clusters:
        raise StartError("these dataservers belong to no cluster: there is nothing to rebuild")
    if len(clusters) > 1:
        shown = ", ".join(
            f"{addresses.short(ring[slot])} to {cluster.hex()}"
            for cluster, slot in clusters.items()
        )
        raise StartError(f"these dataservers belong to different clusters: {shown}")
    (cluster,) = clusters
    heard = frozenset(slot for slot, one in told.items() if one.cluster)
    whole = frozenset(slot for slot in heard if told[slot].whole)
    dead = tuple(Slot(slot) for slot in range(len(ring)) if slot not in whole)
    missing = () if placement.readable(len(ring), dead) else dead
    journal = copies.newest(told[slot].copy.copies for slot in heard)
    if not accepted.copies:
        _check_copies(ring, journal, {slot: told[slot] for slot in heard})
    if missing and not accepted.holes:
        shown = ", ".join(addresses.short(ring[slot]) for slot in dead)
        raise StartError(
            f"of some blocks all three copies stood on {shown}, which are silent, empty or not yet "
            "rebuilt: bring one of them back, or --accept-holes: then blocks that are lost can't "
            "be told from holes, and read as zeros"
        )
    promised = max(_newest(told[slot]) for slot in heard)
    size = _block_bytes([told[slot] for slot in heard], block_bytes)
    return Plan(
        ring, cluster, size, told, heard, whole, missing, promised, len(heard) > len(ring) // 2,
        Incarnation(promised + 1), journal,
    )  # fmt: skip


def _check_one(ring: tuple[str, ...], slot: Slot, one: Recollection) -> None:
    shown = addresses.short(ring[slot])
    if one.addresses != ring:
        theirs = " ".join(addresses.short(address) for address in one.addresses)
        raise StartError(
            f"the dataserver at {shown} was started with the ports {theirs}: name the same, in the "
            "same order"
        )
    if one.slot != slot:
        raise StartError(f"the dataserver at {shown} is number {one.slot} of the ring, not {slot}")
    if one.silent_ms < limits.DOWN_S * 1000:
        raise StartError(
            f"the dataserver at {shown} heard from a metaserver at {addresses.short(one.meta)} "
            f"{one.silent_ms / 1000:.1f} s ago: as long as there is one, nothing is to be rebuilt "
            f"(it must have been stopped for {limits.DOWN_S:g} s)"
        )


def _check_copies(
    ring: tuple[str, ...], journal: CopySet, told: Mapping[Slot, Recollection]
) -> None:
    """Refuse while names can be had: what a rebuild can't give back."""
    whole = [slot for slot in journal.slots if slot in told and told[slot].copy.whole]
    if not journal.needed or not whole:
        return
    shown = ", ".join(addresses.short(ring[slot]) for slot in whole)
    more = copies.lacking(journal, len(whole))
    if not more:
        raise StartError(
            f"copies of the metadata are whole on {shown}: start zdfs-node meta with an empty "
            "--store, and names and files come back by themselves (while more than half of the "
            "dataservers run; an empty one in the place of one that is lost will do); "
            "--despite-copies goes on nevertheless, and gives them up"
        )
    lost = ", ".join(addresses.short(ring[slot]) for slot in journal.slots if slot not in whole)
    raise StartError(
        f"a copy of the metadata is whole on {shown}, but may not be the newest: bring back, with "
        f"their stores, {more} more of {lost}, and start zdfs-node meta with an empty --store: "
        "names and files come back by themselves; --despite-copies goes on nevertheless, and "
        "gives the copy up"
    )


def journal_set(plan: Plan) -> CopySet:
    """The new store's: none yet, and newer than any that a dataserver may know."""
    above = 1 if len(plan.heard) == len(plan.ring) else UNHEARD
    return CopySet(plan.copies.number + above, (), 0)


def _newest(one: Recollection) -> Incarnation:
    return max(one.promised, one.served_incarnation)


def _block_bytes(told: Sequence[Recollection], wanted: int | None) -> int:
    known = {one.block_bytes for one in told if one.block_bytes}
    if len(known) > 1:
        raise StartError(f"the dataservers know different block sizes: {sorted(known)}")
    if not known and wanted is None:
        raise StartError(
            "no dataserver was ever told the cluster's block size: give it, --block-size BYTES"
        )
    size = known.pop() if known else wanted
    assert size is not None
    if wanted not in (None, size):
        raise StartError(f"--block-size {wanted}: the cluster has {size}; leave the option out")
    inside = limits.BLOCK_BYTES_MIN <= size <= limits.BLOCK_BYTES_MAX
    if not inside or size & (size - 1):
        raise StartError(
            f"a block size of {size}: it is a power of two from {limits.BLOCK_BYTES_MIN} to "
            f"{limits.BLOCK_BYTES_MAX}"
        )
    return size


def settle(plan: Plan, newest: Iterable[Ino]) -> Plan:
    """The plan with the new store's incarnation: above all that was promised, and above that of
    any inode number that is there: the copies of a rebuild that was never used carry one."""
    above = max([plan.promised, *map(incarnation_of, newest)]) + 1
    above += UNHEARD if len(plan.heard) < len(plan.ring) else 0
    if above + 1 >= 1 << 24:  # see ids.compose
        raise StartError(f"incarnation {above} is above all that there can be: a damaged store")
    return plan._replace(incarnation=Incarnation(above))


def left_over(plan: Plan, ino: Ino) -> bool:
    """Whether an inode was made by a rebuild that was never used: by no metaserver, for sure."""
    return plan.sure and incarnation_of(ino) > plan.promised


def made(ino: Ino) -> bool:
    """Whether a metaserver can have made a file of this number: the root's is none."""
    return incarnation_of(ino) > 0


def server(told: Recollection | None, uuid: bytes) -> Server:
    """A slot's record.  Who was heard votes and checks itself against the new maps; who was not
    (`uuid` is nobody's) is taken back like a lost disk or a former store."""
    if told is None:
        return Server(
            uuid=uuid, life=0, boot=0, opened_round=Round(0), synced_round=Round(0),
            dropped=0, reconcile=0, reconciled=0, refill=0, skipped=False,
        )  # fmt: skip
    return Server(
        uuid=told.uuid, life=told.life, boot=told.boot, opened_round=told.opened_round,
        synced_round=told.synced_round, dropped=told.dropped, reconcile=told.reconcile + 1,
        reconciled=told.reconcile, refill=0, skipped=False, heard=told.heard,
    )  # fmt: skip


# --- what is there -----------------------------------------------------------------------------


class Candidate(NamedTuple):
    """One content under one name, and whose indexes name it."""

    name: Name
    seal: Seal
    length: int
    epoch: Epoch
    start: Slot
    slots: tuple[Slot, ...]


class Block(NamedTuple):
    """All versions of a block that anybody has; in the order of names, at least one."""

    ino: Ino
    block: BlockNo
    candidates: tuple[Candidate, ...]


class Merge:
    """The lists of some servers, side by side.

    `wanted` says whose next page is needed, and behind which name; `add` takes it; `blocks` gives
    what is complete by then.  Nobody's list gets more than a page ahead of the others' (and a
    block's versions), so memory is bounded.
    """

    def __init__(self, slots: Iterable[Slot]):
        self._pages: dict[Slot, deque[Version1]] = {slot: deque() for slot in slots}
        self._after: dict[Slot, Name | None] = dict.fromkeys(self._pages)
        self._open = set(self._pages)

    def _complete(self) -> tuple[Ino, BlockNo] | None:
        """All blocks below this one are complete; None: all are."""
        return min((self._reached(slot) for slot in self._open), default=None)

    def _reached(self, slot: Slot) -> tuple[Ino, BlockNo]:
        after = self._after[slot]
        return (Ino(0), BlockNo(0)) if after is None else (after.ino, after.block)

    def wanted(self) -> list[tuple[Slot, Name | None]]:
        """Those that the others wait for; none: that was all."""
        return [
            (slot, self._after[slot])
            for slot in sorted(self._open)
            if self._reached(slot) == self._complete()
        ]

    def add(self, slot: Slot, page: Versions) -> None:
        """A server's next page."""
        self._pages[slot].extend(page.items)
        if page.items:
            self._after[slot] = page.items[-1].name
        if page.end:
            self._open.discard(slot)

    def blocks(self) -> Iterator[Block]:
        """What is complete, in order, each once."""
        end = self._complete()
        taken = [
            [(item.name, slot, item) for item in _below(page, end)]
            for slot, page in self._pages.items()
        ]
        merged = heapq.merge(*taken, key=lambda one: one[:2])
        for (ino, block), some in itertools.groupby(
            merged, key=lambda one: (one[0].ino, one[0].block)
        ):
            by_content: dict[Version1, list[Slot]] = {}
            for _, slot, item in some:
                by_content.setdefault(item, []).append(slot)
            yield Block(ino, block, tuple(_candidate(*one) for one in by_content.items()))


def _below(page: deque[Version1], end: tuple[Ino, BlockNo] | None) -> Iterator[Version1]:
    while page and (end is None or (page[0].name.ino, page[0].name.block) < end):
        yield page.popleft()


def _candidate(item: Version1, slots: list[Slot]) -> Candidate:
    seal = Seal(item.crc16, item.crc32c)
    return Candidate(item.name, seal, item.length, item.epoch, item.start, tuple(slots))


# --- which version counts ----------------------------------------------------------------------

KINDS = {
    "older": "an older version was not dropped yet: the newest counts, though perhaps a writer had "
    "not finished it",
    "unfinished": "a newer version stands on one server, and a commit needs two: it does not count",
    "alone": "no version stands on two servers, and the others should have it: it was not "
    "committed, or was let go of, so none counts",
    "twofold": "servers hold different contents under one name: the one that more hold counts",
    "impossible": "a version is longer than a block, behind the end of all files, or of a ring or "
    "a file that nobody made: no map named it, so it does not count; a mount meant harm",
}


class Choice(NamedTuple):
    """What becomes of a block."""

    taken: Candidate | None  # None: no version may have been committed
    others: tuple[Candidate, ...]  # newest first
    kind: str  # in KINDS: why somebody should look at it; "": no doubt


def may_count(one: Candidate, slots: Collection[Slot], whole: Collection[Slot]) -> bool:
    """Whether a version may have been committed, and not let go of: it stands on enough of its
    block's places, or may be missing on those that are not whole."""
    held = set(slots) & set(one.slots)
    return len(held | set(slots) - set(whole)) >= COMMITTED


def choose(block: Block, slots: Collection[Slot], whole: Collection[Slot]) -> Choice:
    """Which version counts, of those that are there; `slots`: where the file's map will look."""
    ranked = sorted(
        block.candidates,
        key=lambda one: (one.name.version, len(set(slots) & set(one.slots))),
        reverse=True,
    )
    taken = next((one for one in ranked if may_count(one, slots, whole)), None)
    others = tuple(one for one in ranked if one is not taken)
    if taken is None:
        return Choice(None, others, "alone")
    if any(one.name == taken.name for one in others):
        return Choice(taken, others, "twofold")
    if others and others[0].name.version > taken.name.version:
        return Choice(taken, others, "unfinished")
    return Choice(taken, others, "older" if others else "")


def fits(plan: Plan, one: Candidate) -> bool:
    """Whether a file of this cluster can have such a block."""
    size = plan.block_bytes
    return one.length <= size and one.name.block * size + one.length <= limits.FILE_BYTES


def possible(plan: Plan, one: Candidate) -> bool:
    """Whether a map can have named a version."""
    return one.epoch == EPOCH and one.start < len(plan.ring) and fits(plan, one)


def start(plan: Plan, block: Block) -> Slot:
    """Where the file of its first block begins on the ring; anywhere if nobody can say."""
    return next((one.start for one in block.candidates if possible(plan, one)), Slot(0))


def judge(plan: Plan, block: Block, start: Slot) -> tuple[Choice, tuple[Slot, ...]]:
    """Which version of a block counts, and where it belongs; what can't be does not."""
    slots = placement.slots(start, block.block, len(plan.ring))
    odd = tuple(one for one in block.candidates if not possible(plan, one))
    sound = tuple(one for one in block.candidates if one not in odd)
    choice = choose(block._replace(candidates=sound), slots, plan.whole)
    if odd:
        choice = Choice(choice.taken, (*choice.others, *odd), "impossible")
    return choice, slots


# --- files -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Draft:
    """A file underway: its blocks come in order, its inode at the end."""

    ino: Ino
    name: bytes
    epoch: Epoch
    start: Slot
    token: Token = Token(0)
    size: int = 0
    stored: int = 0
    pages: int = 0
    pages_sum: int = 0
    _page: PageNo = PageNo(0)
    _entries: list[tuple[int, MapEntry]] = field(default_factory=list)

    def add(self, tables: Tables, block_bytes: int, one: Candidate) -> None:
        """The next block.  All of a version's bytes are visible, as far as anybody knows."""
        page, position = blockmap.page_of(one.name.block)
        if page != self._page:
            self._end_page(tables)
            self._page = page
        entry = MapEntry(one.name.version, one.length, one.length, one.seal)
        self._entries.append((position, entry))
        self.token = max(self.token, one.name.version.token)
        self.size = one.name.block * block_bytes + one.length
        self.stored += one.length

    def _end_page(self, tables: Tables) -> None:
        if self._entries:
            data = blockmap.spliced(b"", self._entries)
            count, moved = tables.set_page(self.ino, self._page, None, data)
            self.pages += count
            self.pages_sum = (self.pages_sum + moved) & MASK
            self._entries.clear()

    def end(self, tables: Tables, now_ns: int, parent: Ino) -> None:
        """The inode, and its name in a directory."""
        self._end_page(tables)
        tables.add(
            self.ino,
            Inode(
                mode=MODE, uid=0, gid=0, nlink=1, size=self.size, stored=self.stored,
                atime_ns=now_ns, mtime_ns=now_ns, ctime_ns=now_ns, rdev=0,
                change=max(1, tables.change_floor), parent=parent, target=b"", epoch=self.epoch,
                start=self.start, token=self.token, number=0, entries=0, entries_sum=0,
                pages=self.pages, pages_sum=self.pages_sum, xattrs=0, xattrs_sum=0,
                owed=0, owed_sum=0, policy=Policy.INHERIT,
            ),
        )  # fmt: skip
        tables.count_stored(self.stored)
        tables.set_entry(parent, self.name, Dirent(self.ino, stat.S_IFMT(MODE)))


# --- what was done -----------------------------------------------------------------------------


class Doubt(NamedTuple):
    """A block that somebody should look at."""

    choice: Choice
    kept: tuple[bytes | None, ...]  # the file in lost+found that has each of the others
    readable: bool  # whether a server has just read the version that counts


@dataclass(slots=True)
class Made:
    """What was made."""

    files: int = 0
    blocks: int = 0
    stored: int = 0
    versions: int = 0  # records that servers hold, copies counted
    thin: int = 0  # blocks with fewer than three copies
    extras: int = 0  # files of versions that don't count
    leftovers: int = 0  # records of a rebuild that was never used
    counts: Counter[str] = field(default_factory=Counter)
    doubts: list[Doubt] = field(default_factory=list)

    def doubt(self, one: Doubt) -> None:
        """Count it, and keep it if there aren't too many."""
        self.counts[one.choice.kind] += 1
        if len(self.doubts) < MOST_DOUBTS:
            self.doubts.append(one)
