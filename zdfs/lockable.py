"""Open files and the locks on them: the part of a volume that fcntl and flock call.

`claims` does the work; here handles become files, and what the kernel knows is compared.
"""

import os
from dataclasses import dataclass
from errno import EBADF

from zdfs.cache import File, Told
from zdfs.claims import Claims
from zdfs.contact import Contact
from zdfs.errors import Posix
from zdfs.knowledge import Names
from zdfs.ports import Owner
from zdfs.reading import Reader
from zdfs.tree import Tree
from zdfs.wire import FileLock, Span
from zdfs.writing import Writer


def writes(flags: int) -> bool:
    """Whether who opens a file with these may write."""
    return flags & os.O_ACCMODE != os.O_RDONLY


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
        return writes(self.flags)


class Lockable(Tree):
    """Names, and open files that can be locked."""

    def may_be_mapped(self, handle: int) -> bool:
        """Whether a program here may have a mapping to write to the file of a handle."""
        file = self.handles[handle].file
        others = [one for one in self.handles.values() if one.file is file]
        return any(one.flags & os.O_ACCMODE == os.O_RDWR for one in others)

    def __init__(self, contact: Contact, reader: Reader, names: Names):
        super().__init__(contact, reader)
        self.names = names
        self.handles: dict[int, Handle] = {}
        self.writer = Writer(contact, reader)
        self.claims = Claims(contact, reader, self.writer, names)

    def _file(self, handle: int) -> File:
        found = self.handles.get(handle)
        if found is None:
            raise Posix(EBADF)
        return found.file

    def _claim(self, handle: int, owner: Owner, span: Span) -> tuple[File, FileLock]:
        file = self._file(handle)
        return file, FileLock(file.ino, owner.kind, owner.number, owner.pid, span)

    async def lock(self, handle: int, owner: Owner, span: Span, waits: bool) -> None:
        """F_SETLK, F_SETLKW, flock; from then on reads show the file as of then (but `stale`)."""
        file, claim = self._claim(handle, owner, span)
        await self.claims.lock(file, handle, self.handles[handle].told, claim, waits)

    async def unlock(self, handle: int, owner: Owner, span: Span) -> None:
        """F_UNLCK, LOCK_UN, and what close(2) does: what is dirty is committed first."""
        await self.claims.unlock(*self._claim(handle, owner, span))

    async def test_lock(self, handle: int, owner: Owner, span: Span) -> FileLock | None:
        """F_GETLK: a lock that is in the way."""
        return await self.claims.test(self._claim(handle, owner, span)[1])

    def stale(self, handle: int) -> int | None:
        """The file's change counter, if the kernel's pages are older."""
        found = self.handles.get(handle)
        if found is None or found.file.kernel_change == found.file.attributes.change:
            return None
        return found.file.attributes.change

    def dropped(self, handle: int, change: int) -> None:
        """The kernel has dropped all pages that are older than this."""
        found = self.handles.get(handle)
        if found is not None:
            found.file.kernel_change = max(found.file.kernel_change, change)
