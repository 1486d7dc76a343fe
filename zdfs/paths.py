"""A volume by path, for commands and tests, and below `api`; a mount needs none of it.

Paths are bytes and absolute; they are walked from the root by what the name cache knows, and the
rest of the way is asked in one question.  A symlink is not followed.
"""

from errno import EBADF, EEXIST, EINVAL, ENAMETOOLONG, ENOTDIR, ESTALE
import stat

from zdfs import limits, wire
from zdfs.calls import now
from zdfs.errors import Posix
from zdfs.ids import ROOT, Ino
from zdfs.volume import Volume
from zdfs.wire import Attributes


class PathVolume(Volume):
    """A mounted file system, by path."""

    # --- the way -------------------------------------------------------------------------------

    async def _walk(self, path: bytes) -> Ino:
        """The inode at a path; one question for everything that isn't known."""
        at = await now()
        ino = ROOT
        names = [name for name in path.split(b"/") if name]
        for place, name in enumerate(names):
            if len(name) > limits.NAME_BYTES:
                raise Posix(ENAMETOOLONG)
            found = self.names.find(ino, name, at)
            if found is None and place == len(names) - 1:
                return (await self.lookup_at(ino, name)).ino
            if found is None:
                return await self._ask_way(ino, names[place:])
            ino = found
        return ino

    async def _ask_way(self, ino: Ino, names: list[bytes]) -> Ino:
        while names:
            part, names = names[: limits.WALK_NAMES], names[limits.WALK_NAMES :]
            if any(len(name) > limits.NAME_BYTES for name in part):
                raise Posix(ENAMETOOLONG)
            asked = await now()
            walked = await self.contact.ask(wire.Lookup(ino, tuple(part)))
            at = await now()
            if walked.steps:
                self.names.listed(ino, walked.version, asked, {part[0]: walked.steps[0].ino})
            for name, attributes in zip(part, walked.steps):
                self.names.enter(ino, name, attributes, at, asked)
                ino = attributes.ino
            if walked.number:
                if len(walked.steps) < len(part):
                    self.names.forget(ino, part[len(walked.steps)])
                raise Posix(walked.number)
        return ino

    async def _place(self, path: bytes) -> tuple[Ino, bytes]:
        """The directory and the name of a path."""
        parent, _, name = path.rpartition(b"/")
        if not name:
            raise Posix(EEXIST if path in (b"/", b"") else EINVAL)
        return await self._walk(parent), name

    async def _inode(self, path: bytes | None, handle: int | None) -> Ino:
        if handle in self.handles:
            return self._file(handle).ino
        if path is None:
            raise Posix(EBADF)
        return await self._walk(path)

    # --- names ---------------------------------------------------------------------------------

    async def lookup(self, path: bytes) -> Attributes:
        """stat by path, with what is unflushed."""
        return await self.stat_ino(await self._walk(path))

    async def make(
        self, path: bytes, mode: int, uid: int, gid: int, rdev: int = 0, target: bytes = b"",
        umask: int = 0,
    ) -> None:  # fmt: skip
        """mkdir, mknod, symlink, by the type bits of `mode`."""
        await self.make_at(*await self._place(path), mode, uid, gid, rdev, target, umask)

    async def unlink(self, path: bytes) -> None:
        """unlink."""
        await self.unlink_at(*await self._place(path))

    async def rmdir(self, path: bytes) -> None:
        """rmdir."""
        await self.rmdir_at(*await self._place(path))

    async def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """rename, with renameat2's flags."""
        await self.rename_at(*await self._place(old), *await self._place(new), flags)

    async def link(self, old: bytes, new: bytes) -> None:
        """link."""
        await self.link_at(await self._walk(old), *await self._place(new))

    async def readlink(self, path: bytes) -> bytes:
        """readlink."""
        return await self.readlink_ino(await self._walk(path))

    async def opendir(self, path: bytes) -> int:
        """A handle to list a directory with."""
        found = await self.lookup(path)
        if not stat.S_ISDIR(found.mode):
            raise Posix(ENOTDIR)
        return await self.opendir_ino(found.ino)

    # --- attributes ----------------------------------------------------------------------------

    async def set_attributes(
        self, path: bytes | None, handle: int | None, *, mode: int | None = None,
        uid: int | None = None, gid: int | None = None, atime_ns: int | None = None,
        mtime_ns: int | None = None, now: bool = False,
    ) -> None:  # fmt: skip
        """chmod, chown, utimens.  With `now`, times that are not None become M's now."""
        await self.set_ino(
            await self._inode(path, handle),
            mode=mode,
            uid=uid,
            gid=gid,
            atime_ns=atime_ns,
            mtime_ns=mtime_ns,
            atime_now=now and atime_ns is not None,
            mtime_now=now and mtime_ns is not None,
        )

    async def getxattr(self, path: bytes, name: bytes) -> bytes:
        """getxattr."""
        return await self.getxattr_ino(await self._walk(path), name)

    async def setxattr(
        self, path: bytes, name: bytes, value: bytes, flags: int, ends_sgid: bool = False
    ) -> None:
        """setxattr."""
        await self.setxattr_ino(await self._walk(path), name, value, flags, ends_sgid)

    async def listxattr(self, path: bytes) -> list[bytes]:
        """listxattr."""
        return await self.listxattr_ino(await self._walk(path))

    async def removexattr(self, path: bytes, name: bytes) -> None:
        """removexattr."""
        await self.removexattr_ino(await self._walk(path), name)

    # --- content -------------------------------------------------------------------------------

    async def open(self, path: bytes, flags: int) -> tuple[int, bool]:
        """A handle, and whether a kernel's pages of the file would still be right."""
        try:
            return await self.open_ino(await self._walk(path), flags)
        except Posix as error:
            if error.number != ESTALE:
                raise
        self.names.clear()  # one that was remembered leads elsewhere by now; so does the kernel
        return await self.open_ino(await self._walk(path), flags)

    def open_inode(self, handle: int) -> Ino | None:
        """The inode of an open file's handle."""
        found = self.handles.get(handle)
        return None if found is None else found.file.ino

    async def create(
        self, path: bytes, mode: int, uid: int, gid: int, flags: int, umask: int = 0
    ) -> int:
        """open(O_CREAT) of a path that wasn't there a moment ago."""
        handle, _ = await self.create_at(*await self._place(path), mode, uid, gid, flags, umask)
        return handle

    async def truncate(self, path: bytes | None, handle: int | None, size: int) -> None:
        """truncate, ftruncate."""
        await self.truncate_ino(await self._inode(path, handle), handle, size)

    async def where(self, path: bytes) -> tuple[Attributes, list[wire.MapPage]]:
        """Attributes and the whole block map of a file, as committed."""
        return await self.where_ino(await self._walk(path))
