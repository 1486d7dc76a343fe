"""The name side of a volume: paths to inodes, names, attributes, listings.

Paths are walked from the root by what the name cache knows; the rest of the way is asked in one
question.  A *hidden* name is one that only this mount knows, of a file unlinked while open here.
The kernel side makes it unique, and goes on using it when a directory above it was renamed.
"""

import stat
from dataclasses import dataclass, field
from errno import E2BIG, EBADF, EEXIST, EINVAL, ENAMETOOLONG, ENOTDIR, ERANGE

from zdfs import limits, wire
from zdfs.cache import File, Names
from zdfs.calls import now, wait
from zdfs.contact import Contact
from zdfs.errors import Posix
from zdfs.ids import ROOT, Ino
from zdfs.reading import Reader
from zdfs.wire import Attributes


@dataclass(slots=True)
class Listed:
    """An open directory: the names given so far, by offset - 2, and the newest page."""

    ino: Ino
    names: list[bytes] = field(default_factory=list)
    first: int = 0
    page: tuple[wire.Entry, ...] = ()
    end: bool = False


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def placed(path: bytes) -> bytes:
    """What placement hashes: the path, or the end of one that is too long for a message."""
    return path[1 - limits.PATH_BYTES :]


class Tree:
    """Names, as this mount sees them."""

    def __init__(self, contact: Contact, reader: Reader):
        self.contact, self.reader = contact, reader
        self.names = Names()
        self.files: dict[Ino, File] = {}
        self.listings: dict[int, Listed] = {}
        self.hidden: dict[bytes, Ino] = {}  # unlinked while open here, by their hidden name
        self._number = 0  # of the newest handle

    def open_inode(self, handle: int) -> Ino | None:
        """The inode of an open file's handle; Volume knows them."""
        raise NotImplementedError

    # --- paths ---------------------------------------------------------------------------------

    async def lookup(self, path: bytes) -> Attributes:
        """stat by path, with what is unflushed."""
        return await self._attributes(await self._inode(path, None))

    async def _attributes(self, ino: Ino) -> Attributes:
        known = self.names.attributes(ino, await now())
        if known is None:
            known = await self._ask_attributes(ino)
            self.names.learn(known, await now())
        file = self.files.get(ino)
        if file is None:
            return known
        if known.change > file.attributes.change:
            self.reader.take(file, known)
        return file.shown()

    async def _ask_attributes(self, ino: Ino) -> Attributes:
        """What is open goes on being read while the metaserver is silent, so it is shown too."""
        request = wire.GetAttributes(ino)
        file = self.files.get(ino)
        if file is None or not file.handles:
            return (await self.contact.ask(request)).attributes
        found = await self.contact.ask_briefly(request)
        return file.attributes if found is None else found.attributes

    async def _walk(self, path: bytes) -> Ino:
        """The inode at a path; one question for everything that isn't known."""
        at = await now()
        ino = ROOT  # how long the whole path is doesn't matter: the kernel minds what callers say
        names = [name for name in path.split(b"/") if name]
        for place, name in enumerate(names):
            if len(name) > limits.NAME_BYTES:
                raise Posix(ENAMETOOLONG)
            found = self.names.find(ino, name, at)
            if found is None:
                return await self._ask_way(ino, names[place:])
            ino = found
        return ino

    async def _ask_way(self, ino: Ino, names: list[bytes]) -> Ino:
        while names:
            part, names = names[: limits.WALK_NAMES], names[limits.WALK_NAMES :]
            if any(len(name) > limits.NAME_BYTES for name in part):
                raise Posix(ENAMETOOLONG)
            walked = await self.contact.ask(wire.Lookup(ino, tuple(part)))
            at = await now()
            for name, attributes in zip(part, walked.steps):
                self.names.enter(ino, name, attributes, at)
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
        if len(name) > limits.NAME_BYTES:
            raise Posix(ENAMETOOLONG)
        return await self._walk(parent), name

    async def _inode(self, path: bytes | None, handle: int | None) -> Ino:
        if handle is not None and (ino := self.open_inode(handle)) is not None:
            return ino
        if path is None:
            raise Posix(EBADF)
        hidden = self.hidden.get(_name(path))
        return await self._walk(path) if hidden is None else hidden

    # --- names ---------------------------------------------------------------------------------

    async def make(
        self, path: bytes, mode: int, uid: int, gid: int, rdev: int = 0, target: bytes = b""
    ) -> None:
        """mkdir, mknod, symlink, by the type bits of `mode`."""
        if len(target) > limits.SYMLINK_BYTES:
            raise Posix(ENAMETOOLONG)
        parent, name = await self._place(path)
        request = wire.Make(parent, name, placed(path), mode, uid, gid, rdev, target)
        found = await self.contact.change(request)
        at = await now()
        self.names.enter(parent, name, found.attributes, at)
        self.names.forget_inode(parent)

    async def unlink(self, path: bytes) -> None:
        """unlink; a hidden name ends its orphan."""
        if self.hidden.pop(_name(path), None) is not None:
            return
        parent, name = await self._place(path)
        await self.contact.change(wire.Unlink(parent, name))
        self._gone(parent, name)

    def _gone(self, parent: Ino, name: bytes) -> None:
        ino = self.names.find(parent, name, float("-inf"))
        if ino is not None:
            self.names.forget_inode(ino)
        self.names.forget(parent, name)
        self.names.forget_inode(parent)

    async def hide(self, path: bytes, hidden: bytes) -> None:
        """unlink of a file that is open here: it lives on under a name that only we know."""
        parent, name = await self._place(path)
        ino = await self._walk(path)
        await self.contact.change(wire.Unlink(parent, name))
        self._gone(parent, name)
        self.names.forget_inode(ino)
        self.hidden[_name(hidden)] = ino

    async def is_open(self, path: bytes) -> bool:
        """Whether the file at a path is open here."""
        file = self.files.get(await self._walk(path))
        return file is not None and file.handles > 0

    async def rmdir(self, path: bytes) -> None:
        """rmdir."""
        parent, name = await self._place(path)
        await self.contact.change(wire.RemoveDirectory(parent, name))
        self._gone(parent, name)

    async def rename(self, old: bytes, new: bytes, flags: int = 0, hidden: bytes = b"") -> None:
        """rename, with renameat2's flags.  `hidden`: a name, of this mount only, that reaches what
        is at `new` now, whatever becomes of the rename."""
        if hidden:
            self.hidden[_name(hidden)] = await self._walk(new)
        parent, name = await self._place(old)
        new_parent, new_name = await self._place(new)
        await self.contact.change(wire.Rename(parent, name, new_parent, new_name, flags))
        for place in ((parent, name), (new_parent, new_name)):
            self._gone(*place)

    async def link(self, old: bytes, new: bytes) -> None:
        """link."""
        ino = await self._inode(old, None)
        parent, name = await self._place(new)
        found = await self.contact.change(wire.Link(ino, parent, name))
        self.names.enter(parent, name, found.attributes, await now())
        self.names.forget_inode(parent)

    async def readlink(self, path: bytes) -> bytes:
        """readlink."""
        reply = await self.contact.ask(wire.ReadLink(await self._walk(path)))
        return reply.target

    async def set_attributes(
        self, path: bytes | None, handle: int | None, *, mode: int | None = None,
        uid: int | None = None, gid: int | None = None, atime_ns: int | None = None,
        mtime_ns: int | None = None, now: bool = False,
    ) -> None:  # fmt: skip
        """chmod, chown, utimens.  With `now`, times that are not None become M's now."""
        ino = await self._inode(path, handle)
        file = self.files.get(ino)
        if file is not None and mtime_ns is not None:
            file.mtime_ns = None  # an unflushed write's time is overruled
            while file.committing:
                await wait(file.moved, limits.RETRY_S)
        if now:
            atime_ns, mtime_ns = (None if time is None else 0 for time in (atime_ns, mtime_ns))
        request = wire.SetAttributes(ino, mode, uid, gid, atime_ns, mtime_ns, now)
        found = await self.contact.change(request)
        self._learn(found.attributes, await self._now())

    async def _now(self) -> float:
        return await now()

    def _learn(self, attributes: Attributes, at: float) -> None:
        self.names.learn(attributes, at)
        file = self.files.get(attributes.ino)
        if file is not None and attributes.change > file.attributes.change:
            self.reader.take(file, attributes)

    # --- extended attributes, space ------------------------------------------------------------

    async def getxattr(self, path: bytes, name: bytes) -> bytes:
        """getxattr."""
        self._check_xattr(name)
        return (await self.contact.ask(wire.GetXattr(await self._inode(path, None), name))).value

    def _check_xattr(self, name: bytes, value: bytes = b"") -> None:
        if not 0 < len(name) <= limits.XATTR_NAME_BYTES:
            raise Posix(ERANGE, "an attribute's name has 1 to 255 bytes")
        if len(value) > limits.XATTR_VALUE_BYTES:
            raise Posix(E2BIG, "an attribute's value has at most 64 KiB")

    async def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        """setxattr."""
        self._check_xattr(name, value)
        ino = await self._inode(path, None)
        await self.contact.change(wire.SetXattr(ino, name, value, flags))
        self.names.forget_inode(ino)

    async def listxattr(self, path: bytes) -> list[bytes]:
        """listxattr."""
        reply = await self.contact.ask(wire.ListXattr(await self._inode(path, None)))
        return list(reply.names)

    async def removexattr(self, path: bytes, name: bytes) -> None:
        """removexattr."""
        self._check_xattr(name)
        ino = await self._inode(path, None)
        await self.contact.change(wire.RemoveXattr(ino, name))
        self.names.forget_inode(ino)

    async def statfs(self) -> wire.Space:
        """statfs."""
        return await self.contact.ask(wire.StatFs())

    # --- directories ---------------------------------------------------------------------------

    async def opendir(self, path: bytes) -> int:
        """A handle to list a directory with."""
        attributes = await self.lookup(path)
        if not stat.S_ISDIR(attributes.mode):
            raise Posix(ENOTDIR)
        self._number += 1
        self.listings[self._number] = Listed(attributes.ino)
        return self._number

    async def readdir(self, handle: int, offset: int) -> list[tuple[bytes, Attributes | None, int]]:
        """A page from `offset`: (name, attributes, offset of the next); [] at the end.

        Each entry that stays while the directory changes is returned exactly once: pages go on
        behind the last name given, in the order of names.
        """
        listed = self.listings.get(handle)
        if listed is None:
            raise Posix(EBADF)
        if offset == 0:
            listed.names.clear()
            listed.page, listed.first, listed.end = (), 0, False
        found: list[tuple[bytes, Attributes | None, int]] = []
        for place, dot in enumerate((b".", b"..")):
            if offset <= place:
                found.append((dot, None, place + 1))
        index = max(0, offset - 2)
        if index > len(listed.names):
            raise Posix(EINVAL)
        if not listed.first <= index < listed.first + len(listed.page):
            await self._list(listed, index)
        entries = listed.page[index - listed.first :]
        for number, entry in enumerate(entries, start=index):
            file = self.files.get(entry.attributes.ino)
            attributes = file.shown() if file is not None and file.busy else entry.attributes
            found.append((entry.name, attributes, number + 3))
        return found

    async def _list(self, listed: Listed, index: int) -> None:
        """The page behind the first `index` names."""
        after = listed.names[index - 1] if index else b""
        reply = await self.contact.ask(wire.ReadDirectory(listed.ino, after))
        at = await now()
        for entry in reply.entries:
            self.names.enter(listed.ino, entry.name, entry.attributes, at)
        listed.names[index:] = [entry.name for entry in reply.entries]
        listed.first, listed.page, listed.end = index, reply.entries, reply.end

    async def releasedir(self, handle: int) -> None:
        """Close a directory."""
        self.listings.pop(handle, None)
