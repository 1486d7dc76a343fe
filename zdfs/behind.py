"""What a mount with --writeback does not wait for: closed files, and what was set on files.

Without it, a close returns when everything is stored, and so do utimens, chmod and chown.  With it:

    flush      (close) has the file flushed, and does not wait (`flushing`)
    set_ino    times, a mode that takes no rights away, and an owner who is the owner already are
               kept with a file that has something unflushed (`File.kept`), sent behind its commit

fsync waits for all of it; so do unmounting, and an open elsewhere, which takes the grant back.
What gets another name is stored before it has it: a program that writes a file and renames it over
the old one finds the old or the new one after a crash, never an empty one.  What can't be stored is
said by the next call on a handle, also one of a later open.
"""

import stat
from errno import ESTALE

from zdfs import acls
from zdfs.cache import File, Kept
from zdfs.calls import clock, now, spawn
from zdfs.contact import Contact
from zdfs.errors import Posix
from zdfs.flushing import Flusher
from zdfs.ids import Ino
from zdfs.knowledge import Names
from zdfs.lockable import Lockable
from zdfs.namespace import EXCHANGE
from zdfs.reading import Reader
from zdfs.wire import Attributes, Open, Opened, SetAttributes

SET_IDS = stat.S_ISUID | stat.S_ISGID


class Behind(Lockable):
    """Names and open files, some of whose changes are stored later."""

    def __init__(self, contact: Contact, reader: Reader, names: Names, writeback: bool):
        super().__init__(contact, reader, names)
        self.writeback = writeback
        self.flusher = Flusher(self.writer)

    async def start_flushing(self) -> None:
        """Begin the tasks that flush what nobody waits for."""
        await spawn(self.flusher.flush_old(), "flusher")
        if self.writeback:
            await spawn(self.flusher.flush_closed(), "flusher of closed files")

    async def flush(self, handle: int) -> None:
        """close: everything is stored when this returns, the data on disks, the metadata on one;
        with --writeback: it will be."""
        found = self.handles.get(handle)
        if found is None or not found.writes:
            return
        if not self.writeback:
            await self.writer.drain(found.file, found.told)
            return
        self.writer.complain(found.file, found.told)
        await self.flusher.close(found.file)

    async def _ask_open(self, file: File | None, request: Open, changes: bool) -> Opened:
        """Ask to open a file.  It is not let go of meanwhile: it may be open already."""
        if file is not None:
            file.awaited += 1
        try:
            return await (self.contact.change if changes else self.contact.ask)(request)
        finally:
            if file is not None:
                file.awaited -= 1

    # --- attributes ----------------------------------------------------------------------------

    async def _keep(self, request: SetAttributes) -> Attributes | None:
        """Keep what is set with what is unflushed; None: it is to be sent now."""
        file = self.files.get(request.ino)
        if file is None or not self.writeback:
            return None
        at, at_ns = await now(), await clock()
        # No trap from here on: as long as something is unflushed, its commit follows.
        if not self._may_keep(file, request):
            await self.writer.tell(file)
            return None
        had = file.kept or Kept(at, at_ns)
        atime, mtime = request.times(at_ns)
        file.kept = Kept(
            had.since, at_ns,
            had.mode if request.mode is None else request.mode,
            had.atime_ns if atime is None else atime,
            had.mtime_ns if mtime is None else mtime,
            had.was_mode if request.mode is None else stat.S_IMODE(file.attributes.mode),
        )  # fmt: skip
        if mtime is not None:
            file.mtime_ns = None  # an unflushed write's time is overruled
        return file.shown()

    def _may_keep(self, file: File, request: SetAttributes) -> bool:
        """Nothing may be kept that takes something from somebody: it must hold at once."""
        if file.recalled or file.cut or not (file.dirty or file.flights):
            return False
        shown, mode = file.shown(), request.mode
        if shown.mode & SET_IDS or request.uid not in (None, shown.uid):
            return False
        if mode is not None and file.overtaken:  # what it is by now must be known
            return False
        if mode is not None and (mode & SET_IDS or stat.S_IMODE(shown.mode) & ~mode):
            return False
        return request.gid in (None, shown.gid)

    async def _tell(self, ino: Ino) -> None:
        """An access list is to be asked for or set: it and the mode are one."""
        file = self.files.get(ino)
        if file is not None:
            await self.writer.tell(file)

    async def getxattr_ino(self, ino: Ino, name: bytes) -> bytes:
        """getxattr."""
        if name in acls.NAMES:
            await self._tell(ino)
        return await super().getxattr_ino(ino, name)

    async def setxattr_ino(
        self, ino: Ino, name: bytes, value: bytes, flags: int = 0, ends_sgid: bool = False
    ) -> None:
        """setxattr.  `cp -p` and `cp -a` set the mode by an access list that says no more."""
        mode = self._mode_of(ino, value) if name == acls.ACCESS and not flags else None
        if mode is not None and not ends_sgid:
            request = SetAttributes(ino, mode, None, None, None, None, False, False)
            if await self._keep(request) is not None:
                return
        await self._tell(ino)
        await super().setxattr_ino(ino, name, value, flags, ends_sgid)

    def _mode_of(self, ino: Ino, value: bytes) -> int | None:
        """The mode that an access list comes to; None: it is more than that, or replaces one."""
        file = self.files.get(ino)
        if file is None or file.shown().xattrs:
            return None
        acl = acls.unpack(value)
        if not acl or acls.says_more(acl):
            return None
        return stat.S_IMODE(acls.mode_of(acl, file.shown().mode))

    async def removexattr_ino(self, ino: Ino, name: bytes) -> None:
        """removexattr."""
        await self._tell(ino)
        await super().removexattr_ino(ino, name)

    # --- names ---------------------------------------------------------------------------------

    async def rename_at(
        self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int = 0
    ) -> None:
        """rename, with renameat2's flags."""
        await self._stored(parent, name)
        if flags & EXCHANGE:
            await self._stored(new_parent, new_name)
        await super().rename_at(parent, name, new_parent, new_name, flags)

    async def link_at(self, ino: Ino, parent: Ino, name: bytes) -> Attributes:
        """link."""
        await self._stored_ino(ino)
        return await super().link_at(ino, parent, name)

    async def _stored(self, parent: Ino, name: bytes) -> None:
        if self.writeback and self.writer.files:
            ino = self.names.find(parent, name, await now())
            await self._stored_ino(ino or (await self.lookup_at(parent, name)).ino)

    async def _stored_ino(self, ino: Ino) -> None:
        file = self.files.get(ino)
        if self.writeback and file is not None and file.busy:
            await self.writer.drain(file)

    async def _gone(self, parent: Ino, name: bytes, found: Attributes, asked: float) -> None:
        """A name leads nowhere any more.  What nobody can reach need not be flushed."""
        await super()._gone(parent, name, found, asked)
        file = self.files.get(found.ino)
        if found.nlink or file is None or file.handles or file.awaited or not file.busy:
            return
        file.kept = None
        await self.writer.lose(file, Posix(ESTALE))
