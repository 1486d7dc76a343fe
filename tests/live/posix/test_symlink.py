"""symlink, readlink, and walking through them."""

import os
import stat
from errno import EACCES, EEXIST, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EOPNOTSUPP

import pytest

from tests.live.posix.linux import (
    ALICE,
    BOB,
    each_kind,
    fails,
    get,
    libc,
    make,
    opened,
    put,
    times_of,
    touches,
    umask,
    user,
)

pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.parametrize(
    "target",
    [b"f", b"/", b"..", b"with/slash/", b"any\nbyte \xff\x01", b"t" * 255, b"t" * 256, b"t" * 4095],
)
def test_there_and_back(target: bytes) -> None:
    os.symlink(target, b"s")
    assert os.readlink(b"s") == target
    found = os.lstat("s")
    assert stat.S_ISLNK(found.st_mode) and (found.st_size, found.st_nlink) == (len(target), 1)


def test_a_new_one() -> None:
    os.chmod(".", 0o777)
    with touches(".", "mc"), umask(0o777), user(ALICE, BOB):
        os.symlink("f", "s")
    found = os.lstat("s")
    assert found.st_mode == stat.S_IFLNK | 0o777 and (found.st_uid, found.st_gid) == (ALICE, BOB)
    assert len(set(times_of(found).values())) == 1


def test_targets_that_cannot_be() -> None:
    with fails(ENOENT):
        os.symlink("", "s")
    with fails(ENAMETOOLONG):
        os.symlink("t" * 4096, "s")
    assert os.listdir() == []


@each_kind
def test_over_something(kind: str) -> None:
    make(kind, "x")
    with fails(EEXIST):
        os.symlink("f", "x")


@each_kind
def test_only_symlinks_are_read(kind: str) -> None:
    make(kind, "x")
    if kind == "symlink":
        assert os.readlink("x") == "nowhere"
    else:
        with fails(EINVAL):
            os.readlink("x")


def test_readlink_cuts() -> None:
    os.symlink("0123456789", "s")
    import ctypes

    buffer = ctypes.create_string_buffer(b"........", 8)
    assert libc.readlink(b"s", buffer, 4) == 4 and buffer.raw == b"0123....", buffer.raw


def test_where_one_may_not() -> None:
    with user(ALICE), fails(EACCES):
        os.symlink("f", "s")


def test_they_lead_on() -> None:
    os.makedirs("a/b")
    put("a/b/f", b"x")
    os.symlink("a", "s")
    os.symlink("s/b", "t")
    os.symlink("../../t/f", "a/b/u")
    assert get("t/f") == get("s/b/u") == b"x"
    os.symlink(os.path.abspath("t"), "absolute")
    assert get("absolute/u") == b"x"
    os.symlink("f", "a/b/v")
    with fails(ENOTDIR):
        os.stat("a/b/v/")


@pytest.mark.parametrize("count, number", [(40, 0), (41, ELOOP)])
def test_forty_in_a_row(count: int, number: int) -> None:
    put("f", b"end")
    before = "f"
    for step in range(count):
        os.symlink(before, f"s{step}")
        before = f"s{step}"
    if number:
        with fails(number):
            get(before)
    else:
        assert get(before) == b"end"


def test_what_is_done_to_them() -> None:
    """chown and utimes have a form for the symlink itself; chmod has none."""
    put("f")
    os.symlink("f", "s")
    with touches("f", ""), touches("s", "c"):
        os.lchown("s", ALICE, BOB)
    assert (os.lstat("s").st_uid, os.stat("f").st_uid) == (ALICE, 0)
    os.utime("s", ns=(1, 2), follow_symlinks=False)
    assert times_of(os.lstat("s"))["m"] == 2 and times_of(os.stat("f"))["m"] != 2
    with opened("s", os.O_PATH | os.O_NOFOLLOW) as fd, fails(EOPNOTSUPP):
        os.chmod(f"/proc/self/fd/{fd}", 0o600)
    with fails(ELOOP):
        os.open("s", os.O_RDONLY | os.O_NOFOLLOW)
    assert stat.S_IMODE(os.lstat("s").st_mode) == 0o777


def test_in_a_sticky_directory_of_others() -> None:
    """fs.protected_symlinks: those of others are not followed in sticky, writable directories."""
    with open("/proc/sys/fs/protected_symlinks") as file:
        protected = file.read().strip() == "1"
    os.mkdir("t")
    os.chmod("t", 0o1777)
    put("f", b"x")
    with user(BOB):
        os.symlink("../f", "t/s")
    with user(ALICE):
        if protected:
            with fails(EACCES):
                get("t/s")
        else:
            assert get("t/s") == b"x"
    with user(BOB):
        assert get("t/s") == b"x"
