"""Extended attributes: getxattr, setxattr, listxattr, removexattr, as functions on the tables.

Values are kept as they are.  The bounds are Linux's: a name has 255 bytes, a value 64 KiB, and all
names of an inode, each with a NUL, 64 KiB together; and there are `limits.LIST_ITEMS` at most, so
that a list fits one message.  "No such attribute" is proven by the inode's count and sum.
"""

from errno import E2BIG, EEXIST, EINVAL, ENODATA, ENOSPC, ERANGE

from zdfs import limits, schema
from zdfs.errors import Damaged, Posix
from zdfs.ids import Ino
from zdfs.tables import MASK, Tables, View

CREATE = 1
REPLACE = 2


def _check_name(name: bytes) -> None:
    if not 0 < len(name) <= limits.XATTR_NAME_BYTES or b"\0" in name:
        raise Posix(ERANGE)


def get(view: View, ino: Ino, name: bytes) -> bytes:
    """The value; ENODATA."""
    _check_name(name)
    view.handle(ino)
    value = view.xattr(ino, name)
    if value is None:
        raise Posix(ENODATA)
    return value


def names(view: View, ino: Ino) -> list[bytes]:
    """All names, in order; proven to be all."""
    inode = view.handle(ino)
    if not inode.xattrs and not inode.xattrs_sum:
        return []
    prefix = schema.xattr_key(ino, b"")
    found: list[bytes] = []
    summed = 0
    for key, value in view.read.scan(prefix, schema.after(prefix)):
        found.append(key[len(prefix) :])
        summed += schema.check(key, value)
    if len(found) != inode.xattrs or summed & MASK != inode.xattrs_sum:
        raise Damaged(f"inode {ino}: its extended attributes are not those that it counted")
    return found


def put(tables: Tables, now_ns: int, ino: Ino, name: bytes, value: bytes, flags: int = 0) -> None:
    """Set one; with CREATE it must not be there (EEXIST), with REPLACE it must (ENODATA)."""
    _check_name(name)
    if flags not in (0, CREATE, REPLACE):
        raise Posix(EINVAL)
    if len(value) > limits.XATTR_VALUE_BYTES:
        raise Posix(E2BIG)
    tables.handle(ino)
    old = tables.xattr(ino, name)
    if old is not None and flags == CREATE:
        raise Posix(EEXIST)
    if old is None:
        if flags == REPLACE:
            raise Posix(ENODATA)
        _check_room(tables, ino, name)
    tables.set_xattr(ino, name, old, value, ctime_ns=now_ns)
    tables.save()


def _check_room(view: View, ino: Ino, name: bytes) -> None:
    """ENOSPC unless another name fits a list."""
    there = names(view, ino)
    size = sum(map(len, there)) + len(there) + len(name) + 1
    if len(there) >= limits.LIST_ITEMS or size > limits.XATTR_LIST_BYTES:
        raise Posix(ENOSPC)


def remove(tables: Tables, now_ns: int, ino: Ino, name: bytes) -> None:
    """Remove one; ENODATA."""
    old = get(tables, ino, name)
    tables.set_xattr(ino, name, old, None, ctime_ns=now_ns)
    tables.save()
