"""What readers say is bad here, where this server can't see that for itself.

A reader quotes what its map says of a version.  If what stands here is that, and fails its own
seal, that is damage, whoever says so.  Else (nothing stands here, or something sound of another
seal) either this server is wrong or the reader is: by an old map, by damage of its own, or because
somebody wants repairs and alarms.  Then only the metaserver's map is believed: it is asked what
stands here, and by its word a block is bad, or nothing happens.
"""

import logging
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

from zdfs import checksum, limits, recovery, wire
from zdfs.calls import Condition, Trap, call, notify, sleep, wait
from zdfs.errors import Failure
from zdfs.healing import Healer
from zdfs.ids import Ino, Name
from zdfs.wire import Held

log = logging.getLogger("zdfs.data")

DOUBTS = 32  # looked at in one go
REST_S = 0.1  # ... and then the metaserver is left alone: readers may say what they like


class Doubts:
    """The dataserver's."""

    def __init__(self, healer: Healer):
        self.healer = healer
        self.waiting = recovery.Sick()
        self._work = Condition()

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [("doubts", self.look())]

    def told(self, want: wire.Wanted, held: Held) -> None:
        """A reader wanted this, and this is what we have of it (not OK)."""
        if held is Held.DAMAGED and self._ours(want):
            self.healer.mend(want, held)
        elif held is not Held.NOT_YET and self.waiting.add(want):
            notify(self._work)

    def _ours(self, want: wire.Wanted) -> bool:
        """Whether the reader wants what stands here: then it is the bytes that are bad."""
        entry = self.healer.find(want.name)
        if entry is None:
            return False
        seal = checksum.Seal(entry.crc16, entry.crc32c)
        return want == wire.Wanted(want.name, seal, entry.epoch, entry.start, entry.length)

    async def look(self) -> None:
        """Ask the metaserver about what readers say."""
        while True:
            some = self.waiting.take(DOUBTS)
            if not some:
                await wait(self._work, limits.BEAT_S)
                continue
            pages: defaultdict[tuple[Ino, int], set[Name]] = defaultdict(set)
            for want in some:
                pages[want.name.ino, want.name.block // limits.PAGE_BLOCKS].add(want.name)
            try:
                for (ino, page), names in pages.items():
                    await self._look(ino, page, names)
            except Failure as error:
                log.info("what readers say is looked at again later: %s", error)
                self.waiting.again(some)
                await sleep(limits.RETRY_S)
                continue
            for want in some:
                self.waiting.cured(want)
            await sleep(REST_S)

    async def _look(self, ino: Ino, page: int, names: set[Name]) -> None:
        """Have repaired what the map says of these and is not so."""
        asked = wire.Inventory(self.healer.slot, ino, page - 1, 1)
        stock = await call(self.healer.meta, asked, limits.BULK_TIMEOUT_S)
        for found in stock.pages:
            ring = self.healer.rings.get(found.epoch)
            if ring is None or (found.ino, found.page) != (ino, page):
                continue
            for want in recovery.duty(found, self.healer.slot, len(ring)):
                if want.name in names:
                    held, _ = self.healer.held(want)
                    if held is not Held.OK:
                        self.healer.mend(want, held)
