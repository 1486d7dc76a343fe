"""How a dataserver heals itself: reconcile after each start, repairs, drops, scrub, upkeep.

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
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from zdfs import addresses, blockmap, checksum, limits, recovery, wire
from zdfs.calls import Ask, Condition, Peer, Trap, call, call_all, notify, now, sleep, wait
from zdfs.errors import Damaged, Failure, NoSpace
from zdfs.ids import Epoch, Ino, Name, Round, Slot
from zdfs.ports import BlockStore
from zdfs.schema import IndexEntry
from zdfs.wire import Held, State

log = logging.getLogger("zdfs.data")

INDEX_PAGE = 1024  # names looked at in one go
REPAIRS = 32  # blocks repaired in one go
COPIES = 4 * limits.BLOCKS  # blocks fetched at once; small ones would be too many by bytes alone
SCRUB_PAUSE_S = 10.0  # between two passes


class Healer:
    """What a dataserver knows of its own completeness, and the tasks that restore it."""

    def __init__(
        self, store: BlockStore, slot: Slot, ring: tuple[str, ...], meta: Peer, scrub_rate: int
    ):
        self.store, self.slot, self.meta = store, slot, meta
        self.ring, self.scrub_rate = ring, scrub_rate
        self.rings: dict[Epoch, tuple[str, ...]] = {}
        self.state = State.JOINING
        self.reconcile_wanted = 0
        self.recheck = False  # look again whether all is here
        self.held_up = False  # a source was silent or the disk full: what is missing isn't lost
        self.lost = 0  # blocks that nobody has
        self.drops_ready = 0
        self.progress: recovery.Progress | None = None
        self.sick = recovery.Sick()
        self.index_damaged = False
        self.events: collections.deque[wire.Event] = collections.deque(maxlen=256)
        self.wake = Condition()  # report now
        self.work = Condition()  # sick blocks, a reconcile or drops are there

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [
            ("reconcile", self.reconcile()),
            ("repair", self.repair()),
            ("drops", self.take_drops()),
            ("scrub", self.scrub()),
            ("upkeep", self.upkeep()),
        ]

    # --- what we have --------------------------------------------------------------------------

    def find(self, name: Name) -> IndexEntry | None:
        """As store.find, but an index that can't say counts as "not here": storing is safe."""
        try:
            return self.store.find(name)
        except Damaged as error:
            self._index_failed(error)
            return None

    def held(self, want: wire.Wanted) -> tuple[Held, checksum.Buffer]:
        """What we have of a version, and its bytes if they are the right ones."""
        try:
            found = self.store.read(want.name)
        except Damaged as error:
            if self._index_is_to_blame(want.name):
                self._index_failed(error)
            return Held.DAMAGED, b""
        if found is None:
            return (Held.MISSING if self.state is State.SERVING else Held.NOT_YET), b""
        entry, data = found
        if (entry.crc16, entry.crc32c) != tuple(want.seal):
            return Held.DAMAGED, b""
        return Held.OK, data

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

    def count(self, damaged: int = 0, repaired: int = 0) -> None:
        """Found and repaired damage, kept in the store's state."""
        state = self.store.state
        self.store.set_state(
            replace(state, damaged=state.damaged + damaged, repaired=state.repaired + repaired)
        )

    def _index_failed(self, error: Damaged) -> None:
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

    def _must_look(self) -> bool:
        if self.reconcile_wanted > self.store.state.reconciled:
            return True
        return self.recheck and self.state is not State.JOINING

    async def _reconcile_once(self) -> int:
        """Fetch what is missing; how much of it nobody has."""
        before = -1
        while True:
            total = await self._survey()
            if total == 0:
                if self.progress:
                    self.say("rebuilt", f"whole again: {self.progress.done} blocks came back")
                return 0
            if total == before:
                if not self.held_up:
                    if total != self.lost:
                        self.say("lost", f"{total} blocks are on no other server either")
                    return total
                await sleep(limits.DOWN_S)
            before = total
            self._begin_pass(total, await now())
            await self._fetch_missing()

    def _begin_pass(self, total: int, at: float) -> None:
        self.held_up = False
        if self.progress is None:
            self.progress = recovery.Progress(total, at)
            if total != self.lost:  # else very likely those that nobody had before
                self.state = State.RECOVERING
                log.warning("rebuilding %d blocks from the neighbours", total)
            notify(self.wake)
        self.progress.total = self.progress.done + total

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
            if entry is None or (entry.crc16, entry.crc32c) != tuple(want.seal):
                missing.append(want)
        return missing

    async def _survey(self) -> int:
        """Count what is missing."""
        cursor, total = (0, -1), 0
        while True:
            stock = await self._pages(cursor)
            for page in stock.pages:
                total += len(self._missing(page))
            if stock.end:
                return total
            cursor = (stock.ino, stock.page)

    async def _fetch_missing(self) -> None:
        cursor, logged = (0, -1), 0.0
        wanted: list[wire.Wanted] = []
        while True:
            stock = await self._pages(cursor)
            for page in stock.pages:
                wanted += self._missing(page)
                size = sum(want.length for want in wanted)
                if size >= limits.REBUILD_FLIGHT_BYTES // 2 or len(wanted) >= COPIES:
                    await self._copy(wanted)
                    wanted = []
                if self.progress and await now() - logged > 5.0:
                    logged = await now()
                    log.info("rebuild: %d of %d blocks", self.progress.done, self.progress.total)
            if stock.end:
                await self._copy(wanted)
                return
            cursor = (stock.ino, stock.page)

    async def _copy(self, wanted: list[wire.Wanted]) -> None:
        """Fetch versions from the other replicas and store them."""
        assert self.progress is not None
        cured = await self._fetch(wanted)
        self.progress.done += len(cured)
        self.progress.done_bytes += sum(want.length for want in cured)
        if len(cured) < len(wanted) and self.store.space().free_bytes <= 0:
            log.warning("the rebuild waits: this disk is full")
            await sleep(limits.RETRY_S)

    async def _fetch(self, wanted: list[wire.Wanted]) -> list[wire.Wanted]:
        """Those that came back and were stored."""
        cured: list[wire.Wanted] = []
        left = wanted
        for attempt in range(limits.REPLICAS - 1):
            asks, parts = [], []
            by_epoch: dict[Epoch, list[wire.Wanted]] = {}
            for want in left:
                by_epoch.setdefault(want.epoch, []).append(want)
            for epoch, group in by_epoch.items():
                ring = self.rings[epoch]
                for slot, some in recovery.batches(group, self.slot, len(ring), attempt).items():
                    for chunk in recovery.chunks(some):
                        # Without repair: two servers that miss a block would ask for ever.
                        get = wire.Get(self.store.state.cluster, tuple(chunk), False)
                        asks.append(Ask(Peer(ring[slot]), get, limits.BULK_TIMEOUT_S))
                        parts.append(chunk)
            left = []
            for chunk, answer in zip(parts, await call_all(asks)):
                good, bad = self._stored(chunk, answer)
                cured += good
                left += bad
        return cured

    def _stored(
        self, chunk: list[wire.Wanted], answer: wire.Message | Failure
    ) -> tuple[list[wire.Wanted], list[wire.Wanted]]:
        """Store the genuine ones of an answer; the others are to be asked for elsewhere."""
        if not isinstance(answer, wire.Got) or not (
            len(answer.held) == len(answer.data) == len(chunk)
        ):
            self.held_up = True
            return [], chunk
        good, bad = [], []
        for want, held, data in zip(chunk, answer.held, answer.data):
            if held is not Held.OK or not recovery.genuine(want, data):
                bad.append(want)
                continue
            try:
                self.store.append(want.name, want.seal, want.epoch, want.start, data)
            except NoSpace:
                self.held_up = True
                bad.append(want)
                continue
            good.append(want)
        return good, bad

    # --- repair, drops, garbage, scrub, upkeep -------------------------------------------------

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
            cured = await self._fetch(ill)
            for want in wanted:
                self.sick.cured(want)
            for want in cured:
                self.say("repaired", f"block {want.name.block} of inode {want.name.ino}")
            if cured:
                self.count(repaired=len(cured))
            if len(cured) < len(ill):
                log.error("%d damaged blocks have no good copy yet", len(ill) - len(cured))
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

    async def take_drops(self) -> None:
        """Let go of what the metaserver's queue names."""
        while True:
            state = self.store.state
            if self.drops_ready <= state.dropped or not state.cluster:
                await wait(self.work, limits.BEAT_S)
                continue
            try:
                drops = await call(self.meta, wire.TakeDrops(self.slot, state.uuid, state.dropped))
            except Failure as error:
                log.info("drops: %s", error)
                await sleep(limits.RETRY_S)
                continue
            for item in drops.items:
                self.store.drop(_names(item))
            if not drops.items:
                await sleep(limits.BEAT_S)
                continue
            await self._durably(self.store.round)
            dropped = drops.items[-1].number
            self.store.set_state(replace(self.store.state, dropped=dropped))

    async def _durably(self, round_: Round) -> None:
        """Until drops made in this round can't come back: only then may they be acknowledged."""
        while self.store.checkpointed < round_:
            await sleep(0.02)
            if self.store.synced >= round_:
                self.store.checkpoint()

    async def _sweep(self) -> None:
        """Drop versions that no map names and no writer may still commit."""
        last: Name | None = None
        while True:
            try:
                some = self.store.scan(last, INDEX_PAGE)
            except Damaged as error:
                self._index_failed(error)
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
                self.store.drop(garbage)

    async def scrub(self) -> None:
        """Read and verify everything, again and again, at a set rate."""
        while True:
            await sleep(limits.BEAT_S)
            if self.state is not State.SERVING:
                continue
            last: Name | None = None
            while True:
                try:
                    some = self.store.scan(last, REPAIRS)
                except Damaged as error:
                    self._index_failed(error)
                    break
                if not some:
                    break
                size = 0
                for name, entry in some:
                    size += entry.length
                    seal = checksum.Seal(entry.crc16, entry.crc32c)
                    want = wire.Wanted(name, seal, entry.epoch, entry.start, entry.length)
                    state, _ = self.held(want)
                    if state is Held.DAMAGED:
                        self.mend(want, state)
                last = some[-1][0]
                await sleep(size / self.scrub_rate + 0.001)
            self.recheck = True
            notify(self.work)
            await sleep(SCRUB_PAUSE_S)

    async def upkeep(self) -> None:
        """Commit the index behind the log; win back dead segments."""
        while True:
            await sleep(limits.CHECKPOINT_S)
            self.store.checkpoint()
            while self.store.compact(limits.BATCH_BYTES):
                await sleep(0.01)


def _names(item: wire.DropItem) -> list[Name]:
    return [Name(item.ino, d.block, d.version) for d in blockmap.unpack_dropped(item.versions)]
