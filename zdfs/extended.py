"""Extended attributes and access control lists, as FUSE asks for them.

The kernel has the rules of the namespaces: who may read or change user., trusted. and security.,
and on what.  One it leaves to the file system: trusted. is listed for administrators only.

**Access control lists** are the attributes system.posix_acl_*.  The kernel checks callers against
them, when told at `init` that they mean something, and reads them at each permission
check: mostly the answer is known here.  Where it can't be told (an old kernel) they are EOPNOTSUPP,
for nobody would heed them.  It also leaves it to us to end SGID, when an access list comes from
somebody outside of the file's group.

**security.capability** is asked for before each write(), also while the metaserver is silent.
"""

import errno
import stat
from typing import Any

from zdfs import acls, callers, fuse, kernel
from zdfs.errors import Posix
from zdfs.fuse import Fuse, Reply
from zdfs.ids import Ino
from zdfs.insight import Insight
from zdfs.ports import Run, Volume

NAMESPACES = (b"user.", b"trusted.", b"security.")  # xattr(7)
TRUSTED = b"trusted."
CAPABILITY = b"security.capability"


class ExtendedOperations:
    """The members of struct fuse_operations that are about extended attributes."""

    _volume: Volume
    _run: Run
    _fuse: Fuse
    _insight: Insight | None = None
    _enforced = False  # the kernel heeds access control lists

    def heed_lists(self, settled: Any) -> None:
        """Of struct fuse_conn_info: want what the kernel can."""
        settled.want |= settled.capable & (fuse.DONT_MASK | fuse.POSIX_ACL)
        self._enforced = bool(settled.want & fuse.POSIX_ACL)

    def _known(self, name: bytes) -> bool:
        """Whether an attribute of this name can be."""
        return name.startswith(NAMESPACES) or (self._enforced and name in acls.NAMES)

    def _check_name(self, name: bytes) -> None:
        if not self._known(name):
            raise Posix(errno.EOPNOTSUPP)

    def getxattr(self, ino: Ino, name: bytes, size: int) -> Reply:
        """Size 0 asks how long it is."""
        own = self._insight and self._insight.value(name, kernel.caller().uid)
        if own:
            return self._fuse.sized(self._run(own), size)
        self._check_name(name)
        if name == CAPABILITY and self._volume.lacks(ino, name):
            raise Posix(errno.ENODATA)  # before each write: it must cost next to nothing
        return self._fuse.sized(self._run(self._volume.getxattr_ino(ino, name)), size)

    def setxattr(self, ino: Ino, name: bytes, value: Any, size: int, flags: int) -> None:
        """EOPNOTSUPP outside of the namespaces, as on other file systems."""
        self._check_name(name)
        data = bytes(fuse.readable(value, size)) if size else b""
        ends_sgid = name == acls.ACCESS and self._ends_sgid(ino)
        self._run(self._volume.setxattr_ino(ino, name, data, flags, ends_sgid))

    def _ends_sgid(self, ino: Ino) -> bool:
        """Whether SGID ends with an access list that the caller gives (posix_acl_update_mode)."""
        found = self._run(self._volume.stat_ino(ino))
        if not found.mode & stat.S_ISGID:
            return False
        caller = kernel.caller()
        return not (
            callers.in_group(caller.gid, caller.pid, found.gid)
            or callers.capable(caller.uid, caller.pid, callers.FSETID)
        )

    def end_capability(self, ino: Ino) -> None:
        """Before a write.  The kernel does so itself, but not where it passes writes on as they are
        (fuse_direct_write_iter removes no privileges): descriptors that append."""
        if self._volume.lacks(ino, CAPABILITY):
            return
        try:
            self._run(self._volume.getxattr_ino(ino, CAPABILITY))
            self._run(self._volume.removexattr_ino(ino, CAPABILITY))
        except Posix as error:
            if error.number != errno.ENODATA:
                raise

    def listxattr(self, ino: Ino, size: int) -> Reply:
        """All names, each with a NUL; size 0 asks how long they are."""
        names = [name for name in self._run(self._volume.listxattr_ino(ino)) if self._known(name)]
        if any(name.startswith(TRUSTED) for name in names):
            caller = kernel.caller()
            if not callers.capable(caller.uid, caller.pid, callers.SYS_ADMIN):
                names = [name for name in names if not name.startswith(TRUSTED)]
        return self._fuse.sized(b"".join(name + b"\0" for name in names), size)

    def removexattr(self, ino: Ino, name: bytes) -> None:
        self._check_name(name)
        self._run(self._volume.removexattr_ino(ino, name))
