"""How a mount reads: the map page, a replica, the check, the next replica (DESIGN 7).

    bytes of a block = unflushed here, or the version that the map names, or zeros (a hole)

A version is asked of one replica after the other: those that answer first, suspects last.  What
arrives is checked against the map's seal; anything else counts as damage: the next replica is
asked, and the server told to repair itself.  When no replica has it, the map may have moved:
it is read again.  When the map still names it and every live replica says no, or nobody answers for
`limits.GIVE_UP_READ_S`, the read is EIO.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress

from zdfs import addresses, blockmap, checksum, limits, placement, wire
from zdfs.cache import Blocks, File
from zdfs.calls import Condition, notify, now, sleep, spawn, wait
from zdfs.checksum import Buffer
from zdfs.contact import Contact
from zdfs.errors import Damaged, Failure, NoSession, Silent
from zdfs.ids import BlockNo, PageNo, Slot
from zdfs.wire import Held

log = logging.getLogger("zdfs.mount")

MAP_PAGES = 16  # pages asked for at once: 64 MiB at the default block size
JITTER_BYTES = 128 * limits.KIB  # requests of one reader may change places, two of them at most
AHEAD_TIMES = 4  # as many bytes are read ahead as were read in a row


class Search:
    """One wanted version and the replicas that were asked for it."""

    __slots__ = ("want", "asked", "silent", "found")

    def __init__(self, want: wire.Wanted):
        self.want = want
        self.asked: set[Slot] = set()
        self.silent = False  # some replica did not answer
        self.found = False


class Reader:
    """Blocks of files, from the nearest place that has them."""

    def __init__(self, contact: Contact):
        self.contact = contact
        self.blocks = Blocks()

    # --- map pages -----------------------------------------------------------------------------

    async def know(self, file: File, first: BlockNo, last: BlockNo) -> None:
        """Have the map pages of these blocks; fresh ones when another mount may write the file."""
        await self.look(file)
        pages = range(blockmap.page_of(first)[0], blockmap.page_of(last)[0] + 1)
        while missing := [page for page in pages if page not in file.pages]:
            reply = await self.contact.ask(wire.ReadMap(file.ino, PageNo(missing[0]), MAP_PAGES))
            self.take_pages(file, reply.attributes, reply.pages)

    def take_pages(
        self, file: File, attributes: wire.Attributes, pages: Iterable[wire.MapPage]
    ) -> None:
        """Map pages as they were with these attributes; an answer that a commit or truncate of our
        own overtook is of no use: under our grant nothing would ever correct it."""
        self.take(file, attributes)
        if attributes.change < file.attributes.change:
            return
        for number, entries in pages:
            file.pages.setdefault(number, blockmap.unpack_page(entries))

    def take(self, file: File, attributes: wire.Attributes) -> None:
        """Newer attributes of a file; when another mount changed it, its map is void."""
        if attributes.change > file.attributes.change:
            if not file.token:
                file.pages.clear()
            file.learn(attributes)
        if not file.busy:
            file.size = file.attributes.size

    async def look(self, file: File) -> None:
        """See whether the map moved, if another mount may write the file and we haven't looked for
        a while.  What is known goes on being read while the metaserver is silent."""
        if file.token or await now() - file.map_at <= limits.CACHE_S:
            return
        found = await self.contact.ask_briefly(wire.GetAttributes(file.ino))
        if found is not None:
            self.take(file, found.attributes)
            file.map_at = await now()

    # --- reading -------------------------------------------------------------------------------

    async def read(self, file: File, size: int, offset: int) -> Buffer:
        """Up to `size` bytes at `offset`; short only at the end of the file."""
        await self.look(file)
        size = max(0, min(size, file.size - offset))
        if not size:
            return b""
        block_bytes = self.contact.block_bytes
        first, last = BlockNo(offset // block_bytes), BlockNo((offset + size - 1) // block_bytes)
        await self._ahead(file, offset, size)
        found = await self.fetch(file, first, last)
        size = max(0, min(size, file.size - offset))  # what was cut meanwhile is no hole
        if not size:
            return b""
        last = BlockNo((offset + size - 1) // block_bytes)
        pieces = []
        for block in range(first, last + 1):
            start = block * block_bytes
            low, high = max(offset - start, 0), min(offset + size - start, block_bytes)
            data = found[BlockNo(block)]
            if len(data) < high:
                data = bytes(data) + bytes(high - len(data))
            pieces.append(data if low == 0 and high == len(data) else memoryview(data)[low:high])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def fetch(self, file: File, first: BlockNo, last: BlockNo) -> dict[BlockNo, Buffer]:
        """The blocks as a reader sees them now (shorter than a block: zeros follow)."""
        blocks = [BlockNo(number) for number in range(first, last + 1)]
        while True:
            await self.know(file, first, last)
            wanted = [block for block in blocks if self._shows_through(file, block)]
            clean = await self.clean(file, wanted) if wanted else {}
            # No trap from here on: all blocks are of this moment, what is unflushed and holes too.
            if all(
                block in clean or (file.knows(block) and not self._shows_through(file, block))
                for block in blocks
            ):
                return {block: _merged(file, block, clean.get(block, b"")) for block in blocks}

    def _shows_through(self, file: File, block: BlockNo) -> bool:
        """Whether anything of the committed version is seen."""
        below = self.visible_below(file, block)
        layers = list(file.unflushed(block))
        if not layers:
            return bool(below)
        return not layers[0].whole(max([below, *(len(one.data) for one in layers[1:])]))

    def visible_below(self, file: File, block: BlockNo) -> int:
        """How far the committed version of a block reaches."""
        entry = file.entry(block) if file.knows(block) else None
        return entry.visible if entry else 0

    async def clean(self, file: File, blocks: list[BlockNo]) -> dict[BlockNo, Buffer]:
        """The visible bytes of the versions that the map names, as of the moment of returning."""
        deadline = await now() + limits.GIVE_UP_READ_S
        while True:
            await self.know(file, blocks[0], blocks[-1])
            wants = self._wants(file, blocks)
            try:
                await self._have(wants, file, deadline)
            except (Damaged, Silent) as error:
                # An old map names what is let go: then even those that are up don't have it.
                current = await self.reload(file)
                await self.know(file, blocks[0], blocks[-1])
                same = [want.name for want in self._wants(file, blocks)] == [w.name for w in wants]
                proven = current and isinstance(error, Damaged)
                if same and (proven or await now() > deadline):
                    log.error("read error: %s", error)
                    if proven or isinstance(error, Silent):
                        raise
                    raise Silent(f"{error}; and the metaserver is silent") from error
                if not current:  # nobody says whether the map has moved: nothing is proven
                    await sleep(limits.RETRY_S / 4)
                continue
            found = self._cached(file, blocks)
            if found is not None:
                return found

    async def beneath(self, file: File, block: BlockNo) -> Buffer:
        """The visible bytes that a write goes over: it waits for their servers, like any write.
        Posix: it is not ours to write any more."""
        while True:
            try:
                return (await self.clean(file, [block]))[block]
            except Silent:
                with suppress(NoSession):
                    await self.contact.ask_briefly(wire.GetAttributes(file.ino))
                await wait(self.contact.map_changed, limits.RETRY_S)

    def _cached(self, file: File, blocks: list[BlockNo]) -> dict[BlockNo, Buffer] | None:
        """The blocks from the cache; None when the map moved on or the cache did."""
        found: dict[BlockNo, Buffer] = {}
        for block in blocks:
            if not file.knows(block):
                return None
            entry = file.entry(block)
            if entry is None:
                found[block] = b""
                continue
            data = self.blocks.get(blockmap.name_of(file.ino, block, entry))
            if data is None:
                return None
            found[block] = data if len(data) == entry.visible else memoryview(data)[: entry.visible]
        return found

    def _wants(self, file: File, blocks: list[BlockNo]) -> list[wire.Wanted]:
        return [want for block in blocks if (want := self._want(file, block)) is not None]

    async def reload(self, file: File) -> bool:
        """Forget the map and read it again; False: nobody can say just now what it is.  Under our
        grant nothing else moves it, but a change of our own may have, whose answer is late."""
        if file.token:
            return not file.committing
        found = await self.contact.ask_briefly(wire.GetAttributes(file.ino))
        if found is not None:
            if not file.token:
                file.pages.clear()
            self.take(file, found.attributes)
        return found is not None

    def _want(self, file: File, block: BlockNo) -> wire.Wanted | None:
        entry = file.entry(block) if file.knows(block) else None
        if entry is None:
            return None
        name = blockmap.name_of(file.ino, block, entry)
        start = file.attributes
        return wire.Wanted(name, entry.seal, start.epoch, start.start, entry.stored)

    # --- fetching versions ---------------------------------------------------------------------

    async def _have(self, wants: list[wire.Wanted], file: File, deadline: float) -> None:
        """Bring versions into the cache; waits for those that another reader is fetching."""
        missing = sum(want.name not in self.blocks for want in wants)
        self.blocks.hits += len(wants) - missing
        self.blocks.misses += missing
        while True:
            wants = [want for want in wants if want.name not in self.blocks]
            mine = [want for want in wants if want.name not in file.fetching]
            if not wants:
                return
            if not mine:
                ended = await wait(file.fetching[wants[0].name], limits.TIMEOUT_S)
                if not ended and await now() > deadline:
                    raise Silent(f"{wants[0].name}: nobody has it just now")
                continue
            condition = Condition()
            for want in mine:
                file.fetching[want.name] = condition
            try:
                await self._search([Search(want) for want in mine], deadline)
            finally:
                for want in mine:
                    del file.fetching[want.name]
                notify(condition)
            if len(mine) == len(wants):
                return

    async def _search(self, searches: list[Search], deadline: float) -> None:
        """Ask replica after replica until each version was found; Damaged when none has one."""
        left = searches
        while left:
            at = await now()
            asks: dict[Slot, list[Search]] = {}
            for search in left:
                for slot in self._next_replicas(search, at):
                    search.asked.add(slot)
                    asks.setdefault(slot, []).append(search)
            await self._ask(asks)
            left = [search for search in left if not search.found]
            self.contact.retried["Get"] += len(left)
            await self._hopeless(left, deadline)

    def _next_replicas(self, search: Search, at: float) -> list[Slot]:
        """One that seems alive.  When there is none, all others at once, for one timeout in all: a
        suspect may have been slow, a server may be back since the map."""
        want = search.want
        slots = placement.slots(want.start, want.name.block, self.contact.servers)
        fresh = [slot for slot in slots if slot not in search.asked]
        return [slot for slot in fresh if self.contact.alive(slot, at)][:1] or fresh

    async def _hopeless(self, left: list[Search], deadline: float) -> None:
        """Searches that asked everybody: Silent, after a pause, if somebody was, else Damaged."""
        tired = [s for s in left if len(s.asked) >= limits.REPLICAS]
        if not tired:
            return
        name = tired[0].want.name
        where = f"block {name.block} of inode {name.ino}"
        if not any(search.silent for search in tired):
            raise Damaged(f"{where}: no replica has its current version intact")
        if await now() > deadline:
            slots = ", ".join(
                addresses.short(self.contact.peer(slot)) for slot in sorted(tired[0].asked)
            )
            raise Silent(f"{where}: the servers that have it are down: {slots}")
        await sleep(limits.RETRY_S / 4)
        raise Silent(f"{where}: some servers that have it are silent")

    async def _ask(self, asks: dict[Slot, list[Search]]) -> None:
        """One round of questions."""
        parts: list[tuple[Slot, list[Search]]] = []
        for slot, searches in asks.items():
            for chunk in chunks(searches):
                parts.append((slot, chunk))
        gets = [(slot, self._get(chunk)) for slot, chunk in parts]
        answers = await self.contact.ask_servers(gets, limits.TIMEOUT_S)
        for (slot, chunk), answer in zip(parts, answers):
            if not isinstance(answer, wire.Got) or not (
                len(answer.held) == len(answer.data) == len(chunk)
            ):
                if isinstance(answer, Failure) and answer.definite:
                    log.warning("%s: %s", addresses.short(self.contact.peer(slot)), answer.text)
                for search in chunk:
                    search.silent = True
                continue
            for search, held, data in zip(chunk, answer.held, answer.data):
                if held is Held.OK and self._genuine(search.want, data):
                    self.blocks.put(search.want.name, data)
                    search.found = True
                elif held is Held.NOT_YET:
                    search.silent = True

    def _get(self, chunk: list[Search]) -> wire.Get:
        ino = chunk[0].want.name.ino  # of all of them: a reader reads one file
        permit = self.contact.permits.of(ino)
        return wire.Get(self.contact.cluster, tuple([s.want for s in chunk]), True, permit)

    def _genuine(self, want: wire.Wanted, data: Buffer) -> bool:
        if len(data) == want.length and checksum.seal(want.name, data) == want.seal:
            return True
        log.error("%s arrived damaged; asking another replica", want.name)
        return False

    # --- read-ahead ----------------------------------------------------------------------------

    async def _ahead(self, file: File, offset: int, size: int) -> None:
        """A sequential reader finds its next bytes here already, the more the longer it reads so.
        The kernel's requests may change places; who reads here and there must not look like it."""
        jitter = 2 * max(size, JITTER_BYTES) if file.run else 0
        if abs(offset - file.expected) > jitter and offset:
            file.run = file.ahead = file.expected = 0
        if file.run or offset in (0, file.expected):
            file.run += size
        file.expected = max(file.expected, offset + size)
        window = min(limits.READ_AHEAD_BYTES, AHEAD_TIMES * file.run)
        if file.run < self.contact.block_bytes or file.ahead > offset + size + window // 2:
            return
        start = max(file.ahead, offset + size)
        end = min(file.size, offset + size + window)
        if end > start:
            file.ahead = end
            await spawn(self._prefetch(file, start, end), "read-ahead")

    async def _prefetch(self, file: File, start: int, end: int) -> None:
        block_bytes = self.contact.block_bytes
        blocks = [BlockNo(b) for b in range(start // block_bytes, (end - 1) // block_bytes + 1)]
        try:
            await self.know(file, blocks[0], blocks[-1])
            clean = [block for block in blocks if not any(file.unflushed(block))]
            deadline = await now()  # a prefetch gives up early; the read itself says why
            await self._have(self._wants(file, clean), file, deadline)
        except Failure as error:
            log.debug("read-ahead of inode %d: %s", file.ino, error)


def _merged(file: File, block: BlockNo, clean: Buffer) -> Buffer:
    """What is unflushed of a block over its committed version."""
    for above in reversed(list(file.unflushed(block))):
        clean = above.over(clean)
    return clean


def chunks(searches: list[Search]) -> list[list[Search]]:
    """Lists short enough for one Get and its reply."""
    found: list[list[Search]] = [[]]
    size = 0
    for search in searches:
        full = size + search.want.length > limits.BATCH_BYTES or len(found[-1]) >= limits.BLOCKS
        if found[-1] and full:
            found.append([])
            size = 0
        found[-1].append(search)
        size += search.want.length
    return found
