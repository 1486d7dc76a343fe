"""link(2): several names, one file."""

import os
from errno import EACCES, EEXIST, EINVAL, ENOENT, ENOTDIR, EPERM, EXDEV

import pytest

from tests.live.posix.linux import (
    ALICE,
    AT_SYMLINK_FOLLOW,
    BOB,
    HERE,
    each_file,
    each_kind,
    fails,
    get,
    linkat,
    make,
    mode_of,
    opened,
    put,
    touches,
    user,
)

pytestmark = pytest.mark.usefixtures("place")


@each_file
def test_of_every_kind(kind: str) -> None:
    """The same inode, by every word; both names are as good."""
    make(kind, "x")
    with touches("x", "c"), touches(".", "mc"):
        os.link("x", "y", follow_symlinks=False)
    assert os.lstat("x") == os.lstat("y") and os.lstat("x").st_nlink == 2
    os.unlink("x")
    assert os.lstat("y").st_nlink == 1


@each_kind
def test_over_something(kind: str) -> None:
    put("f")
    make(kind, "x")
    with touches("f", ""), touches(".", ""), fails(EEXIST):
        os.link("f", "x")
    assert os.stat("f").st_nlink == 1


def test_of_a_directory() -> None:
    os.mkdir("d")
    with fails(EPERM):
        os.link("d", "e")


def test_onto_itself() -> None:
    put("f")
    with fails(EEXIST):
        os.link("f", "f")


def test_to_another_file_system() -> None:
    put("f")
    with fails(EXDEV):
        os.link("f", "/dev/shm/zdfs-link")
    with fails(EXDEV):
        os.link("/proc/self/status", "x")


def test_of_a_symlink() -> None:
    """link(2) of Linux takes the symlink itself; linkat may be told to follow."""
    put("f")
    os.symlink("f", "s")
    linkat(HERE, "s", "t", 0)
    assert os.readlink("t") == "f" and os.lstat("s").st_nlink == 2
    linkat(HERE, "s", "g", AT_SYMLINK_FOLLOW)
    assert os.lstat("g").st_ino == os.stat("f").st_ino and os.stat("f").st_nlink == 2
    with fails(EINVAL):
        linkat(HERE, "f", "x", 0x4)


def test_of_an_open_file() -> None:
    put("f", b"data")
    with opened("f", os.O_RDONLY) as fd:
        linkat(HERE, f"/proc/self/fd/{fd}", "g", AT_SYMLINK_FOLLOW)
        assert os.fstat(fd).st_nlink == 2
    assert get("g") == b"data"


def test_where_one_may_not() -> None:
    os.mkdir("p", 0o755)
    os.mkdir("q")
    os.chmod("q", 0o777)
    put("p/f")
    os.chown("p/f", ALICE, ALICE)
    with user(ALICE):
        with fails(EACCES):
            os.link("p/f", "p/g")
        os.link("p/f", "q/f")
        with fails(ENOENT):
            os.link("p/none", "q/g")
        with fails(ENOTDIR):
            os.link("p/f", "q/f/x")
    assert os.stat("p/f").st_nlink == 2


def test_everything_is_seen_under_all_names_at_once() -> None:
    put("a", b"one")
    os.link("a", "b")
    os.mkdir("d")
    os.link("b", "d/c")
    names = ("a", "b", "d/c")

    def agree() -> os.stat_result:
        found = os.stat("a")
        assert all(os.stat(name) == found for name in names)
        assert len({get(name) for name in names}) == 1
        return found

    assert agree().st_nlink == 3
    with opened("a", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b" two")
        assert agree().st_size == os.fstat(fd).st_size == 7  # unflushed, too
        os.pwrite(fd, b"!", 0)
        agree()
    os.chmod("b", 0o640)
    assert mode_of("a") == mode_of("d/c") == 0o640
    os.chown("d/c", ALICE, BOB)
    assert agree().st_uid == ALICE
    os.utime("b", ns=(1, 2))
    assert agree().st_mtime_ns == 2
    os.truncate("d/c", 2)
    assert agree().st_size == 2
    os.setxattr("a", "user.name", b"value")
    assert os.getxattr("d/c", "user.name") == b"value"
    agree()
    os.close(os.open("b", os.O_WRONLY | os.O_TRUNC))
    assert agree().st_size == 0


def test_descriptors_under_several_names() -> None:
    put("a", b"one two")
    os.link("a", "b")
    with opened("a", os.O_RDWR) as fd, opened("b", os.O_RDWR | os.O_APPEND) as other:
        os.truncate("a", 3)
        assert os.fstat(other).st_size == 3 and os.pread(other, 9, 0) == b"one"
        os.write(other, b"ly")
        os.pwrite(fd, b"ONE", 0)
        assert os.pread(other, 9, 0) == b"ONEly" == os.pread(fd, 9, 0)
        os.fchmod(fd, 0o600)
        assert mode_of(other) == mode_of("b") == 0o600


def test_counts_follow_every_change() -> None:
    put("f")
    for number in range(50):
        os.link("f", f"{number}")
    assert os.stat("f").st_nlink == os.stat("49").st_nlink == 51
    put("other")
    os.rename("other", "0")  # takes a name away
    os.unlink("1")
    os.rename("2", "3")  # names of one file: nothing happens
    assert sorted(os.listdir())[:4] == ["0", "10", "11", "12"] and os.path.exists("2")
    assert os.stat("f").st_nlink == os.stat("49").st_nlink == 49


def test_hard_links_of_others() -> None:
    """fs.protected_hardlinks: only what one owns or may write, and no set-id programs."""
    with open("/proc/sys/fs/protected_hardlinks") as file:
        protected = file.read().strip() == "1"
    os.chmod(".", 0o777)
    put("f")
    os.chmod("f", 0o644)
    with user(ALICE):
        if protected:
            with fails(EPERM):
                os.link("f", "g")
        else:
            os.link("f", "g")
