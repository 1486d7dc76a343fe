"""What a dataserver does for its store: letting go, checkpoints, compaction, a look at the room."""

import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from zdfs import blockmap, limits, wire
from zdfs.calls import Condition, Trap, call, notify, now, sleep, wait
from zdfs.errors import Failure, NoSpace, Unavailable
from zdfs.healing import Healer
from zdfs.ids import Name, Round

log = logging.getLogger("zdfs.data")

ROOM_S = 4.0  # a write waits here for room so long; then it is sent again
SHORT_S = 0.03  # while somebody waits for room, it is made so often
HOPE_S = 1.5  # so long after what was overwritten, the metaserver has let go of it
SAID_S = 60.0  # an event of it so often
ROOM_AGAIN = 100  # a full disk has room again once a hundredth of it is free: else it would flutter


class Upkeep:
    """The store's housekeeping."""

    def __init__(self, healer: Healer):
        self.healer, self.store = healer, healer.store
        self.full = False  # as was last said
        self.scarce_since: float | None = None  # since when writes find no room
        self._said_scarce = float("-inf")
        self.short = Condition()  # somebody waits for room
        self.won = Condition()  # there may be more
        self._waiting = 0
        self._dropped_at = float("-inf")  # when the metaserver last let go of something here

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [("drops", self.take_drops()), ("upkeep", self.upkeep())]

    async def take_drops(self) -> None:
        """Let go of what the metaserver's queue names."""
        while True:
            state = self.store.state
            if self.healer.drops_ready <= state.dropped or not state.cluster:
                await wait(self.healer.work, limits.BEAT_S)
                continue
            try:
                drops = await call(
                    self.healer.meta, wire.TakeDrops(self.healer.slot, state.uuid, state.dropped)
                )
            except Failure as error:
                log.info("drops: %s", error)
                await sleep(limits.RETRY_S)
                continue
            for item in drops.items:
                self.store.drop(_names(item))
                self._dropped_at = self.healer.heard_at
            if drops.items:
                await self._durably(self.store.round)
            elif drops.through <= state.dropped:
                await sleep(limits.BEAT_S)
                continue
            # Also past what was queued before this store was here: it never had it.
            self.store.set_state(replace(self.store.state, dropped=drops.through))

    async def _durably(self, round_: Round) -> None:
        """Until drops made in this round can't come back: only then may they be acknowledged."""
        self.store.promise(round_)
        while self.store.checkpointed < round_:
            await sleep(0.02)
            if self.store.synced >= round_:
                self.store.checkpoint()

    async def upkeep(self) -> None:
        """Commit the index behind the log; win back dead segments."""
        while True:
            if self._waiting:  # who still has no room must not wake us at once, or nobody else runs
                await sleep(SHORT_S)
            else:
                await wait(self.short, limits.CHECKPOINT_S)
            self._checkpoint()
            done = await now()
            while self.store.compact(limits.BATCH_BYTES):
                await sleep(0.01)
                at = await now()
                if at - done >= (SHORT_S if self._waiting else limits.CHECKPOINT_S):
                    self._checkpoint()
                    done = at

    def _checkpoint(self) -> None:
        if self._waiting:  # also for the sync that lets go of what was emptied
            self.store.promise(self.store.round)
        self.store.checkpoint()
        self._tell_room()
        notify(self.won)

    async def room_for(self, needed: int) -> None:
        """Return when so many bytes may be stored.  What is overwritten stays for readers, then in
        its segment, until that is emptied: as long as any of it is coming back, a write waits.
        NoSpace: none is.  Unavailable: it takes longer than its sender has patience."""
        began: float | None = None
        while needed > self.store.space().free_bytes:
            at = await now()
            began = at if began is None else began
            if self.scarce_since is not None and not self._hopeful(self.scarce_since):
                self._tell_full()
                raise NoSpace(f"{self.healer.here} is full", (self.healer.slot,))
            if at - began > ROOM_S:
                raise Unavailable("is clearing away what was overwritten: its disk is nearly full")
            self._waiting += 1
            self._tell_short(at)
            notify(self.short)
            try:
                await wait(self.won, limits.CHECKPOINT_S)
            finally:
                self._waiting -= 1

    def _hopeful(self, since: float) -> bool:
        """Whether there will be more room than now.  What was overwritten in the last moments is
        the metaserver's to let go of: only its word, of a time when it would have, ends hope."""
        underway = self.healer.drops_ready > self.store.state.dropped
        told = self.healer.heard_at >= max(since, self._dropped_at) + HOPE_S
        return underway or self.store.winnable() or not told

    def _tell_short(self, at: float) -> None:
        """An event when writes begin to wait for room."""
        if self.scarce_since is None:
            self.scarce_since = at
        if at - self._said_scarce >= SAID_S:
            self._said_scarce = at
            text = "the disk is nearly full: writes wait until what was overwritten is cleared away"
            self.healer.say("scarce", text)

    def _tell_full(self) -> None:
        """An event when the first write is refused."""
        if not self.full:
            self.full = True
            self.healer.say("full", "the disk is full: what would grow is refused; deleting helps")

    def _tell_room(self) -> None:
        """An event when a disk that was full has room again."""
        space = self.store.space()
        if not space.free_bytes or space.free_bytes * ROOM_AGAIN < space.total_bytes:
            return
        self.scarce_since = None
        if self.full:
            self.full = False
            self.healer.say("room", f"the disk has room again: {space.free_bytes} bytes")


def _names(item: wire.DropItem) -> list[Name]:
    return [Name(item.ino, d.block, d.version) for d in blockmap.unpack_dropped(item.versions)]


assert ROOM_S < limits.BULK_TIMEOUT_S and limits.KEEP_SUPERSEDED_S < HOPE_S
