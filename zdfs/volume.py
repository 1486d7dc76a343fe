"""The file system of one mount, without a kernel: paths, handles, names; also the Python API.

Coroutines over traps, driven by `link` (or the simulated world).  The volume is a monitor: one
lock, released at each trap, so what was read before a trap is looked at again after it.  Names
and paths are bytes, paths absolute.  Every method raises errors.Failure with an errno.

    contact   the session, the cluster map, changes applied exactly once
    tree      paths, names, listings
    reader    blocks from replicas, checked
    writer    dirty blocks, flights, commits
"""

import logging
import os
import stat
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from errno import EBADF, EFBIG, EINVAL, EISDIR
from typing import Any

from zdfs import limits, wire
from zdfs.cache import File, Told
from zdfs.calls import Trap, notify, now, sleep, spawn, wait
from zdfs.checksum import Buffer
from zdfs.contact import Contact, Driver
from zdfs.errors import Failure, Fenced, NoSession, Posix
from zdfs.ids import Ino, PageNo, Token
from zdfs.reading import Reader
from zdfs.tree import Tree, placed
from zdfs.wire import Attributes
from zdfs.writing import Writer

log = logging.getLogger("zdfs.mount")

IDLE_FILES = 1024  # closed files whose grant and map are kept


@dataclass(slots=True)
class Handle:
    """An open file."""

    file: File
    flags: int
    told: Told
    outdated: bool = False

    @property
    def writes(self) -> bool:
        """Opened for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class Volume(Tree):
    """A mounted file system."""

    def __init__(self, meta: str, mount: str, driver: Driver):
        contact = Contact(meta, mount, driver)
        super().__init__(contact, Reader(contact))
        self.driver = driver
        self.writer = Writer(self.contact, self.reader)
        self.idle: OrderedDict[Ino, None] = OrderedDict()  # closed, kept for a while
        self.handles: dict[int, Handle] = {}
        self.closed: dict[Ino, int] = {}  # to be told with the next heartbeat
        self.returned: dict[Ino, Token] = {}
        self.refused: OrderedDict[Ino, Token] = OrderedDict()  # returned before they arrived
        self._told: tuple[dict[Ino, int], dict[Ino, Token]] = ({}, {})
        self._opening = 0

    @property
    def block_bytes(self) -> int:
        """Size of a block."""
        return self.contact.block_bytes

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the session; returns when the file system can be used."""
        await self.contact.open()
        await spawn(self.writer.flush_old(), "flusher")
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
        self._told = (closed, returned)
        return wire.Beat(
            self.contact.map.version,
            self.contact.shown_blocked(self.driver.monotonic()),
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
        elif isinstance(message, wire.Beaten):
            return self._beaten(message)
        return []

    def _beaten(self, beaten: wire.Beaten) -> list[Coroutine[Trap, Any, None]]:
        closed, returned = self._told
        for ino, opening in closed.items():
            if self.closed.get(ino) == opening:
                del self.closed[ino]
        for ino, token in returned.items():
            if self.returned.get(ino) == token:
                del self.returned[ino]
        self._told = ({}, {})
        if beaten.map is not None:
            self.contact.take_map(beaten.map)
        todo: list[Coroutine[Trap, Any, None]] = [self._give_back(r) for r in beaten.recalls]
        if beaten.announce:
            todo.append(self._announce())
        return todo

    async def _announce(self) -> None:
        """The metaserver has restarted: say what is open and held here."""
        files = list(self.files.values())
        openings = [wire.Opening(f.ino, f.opening) for f in files if f.handles]
        holdings = [wire.Holding(f.ino, f.token, f.number) for f in files if f.token]
        size = limits.LIST_ITEMS
        count = max(len(openings), len(holdings), 1)
        for first in range(0, count, size):
            await self.contact.ask(
                wire.Announce(
                    tuple(openings[first : first + size]),
                    tuple(holdings[first : first + size]),
                    first + size >= count,
                )
            )
        log.info("announced %d open files to the metaserver", len(openings))

    async def _reborn(self) -> None:
        """The session died: what was not committed is void; go on with a new one."""
        if self.contact.lost_session or self.contact.closed:
            return
        self.contact.lost_session = True
        log.error("this mount's session ended (it was silent for too long): opening a new one")
        try:
            await self.contact.open()
            for file in list(self.files.values()):
                file.give_up(file.token)
                if file.dirty or file.flights:
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
        if file.recalled:
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

    # --- open files ----------------------------------------------------------------------------

    async def open(self, path: bytes, flags: int) -> tuple[int, bool]:
        """A handle, and whether the kernel's pages of the file are still right."""
        ino = await self._inode(path, None)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        truncates = bool(flags & os.O_TRUNC)
        while ino in self.returned:  # its grant is on its way back
            await wait(self.contact.map_changed, limits.BEAT_S / 10)
        file = self.files.get(ino)
        told = self.names.last_known(ino)
        self._opening += 1
        opening = self._opening
        wants = (writes or truncates) and not (file and file.token and not file.recalled)
        request = wire.Open(ino, opening, wants, False)
        opened = await (self.contact.change(request) if wants else self.contact.ask(request))
        while file and file.flights and not file.token:  # lost, and not yet given up
            await wait(file.moved, limits.RETRY_S)
        handle = self._opened(opened, opening, flags)
        file = self.handles[handle].file
        self.handles[handle].outdated = told is not None and told.change < opened.attributes.change
        if truncates:  # an empty file, too: its times move
            try:
                await self.writer.truncate(file, 0)
            except Failure:
                await self.release(handle)
                raise
        keep = file.kernel_change == file.attributes.change and not truncates
        file.kernel_change = file.attributes.change
        return handle, keep

    async def create(self, path: bytes, mode: int, uid: int, gid: int, flags: int) -> int:
        """open(O_CREAT) of a path that wasn't there a moment ago."""
        parent, name = await self._place(path)
        self._opening += 1
        opening = self._opening
        exclusive = bool(flags & os.O_EXCL)
        request = wire.Create(parent, name, placed(path), mode, uid, gid, exclusive, opening)
        opened = await self.contact.change(request)
        self.names.enter(parent, name, opened.attributes, await now())
        self.names.forget_inode(parent)
        handle = self._opened(opened, opening, flags)
        file = self.handles[handle].file
        if flags & os.O_TRUNC and file.size:
            await self.writer.truncate(file, 0)
        file.kernel_change = file.attributes.change
        return handle

    def outdated(self, handle: int) -> bool:
        """Whether attributes that this mount told before the open are not those that it found."""
        return self.handles[handle].outdated

    def open_inode(self, handle: int) -> Ino | None:
        """The inode of an open file's handle."""
        found = self.handles.get(handle)
        return None if found is None else found.file.ino

    def _opened(self, opened: wire.Opened, opening: int, flags: int) -> int:
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
        file.handles += 1
        file.opening = max(file.opening, opening)
        self.idle.pop(file.ino, None)
        self.closed.pop(file.ino, None)
        self.names.learn(attributes, at)
        self._number += 1
        self.handles[self._number] = Handle(file, flags, Told(file.losses))
        return self._number

    def _file(self, handle: int) -> File:
        found = self.handles.get(handle)
        if found is None:
            raise Posix(EBADF)
        return found.file

    async def stat(self, handle: int) -> Attributes:
        """fstat."""
        return await self._attributes(self._file(handle).ino)

    async def read(self, handle: int, size: int, offset: int) -> Buffer:
        """Up to `size` bytes; short at the end of the file."""
        return await self.reader.read(self._file(handle), size, offset)

    async def write(self, handle: int, data: Buffer, offset: int) -> int:
        """Accept bytes; O_APPEND handles ignore the offset, which may be stale."""
        found = self.handles.get(handle)
        if found is None or not found.writes:
            raise Posix(EBADF)
        append = bool(found.flags & os.O_APPEND)
        written = await self.writer.write(found.file, data, None if append else offset, found.told)
        self.names.forget_inode(found.file.ino)
        return written

    async def flush(self, handle: int) -> None:
        """close: everything is stored when this returns."""
        found = self.handles.get(handle)
        if found is not None and found.writes:
            await self.writer.drain(found.file, found.told)

    async def fsync(self, handle: int) -> None:
        """fsync."""
        found = self.handles.get(handle)
        if found is None:
            raise Posix(EBADF)
        await self.writer.drain(found.file, found.told)

    async def release(self, handle: int) -> None:
        """The last descriptor of a handle is gone."""
        found = self.handles.pop(handle, None)
        if found is None:
            return
        file = found.file
        file.handles -= 1
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

    async def truncate(self, path: bytes | None, handle: int | None, size: int) -> None:
        """truncate, ftruncate."""
        if size > limits.FILE_BYTES or size < 0:
            raise Posix(EFBIG if size > 0 else EINVAL)
        own = None
        if handle is None or handle not in self.handles:
            if path is None:
                raise Posix(EBADF)
            own, _ = await self.open(path, os.O_WRONLY)
            handle = own
        try:
            await self.writer.truncate(self._file(handle), size)
            self.names.forget_inode(self._file(handle).ino)
        finally:
            if own is not None:
                await self.release(own)

    # --- for people ----------------------------------------------------------------------------

    async def where(self, path: bytes) -> tuple[Attributes, list[wire.MapPage]]:
        """Attributes and the whole block map of a file, as committed."""
        ino = await self._inode(path, None)
        attributes = (await self.contact.ask(wire.GetAttributes(ino))).attributes
        if not stat.S_ISREG(attributes.mode):
            raise Posix(EISDIR if stat.S_ISDIR(attributes.mode) else EINVAL)
        count = -(-attributes.size // (self.block_bytes * limits.PAGE_BLOCKS))
        pages: list[wire.MapPage] = []
        for first in range(0, count, 64):
            reply = await self.contact.ask(wire.ReadMap(ino, PageNo(first), min(64, count - first)))
            pages += reply.pages
        return attributes, pages
