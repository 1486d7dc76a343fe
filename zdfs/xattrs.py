"""Extended attributes: getxattr, setxattr, listxattr, removexattr, as functions on the tables.

Values are kept as they are.  The bounds are Linux's: a name has 255 bytes, a value 64 KiB, and all
names of an inode, each with a NUL, 64 KiB together; and there are `limits.LIST_ITEMS` at most, so
that a list fits one message.  "No such attribute" is proven by the inode's count and sum.

Two are more than values: the access control lists (`acls`).  What they and the mode mean to one
another is kept true here, in the transaction of whatever changes either.
"""

import stat
from errno import E2BIG, EACCES, EEXIST, EINVAL, ENODATA, ENOSPC, EOPNOTSUPP, ERANGE

from zdfs import acls, limits, schema
from zdfs.acls import Acl
from zdfs.errors import Damaged, Posix
from zdfs.ids import Ino
from zdfs.schema import Inode
from zdfs.tables import MASK, Tables, View, is_directory

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
        raise Damaged(
            f"inode {ino}: its extended attributes are not those that it counted",
            key=schema.inode_key(ino),
        )
    return found


def put(
    tables: Tables, now_ns: int, ino: Ino, name: bytes, value: bytes, flags: int = 0,
    ends_sgid: bool = False,
) -> None:  # fmt: skip
    """Set one; with CREATE it must not be there (EEXIST), with REPLACE it must (ENODATA).

    An access list moves the mode's nine bits, and ends SGID if told so; one that says no more than
    the mode does is not kept, nor is one without entries.  EACCES: a default list, no directory.
    """
    _check_name(name)
    if flags & ~(CREATE | REPLACE):
        raise Posix(EINVAL)
    if len(value) > limits.XATTR_VALUE_BYTES:
        raise Posix(E2BIG)
    inode = tables.handle(ino)
    new, mode = (value, inode.mode) if name not in acls.NAMES else _ruled(inode, name, value)
    if ends_sgid and name == acls.ACCESS:
        mode &= ~stat.S_ISGID
    old = tables.xattr(ino, name)
    if old is not None and flags & CREATE:
        raise Posix(EEXIST)
    if old is None:
        if flags & REPLACE:
            raise Posix(ENODATA)
        if new is not None:
            _check_room(tables, ino, name)
    tables.set_xattr(ino, name, old, new, ctime_ns=now_ns, mode=mode)
    tables.save()


def _check_room(view: View, ino: Ino, name: bytes) -> None:
    """ENOSPC unless another name fits a list."""
    there = names(view, ino)
    size = sum(map(len, there)) + len(there) + len(name) + 1
    if len(there) >= limits.LIST_ITEMS or size > limits.XATTR_LIST_BYTES:
        raise Posix(ENOSPC)


def remove(tables: Tables, now_ns: int, ino: Ino, name: bytes) -> None:
    """Remove one; ENODATA, but for a list: there the mode goes on saying what it says (Linux)."""
    _check_name(name)
    tables.handle(ino)
    old = tables.xattr(ino, name)
    if old is None:
        if name in acls.NAMES:
            return
        raise Posix(ENODATA)
    tables.set_xattr(ino, name, old, None, ctime_ns=now_ns)
    tables.save()


# --- access control lists ------------------------------------------------------------------------


def _ruled(inode: Inode, name: bytes, value: bytes) -> tuple[bytes | None, int]:
    """What is kept of a list that an inode is given (None: nothing), and the inode's mode then."""
    if stat.S_ISLNK(inode.mode):
        raise Posix(EOPNOTSUPP, "a symlink has no access control list")
    acl = acls.unpack(value)
    if name == acls.DEFAULT:
        if acl and not is_directory(inode):
            raise Posix(EACCES, "only a directory has a default access control list")
        return acls.pack(acl) if acl else None, inode.mode
    if not acl:
        return None, inode.mode
    return acls.pack(acl) if acls.says_more(acl) else None, acls.mode_of(acl, inode.mode)


def _decoded(ino: Ino, name: bytes, value: bytes) -> Acl:
    """A list that was kept; Damaged when it is none."""
    try:
        return acls.unpack(value)
    except Posix as error:
        key = schema.xattr_key(ino, name)
        raise Damaged(f"the access control list of inode {ino}: {error}", key=key) from error


def wrong(inode: Inode, name: bytes, value: bytes) -> str:
    """Why a list can't be the one of its inode; "" when it can, or is none."""
    if name not in acls.NAMES:
        return ""
    try:
        acl = acls.unpack(value)
    except Posix as error:
        return str(error)
    if name == acls.DEFAULT:
        return "" if acl and is_directory(inode) else "a default list, and no directory"
    if acl and acls.says_more(acl) and acls.mode_of(acl, inode.mode) == inode.mode:
        return ""
    return "an access list that is at odds with the mode"


def follow(tables: Tables, ino: Ino, mode: int) -> None:
    """chmod: the access list goes with the mode.  The caller changes the mode, and saves."""
    old = tables.xattr(ino, acls.ACCESS)
    if old is not None:
        new = acls.follow(_decoded(ino, acls.ACCESS, old), mode)
        tables.set_xattr(ino, acls.ACCESS, old, acls.pack(new))


def inherited(view: View, parent: Ino, mode: int, umask: int) -> tuple[int, dict[bytes, bytes]]:
    """The mode and the lists of what is made in a directory, which isn't a symlink."""
    value = view.xattr(parent, acls.DEFAULT)
    if value is None:
        return mode & ~umask, {}
    acl, mode = acls.inherit(_decoded(parent, acls.DEFAULT, value), mode)
    lists = {acls.DEFAULT: value} if stat.S_ISDIR(mode) else {}
    if acls.says_more(acl):
        lists[acls.ACCESS] = acls.pack(acl)
    return mode, lists
