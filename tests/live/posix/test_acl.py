"""Access control lists: acl(5), setxattr and getxattr of system.posix_acl_*, chmod, creation."""

import errno
import os
import stat
import struct

import pytest

from tests.live.posix.acl_text import ACCESS, DEFAULT, acl, packed, set_acl
from tests.live.posix.linux import ALICE, BOB, STAFF, fails, get, make, mode_of, put, umask, user

pytestmark = pytest.mark.usefixtures("place")

BOBS = f"u::rw-,u:{BOB}:rw-,g::r--,m::rw-,o::---"
FAMILY = f"u::rwx,u:{BOB}:rwx,g::r-x,m::rwx,o::---"


# --- a list and the mode -----------------------------------------------------------------------


def test_a_list_is_kept_and_the_group_bits_are_its_mask() -> None:
    make("regular", "f", 0o640)
    set_acl("f", BOBS)
    assert acl("f") == BOBS
    assert mode_of("f") == 0o660


def test_entries_that_name_nobody_have_no_number() -> None:
    make("regular", "f")
    value = bytearray(packed(BOBS))
    value[8:12] = struct.pack("<I", 12345)  # the owner's entry
    os.setxattr("f", ACCESS, bytes(value))
    assert acl("f") == BOBS


@pytest.mark.parametrize(
    "text, mode", [("u::rw-,g::r--,o::---", 0o640), ("u::---,g::---,o::rwx", 7)]
)
def test_a_list_that_says_no_more_than_the_mode_is_only_the_mode(text: str, mode: int) -> None:
    make("regular", "f", 0o666)
    set_acl("f", BOBS)
    set_acl("f", text)
    assert acl("f") == "" and mode_of("f") == mode
    assert ACCESS not in os.listxattr("f")


def test_a_mask_alone_is_kept() -> None:
    make("regular", "f")
    set_acl("f", "u::rw-,g::rw-,m::r--,o::---")
    assert acl("f") == "u::rw-,g::rw-,m::r--,o::---"
    assert mode_of("f") == 0o640


@pytest.mark.parametrize("mode", [0o000, 0o751, 0o604, 0o777, 0o6070])
def test_chmod_moves_owner_mask_and_others(mode: int) -> None:
    make("regular", "f")
    set_acl("f", FAMILY)
    os.chmod("f", mode)
    assert mode_of("f") == mode
    owner, mask, others = (
        "".join(letter if mode >> shift & bit else "-" for letter, bit in zip("rwx", (4, 2, 1)))
        for shift in (6, 3, 0)
    )
    assert acl("f") == f"u::{owner},u:{BOB}:rwx,g::r-x,m::{mask},o::{others}"


def test_chmod_moves_the_group_where_there_is_no_mask() -> None:
    os.mkdir("d", 0o755)
    set_acl("d", "u::rwx,g::r-x,o::---", DEFAULT)
    os.chmod("d", 0o700)
    assert acl("d", DEFAULT) == "u::rwx,g::r-x,o::---" and acl("d") == ""


def test_set_id_and_sticky_bits_stay() -> None:
    os.mkdir("d")
    os.chmod("d", 0o3755)
    set_acl("d", FAMILY)
    assert mode_of("d") == 0o3770


def test_removing_a_list_leaves_the_mode() -> None:
    make("regular", "f")
    set_acl("f", BOBS)
    os.removexattr("f", ACCESS)
    assert acl("f") == "" and mode_of("f") == 0o660 and os.listxattr("f") == []
    os.removexattr("f", ACCESS)  # Linux: nothing to remove is no failure


def test_an_empty_list_removes() -> None:
    make("regular", "f")
    set_acl("f", BOBS)
    os.setxattr("f", ACCESS, packed(""))
    assert acl("f") == ""
    set_acl("f", BOBS)
    os.setxattr("f", ACCESS, b"")
    assert acl("f") == "" and mode_of("f") == 0o660


def test_ctime_moves() -> None:
    make("regular", "f")
    before = os.stat("f").st_ctime_ns
    while os.stat("f").st_ctime_ns == before:
        set_acl("f", BOBS)
    assert os.stat("f").st_mtime_ns <= before


# --- what is no list ---------------------------------------------------------------------------

