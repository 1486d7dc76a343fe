"""The name side of a volume: names to inodes, attributes, listings, by inode number.

What the kernel asks about it names by inode, and by a name in a directory; `paths` walks paths for
those who have no kernel.  An inode that this mount has removed may still be somebody's directory or
O_PATH descriptor: its last attributes are remembered for a while, when M has let go of it.
"""

import logging
import stat
import sys
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from errno import E2BIG, EBADF, EINVAL, ENAMETOOLONG, ENODATA, ENOENT, ERANGE, ESTALE
from typing import TypeVar

from zdfs import dirnames, limits, wire, xattrs
from zdfs.cache import File
from zdfs.calls import clock, now, wait
from zdfs.contact import Contact
from zdfs.errors import Damaged, Failure, Interrupted, Posix
from zdfs.ids import Ino
from zdfs.knowledge import AHEAD, Names
from zdfs.namespace import EXCHANGE
from zdfs.ports import Listed
from zdfs.reading import Reader
from zdfs.wire import Attributes

R = TypeVar("R", bound=wire.Reply)
log = logging.getLogger("zdfs.mount")

UNSURE_S = 2 * limits.TIMEOUT_S  # a change that nobody waits for may still arrive for so long
SMALL = 2 * AHEAD  # names that are learnt first: all, if the directory has no more
REMOVED = 1024  # inodes whose last attributes are remembered


Seen = tuple[bytes, Ino, int, Attributes | None]  # name, inode, mode


@dataclass(slots=True)
class Listing:
    """An open directory: the names given so far, by offset - 2, and the newest page."""

    ino: Ino
    parent: Ino = Ino(0)  # 0: not known yet
    names: list[bytes] = field(default_factory=list)
    first: int = 0
    page: list[Seen] = field(default_factory=list)
    end: bool = False

    def covers(self, index: int) -> bool:
        """Whether the page has the entry behind so many names, or knows that there is none."""
        behind = self.first + len(self.page)
        return bool(self.parent) and (self.first <= index < behind or self.end and index == behind)


def _fits(name: bytes) -> None:
    if len(name) > limits.NAME_BYTES:
        raise Posix(ENAMETOOLONG)


