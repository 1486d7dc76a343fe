"""What a dataserver does for its store: letting go, checkpoints, compaction, a look at the room."""

import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from zdfs import blockmap, limits, wire
from zdfs.calls import Trap, call, sleep, wait
from zdfs.errors import Failure
from zdfs.healing import Healer
from zdfs.ids import Name, Round

log = logging.getLogger("zdfs.data")

ROOM_AGAIN = 100  # a full disk has room again once a hundredth of it is free: else it would flutter


class Upkeep:
    """The store's housekeeping."""

    def __init__(self, healer: Healer):
        self.healer, self.store = healer, healer.store
        self.full = False  # as was last said

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
            await sleep(limits.CHECKPOINT_S)
            self.store.checkpoint()
            self._tell_room()
            while self.store.compact(limits.BATCH_BYTES):
                await sleep(0.01)

    def _tell_room(self) -> None:
        """An event when the disk is full, and when it has room again."""
        space = self.store.space()
        if not self.full and space.free_bytes <= 0:
            self.full = True
            self.healer.say("full", "the disk is full: what would grow is refused; deleting helps")
        elif self.full and space.free_bytes * ROOM_AGAIN >= space.total_bytes:
            self.full = False
            self.healer.say("room", f"the disk has room again: {space.free_bytes} bytes")


def _names(item: wire.DropItem) -> list[Name]:
    return [Name(item.ino, d.block, d.version) for d in blockmap.unpack_dropped(item.versions)]
