"""Is the metaserver's own store whole?  What isn't comes back from the copies on dataservers.

Each round tells the count and the sum of the checks of all records after it (`chain`), so a store
that lost or damaged one, as LMDB does silently when a bit of its file flips, is found out: by
reading all of it now and then (`prove`), or by the request that meets the damage (`heal`).  Any
copy may have lost a record in the same way, so no single one is believed: the records in question
are read from all of them, and most votes win (`copies.elected`).
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zdfs import addresses, chain, limits, schema, wire
from zdfs.calls import Ask, Condition, Peer, call_all, clock, notify, now, sleep, wait
from zdfs.chain import Head
from zdfs.copied import CopiedStore, Tally, stretch
from zdfs.errors import Damaged, Failure
from zdfs.ids import Slot
from zdfs.ledger import Ledger

log = logging.getLogger("zdfs.meta")

PAGE = 2048  # records read in one go
OF_INODES = b"iexmwo"  # tables whose keys begin with an inode's number
PROVE_EVERY_S = 600.0
AGAIN_S = 30.0  # ... and when it could not be, or not be healed
TRIES = 20  # copies that lag too far behind are asked so often


class Proof:
    """Of one store, against its copies."""

    def __init__(
        self,
        ledger: Ledger,
        store: CopiedStore,
        sources: Callable[[], Sequence[Slot]],
        first: Callable[[], bool],
    ) -> None:
        """`sources`: the dataservers whose copies can be asked now; `first`: there are no copies
        yet, and the first ones are being made."""
        self.ledger, self.store = ledger, store
        self.sources, self.first = sources, first
        self.doubt = Condition()  # a copy does not agree with what we have, or somebody asks
        self.begun = self.ended = 0  # how many proofs; there is never more than one underway
        self.sound = False  # what the newest one found
        self.news = Condition()  # one has ended
        self._bad = b""  # the record that it could not read

    async def heal(self, key: bytes) -> int:
        """A record of ours is damaged, or not what others count on: it and what belongs to its
        inode as the copies have them.  How many records were not so."""
        end = await now() + limits.GIVE_UP_READ_S
        while self.store.copies.needed and not self.sources() and await now() < end:
            await sleep(limits.BEAT_S / 8)  # after a start nobody knows yet whose copy is whole
        wrong = sum([(await self._heal_range(low, high))[0] for low, high in _around(key)])
        if wrong:
            text = f"{schema.describe(key)}: {wrong} records came back from copies"
            await self._say(text)
        return wrong

    async def _say(self, text: str) -> None:
        at_ns = await clock()
        while self.store.sealed:  # between two rounds only can anything be recorded
            await sleep(0.001)
        self.ledger.event(at_ns, "metadata healed", text)

    async def _heal_range(self, low: bytes, high: bytes) -> tuple[int, bool]:
        """All records between two keys: how many were wrong; whether all were looked at."""
        wrong, tries = 0, TRIES
        while low < high and tries:
            tries -= 1
            pages = await self._pages(low, high)
            if not pages:
                break
            end = min(high if page.end else page.following for page in pages)
            told = [_below(page, end) for page in pages if self.store.behind(page.head) is not None]
            since = [self.store.changed_since(changes.head) for changes in told]
            votes = [(one.records, keys) for one, keys in zip(told, since) if keys is not None]
            if not votes:  # all of them lag, or are of a metaserver that was passed over
                await sleep(limits.BEAT_S / 8)
                continue
            more, unsaid = self.store.restore(low, end, votes)
            wrong += more
            if unsaid:  # it had changed just before: copies are about to have heard of that
                await sleep(limits.BEAT_S / 8)
                continue
            low, tries = end, TRIES
        return wrong, low >= high

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
        """See now and then, and when a copy does not agree, that all records are there."""
        patience_s = PROVE_EVERY_S
        while True:
            await wait(self.doubt, patience_s)
            self.begun += 1
            try:
                self.sound = await self._whole()
            except Failure as error:
                self.sound = False
                log.error("this metaserver's store is not whole, and not healed: %s", error)
            patience_s = PROVE_EVERY_S if self.sound else AGAIN_S
            self.ended = self.begun
            notify(self.news)

    async def proven(self, number: int) -> bool:
        """Whether the proof of that number has ended; waits for it no longer than a caller does."""
        if self.ended < number:
            notify(self.doubt)
            await wait(self.news, limits.BEAT_S)
        return self.ended >= number

    async def _whole(self) -> bool:
        """Read all records; what is damaged or missing comes back from the copies.  False: what is
        wrong is not healed, or was not looked at, since copies can't be asked."""
        first = self.first()
        if not self.sources() and not first:
            return False
        if await self._proven():
            return True
        wrong, all_of_it = 0, True
        # One by one first: a copy with a bad record of its own has no say on all around that.
        while not first and self._bad and (await self._heal_range(*_alone(self._bad)))[0]:
            wrong += 1
            if await self._proven():
                break
        else:
            if not first:
                more, all_of_it = await self._heal_range(schema.FIRST, schema.BEYOND)
                wrong += more
        # What was lost and then written again was counted twice.
        if not all_of_it or not await self._proven(rebase=True):
            log.error("this metaserver's store is not whole, and not healed yet: see zdfs fsck")
            return False
        what = "there are no copies to ask" if first else f"{wrong} records came from copies"
        await self._say(f"this metaserver's store was not whole: {what}")
        return True

    async def _proven(self, rebase: bool = False) -> bool:
        """Whether all records are those that the newest round left; `rebase`: they are from now,
        if each of them can be read."""
        tally, self._bad = Tally(), b""
        self.store.checked = tally
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
            self._bad = error.key
            return False
        finally:
            self.store.checked = None
        return rebase

    def records(self, first: bytes) -> tuple[list[chain.Change], bool]:
        """A page of our own from a key on; whether that was all."""
        with self.store.read() as read:
            changes, last = stretch(read, first or schema.FIRST, schema.BEYOND, PAGE)
        return changes, last is None


class _Told(NamedTuple):
    """What a copy said."""

    head: Head
    records: dict[bytes, bytes | None]


def _below(page: wire.CopyPage, end: bytes) -> _Told:
    changes = chain.unpack_changes(b"".join(bytes(one) for one in page.data))
    return _Told(page.head, {key: payload for key, payload in changes if key < end})


def _around(key: bytes) -> list[tuple[bytes, bytes]]:
    """The records that a damaged one may have to do with: all of its inode, or itself."""
    if key[:1] in OF_INODES and len(key) > 8:
        prefixes = [bytes([table]) + key[1:9] for table in OF_INODES]
        return [(prefix, schema.after(prefix)) for prefix in prefixes]
    return [_alone(key)] if key else []


def _alone(key: bytes) -> tuple[bytes, bytes]:
    return key, key + b"\0"
