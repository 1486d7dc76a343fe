"""In whose name a program without a mount works, and what that one may do.

A mount leaves permissions to the kernel; here there is none, so its rules are kept by these
functions: path_resolution(7), inode(7), acl(5).  They guard a user against a mistake, as on a mount
of somebody who is root of the machine: who reaches the ports of a cluster can do everything.
"""

import os
import stat
from collections.abc import Iterable
from errno import EPERM
from pathlib import Path
from typing import NamedTuple

from zdfs.acls import Acl, Tag
from zdfs.errors import Posix
from zdfs.wire import Attributes

READ, WRITE, SEARCH = 4, 2, 1


class Who(NamedTuple):
    """A caller, to the rules of permissions; `umask` is taken from the mode of what it makes."""

    uid: int
    gid: int
    groups: frozenset[int] = frozenset()
    umask: int = 0o022

    @property
    def root(self) -> bool:
        """Whether rules bind it at all."""
        return self.uid == 0

    def within(self, group: int) -> bool:
        """Whether it is of a group."""
        return group == self.gid or group in self.groups


def process_umask() -> int:
    """The umask of this process, without changing it for a moment, as umask(2) would."""
    for line in (
        Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    ):
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022  # Linux before 4.7


def myself(
    uid: int | None = None, gid: int | None = None, groups: Iterable[int] | None = None,
    umask: int | None = None,
) -> Who:  # fmt: skip
    """This process, or whom it chose to be: only root may choose.  PermissionError."""
    mine = Who(os.geteuid(), os.getegid(), frozenset(os.getgroups()), process_umask())
    chosen = mine._replace(
        uid=mine.uid if uid is None else uid,
        gid=mine.gid if gid is None else gid,
        umask=mine.umask if umask is None else umask & 0o777,
        groups=(
            (mine.groups if uid is None and gid is None else frozenset())
            if groups is None
            else frozenset(groups)
        ),
    )
    allowed = mine.groups | {mine.gid}
    same = chosen.uid == mine.uid and chosen.gid in allowed and chosen.groups <= allowed
    if not mine.root and not same:
        raise PermissionError(
            EPERM,
            f"user {mine.uid} can't work as user {chosen.uid} of group {chosen.gid}: "
            "only root may choose; leave out uid, gid and groups",
        )
    return chosen


def allows(who: Who, found: Attributes, acl: Acl, want: int) -> bool:
    """Whether somebody may read, write or search, by the mode, or by the access list if there is
    one."""
    if who.root:
        return True
    if acl:
        return _listed(who, found, acl, want)
    shift = 6 if who.uid == found.uid else 3 if who.within(found.gid) else 0
    return found.mode >> shift & want == want


def _listed(who: Who, found: Attributes, acl: Acl, want: int) -> bool:
    """The access check algorithm of acl(5)."""
    mask = next((entry.permissions for entry in acl if entry.tag == Tag.MASK), 7)
    by_tag = {entry.tag: entry.permissions for entry in acl}
    if who.uid == found.uid:
        return by_tag[Tag.USER_OBJ] & want == want
    for entry in acl:
        if entry.tag == Tag.USER and entry.id == who.uid:
            return entry.permissions & mask & want == want
    groups = [
        entry.permissions & mask
        for entry in acl
        if (entry.tag == Tag.GROUP_OBJ and who.within(found.gid))
        or (entry.tag == Tag.GROUP and who.within(entry.id))
    ]
    if groups:
        return any(permissions & want == want for permissions in groups)
    return by_tag[Tag.OTHER] & want == want


def owns(who: Who, found: Attributes) -> bool:
    """Whether it is the owner, or as good as."""
    return who.root or who.uid == found.uid


def must_own(who: Who, found: Attributes) -> None:
    """EPERM unless it does."""
    if not owns(who, found):
        raise Posix(EPERM)


def may_remove(who: Who, directory: Attributes, found: Attributes) -> None:
    """EPERM where a sticky directory forbids it: neither the name's nor the directory's owner."""
    if directory.mode & stat.S_ISVTX and not owns(who, found) and not owns(who, directory):
        raise Posix(EPERM)


def changed_mode(who: Who, found: Attributes, mode: int) -> int:
    """The mode that chmod(2) gives: SGID is not for those outside of the file's group."""
    must_own(who, found)
    directory = stat.S_ISDIR(found.mode)
    if not (directory or who.root or who.within(found.gid)):
        mode &= ~stat.S_ISGID
    return mode & 0o7777


def changed_owner(who: Who, found: Attributes, uid: int | None, gid: int | None) -> int | None:
    """The mode after chown(2), None if it stays; EPERM unless it may be done."""
    if not who.root:
        must_own(who, found)
        if uid not in (None, found.uid) or not (gid is None or who.within(gid)):
            raise Posix(EPERM)
    if not stat.S_ISREG(found.mode):
        return None
    left = found.mode & ~stat.S_ISUID
    left &= ~stat.S_ISGID if left & stat.S_IXGRP else -1
    return stat.S_IMODE(left) if left != found.mode else None
