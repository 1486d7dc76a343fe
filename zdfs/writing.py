"""How a mount writes: dirty blocks, flights, commits (DESIGN 6).

    write() -> dirty blocks -> flight: seal, put on all replicas -> commit, in the order of flights

A flight's blocks are whole and never change again; a later write to one of them starts from a copy.
Flights are put in parallel and committed in order, one commit at a time per file, several stored
flights in one commit.  While a server of the ring is down, writes wait for it and flights are put
again each second: puts are idempotent by name, a commit is applied exactly once.  Under policy
quorum they go without a server that is down, as long as two others have each block; the commit says
so, and the metaserver records whom it owes what (`debts`).

A failure that is an answer (no space, fenced) drops everything unflushed of that file, leaves its
committed content whole, and is raised at the next write, fsync or close, once for each handle.
"""

import logging
from collections.abc import Iterable
from errno import EFBIG, ESTALE

from zdfs import blockmap, checksum, limits, wire
from zdfs.blockmap import Dropped, MapEntry
from zdfs.cache import Dirty, File, Flight, Told, version_of
from zdfs.calls import Condition, clock, notify, now, sleep, spawn, wait
from zdfs.checksum import Buffer
from zdfs.contact import Contact
from zdfs.errors import Failure, Fenced, Interrupted, NoSession, NoSpace, Posix, PutAgain
from zdfs.ids import BlockNo, Name, Slot, Token
from zdfs.putting import Putter
from zdfs.reading import Reader

log = logging.getLogger("zdfs.mount")

FLIGHTS = 6  # underway at once, per mount
COMMIT_BLOCKS = 2048  # in one commit
DROPPED = limits.LIST_ITEMS // 4  # versions that one commit lets go of


def _nobody(found: wire.Attributes, asked: float) -> None:
    """Nobody remembers them."""


