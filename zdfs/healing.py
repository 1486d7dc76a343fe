"""How a dataserver heals itself: reconcile after each start, repairs, garbage.

Coroutines beside the requests.  Each one is endless, restartable at any point and bounded in
memory: what it has to know is asked of the metaserver page by page, and what it copies is
verified against the map's seal before it is stored (`recovery` decides, this room does).

    every start:  survey (count what is missing) -> fetch it -> survey again -> serving -> garbage

The same after each pass of the scrub and after the index was made anew: what went missing silently
is found, and what no file names is dropped.  A block counts as lost only when both other servers
have answered that they don't have it; while one is silent, or the disk is full, the rebuild waits.
"""

import collections
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from zdfs import addresses, checksum, limits, placement, recovery, wire
from zdfs.calls import Ask, Condition, Peer, Trap, call, call_all, notify, now, sleep, wait
from zdfs.errors import Damaged, Failure, NoSpace, Unavailable, Unreachable
from zdfs.ids import NOT_JOURNAL, Epoch, Ino, Name, Round, Slot
from zdfs.ports import BlockStore
from zdfs.schema import IndexEntry
from zdfs.wire import Held, State

log = logging.getLogger("zdfs.data")

INDEX_PAGE = 1024  # names looked at in one go
REPAIRS = 32  # blocks repaired in one go
COPIES = 4 * limits.BLOCKS  # blocks fetched at once; small ones would be too many by bytes alone
BUSY_S = 1.0  # a server that was asked to read or write so lately is at work
TOLD_EVERY_S = 5.0  # how far a rebuild is


class _Fetched(NamedTuple):
    """Versions that came back and were stored; of the servers that were asked for them, whether
    somebody else keeps one busy, and whether one may yet have what did not come."""

    cured: list[wire.Wanted]
    busy: bool
    held_up: bool


