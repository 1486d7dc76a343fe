"""Is the metaserver's own store whole?  What isn't comes back from the copies on dataservers.

Each round tells the count and the sum of the checks of all records after it (`chain`), so a store
that lost or damaged one, as LMDB does silently when a bit of its file flips, is found out: by
reading all of it now and then (`prove`), or by the request that meets the damage (`heal`).  Any
copy may have lost a record in the same way, so no single one is believed: the records in question
are read from all of them, and most votes win (`copies.elected`).
"""

import logging
from collections.abc import Callable, Sequence

from zdfs import addresses, chain, limits, schema, wire
from zdfs.calls import Ask, Condition, Peer, call_all, clock, sleep, wait
from zdfs.copied import CopiedStore, Tally
from zdfs.errors import Damaged, Failure
from zdfs.ids import Slot
from zdfs.ledger import Ledger

log = logging.getLogger("zdfs.meta")

PAGE = 2048  # records read in one go
OF_INODES = b"iexmwo"  # tables whose keys begin with an inode's number
PROVE_EVERY_S = 600.0
TRIES = 20  # copies that lag behind what changes all the time are asked so often


class Proof:
    """Of one store, against its copies."""

    def __init__(
        self, ledger: Ledger, store: CopiedStore, sources: Callable[[], Sequence[Slot]]
    ) -> None:
        """`sources`: the dataservers whose copies can be asked now."""
        self.ledger, self.store, self.sources = ledger, store, sources
        self.doubt = Condition()  # a copy does not agree with what we have

    async def heal(self, key: bytes) -> int:
        """A record of ours is damaged, or not what others count on: it and what belongs to its
        inode as the copies have them.  How many records were not so."""
        wrong = sum([await self._heal_range(low, high) for low, high in _around(key)])
        if wrong:
            text = f"{schema.describe(key)}: {wrong} records came back from copies"
            self.ledger.event(await clock(), "metadata healed", text)
        return wrong

    async def _heal_range(self, low: bytes, high: bytes) -> int:
        """All records between two keys."""
        wrong, tries = 0, TRIES
        while low < high and tries:
            tries -= 1
            pages = await self._pages(low, high)
            if not pages:
                break
            end = min(high if page.end else page.following for page in pages)
            # A copy that lags behind what was changed here since then has no vote.
            able = [page for page in pages if not self.store.touched(low, end, page.head.round)]
            if not able:
                continue
            told = [chain.unpack_changes(b"".join(bytes(one) for one in p.data)) for p in able]
            below = [[change for change in changes if change[0] < end] for changes in told]
            wrong += self.store.restore(low, end, below)
            low, tries = end, TRIES
        return wrong

    async def _pages(self, low: bytes, high: bytes) -> list[wire.CopyPage]:
        """What each copy that answers has from one key on, up to another."""
        slots = self.sources()
        request = wire.ReadCopy(self.store.cluster, low, high)
        asks = [Ask(Peer(self.ledger.ring[slot]), request) for slot in slots]
        pages: list[wire.CopyPage] = []
        for slot, answer in zip(slots, await call_all(asks), strict=True):
            if isinstance(answer, Failure):
                shown = addresses.short(self.ledger.ring[slot])
                log.warning("the copy of the metadata on %s: %s", shown, answer)
            else:
                assert isinstance(answer, wire.CopyPage)
                pages.append(answer)
        return pages

    async def prove(self) -> None:
        """Read all records now and then, and when a copy does not agree: none is damaged, and none
        is missing."""
        while True:
            await wait(self.doubt, PROVE_EVERY_S)
            if not self.sources() or await self._proven():
                continue
            try:
                wrong = await self._heal_range(schema.FIRST, schema.BEYOND)
            except Failure as error:
                log.error("this metaserver's store is not whole, and not healed: %s", error)
                continue
            # What was lost and then written again was counted twice.
            await self._proven(rebase=True)
            text = f"this metaserver's store was not whole: {wrong} records came from copies"
            self.ledger.event(await clock(), "metadata healed", text)

    async def _proven(self, rebase: bool = False) -> bool:
        """Whether all records are those that the newest round left; `rebase`: they are from now."""
        tally = self.store.checked = Tally()
        try:
            while tally.cursor < schema.BEYOND:
                await wait(self.store.news, limits.BEAT_S)
                if self.store.between_rounds:
                    changes, end = self.records(tally.cursor)
                    tally.page(changes, schema.BEYOND if end else changes[-1][0] + b"\0")
            if tally.proves(self.store.head):
                return True
            while rebase and (self.store.sealed or not self.store.between_rounds):
                await sleep(0.001)
            if rebase:
                self.store.rebase(tally)
        except Damaged as error:
            log.error("%s", error)
            return False
        finally:
            self.store.checked = None
        return False

    def records(self, first: bytes) -> tuple[list[chain.Change], bool]:
        """A page of our own from a key on; whether that was all."""
        changes: list[chain.Change] = []
        size = 0
        with self.store.read() as read:
            for key, payload in read.scan(first or schema.FIRST, schema.BEYOND):
                changes.append((key, payload))
                size += len(key) + len(payload)
                if size > limits.FRAME_BYTES // 2 or len(changes) == PAGE:
                    return changes, False
        return changes, True


def _around(key: bytes) -> list[tuple[bytes, bytes]]:
    """The records that a damaged one may have to do with: all of its inode, or itself."""
    if key[:1] in OF_INODES and len(key) > 8:
        prefixes = [bytes([table]) + key[1:9] for table in OF_INODES]
        return [(prefix, schema.after(prefix)) for prefix in prefixes]
    return [(key, key + b"\0")] if key else []
