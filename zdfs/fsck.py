"""Is everything where it must be?  The whole cluster, as its servers say now, while it works.

    metadata   the metaserver walks over all its records, slice by slice      Examine
    replicas   what the maps name must stand, good, on its three servers      Inventory, Check
    versions   what the servers hold must be named, or may be some day        ListVersions, Judge

Both lists of a server come in the order of names, and are read side by side.

A page at a time, one after another: memory is bounded, and who works is not disturbed.  What looks
wrong is asked again before it is a finding, since a cluster at work changes under the check:

    a replica is missing    the map still names that version: it named it all the while
    a version is garbage    and its server is through with all that was in the drop queue when the
                            metaserver said so, still holds it, and it is garbage still
    a version is surplus    the map names it, and says that its place is elsewhere

`repair` has each finding mended as soon as it is confirmed: by the server's own repair, by its own
way of dropping garbage, by the metaserver in a transaction.  `findings` says what each kind means.
"""

import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from zdfs import addresses, blockmap, limits, locating, placement, recovery, wire
from zdfs.calls import Ask, Peer, call_all, now, sleep
from zdfs.errors import Damaged, Failure, Posix, Unreachable
from zdfs.findings import METADATA, Finding, Report
from zdfs.ids import BlockNo, Ino, Name, PageNo, Slot, Token, Version
from zdfs.locating import asking
from zdfs.wire import Held, Member, State, Version1, Wanted

STILL_S = 20.0  # a repair or a drop queue that stands still for so long is not waited for
POLL_S = 0.2
PASSES = 3  # of --repair: mending one thing may show the next
END = Name(Ino(2**64 - 1), BlockNo(2**64 - 1), Version(Token(2**64 - 1), 2**32 - 1))
Tell = Callable[[str, int, int], None]  # stage, done, of how many (0: nobody knows)


def _silent(stage: str, done: int, total: int) -> None:
    """Nobody wants to know how far it is."""


async def check(meta: str, repair: bool = False, tell: Tell = _silent) -> Report:
    """Look at everything.  Raises Failure when the metaserver can't say what there is."""
    peer = Peer(meta)
    status = await asking(peer, wire.GetStatus())
    one = _Check(peer, status, repair, tell)
    await one.metadata()
    for server in status.servers:
        await one.server(server.member)
    if one.report.findings:
        try:
            await _find_paths(peer, one.report.findings)
        except Failure as error:
            one.report.could_not(f"the paths of what was found: {error}")
    return one.report


async def check_and_repair(meta: str, tell: Tell = _silent) -> tuple[Report, Report]:
    """Mend what can be mended: what was found, and what is left."""
    found = await check(meta, True, tell)
    left = await check(meta, False, tell)
    for _ in range(PASSES - 1):
        if not left.counts:
            break
        again = await check(meta, True, tell)
        for one in again.findings:
            if one.mended:
                found.add(one)
        if not again.mended:
            break
        left = await check(meta, False, tell)
    return found, left


async def replicas(
    meta: str, status: wire.Status, pages: AsyncIterator[wire.InventoryPage], tell: Tell = _silent
) -> Report:
    """Look at every copy of what these map pages name, and have bad ones repaired."""
    one = _Check(Peer(meta), status, True, tell)
    one.total = 0
    async for page in pages:
        for member in one.members:
            for chunk in recovery.chunks(list(recovery.duty(page, member.slot, len(one.members)))):
                await one.copies(member, chunk)
    return one.report


async def _find_paths(meta: Peer, findings: list[Finding]) -> None:
    """Fill in one path of each.  Raises Failure when the metaserver goes away."""
    paths = await locating.paths(meta, {one.ino for one in findings})
    for one in findings:
        path = paths.get(one.ino, b"")
        if path and one.name:
            path = path.rstrip(b"/") + b"/" + one.name
        one.path = path or None


@dataclass(slots=True)
class _Suspect:
    """A version that may be out of place."""

    name: Name
    newest: int  # where the drop queue ended when it was judged
    garbage: bool  # else its place is elsewhere


async def _list(cluster: bytes, member: Member, after: Name | None) -> wire.Versions:
    """What a server holds behind a name."""
    request = wire.ListVersions(cluster, after)
    found: wire.Versions = await asking(Peer(member.address), request)
    return found


class _Listing:
    """All that a server holds, in the order of names, a page at a time."""

    def __init__(self, cluster: bytes, member: Member):
        self.cluster, self.member = cluster, member
        self._page: deque[Version1] = deque()
        self._after: Name | None = None
        self._end = False

    async def through(self, last: Name) -> AsyncIterator[list[Version1]]:
        """The next ones, up to a name."""
        while True:
            some = []
            while self._page and self._page[0].name <= last:
                some.append(self._page.popleft())
            if some:
                yield some
            if self._page or self._end:
                return
            found = await _list(self.cluster, self.member, self._after)
            self._page.extend(found.items)
            self._end = found.end
            if found.items:
                self._after = found.items[-1].name