class Healer:
    """What a dataserver knows of its own completeness, and the tasks that restore it."""

    def __init__(
        self, store: BlockStore, slot: Slot, ring: tuple[str, ...], meta: Peer,
        rates: recovery.Rates,
    ):  # fmt: skip
        self.store, self.slot, self.meta = store, slot, meta
        self.ring, self.rates = ring, rates
        self.rings: dict[Epoch, tuple[str, ...]] = {}
        self.state = State.JOINING
        self.reconcile_wanted = 0
        self.recheck = False  # look again whether all is here
        self.looks = 0  # how often that was done
        self.looked = Condition()
        self.found: collections.Counter[str] = collections.Counter()  # and healed, since the start
        self.held_up = False  # a source was silent or the disk full: what is missing isn't lost
        self.lost = 0  # blocks that nobody has
        self.drops_ready = 0
        self.heard_at = float("-inf")  # when that was asked for that was answered last
        self.progress: recovery.Progress | None = None
        self.sources = recovery.Sources()
        self.used_at = -BUSY_S  # when a read or a write of somebody's was last asked for here
        self._copied = Round(0)  # the round that the last batch of a rebuild is in
        self.sick = recovery.Sick()
        self.index_damaged = False
        self.events: collections.deque[wire.Event] = collections.deque(maxlen=limits.EVENTS_UNTOLD)
        self.said = 0  # how many there ever were
        self.wake = Condition()  # report now
        self.work = Condition()  # sick blocks, a reconcile or drops are there

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [
            ("reconcile", self.reconcile()),
            ("repair", self.repair()),
        ]

    # --- what we have --------------------------------------------------------------------------

    def find(self, name: Name) -> IndexEntry | None:
        """As store.find, but an index that can't say counts as "not here": storing is safe."""
        try:
            return self.store.find(name)
        except Damaged as error:
            self.index_failed(error)
            return None

    def held(self, want: wire.Wanted) -> tuple[Held, checksum.Buffer]:
        """What we have of a version, and its bytes if they are the right ones."""
        try:
            found = self.store.read(want.name)
        except Damaged as error:
            if self._index_is_to_blame(want.name):
                self.index_failed(error)
            return Held.DAMAGED, b""
        if found is None:
            return (Held.MISSING if self.state is State.SERVING else Held.NOT_YET), b""
        entry, data = found
        if (entry.crc16, entry.crc32c) != tuple(want.seal):
            return Held.DAMAGED, b""
        return Held.OK, data

    def listed(self, after: Name | None, count: int) -> list[tuple[Name, IndexEntry]]:
        """The next versions in the order of names; Unavailable while the index can't say."""
        try:
            return self.store.scan(after or NOT_JOURNAL, count)
        except Damaged as error:
            self.index_failed(error)
            raise Unavailable(f"{self.here} makes its index anew") from error

    def discard(self, names: Sequence[Name], keep: bytes, surplus: bool) -> None:
        """Drop what is judged garbage; with `surplus` also what belongs on other slots."""
        gone = []
        for name, kept in zip(names, keep):
            entry = self.find(name)
            if entry is not None and (not kept or (surplus and not self._home(name, entry))):
                gone.append(name)
        log.info("dropping %d versions that fsck found", len(gone))
        self.store.drop(gone)

    def _home(self, name: Name, entry: IndexEntry) -> bool:
        """Whether a version is at home here; what is of a ring that we don't know stays."""
        ring = self.rings.get(entry.epoch)
        if ring is None:
            return True
        return placement.replica(entry.start, name.block, len(ring), self.slot) is not None

    def whole(self, name: Name) -> bool:
        """Whether a version is here with good bytes."""
        try:
            return self.store.read(name) is not None
        except Damaged:
            return False

    def _index_is_to_blame(self, name: Name) -> bool:
        """Whether Damaged came from the index, not from the bytes."""
        try:
            self.store.find(name)
        except Damaged:
            return True
        return False

    def mend(self, want: wire.Wanted, state: Held) -> None:
        """Have a version repaired that is missing or damaged."""
        if state is Held.NOT_YET or not self.sick.add(want):
            return
        if state is Held.DAMAGED:  # what is missing may be what no file names any more
            self.count(damaged=1)
            self.found["damaged"] += 1
            self.say("damage", f"block {want.name.block} of inode {want.name.ino} is damaged")
        notify(self.work)

    @property
    def here(self) -> str:
        """This server, for people."""
        return addresses.short(self.ring[self.slot])

    def say(self, kind: str, text: str) -> None:
        """A log line and an event for the metaserver's list (its time is set by the report)."""
        log.warning("%s: %s", kind, text)
        self.events.append(wire.Event(0, kind, f"{self.here}: {text}"))
        self.said += 1
        notify(self.wake)

    @property
    def first_event(self) -> int:
        """The number of the oldest event that nobody has heard of, counted from 1."""
        return self.said - len(self.events) + 1

    def count(self, damaged: int = 0, repaired: int = 0) -> None:
        """Found and repaired damage, kept in the store's state."""
        state = self.store.state
        self.store.set_state(
            replace(state, damaged=state.damaged + damaged, repaired=state.repaired + repaired)
        )

    def index_failed(self, error: Damaged) -> None:
        """The index can't say what is here: have it made anew."""
        if not self.index_damaged:
            self.index_damaged = True
            self.say("damage", f"the index is damaged ({error}); it is made anew from the log")
            notify(self.work)

    # --- reconcile: what is missing here -------------------------------------------------------

    async def reconcile(self) -> None:
        """After each start, and when the metaserver asks for it."""
        while True:
            while not self._must_look():
                await wait(self.work, limits.BEAT_S)
            number, self.recheck = self.reconcile_wanted, False
            try:
                self.lost = await self._reconcile_once()
            except Failure as error:
                log.info("reconcile starts again: %s", error)
                self.recheck = True
                await sleep(limits.RETRY_S)
                continue
            self.progress = None
            if number > self.store.state.reconciled:
                self.store.set_state(replace(self.store.state, reconciled=number))
            self.state = State.SERVING
            notify(self.wake)
            await self._sweep()
            if not self.recheck:
                self.looks += 1
                notify(self.looked)

    def look(self) -> None:
        """Compare all that is here with the maps once more; `looks` grows when that is done."""
        self.recheck = True
        notify(self.work)

    def _must_look(self) -> bool:
        if self.reconcile_wanted > self.store.state.reconciled:
            return True
        return self.recheck and self.state is not State.JOINING

    async def _reconcile_once(self) -> int:
        """Fetch what is missing; how much of it nobody has."""
        before = -1
        while True:
            missing = await self._survey()
            total = missing.blocks
            if total == 0:
                if self.progress:
                    shares = self.sources.shares()
                    text = f"whole again: {self.progress.done} blocks came back ({shares})"
                    self.say("rebuilt", text)
                return 0
            if total == before:
                if not self.held_up:
                    if total != self.lost:
                        self.say("lost", f"{total} blocks are on no other server either")
                    return total
                await sleep(limits.DOWN_S)
            before = total
            self._begin_pass(missing, await now())
            await self._fetch_missing()

    def _begin_pass(self, missing: recovery.Amount, at: float) -> None:
        self.held_up = False
        if self.progress is None:
            self.progress = recovery.Progress(missing.blocks, at)
            self.sources.asked.clear()
            self.found["missing"] += missing.blocks
            if missing.blocks != self.lost:  # else very likely those that nobody had before
                self.state = State.RECOVERING
                text = f"rebuilding {missing.blocks} blocks ({missing.bytes} bytes)"
                self.say("rebuild", f"{text} from the neighbours")
            notify(self.wake)
        self.progress.missing(missing)

    async def _pages(self, cursor: tuple[int, int]) -> wire.Stock:
        stock: wire.Stock = await call(
            self.meta, wire.Inventory(self.slot, Ino(cursor[0]), cursor[1]), limits.BULK_TIMEOUT_S
        )
        return stock

    def _missing(self, page: wire.InventoryPage) -> list[wire.Wanted]:
        """What of a map page's duty isn't in the index with the right seal."""
        missing = []
        for want in recovery.duty(page, self.slot, len(self.rings[page.epoch])):
            entry = self.find(want.name)
            if entry is None or (entry.length, entry.crc16, entry.crc32c) != (
                want.length,
                *want.seal,
            ):
                missing.append(want)
        return missing

    async def _survey(self) -> recovery.Amount:
        """Count what is missing."""
        cursor, blocks, size = (0, -1), 0, 0
        while True:
            stock = await self._pages(cursor)
            for page in stock.pages:
                missing = self._missing(page)
                blocks += len(missing)
                size += sum(want.length for want in missing)
            if stock.end:
                return recovery.Amount(blocks, size)
            cursor = (stock.ino, stock.page)

    async def _fetch_missing(self) -> None:
        cursor, told = (0, -1), await now()
        wanted: list[wire.Wanted] = []
        while True:
            stock = await self._pages(cursor)
            for page in stock.pages:
                wanted += self._missing(page)
                size = sum(want.length for want in wanted)
                if size >= limits.REBUILD_FLIGHT_BYTES // 2 or len(wanted) >= COPIES:
                    await self._copy(wanted)
                    wanted = []
                if await now() - told > TOLD_EVERY_S:
                    told = await now()
                    self._tell(told)
            if stock.end:
                await self._copy(wanted)
                return
            cursor = (stock.ino, stock.page)

    def _tell(self, at: float) -> None:
        """How far the rebuild is: a line in the log, and an event at each tenth."""
        assert self.progress is not None
        shown = self.progress.shown(at)
        text = f"{shown.done} of {shown.total} blocks, {shown.bytes_per_s} bytes/s"
        log.info("rebuild: %s", text)
        if self.progress.tenth() is not None:
            self.say("rebuilding", text)

    async def _copy(self, wanted: list[wire.Wanted]) -> None:
        """Fetch versions from the other replicas and store them; then rest."""
        assert self.progress is not None
        begun = await now()
        self.store.promise(self._copied)
        while self.store.synced < self._copied:  # one batch at the disk, one on the way
            await sleep(0.002)
        cured, busy, held_up = await self._fetch(wanted)
        self.held_up |= held_up
        if cured:
            self._copied = self.store.round
        at = await now()
        self.progress.copied(cured, at)
        self.found["healed"] += len(cured)
        if len(cured) < len(wanted) and self.store.space().free_bytes <= 0:
            log.warning("the rebuild waits: this disk is full")
            await sleep(limits.RETRY_S)
        size = sum(want.length for want in cured)
        await sleep(recovery.pause(at - begun, size, self.rates.rebuild, busy or self.busy(at)))

    async def fetch(self, wanted: list[wire.Wanted]) -> list[wire.Wanted]:
        """Copy versions from the other replicas: those that came back and were stored."""
        return (await self._fetch(wanted)).cured

    def busy(self, at: float) -> bool:
        """Whether somebody reads or writes here."""
        return at - self.used_at < BUSY_S

    async def _fetch(self, wanted: list[wire.Wanted]) -> _Fetched:
        cured: list[wire.Wanted] = []
        left, tried, busy, held_up = wanted, set[tuple[Name, Peer]](), False, False
        for _ in range(limits.REPLICAS - 1):
            asks, parts = self._asks(left, tried, await now())
            held_up |= sum(map(len, parts)) < len(left)
            left = []
            for ask, chunk, answer in zip(asks, parts, await call_all(asks)):
                busy |= isinstance(answer, wire.Fetched) and answer.busy
                if isinstance(answer, Unreachable):
                    self.sources.silent(ask.peer, await now())
                else:
                    self.sources.heard(ask.peer)
                good, bad, waits = self._stored(chunk, answer)
                cured += good
                left += bad
                held_up |= waits
        return _Fetched(cured, busy, held_up)

    def _asks(
        self, wanted: list[wire.Wanted], tried: set[tuple[Name, Peer]], at: float
    ) -> tuple[list[Ask], list[list[wire.Wanted]]]:
        """Questions for these blocks to servers that were not `tried` yet, and what each is for."""
        by_peer: dict[Peer, list[wire.Wanted]] = {}
        for want in wanted:
            ring = self.rings[want.epoch]
            others = [Peer(ring[s]) for s in recovery.sources(want, self.slot, len(ring))]
            untried = [peer for peer in others if (want.name, peer) not in tried]
            chosen = self.sources.choose(untried, want.length, at)
            if chosen is None:
                continue
            tried.add((want.name, chosen))
            by_peer.setdefault(chosen, []).append(want)
        asks, parts = [], []
        for peer, some in by_peer.items():
            for chunk in recovery.chunks(some):
                fetch = wire.Fetch(self.store.state.cluster, tuple(chunk))
                asks.append(Ask(peer, fetch, limits.BULK_TIMEOUT_S))
                parts.append(chunk)
        return asks, parts

    def _stored(
        self, chunk: list[wire.Wanted], answer: wire.Message | Failure
    ) -> tuple[list[wire.Wanted], list[wire.Wanted], bool]:
        """Store the genuine ones of an answer; the others are to be asked for elsewhere; whether
        some of those may be had here another time."""
        if not isinstance(answer, wire.Fetched) or not (
            len(answer.held) == len(answer.data) == len(chunk)
        ):
            return [], chunk, True
        good, bad, waits = [], [], False
        for want, held, data in zip(chunk, answer.held, answer.data):
            if held is not Held.OK or not recovery.genuine(want, data):
                bad.append(want)
                continue
            try:
                self.store.append(want.name, want.seal, want.epoch, want.start, data)
            except NoSpace:
                waits = True
                bad.append(want)
                continue
            good.append(want)
        return good, bad, waits

    # --- repair, garbage -------------------------------------------------

    async def repair(self) -> None:
        """Heal blocks that readers or the scrub found bad."""
        while True:
            wanted = self.sick.take(REPAIRS)
            if self.index_damaged:
                self.store.rebuild_index()
                self.index_damaged = False
                self.recheck = True  # dropped versions are back, what the log lost is missing
                notify(self.work)
            if not wanted:
                await wait(self.work, limits.BEAT_S)
                continue
            ill = await self._still_ill(wanted)
            cured, _, held_up = await self._fetch(ill)
            waiting = [want for want in ill if held_up and want not in cured]
            self.sick.again(waiting)
            for want in wanted:
                if want not in waiting:
                    self.sick.cured(want)
            for want in cured:
                self.say("repaired", f"block {want.name.block} of inode {want.name.ino}")
            if cured:
                self.count(repaired=len(cured))
                self.found["healed"] += len(cured)
            if waiting:
                log.info("%d damaged blocks wait for the servers that have them", len(waiting))
                await sleep(limits.DOWN_S)
            elif len(cured) < len(ill):
                log.error("%d damaged blocks have no good copy", len(ill) - len(cured))
                await sleep(limits.RETRY_S)

    async def _still_ill(self, wanted: list[wire.Wanted]) -> list[wire.Wanted]:
        """Without those that healed, and those that no file names any more: a reader with an old
        map has asked for them."""
        try:
            judged = await call(self.meta, wire.Judge(tuple(want.name for want in wanted)))
            keep = judged.keep
        except Failure:  # at worst garbage comes back, which a sweep finds
            keep = b"\1" * len(wanted)
        return [
            want
            for want, counts in zip(wanted, keep)
            if counts and want.epoch in self.rings and self.held(want)[0] is not Held.OK
        ]

    async def _sweep(self) -> None:
        """Drop versions that no map names and no writer may still commit."""
        last = NOT_JOURNAL
        while True:
            try:
                some = self.store.scan(last, INDEX_PAGE)
            except Damaged as error:
                self.index_failed(error)
                return
            if not some:
                return
            last = some[-1][0]
            try:
                judged = await call(self.meta, wire.Judge(tuple(name for name, _ in some)))
            except Failure as error:
                log.info("the search for garbage ends early: %s", error)
                return
            garbage = [name for (name, _), keep in zip(some, judged.keep) if not keep]
            if garbage:
                log.info("dropping %d versions that no file names", len(garbage))
            strays = [one for one, keep in zip(some, judged.keep) if keep and not self._home(*one)]
            surplus = await self._standing_elsewhere(strays[:REPAIRS])
            if surplus:
                log.warning("dropping %d versions whose place is elsewhere", len(surplus))
            self.store.drop(garbage + surplus)
            self.found.update(excess=len(garbage + surplus), healed=len(garbage + surplus))

    async def _standing_elsewhere(self, strays: Sequence[tuple[Name, IndexEntry]]) -> list[Name]:
        """Those that stand, good, in all three of their places: this copy is one too many."""
        found = []
        for name, entry in strays:
            ring = self.rings[entry.epoch]
            seal = checksum.Seal(entry.crc16, entry.crc32c)
            want = wire.Wanted(name, seal, entry.epoch, entry.start, entry.length)
            check = wire.Check(self.store.state.cluster, (want,))
            homes = placement.slots(entry.start, name.block, len(ring))
            asks = [Ask(Peer(ring[slot]), check) for slot in homes]
            if all(answer == wire.Checked((Held.OK,)) for answer in await call_all(asks)):
                found.append(name)
        return found
