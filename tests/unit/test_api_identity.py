"""Who may what, where no kernel decides."""

import os
import stat
from errno import EPERM

import pytest

from zdfs.acls import Acl, AclEntry, Tag
from zdfs.api import identity
from zdfs.api.identity import READ, SEARCH, WRITE, Who
from zdfs.errors import Posix
from zdfs.ids import Epoch, Ino, Slot
from zdfs.wire import Attributes

OWNER, MATE, STRANGER, ROOT = Who(10, 20), Who(11, 20), Who(12, 21), Who(0, 0)


def inode(mode: int, uid: int = 10, gid: int = 20) -> Attributes:
    return Attributes(Ino(5), mode, 1, uid, gid, 0, 0, 0, 0, 0, 0, 1, Epoch(0), Slot(0), 0)


@pytest.mark.parametrize(
    ("who", "mode", "want", "may"),
    [
        (OWNER, 0o400, READ, True),
        (OWNER, 0o400, READ | WRITE, False),
        (OWNER, 0o077, READ, False),  # the first class that fits decides
        (MATE, 0o040, READ, True),
        (MATE, 0o704, READ, False),
        (STRANGER, 0o775, WRITE, False),
        (STRANGER, 0o776, WRITE, True),
        (Who(12, 99, frozenset({20})), 0o050, READ | SEARCH, True),
        (ROOT, 0, READ | WRITE | SEARCH, True),
    ],
)
def test_the_mode_decides(who: Who, mode: int, want: int, may: bool) -> None:
    assert identity.allows(who, inode(stat.S_IFREG | mode), (), want) is may


LIST: Acl = (
    AclEntry(Tag.USER_OBJ, 6),
    AclEntry(Tag.USER, 7, 12),
    AclEntry(Tag.GROUP_OBJ, 0),
    AclEntry(Tag.GROUP, 6, 21),
    AclEntry(Tag.MASK, 4),
    AclEntry(Tag.OTHER, 7),
)


@pytest.mark.parametrize(
    ("who", "want", "may"),
    [
        (OWNER, READ | WRITE, True),  # no mask for the owner
        (OWNER, SEARCH, False),
        (Who(12, 1), READ, True),
        (Who(12, 1), WRITE, False),  # the mask
        (MATE, READ, False),  # of the group, which has nothing; others' bits don't help
        (Who(13, 21), READ, True),
        (Who(13, 20, frozenset({21})), READ, True),  # one of its groups is enough
        (Who(13, 99), READ | WRITE | SEARCH, True),
    ],
)
def test_an_access_list_decides(who: Who, want: int, may: bool) -> None:
    assert identity.allows(who, inode(stat.S_IFREG | 0o647), LIST, want) is may


def test_a_sticky_directory_keeps_names() -> None:
    sticky, theirs = inode(stat.S_IFDIR | 0o1777, uid=1), inode(stat.S_IFREG | 0o666)
    identity.may_remove(OWNER, sticky, theirs)
    identity.may_remove(Who(1, 1), sticky, theirs)
    identity.may_remove(STRANGER, inode(stat.S_IFDIR | 0o777, uid=1), theirs)
    with pytest.raises(Posix) as caught:
        identity.may_remove(STRANGER, sticky, theirs)
    assert caught.value.number == EPERM


def test_chmod_and_chown_as_linux_has_them() -> None:
    found = inode(stat.S_IFREG | 0o6755)
    assert identity.changed_mode(OWNER, found, 0o2755) == 0o2755
    assert identity.changed_mode(Who(10, 99), found, 0o2755) == 0o755  # not of the group
    assert identity.changed_owner(OWNER, found, None, 20) == 0o755  # ends set-id bits
    assert identity.changed_owner(OWNER, inode(stat.S_IFDIR | 0o2755), None, 20) is None
    assert identity.changed_owner(ROOT, found, 1, 2) == 0o755
    for who, uid, gid in ((STRANGER, None, None), (OWNER, 11, None), (OWNER, None, 21)):
        with pytest.raises(Posix):
            identity.changed_owner(who, found, uid, gid)
    with pytest.raises(Posix):
        identity.changed_mode(STRANGER, found, 0o777)


def test_only_root_chooses_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 10)
    monkeypatch.setattr(os, "getegid", lambda: 20)
    monkeypatch.setattr(os, "getgroups", lambda: [20, 30])
    assert identity.myself()[:3] == (10, 20, {20, 30})
    assert identity.myself(umask=0o077).umask == 0o077
    assert identity.myself(gid=30).gid == 30
    for words in ({"uid": 11}, {"gid": 99}, {"groups": [99]}):
        with pytest.raises(PermissionError, match="only root may choose"):
            identity.myself(**words)  # type: ignore[arg-type]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert identity.myself(uid=11, gid=12)[:3] == (11, 12, frozenset())
