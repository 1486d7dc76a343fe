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
from zdfs.ports import Press, Space

log = logging.getLogger("zdfs.data")

ROOM_S = 4.0  # a write waits here for room so long; then it is sent again
HELD_BYTES = 64 * limits.MIB  # of writes that wait here: the others are sent away
SHORT_S = 0.03  # while somebody waits for room, it is made so often
STEP_S = 0.01  # between two steps of compaction others have their turn
DROPS_S = limits.BEAT_S / 4  # a store that fills up asks so often what was let go of ...
PRESSED_PARTS = 32  # ... once what came since it last asked is such a part of what is free
HOPE_S = 1.2  # so long after what was overwritten, the metaserver has let go of it
SAID_S = 60.0  # an event of it so often
ROOM_AGAIN = 100  # a full disk has room again once a hundredth of it is free: else it would flutter


class Upkeep:
    """The store's housekeeping."""

    def __init__(self, healer: Healer):
        self.healer, self.store = healer, healer.store
        self.full = False  # as was last said
        self._said_scarce = float("-inf")
        self.short = Condition()  # somebody waits for room
        self.won = Condition()  # there may be more
        self._waiting = 0
        self._moved_at = float("-inf")  # when something came, or was let go of that was here
        self._held = 0  # bytes of those that wait
        self._came = 0  # bytes that were to be stored since drops were last asked for ...
        self._asked_at = float("-inf")  # ... then
        self.room = 0  # what they may take, as of the last checkpoint
        self.winnable = True  # whether there will be more

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [("drops", self.take_drops()), ("upkeep", self.upkeep())]

    async def take_drops(self) -> None:
        """Let go of what the metaserver's queue names."""
        while True:
            state, asked = self.store.state, await now()
            told = self.healer.drops_ready > state.dropped
            if not state.cluster or not (told or self._pressed(asked)):
                busy = self.healer.busy(asked)
                await wait(self.healer.work, DROPS_S if busy else limits.BEAT_S)
                continue
            self._came, self._asked_at = 0, asked
            try:
                drops = await call(
                    self.healer.meta, wire.TakeDrops(self.healer.slot, state.uuid, state.dropped)
                )
            except Failure as error:
                log.info("drops: %s", error)
                await sleep(limits.RETRY_S)
                continue
            for item in drops.items:
                names = _names(item)
                if any(self.healer.find(name) for name in names):
                    heard_at = self.healer.heard_at if told else asked
                    self._moved_at = max(self._moved_at, heard_at)
                self.store.drop(names)
            if drops.items:
                await self._durably(self.store.round)
            elif drops.through <= state.dropped:
                await sleep(limits.BEAT_S if told else DROPS_S)
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
            # Who still has no room must not wake us at once, or nobody else runs.
            if self._waiting or self.store.emptied() is not None:
                await sleep(SHORT_S)
            else:
                await wait(self.short, limits.CHECKPOINT_S)
            self._checkpoint()
            at = done = await now()
            while self.store.compact(limits.BATCH_BYTES, self._press(at)):
                await sleep(STEP_S)
                at = await now()
                rest_s = SHORT_S if self._waiting or self._ripe() else limits.CHECKPOINT_S
                if at - done >= rest_s:
                    self._checkpoint()
                    done = at

    def _press(self, at: float) -> Press:
        """Who waits is not helped by more than the room that is about to be there."""
        if self._waiting and self.store.emptied() is None:
            return Press.SHORT
        return Press.BUSY if self._waiting or self.healer.busy(at) else Press.IDLE

    def _pressed(self, at: float) -> bool:
        """Whether what the metaserver lets go of is wanted before it is told: while that stays, it
        is moved as if it were of use.  Only as much of it as a store has to write to is worth the
        metaserver's time."""
        if not self._came or at - self._asked_at < DROPS_S:
            return False
        return self._came * PRESSED_PARTS >= self.store.space().free_bytes

    def _ripe(self) -> bool:
        """Whether a checkpoint deletes a segment.  What was copied out of it is synced for that
        alone, if nobody else waits for it."""
        round_ = self.store.emptied()
        if round_ is None:
            return False
        self.store.promise(round_)
        return self.store.synced >= round_

    def _checkpoint(self) -> None:
        if self._waiting:  # also for the sync that lets go of what was emptied
            self.store.promise(self.store.round)
        self.store.checkpoint()
        space = self.store.space()
        self._tell_room(space)
        if self._waiting:
            self.room, self.winnable = space.free_bytes, self.store.winnable()
            notify(self.won)

    async def room_for(self, needed: int, refused: bool = False) -> None:
        """Return when so many bytes may be stored; `refused`: that was said, and was not so.

        What is overwritten stays for readers, then in its segment, until that is emptied: as long
        as any of it is coming back, a write waits.  NoSpace: none is.  Unavailable: it takes longer
        than its sender has patience, or there is no memory to wait in.
        """
        self._came += needed
        if not refused and needed <= self.store.space().free_bytes:
            self._moved_at = self.healer.used_at
            return
        if self._waiting and self._held + needed > HELD_BYTES:
            raise Unavailable("others wait for room here already: its disk is nearly full")
        began = await now()
        self._waiting, self._held = self._waiting + 1, self._held + needed
        try:
            self._tell_short(began)
            notify(self.short)
            await self._room_since(began, needed)
        finally:
            self._waiting, self._held = self._waiting - 1, self._held - needed

    async def _room_since(self, began: float, needed: int) -> None:
        """What was overwritten in the last moments is the metaserver's to let go of: only its word,
        of a time when it would have, and what it let go of until then, end hope; and only after a
        while in which nothing moved here: what was stored may be committed, and then frees more."""
        told: int | None = None
        while await now() - began < ROOM_S:
            if not await wait(self.won, limits.CHECKPOINT_S):
                continue
            if needed <= self.room and needed <= self.store.space().free_bytes:
                self.room -= needed
                self._moved_at = await now()
                return
            if self.healer.heard_at < max(began, self._moved_at) + HOPE_S:
                told = None
                continue
            told = self.healer.drops_ready if told is None else told
            if not self.winnable and self.store.state.dropped >= told:
                self._tell_full()
                raise NoSpace(f"{self.healer.here} is full", (self.healer.slot,))
        raise Unavailable("is clearing away what was overwritten: its disk is nearly full")

    def _tell_short(self, at: float) -> None:
        """An event when writes begin to wait for room."""
        if at - self._said_scarce >= SAID_S:
            self._said_scarce = at
            text = "the disk is nearly full: writes wait until what was overwritten is cleared away"
            self.healer.say("scarce", text)

    def _tell_full(self) -> None:
        """An event when the first write is refused."""
        if not self.full:
            self.full = True
            self.healer.say("full", "the disk is full: what would grow is refused; deleting helps")

    def _tell_room(self, space: Space) -> None:
        """An event when a disk that was full has room again."""
        enough = space.free_bytes > 0 and space.free_bytes * ROOM_AGAIN >= space.total_bytes
        if self.full and enough:
            self.full = False
            self.healer.say("room", f"the disk has room again: {space.free_bytes} bytes")


def _names(item: wire.DropItem) -> list[Name]:
    return [Name(item.ino, d.block, d.version) for d in blockmap.unpack_dropped(item.versions)]


assert ROOM_S < limits.BULK_TIMEOUT_S and limits.KEEP_SUPERSEDED_S < HOPE_S
