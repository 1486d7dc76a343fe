"""How a dataserver collects what it is owed: versions that commits went without (policy quorum).

    told: "you are owed so many" --> ask which --> here already? else copied from the others
                                                             |
                             settled <-- said so <-- all of them synced

It works beside everything else, also when this server never was down and just was not reached.
While a rebuild runs, that brings the versions, by its exact totals; what it brought is settled.
A debt ends by the metaserver's transaction alone, so all of this may be repeated at any point.
"""

import logging

from zdfs import limits, recovery, wire
from zdfs.calls import Condition, call, notify, sleep, wait
from zdfs.errors import Failure
from zdfs.healing import Healer
from zdfs.ids import BlockNo, Ino, Round
from zdfs.wire import State, Wanted

log = logging.getLogger("zdfs.data")


class Collector:
    """Beside the healer of one dataserver."""

    def __init__(self, healer: Healer):
        self.healer = healer
        self.owed = 0  # as last heard
        self._news = Condition()

    def told(self, owed: int) -> None:
        """How many replicas this server is owed, by the metaserver's word."""
        self.owed = owed
        if owed:
            notify(self._news)

    async def collect(self) -> None:
        """The task: endless."""
        while True:
            if not self.owed or self.healer.state is State.JOINING:
                await wait(self._news, limits.BEAT_S)
                continue
            settled = 0
            try:
                settled = await self._pass()
            except Failure as error:
                log.info("what is owed here is collected later: %s", error)
            if settled:
                self.owed = max(0, self.owed - settled)
            else:
                await sleep(limits.RETRY_S)

    async def _pass(self) -> int:
        """All that is owed here, page by page: how much of it is settled."""
        ino, block, settled = Ino(0), BlockNo(0), 0
        while True:
            page = await call(self.healer.meta, wire.ListDebts(self.healer.slot, ino, block))
            wanted = [owed.want for owed in page.items if owed.want.epoch in self.healer.rings]
            for chunk in recovery.chunks(wanted):
                settled += await self._some(chunk)
            if page.end:
                return settled
            ino, block = page.ino, page.block

    async def _some(self, wanted: list[Wanted]) -> int:
        """A batch: copied if need be, synced, settled."""
        here = [want for want in wanted if self._has(want)]
        if len(here) < len(wanted) and self.healer.state is State.SERVING:
            here += await self.healer.fetch([want for want in wanted if not self._has(want)])
        if not here:
            return 0
        store = self.healer.store
        # The round that is underway has what was just stored; without one all is in those before.
        needed = Round(store.round - (not store.dirty))
        ack = wire.Ack(
            self.healer.slot, store.state.uuid, store.state.life, store.boot, store.round
        )
        store.promise(needed)
        while store.synced < needed:
            await sleep(0.01)
        await call(self.healer.meta, wire.Settle(ack, tuple(want.name for want in here)))
        log.info("collected %d blocks that were owed here", len(here))
        return len(here)

    def _has(self, want: Wanted) -> bool:
        """Whether the very version is here."""
        entry = self.healer.find(want.name)
        return entry is not None and (entry.crc16, entry.crc32c) == tuple(want.seal)
