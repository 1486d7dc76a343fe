"""What programs ask of a file system, by path: permissions, then the volume.

Coroutines over traps, as the volume's own.  Failures are `errors.Failure`.  A name that was
remembered and leads elsewhere by now (ESTALE) is looked for once more.
"""

import os
import stat
from collections.abc import Callable, Coroutine
from errno import EACCES, EEXIST, EINVAL, EISDIR, ELOOP, ENODATA, ENOTDIR, ENXIO
from errno import EOPNOTSUPP, EPERM, ESTALE
from typing import Any, TypeVar

from zdfs import acls, limits, wire
from zdfs.api.identity import READ, SEARCH, WRITE, Who, changed_mode, changed_owner
from zdfs.api.identity import may_remove, must_own, owns
from zdfs.api.places import Place, named, permit, place
from zdfs.attributes import without_set_ids
from zdfs.calls import Trap
from zdfs.errors import Posix
from zdfs.namespace import NOREPLACE
from zdfs.ports import Listed
from zdfs.paths import PathVolume
from zdfs.wire import Attributes

T = TypeVar("T")
WANTED = {os.O_RDONLY: READ, os.O_WRONLY: WRITE, os.O_RDWR: READ | WRITE}
CAPABILITY = b"security.capability"
TRIES = 10  # a name that others make and remove all the time


