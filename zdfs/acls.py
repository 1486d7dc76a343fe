"""POSIX access control lists: the rules of acl(5), POSIX 1003.1e draft 17 as Linux keeps them.

Pure functions over entries.  On the wire, on disk and for the kernel a list is the value of an
extended attribute (linux/posix_acl_xattr.h): a header, le32 version 2, then per entry le16 tag,
le16 permissions, le32 id.  The kernel compares callers with these lists; what is decided here is
how a list, the mode and a new inode follow one another:

- a list names the owner, the owning group and others once each, users and groups after their
  kind, and a *mask* when it names any (`check`);
- the mode's group bits are the mask where there is one, so the mode never shows less than is
  allowed (`mode_of`); chmod moves owner, mask and others (`follow`);
- a list that says no more than the mode is not kept (`says_more`);
- a new inode takes its directory's default list, cut down by the mode it was made with, in place
  of the umask (`inherit`).
"""

import enum
import struct
from errno import E2BIG, EINVAL, EOPNOTSUPP
from typing import NamedTuple

from zdfs import limits
from zdfs.errors import Posix

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
NAMES = frozenset((ACCESS, DEFAULT))
VERSION = 2
NO_ID = 0xFFFFFFFF  # ACL_UNDEFINED_ID: of entries that name nobody
RWX = 0o7
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")


class Tag(enum.IntEnum):
    """Whom an entry is about."""

    USER_OBJ = 0x01  # the owner
    USER = 0x02
    GROUP_OBJ = 0x04  # the owning group
    GROUP = 0x08
    MASK = 0x10  # the most that all but the owner and others can be given
    OTHER = 0x20


NAMED = (Tag.USER, Tag.GROUP)
_FOLLOWERS = {  # what may come after what
    None: (Tag.USER_OBJ,),
    Tag.USER_OBJ: (Tag.USER, Tag.GROUP_OBJ),
    Tag.USER: (Tag.USER, Tag.GROUP_OBJ),
    Tag.GROUP_OBJ: (Tag.GROUP, Tag.MASK, Tag.OTHER),
    Tag.GROUP: (Tag.GROUP, Tag.MASK),
    Tag.MASK: (Tag.OTHER,),
    Tag.OTHER: (),
}


class AclEntry(NamedTuple):
    """What somebody may: bits 4 read, 2 write, 1 execute."""

    tag: Tag
    permissions: int
    id: int = NO_ID


Acl = tuple[AclEntry, ...]


def unpack(value: bytes) -> Acl:
    """The list in an attribute's value, checked; () when it has no entries.

    EOPNOTSUPP: another version; E2BIG: more than the kernel reads back; EINVAL: no list.
    """
    if not value:
        return ()
    if len(value) > limits.ACL_BYTES:
        raise Posix(E2BIG, f"an access control list has at most {limits.ACL_BYTES} bytes")
    if len(value) < _HEADER.size:
        raise Posix(EINVAL, "an access control list that ends inside its header")
    if _HEADER.unpack_from(value)[0] != VERSION:
        raise Posix(EOPNOTSUPP, "an access control list of another version than 2")
    if (len(value) - _HEADER.size) % _ENTRY.size:
        raise Posix(EINVAL, "an access control list that ends inside an entry")
    entries = []
    for tag, permissions, number in _ENTRY.iter_unpack(value[_HEADER.size :]):
        try:
            kind = Tag(tag)
        except ValueError:
            raise Posix(EINVAL, f"an access control list with the unknown tag {tag}") from None
        entries.append(AclEntry(kind, permissions, number if kind in NAMED else NO_ID))
    if entries:
        check(tuple(entries))
    return tuple(entries)


def check(acl: Acl) -> None:
    """EINVAL unless the list is one, by the rules of Linux's posix_acl_valid."""
    before: Tag | None = None
    named = False
    for entry in acl:
        named = named or entry.tag in NAMED
        if entry.permissions & ~RWX or (entry.tag in NAMED and entry.id == NO_ID):
            raise Posix(EINVAL, "an access control list with an entry that says nothing")
        if entry.tag not in _FOLLOWERS[before]:
            raise Posix(EINVAL, "an access control list in disorder")
        if entry.tag == Tag.OTHER and named and before != Tag.MASK:
            raise Posix(EINVAL, "an access control list that names somebody and has no mask")
        before = entry.tag
    if before != Tag.OTHER:
        raise Posix(EINVAL, "an access control list that is not whole")


def pack(acl: Acl) -> bytes:
    """The value of an attribute."""
    return _HEADER.pack(VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def says_more(acl: Acl) -> bool:
    """Whether a list says more than nine bits of a mode can."""
    return any(entry.tag in NAMED or entry.tag == Tag.MASK for entry in acl)


def _group(acl: Acl) -> Tag:
    """Which entry the mode's group bits stand for."""
    return Tag.MASK if any(entry.tag == Tag.MASK for entry in acl) else Tag.GROUP_OBJ


def _bits(acl: Acl) -> int:
    """The nine bits of the mode beside a list."""
    found = {entry.tag: entry.permissions for entry in acl}
    return found[Tag.USER_OBJ] << 6 | found[_group(acl)] << 3 | found[Tag.OTHER]


def mode_of(acl: Acl, mode: int) -> int:
    """The mode of an inode that is given this access list."""
    return mode & ~0o777 | _bits(acl)


def follow(acl: Acl, mode: int) -> Acl:
    """An access list after chmod: named users and groups stay, the mask moves."""
    allowed = {Tag.USER_OBJ: mode >> 6, _group(acl): mode >> 3, Tag.OTHER: mode}
    return tuple(
        entry._replace(permissions=allowed.get(entry.tag, entry.permissions) & RWX) for entry in acl
    )


def inherit(default: Acl, mode: int) -> tuple[Acl, int]:
    """The access list and the mode of what is made with `mode` below a default list."""
    wanted = {Tag.USER_OBJ: mode >> 6, _group(default): mode >> 3, Tag.OTHER: mode}
    acl = tuple(
        entry._replace(permissions=entry.permissions & wanted.get(entry.tag, RWX))
        for entry in default
    )
    return acl, mode_of(acl, mode)