NO_LISTS = {
    "cut header": b"\2\0",
    "cut entry": packed(BOBS)[:-1],
    "no others": packed(f"u::rw-,u:{BOB}:rw-,g::r--,m::rw-"),
    "no owner": packed("g::r--,o::---"),
    "no mask": packed(f"u::rw-,u:{BOB}:rw-,g::r--,o::---"),
    "no group": packed(f"u::rw-,u:{BOB}:rw-,m::rw-,o::---"),
    "two owners": packed("u::rw-,u::rw-,g::r--,o::---"),
    "two masks": packed(f"u::rw-,u:{BOB}:rw-,g::r--,m::rw-,m::rw-,o::---"),
    "disorder": packed(f"u::rw-,g::r--,u:{BOB}:rw-,m::rw-,o::---"),
    "after others": packed("u::rw-,g::r--,o::---,o::---"),
    "unknown tag": packed("u::rw-,g::r--,o::---") + struct.pack("<HHI", 0x40, 7, 0),
    "more than rwx": struct.pack("<IHHI", 2, 1, 8, 0) + packed("g::r--,o::---")[4:],
    "nobody named": packed(f"u::rw-,u:{0xFFFFFFFF}:rw-,g::r--,m::rw-,o::---"),
}


@pytest.mark.parametrize("kind", [ACCESS, DEFAULT])
@pytest.mark.parametrize("value", NO_LISTS.values(), ids=NO_LISTS)
def test_what_is_no_list(value: bytes, kind: str) -> None:
    os.mkdir("d", 0o755)
    with fails(errno.EINVAL):
        os.setxattr("d", kind, value)
    assert os.listxattr("d") == [] and mode_of("d") == 0o755


def test_another_version() -> None:
    make("regular", "f")
    with fails(errno.EOPNOTSUPP):
        os.setxattr("f", ACCESS, b"\3" + packed(BOBS)[1:])


def test_the_same_user_may_be_named_twice() -> None:
    make("regular", "f")
    text = f"u::rw-,u:{BOB}:rw-,u:{BOB}:r--,g::r--,m::rw-,o::---"
    set_acl("f", text)
    assert acl("f") == text


def test_many_entries() -> None:
    make("regular", "f")
    users = ",".join(f"u:{number}:r--" for number in range(70_000, 70_400))
    text = f"u::rw-,{users},g::r--,m::r--,o::---"
    set_acl("f", text)
    assert acl("f") == text


def test_a_symlink_has_none() -> None:
    make("symlink", "l")
    for kind in (ACCESS, DEFAULT):
        with fails(errno.EOPNOTSUPP):
            os.setxattr("l", kind, packed(BOBS), follow_symlinks=False)


@pytest.mark.parametrize("kind", ["regular", "fifo", "socket"])
def test_only_directories_have_default_lists(kind: str) -> None:
    make(kind, "f")
    with fails(errno.EACCES):
        os.setxattr("f", DEFAULT, packed(BOBS))
    with fails(errno.ENODATA):
        os.getxattr("f", DEFAULT)
    set_acl("f", BOBS)
    assert acl("f") == BOBS


def test_only_the_owner_gives_lists() -> None:
    make("regular", "f", 0o666)
    os.chown("f", ALICE, ALICE)
    with user(BOB):
        with fails(errno.EPERM):
            set_acl("f", BOBS)
        with fails(errno.EPERM):
            os.removexattr("f", ACCESS)
    with user(ALICE):
        set_acl("f", BOBS)
    with user(BOB):
        assert acl("f") == BOBS


# --- setgid ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "groups, ends", [((), True), ((BOB,), True), ((STAFF,), False), ((BOB, STAFF), False)]
)
@pytest.mark.parametrize("text", [BOBS, "u::rwx,g::r-x,o::---"])
def test_setgid_ends_when_the_owner_is_not_of_the_group(
    groups: tuple[int, ...], ends: bool, text: str
) -> None:
    make("regular", "f")
    os.chown("f", ALICE, STAFF)
    os.chmod("f", 0o6755)
    with user(ALICE, groups=groups):
        set_acl("f", text)
    assert bool(mode_of("f") & stat.S_ISGID) is not ends
    assert mode_of("f") & stat.S_ISUID


def test_setgid_stays_for_root_and_with_default_lists() -> None:
    os.mkdir("d")
    os.chown("d", ALICE, STAFF)
    os.chmod("d", 0o2755)
    set_acl("d", FAMILY)
    with user(ALICE):
        set_acl("d", FAMILY, DEFAULT)
        assert mode_of("d") & stat.S_ISGID
        set_acl("d", FAMILY)
    assert mode_of("d") == 0o770


# --- what they allow ---------------------------------------------------------------------------