class Writer:
    """Everything between write() and the map."""

    def __init__(self, contact: Contact, reader: Reader):
        self.contact, self.reader, self.putter = contact, reader, Putter(contact)
        self.files: dict[int, File] = {}  # with something dirty
        self.dirty_bytes = 0
        self.flying = 0
        self.sequence = 0  # of the newest version made here: no token gets one twice
        self.room = Condition()  # bytes were flushed, a flight ended
        self.committed = _nobody  # called with a file's new attributes

    # --- the grant -----------------------------------------------------------------------------

    async def own(self, file: File) -> None:
        """Hold the file's write grant."""
        while not file.token or file.recalled or file.cut:
            # Being returned, or lost and not yet given up, or cut: a write goes over what is left.
            if file.recalled or file.flights or file.cut:
                await wait(file.moved, limits.RETRY_S)
                continue
            granted = await self.contact.change(wire.Grant(file.ino))
            if granted.token <= file.void:  # let go of here, and not known to be there
                await self.contact.change(wire.ReturnGrant(file.ino, granted.token))
            self.granted(file, granted.token, granted.number, granted.attributes)

    def granted(self, file: File, token: Token, number: int, attributes: wire.Attributes) -> None:
        """A grant has come, or an old answer that names one which has ended meanwhile."""
        if token in (file.token, Token(0)) or token <= file.void or file.flights:
            return
        assert not file.busy, "nothing is dirty without a grant"
        self.reader.take(file, attributes)
        file.token, file.number, file.recalled = token, number, False
        file.granted_at = self.contact.driver.monotonic()
        file.abandoned.clear()  # what an earlier token left behind is swept by the servers

    # --- dirty blocks --------------------------------------------------------------------------

    async def write(
        self, file: File, data: Buffer, offset: int | None, told: Told, within: bool = False
    ) -> int:
        """Accept bytes; None: append; `within`: only what lies within the file's size.

        Blocks while a server is down or the buffer is full.
        """
        self.complain(file, told)
        view, block_bytes = memoryview(data), self.contact.block_bytes
        start, done = file.size if offset is None else offset, 0
        last = (start + max(1, len(view)) - 1) // block_bytes
        ahead = range(start // block_bytes, last + 1)
        await self.contact.wait_for_ring(file.ino, file.attributes.start, ahead)
        while self.dirty_bytes >= limits.DIRTY_BYTES:
            await self.launch_most()
            await wait(self.room, limits.RETRY_S)
            await self.contact.wait_for_ring(file.ino, file.attributes.start, ahead)
        at, at_ns = await now(), await clock()
        while done < len(view):
            try:
                await self.own(file)
                # No trap from here until the bytes are in, unless `_put_dirty` says so: others
                # append, flush and fill the same block meanwhile.
                self.complain(file, told)
                if offset is None and not done:
                    start = file.size
                if start + len(view) > limits.FILE_BYTES:
                    raise Posix(EFBIG)
                if within and start + len(view) > file.size:
                    view = view[: max(0, file.size - start)]
                    continue
                block = BlockNo((start + done) // block_bytes)
                first = (start + done) % block_bytes
                piece = view[done : done + block_bytes - first]
                if not await self._put_dirty(file, block, first, piece, at):
                    continue
            except Interrupted:
                if not done:
                    raise
                break
            done += len(piece)
            file.written(start + done, at_ns)
            self.files[file.ino] = file
        await self._launch_full(file)
        return done

    async def _put_dirty(
        self, file: File, block: BlockNo, first: int, piece: memoryview, at: float
    ) -> bool:
        """Bytes into a dirty block, without a trap.  Bytes that don't touch what is there need the
        block below: then only that is brought in, and False says to look again."""
        dirty = file.dirty.get(block)
        if dirty is None:
            dirty = file.dirty[block] = Dirty(bytearray(first), first, at)
            self.dirty_bytes += first
        had = len(dirty.data)
        if not dirty.touches(first, first + len(piece)):
            below = await self._below(file, block, dirty)
            if file.dirty.get(block) is not dirty:  # flushed meanwhile
                return False
            had = len(dirty.data)
            dirty.fill(below)
            dirty.data.extend(bytes(max(0, first - len(dirty.data))))
            self.dirty_bytes += len(dirty.data) - had
            return False
        dirty.put(first, piece)
        self.dirty_bytes += len(dirty.data) - had
        return True

    async def _below(self, file: File, block: BlockNo, dirty: Dirty) -> Buffer:
        """The block as it was before `dirty`: older unflushed bytes over the clean version."""
        clean = await self.reader.beneath(file, block)
        # No trap from here on: what `clean` is of and what is still unflushed belong together.
        layers = list(file.unflushed(block))
        older = layers[layers.index(dirty) + 1 :] if dirty in layers else layers
        for above in reversed(older):
            clean = above.over(clean)
        return clean

    def complain(self, file: File, told: Told) -> None:
        """Raise what was lost since the last call, once for each who has the file open."""
        if told.broken is not None:
            raise told.broken
        if file.losses > told.losses:
            assert file.error is not None
            told.losses = file.losses
            raise file.error

    # --- flights -------------------------------------------------------------------------------

    async def _launch_full(self, file: File) -> None:
        """Blocks that are full go at once, when they fill a batch."""
        block_bytes = self.contact.block_bytes
        enough = min(limits.BATCH_BYTES, limits.BLOCKS * block_bytes) // 2
        if len(file.dirty) * block_bytes >= enough and self.flying < FLIGHTS:
            full = self._full(file)
            if len(full) * block_bytes >= enough:
                await self.launch(file, full)

    def _full(self, file: File) -> list[BlockNo]:
        size = self.contact.block_bytes
        return [b for b, d in file.dirty.items() if d.low == 0 and len(d.data) == size]

    async def launch(self, file: File, blocks: Iterable[BlockNo]) -> None:
        """Start flights with these dirty blocks."""
        for flight in self._board(file, blocks):
            await spawn(self._fly(file, flight), f"flight of inode {file.ino}")

    def _board(self, file: File, blocks: Iterable[BlockNo]) -> list[Flight]:
        """Take dirty blocks off into flights.  Without a trap: nobody else takes them too."""
        flights: list[Flight] = []
        for block in sorted(blocks):
            dirty = file.dirty.pop(block)
            flight = flights[-1] if flights else None
            if (
                flight is None
                or flight.bytes + len(dirty.data) > limits.BATCH_BYTES
                or len(flight.blocks) >= limits.BLOCKS
            ):
                flight = Flight({}, {}, file.token)
                flights.append(flight)
            self.sequence += 1
            flight.blocks[block], flight.sequences[block] = dirty, self.sequence
            flight.bytes += len(dirty.data)
            # Only as far as these blocks reach: what lies beyond is not committed with them.
            flight.size = max(flight.size, block * self.contact.block_bytes + len(dirty.data))
        file.flights.extend(flights)
        self.flying += len(flights)
        return flights

    async def launch_all(self, file: File) -> None:
        """Everything dirty of a file."""
        await self.launch(file, list(file.dirty))

    async def launch_most(self) -> None:
        """Make room: the file with the most dirty blocks."""
        files = [file for file in self.files.values() if file.dirty]
        if files and self.flying < FLIGHTS:
            most = max(files, key=lambda file: len(file.dirty))
            await self.launch(most, self._full(most) or list(most.dirty))

    async def _fly(self, file: File, flight: Flight) -> None:
        """Seal, put, commit.  Runs beside everything; its failure becomes the file's error."""
        try:
            if not flight.entries:  # else it has flown before
                await self._seal(file, flight)
            await self.putter.put(file, flight, self.putter.needed(file, flight))
            flight.stored = True  # or lost, and then nobody looks at it any more
            await self.land(file)
            await self._launch_full(file)
        except Failure as error:
            if flight in file.flights:  # else it is said already
                await self.lose(file, error)
        finally:
            self.flying -= 1
            notify(self.room)

    async def _seal(self, file: File, flight: Flight) -> None:
        """Make the blocks whole and name them."""
        for block, dirty in flight.blocks.items():
            if dirty.low or not dirty.whole(await self._reach(file, block, dirty)):
                below = await self._below(file, block, dirty)
                if flight.lost:
                    return
                had = len(dirty.data)
                dirty.fill(below)
                self.dirty_bytes += len(dirty.data) - had
                flight.bytes += len(dirty.data) - had
            version = version_of(flight, block)
            length = len(dirty.data)
            seal = checksum.seal(Name(file.ino, block, version), dirty.data)
            flight.entries[block] = MapEntry(version, length, length, seal)

    async def _reach(self, file: File, block: BlockNo, dirty: Dirty) -> int:
        """How far the bytes below reach."""
        if len(dirty.data) == self.contact.block_bytes:
            return 0
        await self.reader.know(file, block, block)
        reach = self.reader.visible_below(file, block)
        for other in file.unflushed(block):
            if other is not dirty:
                reach = max(reach, len(other.data))
        return reach

    # --- commits -------------------------------------------------------------------------------

    async def land(self, file: File) -> None:
        """Commit stored flights from the front, as long as there are any, and what was set behind
        them.

        Whoever sets `committing` calls this after resetting it: what was stored meanwhile waits.
        """
        if file.committing:
            return  # whoever commits takes ours too
        file.committing = True
        failure: Failure | None = None
        try:
            while file.kept is not None or (file.flights and file.flights[0].stored):
                if file.flights and file.flights[0].stored:
                    await self._commit(file, self._next(file))
                else:
                    await self._tell(file)
        except Failure as error:
            failure = error
        finally:
            file.committing = False
            notify(file.moved)
        if failure is not None:
            await self.lose(file, failure)

    def _next(self, file: File) -> list[Flight]:
        """Stored flights for one commit."""
        flights: list[Flight] = []
        blocks, acked, without = 0, set[Slot](), set[Slot]()
        for flight in file.flights:
            if not flight.stored or blocks + len(flight.blocks) > COMMIT_BLOCKS:
                break
            acked |= flight.acks.keys()
            needed = self.putter.needed(file, flight)
            without |= needed - flight.acks.keys()  # owed, or skipped
            if acked & without:  # a commit says of each server: it has all, or nothing
                break
            flights.append(flight)
            blocks += len(flight.blocks)
        return flights

    async def _tell(self, file: File) -> None:
        """Send what was set behind what is unflushed.  Refused, it is lost, and that is said."""
        asked, kept, session = await now(), file.kept, self.contact.driver.session
        if kept is None:
            return  # lost meanwhile
        request = wire.SetAttributes(
            file.ino, kept.mode, None, None, kept.atime_ns, kept.mtime_ns, False, False,
            kept.ctime_ns, kept.was_mode,
        )  # fmt: skip
        try:
            found = (await self.contact.change(request, session)).attributes
        except Failure as error:
            file.kept = None
            self._lost(file, error, "attributes that were set are lost")
        else:
            file.learn(found)
            self.committed(found, asked)
            if file.kept is kept:
                file.kept = None
            elif file.kept is not None:  # there is more by now, and nobody waits for that
                file.kept = file.kept.since_sent(kept, asked, found)
        self._settle(file)

    async def tell(self, file: File) -> None:
        """Send what was set by now, ahead of what is unflushed."""
        at = await now()
        while file.keeps(at):
            await spawn(self.land(file), f"attributes of inode {file.ino}")
            if file.keeps(at):
                await wait(file.moved, limits.RETRY_S)

    async def _commit(self, file: File, flights: list[Flight]) -> None:
        entries: dict[BlockNo, MapEntry] = {}
        superseded: list[Dropped] = []
        for flight in flights:  # a block in two of them: the newer counts, the older is dropped
            for block, entry in flight.entries.items():
                if block in entries:
                    superseded.append(Dropped(block, entries[block].version))
                entries[block] = entry
        before = len(file.abandoned)
        dropped = file.abandoned + superseded
        abandoned, later = dropped[:DROPPED], dropped[DROPPED:]
        acks = {ack for flight in flights for ack in flight.acks.values()}
        request = wire.Commit(
            file.ino, file.token, file.number + 1, file.attributes.epoch,
            min(s for flight in flights for s in flight.sequences.values()),
            blockmap.pack_numbered(sorted(entries.items())),
            tuple(sorted(acks)), blockmap.pack_dropped(abandoned),
            max(flight.size for flight in flights),
            file.mtime_ns, file.syncing > 0,
            tuple(sorted({slot for flight in flights for slot in flight.owed})),
        )  # fmt: skip
        for flight in flights:
            flight.landing = True
        asked = await now()
        try:
            reply = await self.contact.change(request)
        except PutAgain as again:
            await self._put_again(file, flights, again)
            return
        finally:
            for flight in flights:
                flight.landing = False
        file.number += 1
        file.learn(reply.attributes)
        self.committed(reply.attributes, asked)
        file.abandoned[:before] = later
        for flight in flights:
            file.commit_entries(flight)
            self._remember(file, flight)
            file.flights.remove(flight)
            self.dirty_bytes -= flight.bytes
        self._settle(file)

    async def _put_again(self, file: File, flights: list[Flight], again: PutAgain) -> None:
        """Servers have lost what they had acknowledged, or may not be gone without any more."""
        self.contact.policies.pop(file.ino, None)
        log.info("inode %d: %s: putting its blocks again", file.ino, again.text)
        for flight in flights:
            flight.owed, flight.stored = frozenset(), False
            for slot in again.details:
                flight.acks.pop(Slot(slot), None)
        self.flying += len(flights)
        for flight in flights:
            await spawn(self._fly_again(file, flight), f"flight of inode {file.ino}, once more")

    async def _fly_again(self, file: File, flight: Flight) -> None:
        await sleep(limits.RETRY_S / 10)
        await self._fly(file, flight)

    def _remember(self, file: File, flight: Flight) -> None:
        for block, dirty in flight.blocks.items():
            entry = flight.entries[block]
            self.reader.blocks.put(blockmap.name_of(file.ino, block, entry), dirty.data)

    def _settle(self, file: File) -> None:
        """Nothing is unflushed: what M says is what we show."""
        if not file.dirty and not file.flights:
            file.mtime_ns = None
            file.size = file.attributes.size
            if file.kept is None:
                self.files.pop(file.ino, None)
        notify(self.room)
        notify(file.moved)

    async def lose(self, file: File, error: Failure) -> None:
        """Drop what is unflushed of a file; the committed content stays.  Said at the next call.

        Blocks that a commit underway names are left to that commit: they may count already.
        """
        gone = [flight for flight in file.flights if not flight.landing]
        count = len(file.dirty) + sum(len(flight.blocks) for flight in gone)
        fenced = isinstance(error, (NoSession, Fenced))
        for flight in gone:
            flight.lost = error
            file.flights.remove(flight)
            self.dirty_bytes -= flight.bytes
            if not fenced:
                file.abandoned += [
                    Dropped(block, version_of(flight, block)) for block in flight.blocks
                ]
        self.dirty_bytes -= sum(len(dirty.data) for dirty in file.dirty.values())
        file.dirty.clear()
        self._lost(file, error, f"{count} unflushed blocks are lost")
        file.kernel_change = -1  # the kernel's pages have what is lost
        if fenced:
            file.kept = None
            file.give_up(file.token)
        self._settle(file)
        if file.token and isinstance(error, NoSpace):
            await self._abandon(file)
        if file.kept is not None:
            await self.land(file)

    def _lost(self, file: File, error: Failure, what: str) -> None:
        """To be said once to each who has the file open; if no writer has, to the next one."""
        if isinstance(error, Posix) and error.number == ESTALE and not file.handles:
            log.info("inode %d: %s: it was removed", file.ino, what)  # nobody can miss it
            return
        log.error("inode %d: %s: %s", file.ino, what, error)
        file.losses, file.error, file.unheard = file.losses + 1, error, not file.writers

    async def _abandon(self, file: File) -> None:
        """Tell the metaserver what will never be committed, so that its space is free again."""
        if file.committing or not file.abandoned:
            return
        file.committing = True
        try:
            dropped = file.abandoned[:DROPPED]
            request = wire.Commit(
                file.ino, file.token, file.number + 1, file.attributes.epoch, self.sequence + 1,
                b"", (), blockmap.pack_dropped(dropped), 0, None, True,
            )  # fmt: skip
            reply = await self.contact.change(request)
            file.number += 1
            file.learn(reply.attributes)
            del file.abandoned[: len(dropped)]
        except Failure as failure:
            log.info("inode %d: abandoned blocks stay until a sweep: %s", file.ino, failure)
        finally:
            file.committing = False
            notify(file.moved)
        await self.land(file)

    # --- waiting for it ------------------------------------------------------------------------

    async def drain(self, file: File, told: Told | None = None) -> None:
        """All accepted so far is committed, or the error is raised.  May raise Interrupted."""
        await self._drain(file, told or Told(file.losses))

    async def sync(self, file: File, told: Told) -> bool:
        """Likewise; whether it is on all disks, too: there was something of which no commit was
        underway yet, and nothing was sent behind that."""
        file.syncing += 1
        try:
            return await self._drain(file, told)
        finally:
            file.syncing -= 1

    async def _drain(self, file: File, told: Told) -> bool:
        await self.launch_all(file)
        mine, at = list(file.flights), await now()  # what comes from now on is not waited for
        fresh = any(not flight.landing for flight in mine) and not file.keeps(at)
        while any(flight in file.flights for flight in mine) or file.keeps(at):
            self.contact.waiting_writers += 1
            try:
                await wait(file.moved, limits.RETRY_S)
            finally:
                self.contact.waiting_writers -= 1
        for flight in mine:
            if flight.lost is not None:  # also when another call on this handle has said it
                told.losses = file.losses
                raise flight.lost
        self.complain(file, told)
        return fresh
