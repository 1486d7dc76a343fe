"""The file system of one mount, without a kernel: inodes, names, handles (`paths`: by path).

Coroutines over traps, driven by `link` (or the simulated world).  The volume is a monitor: one
lock, released at each trap, so what was read before a trap is looked at again after it.  `_ino` is
done to an inode, `_at` to a name in a directory, the rest to a handle.  Names are bytes.  Every
method raises errors.Failure with an errno.

    contact   the session, the cluster map, changes applied exactly once
    tree      names, attributes, listings
    reader    blocks from replicas, checked
    writer    dirty blocks, flights, commits
    flusher   what nobody waits for (`behind`)
    claims    locks of fcntl and flock (`lockable`)
    ranges    truncate, fallocate, holes, copies
"""

import logging
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from errno import EBADF, EFBIG, EINVAL, EISDIR, ENAMETOOLONG, ESTALE
from typing import Any

from zdfs import limits, wire
from zdfs.cache import File
from zdfs.calls import Trap, notify, now, sleep, spawn, wait
from zdfs.checksum import Buffer
from zdfs.contact import Contact, Driver
from zdfs.errors import Failure, Fenced, NoSession, Posix
from zdfs.ids import Incarnation, Ino, PageNo, Session, Token
from zdfs.knowledge import NEVER, Names
from zdfs.ranges import Ranges
from zdfs.reading import Reader
from zdfs.behind import Behind
from zdfs.lockable import Handle, writes
from zdfs.wire import Attributes

log = logging.getLogger("zdfs.mount")

IDLE_FILES = 1024  # closed files whose grant and map are kept


def _nobody(ino: Ino, known: Attributes | None) -> None:
    """No kernel is to be told."""