def owned_by_alice(text: str, mode: int = 0o600) -> None:
    """`f` with a content, of Alice's, in a directory that anybody may search."""
    os.chmod(".", 0o755)
    put("f", b"secret")
    os.chown("f", ALICE, ALICE)
    os.chmod("f", mode)
    if text:
        set_acl("f", text)


def may(uid: int, flags: int, groups: tuple[int, ...] = ()) -> bool:
    """Whether a user can open `f`."""
    with user(uid, groups=groups):
        try:
            os.close(os.open("f", flags))
        except PermissionError:
            return False
    return True


def test_a_named_user_may() -> None:
    owned_by_alice(f"u::rw-,u:{BOB}:r--,g::---,m::r--,o::---")
    assert may(BOB, os.O_RDONLY) and not may(BOB, os.O_WRONLY)
    assert may(ALICE, os.O_RDWR) and not may(STAFF, os.O_RDONLY)


def test_the_mask_takes_away() -> None:
    owned_by_alice(f"u::rw-,u:{BOB}:rw-,g::rw-,m::r--,o::---")
    assert may(BOB, os.O_RDONLY) and not may(BOB, os.O_WRONLY)
    os.chmod("f", 0o660)
    assert may(BOB, os.O_RDWR)
    os.chmod("f", 0o600)
    assert not may(BOB, os.O_RDONLY)


def test_a_named_user_gets_no_more_than_the_entry() -> None:
    owned_by_alice(f"u::rw-,u:{BOB}:---,g::r--,m::r--,o::r--")
    assert not may(BOB, os.O_RDONLY) and may(STAFF, os.O_RDONLY)


def test_named_groups() -> None:
    owned_by_alice(f"u::rw-,g::---,g:{STAFF}:rw-,g:{BOB}:r--,m::rw-,o::---")
    assert may(70_000, os.O_RDWR, groups=(STAFF,)) and not may(70_000, os.O_RDONLY)
    assert may(BOB, os.O_RDONLY) and not may(BOB, os.O_WRONLY)
    assert may(BOB, os.O_RDWR, groups=(STAFF,))  # any one group that allows it is enough


def test_the_owner_is_not_masked() -> None:
    owned_by_alice(f"u::rw-,u:{ALICE}:---,g::---,m::---,o::---")
    assert may(ALICE, os.O_RDWR)


def test_root_may_but_not_execute_what_nobody_can() -> None:
    owned_by_alice(f"u::rw-,u:{BOB}:rw-,g::---,m::rw-,o::---")
    assert get("f") == b"secret" and not os.access("f", os.X_OK)
    set_acl("f", f"u::rw-,u:{BOB}:r-x,g::---,m::r-x,o::---")
    assert os.access("f", os.X_OK)


def test_directories_are_searched_and_changed_by_their_lists() -> None:
    os.chmod(".", 0o755)
    os.mkdir("d", 0o700)
    put("d/f", b"inside")
    set_acl("d", f"u::rwx,u:{BOB}:--x,g::---,m::rwx,o::---")
    with user(BOB):
        assert get("d/f") == b"inside"
        with fails(errno.EACCES):
            os.listdir("d")
        with fails(errno.EACCES):
            make("regular", "d/g")
    set_acl("d", f"u::rwx,u:{BOB}:rwx,g::---,m::rwx,o::---")
    with user(BOB):
        make("regular", "d/g")
        os.rename("d/g", "d/h")
        os.unlink("d/f")
        assert os.listdir("d") == ["h"]
    os.removexattr("d", ACCESS)
    os.chmod("d", 0o700)
    with user(BOB), fails(errno.EACCES):
        os.listdir("d")


def test_all_names_of_a_file_have_its_list() -> None:
    owned_by_alice("")
    os.link("f", "g")
    assert not may(BOB, os.O_RDONLY) and mode_of("g") == 0o600
    set_acl("g", f"u::rw-,u:{BOB}:r--,g::---,m::r--,o::---")
    assert acl("f") == acl("g") != ""
    assert mode_of("f") == 0o640 and may(BOB, os.O_RDONLY)
    os.removexattr("g", ACCESS)
    assert acl("f") == "" and not may(BOB, os.O_RDONLY)


def test_a_list_goes_with_its_file() -> None:
    owned_by_alice(f"u::rw-,u:{BOB}:r--,g::---,m::r--,o::---")
    os.mkdir("d", 0o755)
    os.rename("f", "d/g")
    assert acl("d/g") != ""
    put("f", b"another")
    assert acl("f") == ""
    os.rename("d/g", "f")
    assert acl("f") != "" and may(BOB, os.O_RDONLY)


