"""rmdir(2), and directories that are removed while somebody stands in them."""

import os
from errno import EACCES, EBUSY, EEXIST, EINVAL, ENOENT, ENOTDIR, ENOTEMPTY, EPERM

import pytest

from tests.live.posix.linux import (
    ALICE,
    AT_REMOVEDIR,
    BOB,
    each_kind,
    each_file,
    fails,
    make,
    opened,
    put,
    touches,
    unlinkat,
    user,
)

pytestmark = pytest.mark.usefixtures("place")


def test_an_empty_one() -> None:
    os.mkdir("d")
    links = os.stat(".").st_nlink
    with touches(".", "mc"):
        os.rmdir("d")
    assert os.listdir() == [] and os.stat(".").st_nlink == links - 1
    with fails(ENOENT):
        os.rmdir("d")


@each_kind
def test_one_that_is_not_empty(kind: str) -> None:
    os.mkdir("d")
    make(kind, "d/x")
    with touches("d", ""), touches(".", ""), fails(ENOTEMPTY, EEXIST):
        os.rmdir("d")


@each_file
def test_what_is_no_directory(kind: str) -> None:
    make(kind, "x")
    with fails(ENOTDIR):
        os.rmdir("x")
    assert os.listdir() == ["x"]


def test_a_symlink_to_one() -> None:
    os.mkdir("d")
    os.symlink("d", "s")
    for name in ("s", "s/"):
        with fails(ENOTDIR):
            os.rmdir(name)


def test_dots() -> None:
    os.mkdir("d")
    os.mkdir("d/e")
    for name, number in ((".", EINVAL), ("d/.", EINVAL), ("..", ENOTEMPTY), ("d/e/..", ENOTEMPTY)):
        with fails(number):
            os.rmdir(name)


def test_the_root_of_a_mount() -> None:
    with fails(EBUSY):
        os.rmdir("/")


def test_by_unlinkat() -> None:
    os.mkdir("d")
    os.mkdir("d/e")
    with opened("d", os.O_RDONLY) as fd:
        unlinkat("e", AT_REMOVEDIR, fd)
        with fails(EINVAL):
            unlinkat("e", 0x4000, fd)
    assert os.listdir("d") == []


@pytest.mark.parametrize(
    "sticky, owner, parent, number",
    [
        (False, BOB, 0o755, EACCES),
        (False, ALICE, 0o755, EACCES),  # the parent's is the right that counts
        (False, BOB, 0o777, 0),
        (True, BOB, 0o1777, EPERM),
        (True, ALICE, 0o1777, 0),
    ],
)
def test_who_may(sticky: bool, owner: int, parent: int, number: int) -> None:
    os.makedirs("p/d")
    os.chown("p/d", owner, owner)
    os.chmod("p", parent)
    with user(ALICE):
        if number:
            with fails(number):
                os.rmdir("p/d")
        else:
            os.rmdir("p/d")


# --- while somebody stands in it -----------------------------------------------------------------


def test_nothing_comes_into_a_removed_directory() -> None:
    put("f")
    os.mkdir("d")
    with opened("d", os.O_RDONLY) as fd:
        os.rmdir("d")
        for work in (
            lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd),
            lambda: os.mkdir("x", dir_fd=fd),
            lambda: os.symlink("x", "x", dir_fd=fd),
            lambda: os.mkfifo("x", dir_fd=fd),
            lambda: os.link("f", "x", dst_dir_fd=fd),
            lambda: os.rename("f", "x", dst_dir_fd=fd),
            lambda: os.stat("x", dir_fd=fd),
            lambda: os.unlink("x", dir_fd=fd),
        ):
            with fails(ENOENT):
                work()


def test_the_working_directory_is_removed() -> None:
    os.mkdir("d")
    os.chdir("d")
    os.rmdir("../d")
    with fails(ENOENT):
        os.getcwd()
    with fails(ENOENT):
        put("f")
    os.chdir("..")
    assert os.listdir() == []


def test_the_name_is_free_again() -> None:
    os.mkdir("d")
    with opened("d", os.O_RDONLY) as fd:
        os.rmdir("d")
        put("d", b"a file now")
        os.unlink("d")
        os.mkdir("d")
        put("d/f")
        with fails(ENOENT):
            os.stat("f", dir_fd=fd)


def test_a_removed_directory_is_looked_at() -> None:
    os.mkdir("d")
    with opened("d", os.O_RDONLY) as fd:
        os.rmdir("d")
        assert os.fstat(fd).st_nlink == 0


def test_a_removed_directory_is_listed() -> None:
    os.mkdir("d")
    with opened("d", os.O_RDONLY) as fd:
        os.rmdir("d")
        assert os.listdir(fd) == []


def test_a_removed_directory_changes() -> None:
    os.mkdir("d")
    with opened("d", os.O_RDONLY) as fd:
        os.rmdir("d")
        os.fchmod(fd, 0o700)
        os.utime(fd)


def test_fsync_of_a_removed_directory() -> None:
    os.mkdir("d")
    with opened("d", os.O_RDONLY) as fd:
        os.rmdir("d")
        os.fsync(fd)