class _Maps:
    """Map pages and attributes of the suspects of one moment, each asked for once."""

    def __init__(self, meta: Peer):
        self.meta = meta
        self._pages: dict[tuple[Ino, PageNo], wire.MapPages | None] = {}

    async def find(self, name: Name) -> tuple[wire.MapPages | None, bool]:
        """The page with a version's block (None: there is no such file), and whether it names it.
        Damaged when it can't be read."""
        page, position = blockmap.page_of(name.block)
        key = (name.ino, page)
        if page > limits.PAGES:  # a mount that meant harm has put it
            return None, False
        if key not in self._pages:
            try:
                self._pages[key] = await asking(self.meta, wire.ReadMap(name.ino, page, 1))
            except Posix:
                self._pages[key] = None
        found = self._pages[key]
        entry = None if found is None else blockmap.entry_at(found.pages[0].entries, position)
        return found, entry is not None and entry.version == name.version


class _Check:
    """One pass over everything."""

    def __init__(self, meta: Peer, status: wire.Status, repair: bool, tell: Tell):
        self.meta, self.repair, self.tell = meta, repair, tell
        self.cluster = status.cluster
        self.members = [server.member for server in status.servers]
        self.total = sum(server.health.blocks for server in status.servers)
        self.report = Report()

    # --- metadata ------------------------------------------------------------------------------

    async def metadata(self) -> None:
        """The metaserver's walk, to its end."""
        run, step, before = secrets.token_bytes(16), 0, self.report.records
        while True:
            step += 1
            try:
                told = await asking(self.meta, wire.Examine(run, step, self.repair))
            except Failure as error:
                self.report.could_not(f"the metadata were not all looked at: {error}")
                return
            for fault in told.faults:
                kind = METADATA[fault.flaw]
                found = Finding(kind, fault.ino, fault.text, fault.name, mended=fault.mended)
                self.report.add(found)
            self.report.records = before + told.records
            self.tell("metadata", self.report.records, 0)
            if told.end:
                return

    # --- one server ----------------------------------------------------------------------------

    async def server(self, member: Member) -> None:
        """What must be there, and what is there."""
        shown = addresses.short(member.address)
        if member.state is State.DOWN:
            self.report.could_not(f"the dataserver {shown} (slot {member.slot}) is down")
            return
        try:
            await self._all_of(member)
        except Failure as error:
            text = f"the dataserver {shown} (slot {member.slot}) was not all looked at: {error}"
            self.report.could_not(text)

    def _found(self, kind: str, member: Member, name: Name, text: str, mended: str = "") -> None:
        version = f"{name.version.token:x}.{name.version.sequence}"
        address = addresses.short(member.address)
        self.report.add(
            Finding(
                kind, name.ino, text, block=name.block, slot=member.slot, address=address,
                version=version, mended=mended,
            )  # fmt: skip
        )

    async def copies(self, member: Member, wanted: list[Wanted]) -> None:
        """Some replicas that must stand on a server; what can't be looked at is said."""
        shown = addresses.short(member.address)
        try:
            if member.state is State.DOWN:
                raise Unreachable("it is down")
            await self._replicas(member, wanted)
        except Failure as error:
            self.report.could_not(f"the dataserver {shown} (slot {member.slot}): {error}")

    async def _all_of(self, member: Member) -> None:
        """What must stand on a server beside what does, both in the order of names."""
        held = _Listing(self.cluster, member)
        suspects: list[_Suspect] = []
        async for wanted, last in self._duties(member.slot):
            for chunk in recovery.chunks(wanted):
                await self._replicas(member, chunk)
            named = {want.name for want in wanted}
            async for items in held.through(last):
                self.report.versions += len(items)
                strangers = [item for item in items if item.name not in named]
                if strangers:
                    suspects += await self._suspects(member, strangers)
                if len(suspects) >= limits.VERSIONS:
                    await self._confirm(member, suspects)
                    suspects = []
        if suspects:
            await self._confirm(member, suspects)

    async def _duties(self, slot: Slot) -> AsyncIterator[tuple[list[Wanted], Name]]:
        """All that must stand on a slot, page by page, and up to which name that is all."""
        cursor = (Ino(0), -1)
        while True:
            stock = await asking(self.meta, wire.Inventory(slot, *cursor))
            cursor = (stock.ino, stock.page)
            block = BlockNo((stock.page + 1) * limits.PAGE_BLOCKS - 1)
            wanted = [
                want
                for page in stock.pages
                for want in recovery.duty(page, slot, len(self.members))
            ]
            yield wanted, END if stock.end else Name(stock.ino, block, END.version)
            if stock.end:
                return

    # --- replicas ------------------------------------------------------------------------------

    async def _replicas(self, member: Member, wanted: list[Wanted]) -> None:
        """Versions that must stand on a server."""
        states = await self._states(member, wanted)
        self.report.replicas += len(wanted)
        self.tell("replicas", self.report.replicas, self.total)
        bad = [want for want, held in zip(wanted, states) if held is not Held.OK]
        if bad:
            await self._judge_replicas(member, bad)

    async def _states(self, member: Member, wanted: list[Wanted]) -> list[Held]:
        """What a server says of some versions, read and verified just now."""
        answer = await asking(Peer(member.address), wire.Check(self.cluster, tuple(wanted)))
        if len(answer.held) != len(wanted):
            raise Damaged(f"{len(answer.held)} answers to {len(wanted)} questions")
        return list(answer.held)

    async def _judge_replicas(self, member: Member, bad: list[Wanted]) -> None:
        """Replicas that were not good just now."""
        maps = _Maps(self.meta)
        named = [want for want in bad if await self._named(maps, want)]
        if not named:
            return
        owed = await self._owed(member.slot, named)
        states = await self._states(member, named)
        left = [(want, held) for want, held in zip(named, states) if held is not Held.OK]
        elsewhere = await self._good_elsewhere(member.slot, [want for want, _ in left])
        healed: set[Name] = set()
        if self.repair:
            healed = await self._heal(member, [w for w, _ in left if elsewhere[w.name] > 0])
        for want, held in left:
            good = elsewhere[want.name]
            state = {Held.DAMAGED: "damaged", Held.NOT_YET: "not copied back yet"}
            shown = state.get(held, "missing")
            kind = "owed" if want.name in owed else "missing"
            kind = "damaged" if held is Held.DAMAGED else kind
            if good <= 0:
                kind = "lost" if good == 0 else kind
            shown = "owed" if kind == "owed" else shown
            text = f"{shown}; {max(0, good)} other good copies"
            mended = "copied from another server" if want.name in healed else ""
            self._found(kind, member, want.name, text, mended)

    async def _owed(self, slot: Slot, wanted: list[Wanted]) -> set[Name]:
        """Those that commits went without, by policy quorum; asked for before the server is asked
        again: what it collected since is good then."""
        first, last = min(w.name for w in wanted), max(w.name for w in wanted)
        owed = await asking(self.meta, wire.ListDebts(slot, first.ino, first.block))
        found = {one.want.name for one in owed.items}
        while not owed.end and (owed.ino, owed.block) <= (last.ino, last.block):
            owed = await asking(self.meta, wire.ListDebts(slot, owed.ino, owed.block))
            found |= {one.want.name for one in owed.items}
        return found

    async def _named(self, maps: _Maps, want: Wanted) -> bool:
        try:
            return (await maps.find(want.name))[1]
        except Damaged:  # the walk over the metadata says so
            return False

    async def _good_elsewhere(self, slot: Slot, wanted: list[Wanted]) -> dict[Name, int]:
        """How many of the other places of each version have it, good; -1: none that answered, and
        not all did."""
        good = {want.name: 0 for want in wanted}
        unsure: set[Name] = set()
        for member in self.members:
            some = [w for w in wanted if self._belongs(w.start, w.name.block, member.slot)]
            if member.slot == slot or not some:
                continue
            for part in recovery.chunks(some):
                answer: wire.Message | Failure | None = None
                if member.state is not State.DOWN:
                    request = wire.Check(self.cluster, tuple(part))
                    (answer,) = await call_all([Ask(Peer(member.address), request)])
                if not isinstance(answer, wire.Checked) or len(answer.held) != len(part):
                    unsure |= {want.name for want in part}
                    continue
                for want, held in zip(part, answer.held):
                    good[want.name] += held is Held.OK
        return {n: count if count or n not in unsure else -1 for n, count in good.items()}

    def _belongs(self, start: Slot, block: BlockNo, slot: Slot) -> bool:
        return placement.replica(start, block, len(self.members), slot) is not None

    async def _heal(self, member: Member, wanted: list[Wanted]) -> set[Name]:
        """Have a server repair its copies, and wait for it: those that are good now."""
        left, moved_at = wanted, await now()
        while left and await now() - moved_at < STILL_S:
            for part in recovery.chunks(left):
                await asking(Peer(member.address), wire.Get(self.cluster, tuple(part), True))
            await sleep(POLL_S)
            still: list[Wanted] = []
            for part in recovery.chunks(left):
                states = await self._states(member, part)
                still += [want for want, held in zip(part, states) if held is not Held.OK]
            if len(still) < len(left):
                moved_at = await now()
            left = still
        return {want.name for want in wanted} - {want.name for want in left}

    # --- versions ------------------------------------------------------------------------------

    async def _suspects(self, member: Member, items: list[Version1]) -> list[_Suspect]:
        """Which of these may be out of place."""
        judged = await asking(self.meta, wire.Judge(tuple(item.name for item in items)))
        found = []
        for item, keep in zip(items, judged.keep):
            if not keep or not self._belongs(item.start, item.name.block, member.slot):
                found.append(_Suspect(item.name, judged.newest, not keep))
        return found

    async def _confirm(self, member: Member, suspects: list[_Suspect]) -> None:
        """Suspects, asked about again once the drop queue of that time is worked off."""
        garbage = [suspect.newest for suspect in suspects if suspect.garbage]
        if garbage and not await self._drained(member, max(garbage)):
            shown = addresses.short(member.address)
            self.report.could_not(f"the dataserver {shown} does not drop what it is told to")
            return
        held = await self._still_held(member, [suspect.name for suspect in suspects])
        maps, drained = _Maps(self.meta), {suspect.name for suspect in suspects if suspect.garbage}
        kinds: dict[Name, str] = {}
        for first in range(0, len(held), limits.VERSIONS):
            some = held[first : first + limits.VERSIONS]
            judged = await asking(self.meta, wire.Judge(tuple(some)))
            for name, keep in zip(some, judged.keep):
                kind = await self._kind(maps, member, name, bool(keep))
                if kind == "surplus" or (kind and name in drained):
                    kinds[name] = kind
        done = await self._discard(member, maps, kinds) if self.repair else set()
        for name, kind in kinds.items():
            text = "another version counts" if kind == "superseded" else kind
            self._found(kind, member, name, text, "dropped" if name in done else "")

    async def _drained(self, member: Member, number: int) -> bool:
        """Wait until a server is through with the drop queue so far; False: it stands still."""
        last, moved_at = -1, await now()
        while True:
            dropped = (await _list(self.cluster, member, END)).dropped
            if dropped >= number:
                return True
            if dropped != last:
                last, moved_at = dropped, await now()
            if await now() - moved_at > STILL_S:
                return False
            await sleep(POLL_S)

    async def _still_held(self, member: Member, names: list[Name]) -> list[Name]:
        """Those of some names, in order, that a server still holds."""
        found: list[Name] = []
        left = names
        while left:
            page = await _list(self.cluster, member, _before(left[0]))
            here = {item.name for item in page.items}
            found += [name for name in left if name in here]
            last = END if page.end else page.items[-1].name
            left = [name for name in left if name > last]
        return found

    async def _kind(self, maps: _Maps, member: Member, name: Name, keep: bool) -> str:
        """What a version is that is not in its place; "": it is, or may be."""
        try:
            found, named = await maps.find(name)
        except Damaged:
            return ""
        if not keep:
            return "ownerless" if found is None else "superseded"
        if found is None or not named:
            return ""
        belongs = self._belongs(found.attributes.start, name.block, member.slot)
        return "" if belongs else "surplus"

    async def _discard(self, member: Member, maps: _Maps, kinds: dict[Name, str]) -> set[Name]:
        """Have a server drop what is too much: what is gone."""
        peer = Peer(member.address)
        garbage = [name for name, kind in kinds.items() if kind != "surplus"]
        surplus = [
            name
            for name, kind in kinds.items()
            if kind == "surplus" and await self._stands_well(maps, name)
        ]
        for names, with_surplus in ((garbage, False), (surplus, True)):
            for first in range(0, len(names), limits.VERSIONS):
                some = tuple(names[first : first + limits.VERSIONS])
                await asking(peer, wire.Discard(self.cluster, some, with_surplus))
        tried = sorted(garbage + surplus)
        return set(tried) - set(await self._still_held(member, tried))

    async def _stands_well(self, maps: _Maps, name: Name) -> bool:
        """Whether a version stands, good, in all three of its places."""
        found, named = await maps.find(name)
        if found is None or not named:
            return False
        position = blockmap.page_of(name.block)[1]
        entry = blockmap.entry_at(found.pages[0].entries, position)
        assert entry is not None
        about = found.attributes
        want = Wanted(name, entry.seal, about.epoch, about.start, entry.stored)
        states = [
            (await self._states(self.members[slot], [want]))[0]
            for slot in placement.slots(about.start, name.block, len(self.members))
        ]
        return all(held is Held.OK for held in states)


def _before(name: Name) -> Name:
    """The largest name below another."""
    token, sequence = name.version
    if sequence:
        return name._replace(version=Version(token, sequence - 1))
    if token:
        return name._replace(version=Version(Token(token - 1), 2**32 - 1))
    if name.block:
        return Name(name.ino, BlockNo(name.block - 1), END.version)
    return Name(Ino(name.ino - 1), END.block, END.version)