def test_by_descriptor() -> None:
    make("regular", "f")
    fd = os.open("f", os.O_RDWR)
    os.setxattr(fd, ACCESS, packed(BOBS))
    assert mode_of(fd) == 0o660
    os.unlink("f")
    assert os.getxattr(fd, ACCESS) == packed(BOBS)
    os.fchmod(fd, 0o600)
    assert os.getxattr(fd, ACCESS) == packed(BOBS.replace("m::rw-", "m::---"))


# --- default lists -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["regular", "fifo", "socket", "character"])
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_what_is_made_takes_the_default_list_and_no_umask(kind: str, mask: int) -> None:
    os.mkdir("d")
    set_acl("d", FAMILY, DEFAULT)
    with umask(mask):
        if kind == "socket":
            os.mknod("d/f", stat.S_IFSOCK | 0o664)
        else:
            make(kind, "d/f", 0o664)
    assert acl("d/f") == f"u::rw-,u:{BOB}:rwx,g::r-x,m::rw-,o::---"
    assert mode_of("d/f") == 0o660
    assert acl("d/f", DEFAULT) == ""


@pytest.mark.parametrize("mode, left", [(0o777, "rwx"), (0o750, "r-x"), (0o700, "---")])
def test_a_directory_takes_the_default_list_as_both(mode: int, left: str) -> None:
    os.mkdir("d")
    set_acl("d", FAMILY, DEFAULT)
    with umask(0o077):
        os.mkdir("d/e", mode)
    assert acl("d/e", DEFAULT) == FAMILY
    assert acl("d/e") == FAMILY.replace("m::rwx", f"m::{left}")
    assert mode_of("d/e") == mode & 0o770


def test_a_default_list_that_says_no_more_than_a_mode() -> None:
    os.mkdir("d")
    set_acl("d", "u::rw-,g::r--,o::r--", DEFAULT)
    with umask(0o077):
        make("regular", "d/f", 0o666)
        os.mkdir("d/e", 0o777)
    assert acl("d/f") == "" and mode_of("d/f") == 0o644
    assert acl("d/e") == "" and mode_of("d/e") == 0o644
    assert acl("d/e", DEFAULT) == "u::rw-,g::r--,o::r--"


def test_a_symlink_takes_no_list() -> None:
    os.mkdir("d")
    set_acl("d", FAMILY, DEFAULT)
    make("symlink", "d/l")
    assert os.listxattr("d/l", follow_symlinks=False) == []
    assert mode_of("d/l") == 0o777


@pytest.mark.parametrize("mask", [0o000, 0o027, 0o777])
def test_without_a_default_list_the_umask_counts(mask: int) -> None:
    with umask(mask):
        make("regular", "f", 0o666)
        os.mkdir("d", 0o1777)
        make("fifo", "p", 0o666)
    assert [mode_of(name) for name in "fdp"] == [0o666 & ~mask, 0o1777 & ~mask, 0o666 & ~mask]


def test_group_and_setgid_are_inherited_beside_the_list() -> None:
    os.mkdir("d")
    os.chown("d", 0, STAFF)
    os.chmod("d", 0o2770)
    set_acl("d", FAMILY, DEFAULT)
    os.mkdir("d/e", 0o755)
    make("regular", "d/f", 0o644)
    assert mode_of("d/e") == 0o2750 and os.stat("d/e").st_gid == STAFF
    assert mode_of("d/f") == 0o640 and os.stat("d/f").st_gid == STAFF


def test_what_exists_does_not_change() -> None:
    os.mkdir("d")
    make("regular", "d/f", 0o600)
    set_acl("d", FAMILY, DEFAULT)
    os.close(os.open("d/f", os.O_CREAT | os.O_RDWR, 0o666))
    assert acl("d/f") == "" and mode_of("d/f") == 0o600
    os.removexattr("d", DEFAULT)
    with umask(0o077):
        make("regular", "d/g", 0o666)
    assert mode_of("d/g") == 0o600


def test_the_inherited_list_counts_at_once() -> None:
    os.chmod(".", 0o755)
    os.mkdir("d")
    set_acl("d", FAMILY)
    set_acl("d", FAMILY, DEFAULT)
    make("regular", "d/f", 0o666)
    with user(BOB):
        put("d/f", b"Bob's")
        make("regular", "d/g", 0o666)
    assert get("d/f") == b"Bob's" and acl("d/g") == acl("d/f")