class Operations:
    """A volume, in somebody's name."""

    def __init__(self, volume: PathVolume, who: Who):
        self.volume, self.who = volume, who

    async def again(self, step: Callable[[], Coroutine[Trap, Any, T]]) -> T:
        """A step by path; once more where what was remembered is no longer so."""
        try:
            return await step()
        except Posix as error:
            if error.number != ESTALE:
                raise
        self.volume.names.clear()
        return await step()

    async def _at(self, where: Place, step: Coroutine[Trap, Any, T]) -> T:
        """A change of a name.  Refused, it was not what was believed of it: another thread's, whose
        answer is still underway, or another mount's."""
        try:
            return await step
        except Posix:
            self.volume.names.mistaken(where.directory.ino, where.name)
            raise

    async def _growing(self, path: bytes) -> Place:
        """Where something is to be made: nothing is there, and the directory may be changed."""
        if not path.strip(b"/"):
            raise Posix(EEXIST)
        where = await named(self.volume, self.who, path)
        if where.found is not None:
            raise Posix(EEXIST)
        await permit(self.volume, self.who, where.directory, WRITE | SEARCH)
        return where

    async def _shrinking(self, path: bytes) -> Place:
        """What is to be removed or moved, and may be."""
        where = await named(self.volume, self.who, path)
        found = where.there
        await permit(self.volume, self.who, where.directory, WRITE | SEARCH)
        may_remove(self.who, where.directory, found)
        return where

    # --- looking -------------------------------------------------------------------------------

    async def stat(self, path: bytes, follow: bool = True) -> Attributes:
        """stat(2), lstat(2)."""
        return (await place(self.volume, self.who, path, follow)).there

    async def access(self, path: bytes, want: int) -> bool:
        """Whether it is there and may be used so."""
        found = (await place(self.volume, self.who, path)).there
        try:
            await permit(self.volume, self.who, found, want)
        except Posix as error:
            if error.number != EACCES:
                raise
            return False
        return True

    async def readlink(self, path: bytes) -> bytes:
        """readlink(2)."""
        return await self.volume.readlink_ino((await self.stat(path, follow=False)).ino)

    async def opendir(self, path: bytes) -> int:
        """A handle to list a directory with."""
        found = await self.stat(path)
        if not stat.S_ISDIR(found.mode):
            raise Posix(ENOTDIR)
        await permit(self.volume, self.who, found, READ)
        return await self.volume.opendir_ino(found.ino)

    async def page(self, handle: int, offset: int) -> list[Listed]:
        """Entries with their attributes, without the dots; and what an end looks like: none."""
        while found := await self.volume.readdir(handle, offset):
            kept = [one for one in found if one.name not in (b".", b"..")]
            if kept:
                return kept
            offset = found[-1].next
        return []

    # --- names ---------------------------------------------------------------------------------

    async def make(
        self, path: bytes, mode: int, target: bytes = b"", rdev: int = 0, umask: int | None = None
    ) -> Attributes:
        """mkdir, mknod, symlink, by the type bits of `mode`."""
        if stat.S_IFMT(mode) in (stat.S_IFCHR, stat.S_IFBLK) and not self.who.root:
            raise Posix(EPERM)
        where, who = await self._growing(path), self.who
        mask = who.umask if umask is None else umask
        mask = 0 if stat.S_ISLNK(mode) else mask
        made = self.volume.make_at(
            where.directory.ino, where.name, mode, who.uid, who.gid, rdev, target, mask
        )
        return await self._at(where, made)

    async def unlink(self, path: bytes) -> None:
        """unlink(2)."""
        where = await self._shrinking(path)
        if stat.S_ISDIR(where.there.mode):
            raise Posix(EISDIR)
        await self._at(where, self.volume.unlink_at(where.directory.ino, where.name))

    async def rmdir(self, path: bytes) -> None:
        """rmdir(2)."""
        where = await self._shrinking(path)
        if not stat.S_ISDIR(where.there.mode):
            raise Posix(ENOTDIR)
        await self._at(where, self.volume.rmdir_at(where.directory.ino, where.name))

    async def rename(self, old: bytes, new: bytes, overwrite: bool) -> None:
        """rename(2); without `overwrite` EEXIST if something is there."""
        source = await self._shrinking(old)
        target = await named(self.volume, self.who, new)
        await permit(self.volume, self.who, target.directory, WRITE | SEARCH)
        if target.found is not None:
            may_remove(self.who, target.directory, target.found)
        if new.endswith(b"/") and not stat.S_ISDIR(source.there.mode):
            raise Posix(ENOTDIR)
        moved = source.directory.ino != target.directory.ino
        if moved and stat.S_ISDIR(source.there.mode):
            await permit(self.volume, self.who, source.there, WRITE)  # its ".." changes
        flags = 0 if overwrite else NOREPLACE
        moving = self.volume.rename_at(
            source.directory.ino, source.name, target.directory.ino, target.name, flags
        )
        await self._at(source, self._at(target, moving))

    async def link(self, old: bytes, new: bytes) -> None:
        """link(2)."""
        found = (await place(self.volume, self.who, old, follow=False)).there
        if stat.S_ISDIR(found.mode):
            raise Posix(EPERM)
        where = await self._growing(new)
        linking = self.volume.link_at(found.ino, where.directory.ino, where.name)
        await self._at(where, linking)

    # --- attributes ----------------------------------------------------------------------------

    async def chmod(self, path: bytes, mode: int, follow: bool = True) -> None:
        """chmod(2)."""
        found = await self.stat(path, follow)
        if stat.S_ISLNK(found.mode):
            raise Posix(EOPNOTSUPP)
        await self.volume.set_ino(found.ino, mode=changed_mode(self.who, found, mode))

    async def chown(self, path: bytes, uid: int | None, gid: int | None, follow: bool) -> None:
        """chown(2), lchown(2)."""
        found = await self.stat(path, follow)
        mode = changed_owner(self.who, found, uid, gid)
        await self.volume.set_ino(found.ino, mode=mode, uid=uid, gid=gid)

    async def utime(self, path: bytes, times_ns: tuple[int, int] | None, follow: bool) -> None:
        """utimensat(2); None: now."""
        found = await self.stat(path, follow)
        if times_ns is None:
            if not owns(self.who, found):
                await permit(self.volume, self.who, found, WRITE)
            await self.volume.set_ino(found.ino, atime_now=True, mtime_now=True)
            return
        must_own(self.who, found)
        atime, mtime = (min(max(ns, limits.FIRST_NS), limits.LAST_NS) for ns in times_ns)
        await self.volume.set_ino(found.ino, atime_ns=atime, mtime_ns=mtime)

    async def _extended(self, path: bytes, name: bytes, want: int, follow: bool) -> Attributes:
        """An inode whose extended attribute is read or changed, by xattr(7)."""
        found = await self.stat(path, follow)
        if name.startswith(b"user."):
            if not (stat.S_ISREG(found.mode) or stat.S_ISDIR(found.mode)):
                raise Posix(ENODATA if want == READ else EPERM)
            sticky = stat.S_ISDIR(found.mode) and found.mode & stat.S_ISVTX
            if want == WRITE and sticky:
                must_own(self.who, found)
            await permit(self.volume, self.who, found, want)
        elif name.startswith(b"trusted."):
            if not self.who.root:
                raise Posix(ENODATA if want == READ else EPERM)
        elif name.startswith(b"security.") or name in acls.NAMES:
            if want == WRITE:
                must_own(self.who, found)
        else:
            raise Posix(EOPNOTSUPP, "names begin with user., trusted. or security.")
        return found

    async def getxattr(self, path: bytes, name: bytes, follow: bool) -> bytes:
        """getxattr(2)."""
        found = await self._extended(path, name, READ, follow)
        return await self.volume.getxattr_ino(found.ino, name)

    async def setxattr(
        self, path: bytes, name: bytes, value: bytes, flags: int, follow: bool
    ) -> None:
        """setxattr(2)."""
        found = await self._extended(path, name, WRITE, follow)
        if name in acls.NAMES and stat.S_ISLNK(found.mode):
            raise Posix(EOPNOTSUPP)
        ends = name == acls.ACCESS and not self.who.root and not self.who.within(found.gid)
        await self.volume.setxattr_ino(found.ino, name, value, flags, ends)

    async def removexattr(self, path: bytes, name: bytes, follow: bool) -> None:
        """removexattr(2)."""
        found = await self._extended(path, name, WRITE, follow)
        await self.volume.removexattr_ino(found.ino, name)

    async def listxattr(self, path: bytes, follow: bool) -> list[bytes]:
        """listxattr(2); trusted. ones for root."""
        found = await self.stat(path, follow)
        names = await self.volume.listxattr_ino(found.ino)
        return [name for name in names if self.who.root or not name.startswith(b"trusted.")]

    async def statfs(self, path: bytes) -> wire.Space:
        """statvfs(3)."""
        await self.stat(path)
        return await self.volume.statfs()

    # --- content -------------------------------------------------------------------------------

    async def open(self, path: bytes, flags: int, mode: int, umask: int | None = None) -> int:
        """open(2): a handle."""
        exclusive = bool(flags & os.O_CREAT and flags & os.O_EXCL)
        follow = not (exclusive or flags & os.O_NOFOLLOW)
        for _ in range(TRIES):
            where = await place(self.volume, self.who, path, follow)
            if where.found is None and flags & os.O_CREAT:
                try:
                    return await self._create(where, path, flags, mode, umask)
                except Posix as error:
                    if error.number != EEXIST or exclusive:
                        raise
                continue  # others were faster
            if exclusive:
                raise Posix(EEXIST)
            return await self._open(where.there, flags)
        raise Posix(EEXIST, "others make and remove this name all the time")

    async def _create(
        self, where: Place, path: bytes, flags: int, mode: int, umask: int | None
    ) -> int:
        if path.endswith(b"/"):
            raise Posix(EISDIR)
        await permit(self.volume, self.who, where.directory, WRITE | SEARCH)
        who = self.who
        making = self.volume.create_at(
            where.directory.ino, where.name, stat.S_IFREG | mode, who.uid, who.gid,
            flags | os.O_EXCL, who.umask if umask is None else umask,
        )  # fmt: skip
        return (await self._at(where, making))[0]

    async def _open(self, found: Attributes, flags: int) -> int:
        if stat.S_ISDIR(found.mode):
            raise Posix(EISDIR)
        if stat.S_ISLNK(found.mode):
            raise Posix(ELOOP)
        if not stat.S_ISREG(found.mode):
            raise Posix(ENXIO, "a device, pipe or socket is opened on a mount only")
        want = WANTED[flags & os.O_ACCMODE] | (WRITE if flags & os.O_TRUNC else 0)
        await permit(self.volume, self.who, found, want)
        if flags & os.O_TRUNC:
            await self.end_privileges(found)
        handle, _ = await self.volume.open_ino(found.ino, flags)
        return handle

    async def end_privileges(self, found: Attributes) -> None:
        """Before content changes: a set-id bit and a capability are of what the file was."""
        left = without_set_ids(found.mode)
        if left != found.mode and not self.who.root:
            await self.volume.set_ino(found.ino, mode=stat.S_IMODE(left))
        if not found.xattrs:
            return
        try:
            await self.volume.getxattr_ino(found.ino, CAPABILITY)
            await self.volume.removexattr_ino(found.ino, CAPABILITY)
        except Posix as error:
            if error.number != ENODATA:
                raise

    async def end_privileges_of(self, handle: int) -> None:
        """Likewise, of an open file."""
        await self.end_privileges(await self.volume.stat(handle))

    async def truncate(self, path: bytes, size: int) -> None:
        """truncate(2)."""
        if size < 0:
            raise Posix(EINVAL)
        found = await self.stat(path)
        if not stat.S_ISREG(found.mode):
            raise Posix(EISDIR if stat.S_ISDIR(found.mode) else EINVAL)
        await permit(self.volume, self.who, found, WRITE)
        await self.end_privileges(found)
        await self.volume.truncate_ino(found.ino, None, size)

    async def close(self, handle: int, flush: bool = True) -> None:
        """close(2): what was written is stored when this returns."""
        try:
            if flush:
                await self.volume.flush(handle)
        finally:
            await self.volume.release(handle)
