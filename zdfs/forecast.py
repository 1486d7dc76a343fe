"""What an outage would cost, file by file: pure, from block maps and placement.

Placement is a function, so it can be said before anything is stopped.  Of each block, with three
slots, by what is `down` (would be stopped), `silent` (is down as it is) and `partial` (its store is
not known to be whole: a rebuild is underway, or writes went past it):

    unread          all three are down or silent: reads are EIO until one is back
    unread_unsure   likewise if what is partial does not have it: nobody knows without asking
    lost            all three are down: were their disks gone for good, so would be the block
    lost_unsure     likewise if what is partial does not have it

and of each file whether its writes wait (`writes_wait`).  Names never wait for a dataserver.
"""

import stat
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from zdfs import blockmap, debts, limits, placement, schema, wire
from zdfs.errors import Damaged
from zdfs.extents import entries_in
from zdfs.ids import BlockNo, Epoch, Ino, PageNo, Policy, Slot
from zdfs.schema import Inode
from zdfs.tables import View, decode, scan_past_damage


class Outage(NamedTuple):
    """Who is away, and how."""

    down: frozenset[Slot]
    silent: frozenset[Slot] = frozenset()
    partial: frozenset[Slot] = frozenset()
    skipped: frozenset[Slot] = frozenset()  # commits go ahead without these


class Fate(NamedTuple):
    """What becomes of a block."""

    unread: bool
    unread_unsure: bool
    lost: bool
    lost_unsure: bool


SAFE = Fate(False, False, False, False)


def fate(outage: Outage, slots: Collection[Slot]) -> Fate:
    """Of a block on these slots."""
    here = set(slots)
    off = outage.down | outage.silent
    unread, lost = here <= off, here <= outage.down
    return Fate(
        unread,
        not unread and here <= off | outage.partial,
        lost,
        not lost and here <= outage.down | outage.partial,
    )


def fates(outage: Outage, servers: int) -> list[Fate]:
    """Of a block by the slot of its replica 0."""
    return [
        fate(outage, placement.slots(Slot(first), BlockNo(0), servers)) for first in range(servers)
    ]


def writes_wait(policy: Policy, outage: Outage, servers: int) -> bool:
    """Whether writes to a file would wait: by `all` for each server of the ring, also for those
    that hold nothing of the file; by `quorum` where a block would have fewer than two."""
    away = (outage.down | outage.silent) - outage.skipped
    if policy is Policy.ALL:
        return any(Slot(slot) in away for slot in range(servers))
    return any(
        len(away & set(placement.slots(Slot(first), BlockNo(0), servers)))
        > limits.REPLICAS - limits.QUORUM
        for first in range(servers)
    )


class Tally:
    """What one answer says so far."""

    def __init__(self, name: int) -> None:
        self.name = name  # how many files that lose nothing but writes may still be named
        self.files = self.waiting = self.damaged = 0
        self.hits: list[wire.Hit] = []

    def count(self, hit: wire.Hit, begins: bool) -> None:
        """A file, or the rest of one."""
        self.files += begins
        self.waiting += begins and hit.waits
        if any(hit[3:]):
            self.hits.append(hit)
        elif begins and hit.waits and self.name:
            self.name -= 1
            self.hits.append(hit)

    def answer(self, outage: Outage, end: bool, ino: Ino, page: int) -> wire.Forecast:
        """For the wire."""
        return wire.Forecast(
            self.files, self.waiting, tuple(self.hits), self.damaged,
            tuple(sorted(outage.partial)), end, ino, page,
        )  # fmt: skip


def foresee(
    view: View,
    request: wire.Foresee,
    outage: Outage,
    servers_of_epoch: Callable[[Epoch], int],
    most_examined: int = limits.INVENTORY_EXAMINED,
) -> wire.Forecast:
    """The next slice of all regular files, orphans included: at most `most_examined` records.

    Damaged records are counted and passed by (the walk reports them).
    """
    tally = Tally(request.name)
    examined, ino = 0, request.ino
    first = schema.inode_key(ino)
    if request.page < 0:
        first = schema.after(first)
    for key, payload in scan_past_damage(view.read, first, schema.after(b"i")):
        ino, examined = Ino(schema.number_of_key(key)), examined + 1
        after = request.page if ino == request.ino else -1
        inode = _regular(key, payload, tally)
        if inode is not None:
            left = most_examined - examined
            hit, looked, page = _look(view, ino, inode, after, outage, servers_of_epoch, left)
            tally.damaged += looked.damaged
            tally.count(hit, begins=after < 0)
            examined += looked.pages
            if page is not None:
                return tally.answer(outage, False, ino, page)
        if examined >= most_examined or len(tally.hits) >= limits.HITS:
            return tally.answer(outage, False, ino, -1)
    return tally.answer(outage, True, ino, -1)


def _regular(key: bytes, payload: bytes | Damaged, tally: Tally) -> Inode | None:
    """A file; None: something else, or nobody can say."""
    try:
        if isinstance(payload, Damaged):
            raise payload
        inode = decode(Inode, key, payload)
    except Damaged:
        tally.damaged += 1
        return None
    return inode if stat.S_ISREG(inode.mode) else None


class _Looked(NamedTuple):
    pages: int
    damaged: int


def _look(
    view: View, ino: Ino, inode: Inode, after: int, outage: Outage,
    servers_of_epoch: Callable[[Epoch], int], most_pages: int,
) -> tuple[wire.Hit, _Looked, int | None]:  # fmt: skip
    """A file's pages behind one: what becomes of them, and the last page that was looked at if
    there may be more."""
    servers, policy = servers_of_epoch(inode.epoch), debts.policy_or_all(view, ino)
    hit = wire.Hit(ino, inode.size, writes_wait(policy, outage, servers), 0, 0, 0, 0, 0, 0)
    by_first = fates(outage, servers)
    pages = damaged = 0
    if not inode.pages or all(one == SAFE for one in by_first):
        return hit, _Looked(0, 0), None
    sums = list(hit[3:])
    for page, data in _pages(view, ino, PageNo(after + 1)):
        pages += 1
        if data is None:
            damaged += 1
        else:
            _add(sums, page, data, inode, by_first)
        if pages >= max(1, most_pages):
            return wire.Hit(*hit[:3], *sums), _Looked(pages, damaged), page
    return wire.Hit(*hit[:3], *sums), _Looked(pages, damaged), None


def _pages(view: View, ino: Ino, first: PageNo) -> Iterator[tuple[PageNo, bytes | None]]:
    """Map pages from one on; None: damaged."""
    end = schema.after(schema.page_prefix(ino))
    for key, payload in scan_past_damage(view.read, schema.page_key(ino, first), end):
        good = isinstance(payload, bytes) and payload and not len(payload) % blockmap.ENTRY_BYTES
        yield schema.page_of_key(key)[1], payload if good else None  # type: ignore[misc]


def _add(sums: list[int], page: PageNo, data: bytes, inode: Inode, by_first: list[Fate]) -> None:
    """A page's blocks to a Hit's counts, from `unread` on."""
    for block, entry in entries_in(page, data):
        became = by_first[(inode.start + block) % len(by_first)]
        sums[0] += became.unread
        sums[1] += became.unread and entry.visible
        sums[2] += became.unread_unsure
        sums[3] += became.lost
        sums[4] += became.lost and entry.visible
        sums[5] += became.lost_unsure