class Volume(Behind):
    """A mounted file system."""

    def __init__(
        self, meta: str, mount: str, driver: Driver,
        attr_timeout_s: float = limits.CACHE_S, entry_timeout_s: float = limits.CACHE_S,
        writeback: bool = False,
    ):  # fmt: skip
        """`attr_timeout_s`, `entry_timeout_s`: how old what a program sees may be; half of it is
        the kernel's share, where there is one.  `writeback`: a close does not wait (`behind`)."""
        contact = Contact(meta, mount, driver)
        names = Names(entry_timeout_s / 2, attr_timeout_s / 2)
        super().__init__(contact, Reader(contact), names, writeback)
        self.driver = driver
        self.ranges = Ranges(self.contact, self.reader, self.writer)
        self.writer.committed = lambda found, asked: names.learn(found, driver.monotonic(), asked)
        self.idle: OrderedDict[Ino, None] = OrderedDict()  # closed, kept for a while
        self.closed: dict[Ino, int] = {}  # to be told with the next heartbeat
        self.returned: dict[Ino, Token] = {}
        self.refused: OrderedDict[Ino, Token] = OrderedDict()  # returned before they arrived
        self._told: dict[int, tuple[dict[Ino, int], dict[Ino, Token], float]] = {}  # by heartbeat
        self._promising = Incarnation(0)  # the metaserver whose promises we have
        self._announcing: tuple[Session, Incarnation] | None = None  # in which session, to whom
        self._beats = self._heard = 0  # number of the newest heartbeat, and of the newest answer
        self.on_change: Callable[[Ino, Attributes | None], None] = _nobody
        self._opening = 0

    @property
    def block_bytes(self) -> int:
        """Size of a block."""
        return self.contact.block_bytes

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the session; returns when the file system can be used."""
        at = await now()
        await self.contact.open()
        self.claims.opened(at)
        await self.start_flushing()
        await spawn(self.contact.watch_blocked(), "watch of blocked writes")
        await spawn(self.contact.watch_meta(), "watch of the metaserver")

    async def sync_all(self) -> None:
        """Flush everything; logs what can't be."""
        for file in list(self.writer.files.values()):
            try:
                await self.writer.drain(file)
            except Failure as error:
                log.error("inode %d was not flushed whole: %s", file.ino, error)

    async def stop(self) -> None:
        """Flush and end the session."""
        await self.sync_all()
        await self.contact.close()

    def heartbeat(self) -> wire.Beat:
        """What to say now; plain, called by the driver each second."""
        closed = dict(list(self.closed.items())[: limits.LIST_ITEMS])
        returned = dict(list(self.returned.items())[: limits.LIST_ITEMS])
        self._beats += 1
        at = self.driver.monotonic()
        self._told[self._beats] = (closed, returned, at)
        self.claims.beat(self._beats, self._heard, at)
        while len(self._told) > limits.DEAF_BEATS:
            del self._told[next(iter(self._told))]
        return wire.Beat(
            self._beats,
            self._heard,
            self.contact.map.version,
            self.contact.shown_blocked(at),
            tuple(wire.Opening(ino, opening) for ino, opening in closed.items()),
            tuple(wire.Recalled(ino, token) for ino, token in returned.items()),
        )

    def heard(self, message: wire.Reply | Failure) -> list[Coroutine[Trap, Any, None]]:
        """A reply to the heartbeat or a push; returns what is to be run because of it."""
        if isinstance(message, NoSession):
            return [self._reborn()]
        if isinstance(message, wire.MapChanged):
            self.contact.take_map(message.map)
        elif isinstance(message, wire.Recall):
            return [self._give_back(message.recalled)]
        elif isinstance(message, wire.TryAgain):
            self.claims.try_again(message.waiters)
        elif isinstance(message, wire.Beaten):
            return self._beaten(message)
        elif isinstance(message, wire.Changed):
            self.names.promises.pushed(message.number, self.driver.monotonic())
            self._changed(message.inos)
        return []

    @property
    def beat_s(self) -> float:
        """How soon the next heartbeat is to follow: what is remembered lives by their answers."""
        used = self.driver.monotonic() - self.names.used < limits.BEAT_S
        return limits.BEAT_S / 4 if used and self._heard == self._beats else limits.BEAT_S

    def _beaten(self, beaten: wire.Beaten) -> list[Coroutine[Trap, Any, None]]:
        self.claims.heard(beaten.number)
        self.contact.permits.take(beaten)
        self._heard = max(self._heard, beaten.number)
        closed, returned, sent = self._told.pop(beaten.number, ({}, {}, NEVER))
        self._promised(beaten, sent)
        for ino, opening in closed.items():
            if self.closed.get(ino) == opening:
                del self.closed[ino]
        for ino, token in returned.items():
            if self.returned.get(ino) == token:
                del self.returned[ino]
        if beaten.map is not None:
            self.contact.take_map(beaten.map)
        todo: list[Coroutine[Trap, Any, None]] = [self._give_back(r) for r in beaten.recalls]
        if beaten.announce and self._announcing != (self.driver.session, self.driver.incarnation):
            todo.append(self._announce())
        return todo

    def _promised(self, beaten: wire.Beaten, sent: float) -> None:
        """Whether what we remember is still so."""
        at, promises = self.driver.monotonic(), self.names.promises
        if beaten.announce or self._promising != self.driver.incarnation:
            self._promising = self.driver.incarnation
            promises.told = beaten.told
            promises.doubt(at)
        life_s = min(self.names.name_life_s, self.names.attribute_life_s)
        promises.confirmed(beaten.told, sent, at, life_s)

    def _changed(self, inos: tuple[Ino, ...]) -> None:
        """Another mount has changed what we know something of."""
        at = self.driver.monotonic()
        for ino in inos:
            known = self.names.spoil(ino, at)
            file = self.files.get(ino)
            if file is not None and not file.token:
                file.map_at = float("-inf")
            elif file is not None:
                file.overtaken = True
            self.on_change(ino, known)

    async def _announce(self) -> None:
        """The metaserver has restarted: say what is open and held here.  Each answer to a heartbeat
        asks for it until all is said: who began anew each time would be his own crowd, and late."""
        files = list(self.files.values())
        openings = [wire.Opening(f.ino, f.opening) for f in files if f.handles]
        holdings = [wire.Holding(f.ino, f.token, f.number) for f in files if f.token]
        incarnation = self.driver.incarnation
        locks = self.claims.announce(incarnation)
        size = limits.LOCKS_TOLD
        count = max(len(openings), len(holdings), len(locks), 1)
        self._announcing = underway = self.driver.session, incarnation
        try:
            for first in range(0, count, size):
                some, last = slice(first, first + size), first + size >= count
                parts = tuple(openings[some]), tuple(holdings[some]), tuple(locks[some])
                await self.contact.ask(wire.Announce(*parts, incarnation, last, wire.spoken()))
        finally:
            if self._announcing == underway:
                self._announcing = None
        log.info("announced %d open files to the metaserver", len(openings))

    async def _reborn(self) -> None:
        """The session died: what was not committed is void; go on with a new one."""
        if self.contact.lost_session or self.contact.closed:
            return
        self.contact.lost_session = True
        log.error("this mount's session ended (it was silent for too long): opening a new one")
        try:
            at = await now()
            await self.contact.open()
            self._promising = Incarnation(0)
            self.claims.died()
            self.claims.opened(at)
            for file in list(self.files.values()):
                file.give_up(file.token)
                if file.busy:
                    await self.writer.lose(file, Fenced("this mount was away for too long"))
        finally:
            self.contact.lost_session = False
        await self._announce()

    async def _give_back(self, recalled: wire.Recalled) -> None:
        """Another mount wants the file: flush, then return the grant."""
        file = self.files.get(recalled.ino)
        if file is None:  # the reply that grants it may still be on its way
            await sleep(limits.RETRY_S / 4)
            file = self.files.get(recalled.ino)
        if file is None or file.token != recalled.token:
            if file is not None:
                file.give_up(recalled.token)
            else:
                self.refused[recalled.ino] = recalled.token
                while len(self.refused) > IDLE_FILES:
                    self.refused.popitem(last=False)
            await self.contact.change(wire.ReturnGrant(recalled.ino, recalled.token))
            return
        await self.writer.tell(file)  # also while its bytes can't be stored
        await self._finish_turn(file)
        if file.recalled or file.token != recalled.token:
            return
        file.recalled = True
        try:
            while file.dirty or file.flights or file.committing:
                await self.writer.launch_all(file)
                await wait(file.moved, limits.RETRY_S)
            file.give_up(recalled.token)
            await self.contact.change(wire.ReturnGrant(recalled.ino, recalled.token))
        finally:
            file.recalled = False
            notify(file.moved)

    async def _finish_turn(self, file: File) -> None:
        """Whoever is writing goes on for a moment: mounts that append in turns would otherwise hand
        the grant over after each line, and do little else."""
        token = file.token
        while file.token == token and file.busy:
            left = file.granted_at + limits.HOLD_S - await now()
            if left <= 0 or await wait(file.moved, left):
                return

    # --- open files ----------------------------------------------------------------------------

    async def open_ino(self, ino: Ino, flags: int) -> tuple[int, bool]:
        """A handle, and whether the kernel's pages of the file are still right.  ESTALE: the name
        that was last known leads elsewhere by now; it is to be looked up again."""
        parent, name = self.names.place(ino) or (Ino(0), b"")
        try:
            return await self._open(ino, flags, parent, name)
        except Posix as error:
            if error.number == ESTALE:
                self.names.mistaken(parent, name)
            raise

    async def _open(self, ino: Ino, flags: int, parent: Ino, name: bytes) -> tuple[int, bool]:
        truncates = bool(flags & os.O_TRUNC)
        while ino in self.returned:  # its grant is on its way back
            await wait(self.contact.map_changed, limits.BEAT_S / 10)
        file = self.files.get(ino)
        told = self.names.last_known(ino)
        self._opening += 1
        opening = self._opening
        wants = (writes(flags) or truncates) and not (file and file.token and not file.recalled)
        request = wire.Open(ino, opening, wants, False, parent, name)
        asked = await now()
        opened = await self._ask_open(file, request, wants)
        while file and file.flights and not file.token:  # lost, and not yet given up
            await wait(file.moved, limits.RETRY_S)
        handle = self._opened(opened, opening, flags, asked)
        file = self.handles[handle].file
        late = told is None or told.change < opened.attributes.change
        self.handles[handle].outdated = late or self.names.spoilt(ino, self.driver.monotonic())
        if truncates:  # an empty file, too: its times move
            await self._cut(handle)
        keep = file.kernel_change == file.attributes.change and not truncates
        file.kernel_change = file.attributes.change
        return handle, keep

    async def _cut(self, handle: int) -> None:
        """O_TRUNC; without it there is no open."""
        found = self.handles[handle]
        try:
            await self.ranges.truncate(found.file, 0, found.told)
        except Failure:
            await self.release(handle)
            raise

    async def create_at(
        self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, flags: int, umask: int = 0
    ) -> tuple[int, Attributes]:
        """open(O_CREAT) of a name that wasn't there a moment ago: a handle, and what it is of."""
        if len(name) > limits.NAME_BYTES:
            raise Posix(ENAMETOOLONG)
        self._opening += 1
        opening = self._opening
        path, exclusive = self._placed(parent, name), bool(flags & os.O_EXCL)
        request = wire.Create(parent, name, path, mode, uid, gid, exclusive, opening, umask)
        asked = await now()
        opened = await self._change(request, parent)
        await self._named(parent, name, opened.attributes, opened.directory, asked)
        handle = self._opened(opened, opening, flags, asked)
        file = self.handles[handle].file
        if flags & os.O_TRUNC and file.size:
            await self._cut(handle)
        file.kernel_change = file.attributes.change
        return handle, file.shown()

    def outdated(self, handle: int) -> bool:
        """Whether attributes that a kernel was told before the open may not be those it found."""
        return self.handles[handle].outdated

    def lacks(self, ino: Ino, name: bytes) -> bool:
        """Whether it is fresh knowledge that an inode has no such attribute.  Not fresher than
        this for any timeout: each write asks, and a mount is told what others set."""
        at, life_s = self.driver.monotonic(), limits.CACHE_S / 2
        return self.names.xattrs.lacks(ino, name, at, life_s)

    def _opened(self, opened: wire.Opened, opening: int, flags: int, asked: float) -> int:
        attributes = opened.attributes
        file = self.files.get(attributes.ino)
        at = self.driver.monotonic()
        if file is None:
            file = self.files[attributes.ino] = File(attributes.ino, attributes, at)
            file.size = attributes.size
            file.give_up(self.refused.pop(file.ino, Token(0)))
        self.reader.take(file, attributes)
        self.writer.granted(file, opened.token, opened.number, attributes)
        if not file.busy:
            file.map_at = at
            self.reader.take_pages(file, attributes, [opened.page])
        file.opening = max(file.opening, opening)
        self.idle.pop(file.ino, None)
        self.closed.pop(file.ino, None)
        self.names.learn(attributes, at, asked)
        self._number += 1
        self.handles[self._number] = Handle(file, flags, file.opened(writes(flags)))
        return self._number

    def _writable(self, handle: int) -> Handle:
        found = self.handles.get(handle)
        if found is None or not found.writes:
            raise Posix(EBADF)
        return found

    def known_mode(self, handle: int) -> int:
        """The mode of an open file, as last seen."""
        return self._file(handle).attributes.mode

    async def stat(self, handle: int) -> Attributes:
        """fstat."""
        return await self.stat_ino(self._file(handle).ino)

    async def read(self, handle: int, size: int, offset: int) -> Buffer:
        """Up to `size` bytes; short at the end of the file."""
        await self.claims.check(handle)
        found = await self.reader.read(self._file(handle), size, offset)
        await self.claims.check(handle)
        return found

    async def write(
        self, handle: int, data: Buffer, offset: int, append: bool | None = None
    ) -> int:
        """Accept bytes; an append ignores the offset, which may be stale.  None: as it was opened;
        the kernel knows of F_SETFL, and of pages that it writes back to where they belong."""
        found = self._writable(handle)
        await self.claims.check(handle)
        if append is None:
            append = bool(found.flags & os.O_APPEND)
        written = await self.writer.write(found.file, data, None if append else offset, found.told)
        self.names.unflushed(found.file.ino, self.driver.monotonic())
        return written

    async def fsync(self, handle: int) -> None:
        """fsync: what is stored of the file, its name too, is on disks when this returns."""
        found = self.handles.get(handle)
        if found is None:
            raise Posix(EBADF)
        if not await self.writer.sync(found.file, found.told):
            await self.fsyncdir()

    async def fsyncdir(self) -> None:
        """fsync of a directory: all names that were changed so far."""
        await self.contact.ask(wire.Sync())

    async def release(self, handle: int) -> None:
        """The last descriptor of a handle is gone."""
        found = self.handles.pop(handle, None)
        if found is None:
            return
        file = found.file
        await self.claims.released(file, handle)
        file.released(found.told, found.writes)
        if file.handles == 0:
            self.closed[file.ino] = file.opening
            self.idle[file.ino] = None
            await self._trim()

    async def _trim(self) -> None:
        """Forget closed files; their grants go back with the next heartbeat."""
        while len(self.idle) > IDLE_FILES:
            ino, _ = self.idle.popitem(last=False)
            file = self.files.get(ino)
            if file is None or file.handles:
                continue
            if file.busy or file.committing or file.recalled:
                self.idle[ino] = None
                return
            del self.files[ino]
            if file.token:
                self.returned[ino] = file.token

    async def truncate_ino(self, ino: Ino, handle: int | None, size: int) -> None:
        """truncate; ftruncate, with the handle."""
        if size > limits.FILE_BYTES or size < 0:
            raise Posix(EFBIG if size > 0 else EINVAL)
        own = None
        if handle is None or handle not in self.handles:
            handle = own = (await self.open_ino(ino, os.O_WRONLY))[0]
        try:
            await self.claims.check(handle)
            await self.ranges.truncate(self._file(handle), size, self.handles[handle].told)
            self.names.unflushed(ino, self.driver.monotonic())
        finally:
            if own is not None:
                await self.release(own)

    async def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        """fallocate: space is looked at, not set aside; EOPNOTSUPP for modes that shift bytes."""
        found = self._writable(handle)
        await self.ranges.fallocate(found.file, mode, offset, length, found.told)
        self.names.unflushed(found.file.ino, self.driver.monotonic())

    async def lseek(self, handle: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE."""
        return await self.ranges.seek(self._file(handle), offset, whence)

    async def copy_file_range(
        self, source: int, offset: int, target: int, at: int, length: int
    ) -> int:
        """How many bytes were copied; 0 at the end of the source.  Whether the target appends (then
        EBADF) the kernel knows: F_SETFL may have changed it."""
        found, read = self._writable(target), self.handles.get(source)
        if read is None or read.flags & os.O_ACCMODE == os.O_WRONLY:
            raise Posix(EBADF)
        done = await self.ranges.copy(read.file, offset, found.file, at, length, found.told)
        self.names.unflushed(found.file.ino, self.driver.monotonic())
        if found.flags & os.O_DSYNC:
            await self.fsync(target)
        return done

    # --- for people ----------------------------------------------------------------------------

    async def where_ino(self, ino: Ino) -> tuple[Attributes, list[wire.MapPage]]:
        """Attributes and the block map of a file, as committed, long holes left out."""
        attributes = (await self.contact.ask(wire.GetAttributes(ino))).attributes
        if not stat.S_ISREG(attributes.mode):
            raise Posix(EISDIR if stat.S_ISDIR(attributes.mode) else EINVAL)
        count = -(-attributes.size // (self.block_bytes * limits.PAGE_BLOCKS))
        pages: list[wire.MapPage] = []
        first = 0
        while first < count:
            found = (await self.contact.ask(wire.Seek(ino, PageNo(first), True))).pages
            if not found:
                break  # only holes follow
            first = found[0].page
            reply = await self.contact.ask(wire.ReadMap(ino, PageNo(first), min(64, count - first)))
            pages += reply.pages
            first += 64
        return attributes, pages