class Tree:
    """Names, as this mount sees them."""

    def __init__(self, contact: Contact, reader: Reader):
        self.contact, self.reader = contact, reader
        self.names = Names()
        self.files: dict[Ino, File] = {}
        self.listings: dict[int, Listing] = {}
        self.removed: OrderedDict[Ino, Attributes] = OrderedDict()  # by this mount; nlink 0
        self._number = 0  # of the newest handle
        self.looks: Counter[tuple[str, bool]] = Counter()  # of what; whether it was known here

    def last_place(self, ino: Ino) -> bytes | None:
        """The path that an inode was last found under; None: not remembered."""
        return self.names.last_place(ino)

    def last_known(self, ino: Ino) -> Attributes | None:
        """An inode's attributes as last seen, with what is unflushed; None: not remembered."""
        known = self.names.last_known(ino)
        return None if known is None else self._shown(known)

    def names_in(self, ino: Ino) -> Sequence[bytes]:
        """The names in a directory that were learnt so lately that a kernel may believe them."""
        life_s = 2 * self.names.name_life_s  # ours, and then its own
        return self.names.names_in(ino, self.contact.driver.monotonic() - life_s)

    def _placed(self, parent: Ino, name: bytes) -> bytes:
        """What placement hashes, and only hashes: the path, or the end of one that is too long for
        a message; where nobody remembers the directory's, its number stands for it."""
        above = self.names.last_place(parent)
        path = (b"%d" % parent if above is None else above.rstrip(b"/")) + b"/" + name
        return path[1 - limits.PATH_BYTES :]

    # --- attributes ----------------------------------------------------------------------------

    async def lookup_at(self, parent: Ino, name: bytes) -> Attributes:
        """What a name in a directory leads to, with what is unflushed."""
        _fits(name)
        if name in (b".", b".."):  # of no version: a directory moves without its own changing
            return await self._look_up(parent, name)
        asked = await now()
        ino = self.names.find(parent, name, asked)
        absent = ino is None and self.names.absent(parent, name, asked)
        self.looks["names", absent or ino is not None] += 1
        if absent:
            raise Posix(ENOENT)
        if ino is not None:
            try:
                found = await self.stat_ino(ino)
            except Posix as error:
                if error.number != ESTALE:
                    raise
            else:
                if found.nlink:
                    return found
            self.names.mistaken(parent, name)  # it is gone since; another may stand there
            asked = await now()
        walked = await self.contact.ask(wire.Lookup(parent, (name,)))
        most = self.names.missed(parent, walked.version, asked)
        if most:
            await self._look_ahead(wire.ReadDirectory(parent, b"" if most == SMALL else name, most))
        if walked.number or not walked.steps:
            self.names.forget(parent, name)
            raise Posix(walked.number)
        found = walked.steps[0]
        self.names.enter(parent, name, found, await now(), asked)
        self.names.listed(parent, walked.version, asked, {name: found.ino})
        return self._shown(found)

    async def _look_up(self, parent: Ino, name: bytes) -> Attributes:
        walked = await self.contact.ask(wire.Lookup(parent, (name,)))
        if walked.number or not walked.steps:
            raise Posix(walked.number)
        return self._shown(walked.steps[0])

    async def _change(self, request: wire.Request[R], *inos: Ino) -> R:
        """Have something changed, of these inodes.  Who does not hear whether it was (a caller that
        is killed) has not heard what they are now, and the change may still be underway."""
        try:
            return await self.contact.change(request)
        except Failure as error:
            if isinstance(error, Interrupted) or not error.definite:
                self.names.unsure(inos, self.contact.driver.monotonic() + UNSURE_S)
            raise

    async def _look_ahead(self, request: wire.ReadDirectory) -> None:
        """Learn the neighbours of a name."""
        try:
            await self._learn_names(request, told=False)
        except (Posix, Damaged) as error:
            log.debug("names in %d are not looked at ahead: %s", request.ino, error)

    async def _learn_names(self, request: wire.ReadDirectory, told: bool) -> wire.Listing | None:
        """A page of a directory, remembered; None: not now.  `told`: to somebody else, too."""
        asked = await now()
        reply = await (self.contact.ask if told else self.contact.ask_briefly)(request)
        if reply is None:
            return None
        at, version = await now(), reply.version
        for entry in reply.entries:
            self.names.enter(request.ino, entry.name, entry.attributes, at, asked, told)
        names = {entry.name: entry.attributes.ino for entry in reply.entries}
        self.names.listed(request.ino, version, asked, names, request.after, reply.end)
        return reply

    async def stat_ino(self, ino: Ino) -> Attributes:
        """An inode's attributes, with what is unflushed; ESTALE."""
        asked = await now()
        known = self.names.attributes(ino, asked)
        self.looks["attributes", known is not None] += 1
        if known is None:
            try:
                known = await self._ask_attributes(ino, asked)
            except Posix as error:
                if error.number == ESTALE and ino in self.removed:
                    return self.removed[ino]
                raise
        return self._shown(known)

    def _shown(self, known: Attributes) -> Attributes:
        """Attributes with what is unflushed."""
        file = self.files.get(known.ino)
        if file is None:
            return known
        if known.change > file.attributes.change:
            self.reader.take(file, known)
        return file.shown()

    async def _ask_attributes(self, ino: Ino, asked: float) -> Attributes:
        """What is open goes on being read while the metaserver is silent, so it is shown too; but
        that is no news."""
        request = wire.GetAttributes(ino)
        file = self.files.get(ino)
        if file is None or not file.handles:
            found: wire.Found | None = await self.contact.ask(request)
        else:
            found = await self.contact.ask_briefly(request)
            if found is None:
                return file.attributes
        assert found is not None
        self.names.learn(found.attributes, await now(), asked)
        return found.attributes

    async def set_ino(
        self, ino: Ino, *, mode: int | None = None, uid: int | None = None, gid: int | None = None,
        atime_ns: int | None = None, mtime_ns: int | None = None,
        atime_now: bool = False, mtime_now: bool = False,
    ) -> Attributes:  # fmt: skip
        """chmod, chown, utimens, in one step.  None: leave it.  `_now`: M's clock says."""
        request = wire.SetAttributes(ino, mode, uid, gid, atime_ns, mtime_ns, atime_now, mtime_now)
        kept = await self._keep(request)
        if kept is not None:
            return kept
        file = self.files.get(ino)
        if file is not None and (mtime_ns is not None or mtime_now):
            file.mtime_ns = None  # an unflushed write's time is overruled
            while file.committing:
                await wait(file.moved, limits.RETRY_S)
        asked = await now()
        try:
            found = (await self._change(request, ino)).attributes
        except Posix as error:
            if error.number == ESTALE and ino in self.removed:
                return await self._set_removed(request)
            raise
        await self._changed_self(found, asked)
        return self._shown(found)

    async def _keep(self, request: wire.SetAttributes) -> Attributes | None:
        """Whoever keeps what is set for later says how it is then; None: it is to be sent now."""
        return None

    async def _changed_self(self, found: Attributes, asked: float) -> None:
        """A change of ours: to what it is, not to the names in it."""
        at = await now()
        self.names.learn(found, at, asked)
        if stat.S_ISDIR(found.mode):
            self.names.changed(found.ino, found.change, at, asked)

    async def _set_removed(self, request: wire.SetAttributes) -> Attributes:
        """For whoever still is in a directory that M has let go of."""
        at_ns, was = await clock(), self.removed[request.ino]
        atime, mtime = request.times(at_ns)
        found = self.removed[request.ino] = was._replace(
            mode=was.mode if request.mode is None else stat.S_IFMT(was.mode) | request.mode,
            uid=was.uid if request.uid is None else request.uid,
            gid=was.gid if request.gid is None else request.gid,
            atime_ns=was.atime_ns if atime is None else atime,
            mtime_ns=was.mtime_ns if mtime is None else mtime,
            ctime_ns=at_ns,
        )
        return found

    # --- names ---------------------------------------------------------------------------------

    async def make_at(
        self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, rdev: int = 0,
        target: bytes = b"", umask: int = 0,
    ) -> Attributes:  # fmt: skip
        """mkdir, mknod, symlink, by the type bits of `mode`.  A default access list of the
        directory counts instead of the umask."""
        _fits(name)
        if len(target) > limits.SYMLINK_BYTES:
            raise Posix(ENAMETOOLONG)
        path = self._placed(parent, name)
        request = wire.Make(parent, name, path, mode, uid, gid, rdev, target, umask)
        asked = await now()
        found = await self._change(request, parent)
        await self._named(parent, name, found.attributes, found.directory, asked)
        if stat.S_ISDIR(mode):
            self.names.made(found.attributes.ino, found.attributes.change, asked)
        return found.attributes

    async def _named(
        self, parent: Ino, name: bytes, found: Attributes, directory: Attributes | None,
        asked: float,
    ) -> None:  # fmt: skip
        """We gave an inode a name; the directory, as it is now (None: it was there before)."""
        at = await now()
        self.names.enter(parent, name, found, at, asked)
        if directory is not None:
            self.names.learn(directory, at, asked)
            self.names.changed(parent, directory.change, at, asked, (name, found.ino))

    async def unlink_at(self, parent: Ino, name: bytes) -> None:
        """unlink."""
        await self._remove(wire.Unlink(parent, name))

    async def rmdir_at(self, parent: Ino, name: bytes) -> None:
        """rmdir."""
        await self._remove(wire.RemoveDirectory(parent, name))

    async def _remove(self, request: wire.Unlink | wire.RemoveDirectory) -> None:
        asked = await now()
        had = self.names.under(request.parent, request.name)
        found = await self._change(request, request.parent, *had)
        parent, directory = request.parent, found.directory
        assert directory is not None
        await self._gone(parent, request.name, found.attributes, asked)
        at = await now()
        self.names.learn(directory, at, asked)
        self.names.changed(parent, directory.change, at, asked, (request.name, None))

    async def _gone(self, parent: Ino, name: bytes, found: Attributes, asked: float) -> None:
        """A name leads nowhere any more, or elsewhere; what it led to, as it is now."""
        self.names.forget(parent, name)
        self.names.learn(found, await now(), asked)
        self._shown(found)
        if not found.nlink:
            self.removed[found.ino] = found
            while len(self.removed) > REMOVED:
                self.removed.popitem(last=False)

    async def rename_at(
        self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int = 0
    ) -> None:
        """rename, with renameat2's flags."""
        _fits(new_name)
        asked = await now()
        request = wire.Rename(parent, name, new_parent, new_name, flags)
        had = self.names.under(parent, name) + self.names.under(new_parent, new_name)
        done = await self._change(request, parent, new_parent, *had)
        if done.replaced is not None and done.replaced.ino == done.moved.ino:  # two of its names
            for known in (done.moved, done.left, done.entered):
                self.names.learn(known, await now(), asked)
            return
        if done.replaced is not None:
            await self._gone(new_parent, new_name, done.replaced, asked)
        await self._gone(parent, name, done.moved, asked)
        at, exchanged = await now(), None
        self.names.enter(new_parent, new_name, done.moved, at, asked)
        if done.replaced is not None and flags & EXCHANGE:
            self.names.enter(parent, name, done.replaced, at, asked)
            exchanged = done.replaced.ino
        left, entered = (name, exchanged), (new_name, done.moved.ino)
        self.names.learn(done.left, at, asked)
        self.names.learn(done.entered, at, asked)
        if parent == new_parent:
            self.names.changed(parent, done.left.change, at, asked, left, entered)
        else:
            self.names.changed(parent, done.left.change, at, asked, left)
            self.names.changed(new_parent, done.entered.change, at, asked, entered)
        await self._changed_self(done.moved, asked)

    async def link_at(self, ino: Ino, parent: Ino, name: bytes) -> Attributes:
        """link."""
        _fits(name)
        asked = await now()
        found = await self._change(wire.Link(ino, parent, name), ino, parent)
        await self._named(parent, name, found.attributes, found.directory, asked)
        return self._shown(found.attributes)

    async def readlink_ino(self, ino: Ino) -> bytes:
        """readlink."""
        return (await self.contact.ask(wire.ReadLink(ino))).target

    # --- extended attributes, space ------------------------------------------------------------

    async def getxattr_ino(self, ino: Ino, name: bytes) -> bytes:
        """getxattr; that there is none is mostly known."""
        self._check_xattr(name)
        known = self.names.xattrs
        if not await self._count_xattrs(ino) or known.lacks(ino, name, await now()):
            raise Posix(ENODATA)
        turn = known.turn(ino)
        try:
            return (await self.contact.ask(wire.GetXattr(ino, name))).value
        except Posix as error:
            if error.number == ENODATA:
                known.missed(ino, name, turn, await now())
            raise

    async def _count_xattrs(self, ino: Ino) -> int:
        """How many an inode has, at most as stale as attributes are."""
        count = self.names.xattrs.count(ino, await now())
        return (await self.stat_ino(ino)).xattrs if count is None else count

    def _check_xattr(self, name: bytes, value: bytes = b"") -> None:
        if not 0 < len(name) <= limits.XATTR_NAME_BYTES:
            raise Posix(ERANGE, "an attribute's name has 1 to 255 bytes")
        if len(value) > limits.XATTR_VALUE_BYTES:
            raise Posix(E2BIG, "an attribute's value has at most 64 KiB")

    async def setxattr_ino(
        self, ino: Ino, name: bytes, value: bytes, flags: int, ends_sgid: bool = False
    ) -> None:
        """setxattr.  `ends_sgid`: an access list from somebody outside of the file's group."""
        self._check_xattr(name, value)
        if flags & ~(xattrs.CREATE | xattrs.REPLACE):
            raise Posix(EINVAL)
        await self._changed_xattrs(wire.SetXattr(ino, name, value, flags, ends_sgid))

    async def _changed_xattrs(self, request: wire.SetXattr | wire.RemoveXattr) -> None:
        asked = await now()
        try:
            found = await self._change(request, request.ino)
        finally:  # also when nobody knows whether it happened
            self.names.forget_inode(request.ino, asked)
        await self._changed_self(found.attributes, asked)
        self._shown(found.attributes)

    async def listxattr_ino(self, ino: Ino) -> list[bytes]:
        """listxattr."""
        if not await self._count_xattrs(ino):
            return []
        return list((await self.contact.ask(wire.ListXattr(ino))).names)

    async def removexattr_ino(self, ino: Ino, name: bytes) -> None:
        """removexattr."""
        self._check_xattr(name)
        await self._changed_xattrs(wire.RemoveXattr(ino, name))

    async def statfs(self) -> wire.Space:
        """statfs."""
        return await self.contact.ask(wire.StatFs())

    # --- directories ---------------------------------------------------------------------------

    async def opendir_ino(self, ino: Ino) -> int:
        """A handle to list a directory with."""
        self._number += 1
        self.listings[self._number] = Listing(ino)
        return self._number

    async def readdir(
        self, handle: int, offset: int, plus: bool = True, most: int = sys.maxsize
    ) -> list[Listed]:
        """At most so many entries from `offset`; [] at the end.  `plus`: with the attributes of
        those of which they are known to be so.

        Each entry that stays while the directory changes is returned exactly once: pages go on
        behind the last name given, in the order of names.
        """
        listing = self.listings.get(handle)
        if listing is None:
            raise Posix(EBADF)
        if offset == 0:
            listing.names.clear()
            listing.page, listing.first, listing.end, listing.parent = [], 0, False, Ino(0)
        index = max(0, offset - 2)
        if index > len(listing.names):
            raise Posix(EINVAL)
        new = not listing.covers(index)
        if new:
            await self._list(listing, index, plus)
        at = self.contact.driver.monotonic()
        dots = ((b".", listing.ino), (b"..", listing.parent))
        found = [
            Listed(name, ino, stat.S_IFDIR, None, place + 1)
            for place, (name, ino) in enumerate(dots)
            if offset <= place
        ]
        begin = index - listing.first
        entries = listing.page[begin : begin + most]
        for number, (name, ino, mode, attributes) in enumerate(entries, start=index + 3):
            if attributes is not None and not new:  # what it was like then may be long ago
                attributes = self.names.attributes(ino, at)
            if attributes is not None:
                attributes = self._shown(attributes)
                mode = attributes.mode
            found.append(Listed(name, ino, mode, attributes, number))
        return found

    async def _list(self, listing: Listing, index: int, plus: bool) -> None:
        """The page behind the first `index` names."""
        after, ino = listing.names[index - 1] if index else b"", listing.ino
        reply: wire.Listing | wire.NameList
        if plus:
            request = wire.ReadDirectory(ino, after, limits.LISTING_ENTRIES)
            listed = await self._learn_names(request, told=True)
            assert listed is not None
            reply = listed
            page: list[Seen] = [(n, a.ino, a.mode, a) for n, a in reply.entries]
        else:
            asked = await now()
            reply = await self.contact.ask(wire.ListNames(ino, after))
            page = [(*one, None) for one in dirnames.unpack(reply.names)]
            names = {name: found for name, found, _, _ in page}
            self.names.listed(ino, reply.version, asked, names, after, reply.end)
        listing.names[index:] = [seen[0] for seen in page]
        listing.parent = reply.parent
        listing.first, listing.page, listing.end = index, page, reply.end

    async def releasedir(self, handle: int) -> None:
        """Close a directory."""
        self.listings.pop(handle, None)
