"""What a client may not do whose root is nobody: what belongs to root (uid 0) it has only as far as
its group or everybody has.

Requests don't say which user asks: of all but root the client's kernel decides.  So this bounds
what all of its users can have together, none of whom is root.
"""

import dataclasses
import stat
from collections.abc import Callable
from errno import EACCES, EPERM
from typing import Any

from zdfs import confined, rights, wire
from zdfs.errors import Posix
from zdfs.ids import ROOT, Ino
from zdfs.rights import Need, Rights
from zdfs.schema import Inode
from zdfs.tables import View

ROOTS = 0  # root's group
SPECIAL = (stat.S_IFBLK, stat.S_IFCHR)
PRIVILEGED = (b"trusted.", b"security.")
ACCESS_LISTS = b"system.posix_acl_"
READ, WRITE = stat.S_IRGRP | stat.S_IROTH, stat.S_IWGRP | stat.S_IWOTH
SEARCH = stat.S_IXGRP | stat.S_IXOTH
NAMED = (wire.SetXattr, wire.RemoveXattr)
TAKING = (wire.Unlink, wire.RemoveDirectory, wire.Rename)
BLIND = (
    wire.OpenSession, wire.Announce, wire.Lookup, wire.GetAttributes, wire.StatFs, wire.Sync,
    wire.GetPolicy, wire.TestLock,
)  # fmt: skip
"""These show nothing of what a file or directory holds, and keep nobody from it."""


def there(view: View, parent: Ino, name: bytes) -> Ino | None:
    """What a name leads to, if it leads anywhere."""
    directory = view.find(parent)
    if directory is None or not stat.S_ISDIR(directory.mode):
        return None
    entry = view.entry(parent, name)
    return None if entry is None else entry.ino


class Squash:
    """The rules, for one request."""

    def __init__(self, view: View, found: Rights, holds: Callable[[Ino], bool]):
        """`holds`: whether the client has the write grant of a file."""
        self.view, self.holds = view, holds
        self.roots_group = ROOTS in confined.inward(found, ROOT).gids.values()  # is its own

    def check(self, request: Any) -> None:
        """EPERM, EACCES: that only root may."""
        if isinstance(request, wire.SetAttributes) and request.uid is not None:
            raise Posix(EPERM, "root is squashed here: it gives nothing away")
        if isinstance(request, wire.Make) and stat.S_IFMT(request.mode) in SPECIAL:
            raise Posix(EPERM, "root is squashed here: it makes no devices")
        if isinstance(request, NAMED) and request.name.startswith(PRIVILEGED):
            raise Posix(EPERM, "root is squashed here: it sets no trusted attributes")
        if isinstance(request, wire.Lookup):
            self._walked(request)
        if isinstance(request, TAKING):
            self._taken(request)
        for ino in self._touched(request):
            inode = self.view.find(ino)
            if inode is not None and inode.uid == 0:
                self._roots(request, inode)

    def stripped(self, request: Any) -> Any:
        """It without setgid, where that would be for root's group: as chmod(2) does for who isn't
        in the group."""
        mode = getattr(request, "mode", None)
        if self.roots_group or mode is None or not mode & stat.S_ISGID:
            return request
        if isinstance(request, (wire.Make, wire.Create)) and not stat.S_ISDIR(request.mode):
            directory = self.view.find(request.parent)
            mine = directory is None or not directory.mode & stat.S_ISGID or directory.gid != ROOTS
        elif isinstance(request, wire.SetAttributes):
            inode = self.view.find(request.ino)
            mine = inode is None or stat.S_ISDIR(inode.mode) or inode.gid != ROOTS
            mine = mine or request.gid is not None
        else:
            return request
        return request if mine else dataclasses.replace(request, mode=mode & ~stat.S_ISGID)

    def may_write(self, ino: Ino) -> bool:
        """Whether it may hold a write grant."""
        return self._has(self.view.find(ino), WRITE)

    def may_lock(self, ino: Ino) -> bool:
        """Whether it may hold locks: as far as it may open the file."""
        inode = self.view.find(ino)
        return inode is None or self._has(inode, _showing(inode))

    def _has(self, inode: Inode | None, bits: int) -> bool:
        """Whether the group or everybody has one of these: who is in the group, its machine says.
        What isn't root's is for its kernel to say."""
        return inode is None or inode.uid != 0 or bool(inode.mode & bits)

    def _roots(self, request: Any, inode: Inode) -> None:
        """Something of root's is touched."""
        if isinstance(request, (wire.SetAttributes, *NAMED)):
            raise Posix(EPERM, "root is squashed here: this is root's")
        if isinstance(request, BLIND):
            return
        if isinstance(request, wire.GetXattr) and request.name.startswith(ACCESS_LISTS):
            return  # a kernel asks for them to say no
        if not self._has(inode, self._demanded(request, inode)):
            raise Posix(EACCES, "root is squashed here: this is root's alone")

    def _demanded(self, request: Any, inode: Inode) -> int:
        """Of which permissions it must have one."""
        if rights.needed(request) is Need.CHANGE:
            return WRITE
        if isinstance(request, wire.Open) and not self.holds(request.ino):
            return READ | SEARCH  # who has the grant opens for writing, and asks for none again
        return _showing(inode)

    def _walked(self, request: wire.Lookup) -> None:
        """Each directory that is left by a name must be searchable."""
        ino = request.parent
        for name in request.names:
            inode = self.view.find(ino)
            if inode is None or not stat.S_ISDIR(inode.mode):
                return
            if not self._has(inode, SEARCH):
                raise Posix(EACCES, "root is squashed here: this directory is root's alone")
            if name == b".":
                continue
            entry = self.view.entry(ino, name)
            if entry is None:
                return
            ino = entry.ino

    def _taken(self, request: Any) -> None:
        """Names are taken away."""
        self._unstuck(request.parent, request.name)
        if isinstance(request, wire.Rename):
            self._unstuck(request.new_parent, request.new_name)
            if request.parent != request.new_parent:
                self._carried(request.parent, request.name)
                self._carried(request.new_parent, request.new_name)

    def _unstuck(self, parent: Ino, name: bytes) -> None:
        """Out of a sticky directory only its owner takes what is another's."""
        directory, ino = self.view.find(parent), there(self.view, parent, name)
        inode = None if ino is None else self.view.find(ino)
        if directory is None or inode is None or not directory.mode & stat.S_ISVTX:
            return
        if directory.uid == 0 and inode.uid == 0:
            raise Posix(EPERM, "root is squashed here: this is root's, in a sticky directory")

    def _carried(self, parent: Ino, name: bytes) -> None:
        """A directory that changes its place is changed: it leads elsewhere by `..`."""
        ino = there(self.view, parent, name)
        inode = None if ino is None else self.view.find(ino)
        if inode is not None and stat.S_ISDIR(inode.mode) and not self._has(inode, WRITE):
            raise Posix(EACCES, "root is squashed here: this directory is root's, it stays")

    def _touched(self, request: Any) -> set[Ino]:
        """What it reads or changes, of all that it names."""
        if isinstance(request, wire.Open):
            return {request.ino}
        if isinstance(request, wire.Create):
            found = there(self.view, request.parent, request.name)
            if found is not None:  # it is opened, as it is
                return {found}
        return confined.inodes(request)


def _showing(inode: Inode) -> int:
    """Which permissions show what something holds.  To write to a file does (what stands around the
    bytes is read first), and to run it; to write to a directory does not."""
    if stat.S_ISDIR(inode.mode):
        return READ
    return READ | WRITE | (SEARCH if stat.S_ISREG(inode.mode) else 0)
