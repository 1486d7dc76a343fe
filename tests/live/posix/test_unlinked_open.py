"""A file lives as long as somebody has it open, also without a name."""

import mmap
import os
from collections.abc import Callable
from errno import ENOENT

import pytest

from tests.live.posix.linux import (
    ALICE,
    AT_SYMLINK_FOLLOW,
    HERE,
    fails,
    get,
    linkat,
    mode_of,
    opened,
    put,
    touches,
    user,
)

pytestmark = pytest.mark.usefixtures("place")

NEW = os.O_CREAT | os.O_RDWR


def by_unlink(name: str) -> None:
    """Remove a name."""
    os.unlink(name)


def by_rename(name: str) -> None:
    """Put something else in its place, and remove that."""
    put("other")
    os.rename("other", name)
    os.unlink(name)


lost = pytest.mark.parametrize("lose", [by_unlink, by_rename])
Lose = Callable[[str], None]


@lost
def test_it_is_read_and_written(lose: Lose) -> None:
    with opened("f", NEW) as fd, opened("f", os.O_RDONLY) as reader:
        os.write(fd, b"before ")
        lose("f")
        assert os.listdir() == []
        os.write(fd, b"after")
        assert os.pread(reader, 100, 0) == b"before after"
        os.pwrite(fd, b"far", 200_000)
        assert os.fstat(reader).st_size == 200_003 and os.pread(reader, 9, 199_999) == b"\0far"
        os.fsync(fd)
        assert os.pread(reader, 12, 0) == b"before after"


@lost
def test_what_fstat_says(lose: Lose) -> None:
    put("f", b"data")
    before = os.stat("f")
    with opened("f", os.O_RDONLY) as fd:
        with touches(fd, "c"):
            lose("f")
        after = os.fstat(fd)
        assert (after.st_nlink, after.st_size, after.st_ino) == (0, 4, before.st_ino)
        assert after.st_mode == before.st_mode and after.st_mtime_ns == before.st_mtime_ns


@lost
def test_its_attributes_change(lose: Lose) -> None:
    with opened("f", NEW) as fd:
        os.write(fd, b"0123456789")
        lose("f")
        os.fchmod(fd, 0o640)
        os.fchown(fd, ALICE, ALICE)
        os.ftruncate(fd, 6)
        os.utime(fd, ns=(5, 6))
        found = os.fstat(fd)
        assert (found.st_uid, found.st_gid, found.st_size) == (ALICE, ALICE, 6)
        assert mode_of(fd) == 0o640 and (found.st_atime_ns, found.st_mtime_ns) == (5, 6)
        assert os.pread(fd, 9, 0) == b"012345" and found.st_nlink == 0


@lost
def test_its_name_is_free(lose: Lose) -> None:
    with opened("f", NEW) as fd:
        os.write(fd, b"old")
        lose("f")
        put("f", b"another")
        assert os.pread(fd, 9, 0) == b"old" and get("f") == b"another"
        assert os.fstat(fd).st_ino != os.stat("f").st_ino
        os.pwrite(fd, b"OLD", 0)
        assert get("f") == b"another"
        os.mkdir("d")
        os.rename("f", "d/f")
        lose("d/f")
        assert os.pread(fd, 9, 0) == b"OLD"


@lost
def test_it_is_opened_again(lose: Lose) -> None:
    """By /proc/self/fd, the one door that is left."""
    with opened("f", NEW) as fd:
        os.write(fd, b"data")
        lose("f")
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
            assert os.read(again, 9) == b"data"
            os.write(again, b" more")
            assert os.fstat(again).st_ino == os.fstat(fd).st_ino
        assert os.pread(fd, 99, 0) == b"data more"
        assert os.stat(f"/proc/self/fd/{fd}").st_nlink == 0
        os.chmod(f"/proc/self/fd/{fd}", 0o600)
        assert mode_of(fd) == 0o600
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC))
        assert os.fstat(fd).st_size == 0


@lost
def test_it_gets_no_name_again(lose: Lose) -> None:
    put("f")
    with opened("f", os.O_RDWR) as fd:
        lose("f")
        with fails(ENOENT):
            linkat(HERE, f"/proc/self/fd/{fd}", "again", AT_SYMLINK_FOLLOW)
    assert os.listdir() == []


@lost
def test_it_is_mapped(lose: Lose) -> None:
    with opened("f", NEW) as fd:
        os.write(fd, b"x" * 10_000)
        shared = mmap.mmap(fd, 10_000)
        lose("f")
        shared[5000:5005] = b"after"
        shared.flush()
        assert os.pread(fd, 5, 5000) == b"after"
    assert shared[4999:5006] == b"xafterx"  # the mapping keeps it, without a descriptor
    shared[0:1] = b"y"
    assert shared[0:2] == b"yx" and os.listdir() == []
    shared.close()


def test_its_directory_goes_too() -> None:
    os.mkdir("d")
    with opened("d/f", NEW) as fd:
        os.unlink("d/f")
        os.rename("d", "e")
        os.write(fd, b"x")
        assert os.listdir("e") == []
        os.rmdir("e")  # nothing hidden stands in the way
        os.pwrite(fd, b"yz", 0)
        assert os.pread(fd, 9, 0) == b"yz"


def test_what_fstat_says_when_its_directory_is_gone() -> None:
    os.mkdir("d")
    with opened("d/f", NEW) as fd:
        os.unlink("d/f")
        os.rmdir("d")
        assert os.fstat(fd).st_nlink == 0


def test_its_directory_goes_and_comes_again() -> None:
    os.mkdir("d")
    with opened("d/f", NEW) as fd:
        os.write(fd, b"old")
        os.unlink("d/f")
        os.rmdir("d")
        os.mkdir("d")
        put("d/f", b"new")
        assert os.pread(fd, 9, 0) == b"old" and get("d/f") == b"new"


@pytest.mark.parametrize("count", [2, 30])
def test_many_at_once(count: int) -> None:
    """All once under one name."""
    files = []
    for number in range(count):
        fd = os.open("f", NEW | os.O_EXCL)
        os.write(fd, b"%d" % number)
        os.unlink("f")
        files.append(fd)
    assert os.listdir() == []
    for number, fd in enumerate(files):
        assert os.pread(fd, 9, 0) == b"%d" % number and os.fstat(fd).st_nlink == 0


def test_one_of_two_names_is_no_end() -> None:
    put("f", b"data")
    os.link("f", "g")
    with opened("f", os.O_RDWR) as fd:
        os.unlink("f")
        assert os.fstat(fd).st_nlink == 1
        os.pwrite(fd, b"DATA", 0)
        assert get("g") == b"DATA"
        os.unlink("g")
        assert os.fstat(fd).st_nlink == 0 and os.pread(fd, 9, 0) == b"DATA"


def test_others_do_not_see_it() -> None:
    """No name anywhere, whoever looks, while it is open."""
    os.chmod(".", 0o777)
    with opened("f", NEW) as fd:
        os.unlink("f")
        with user(ALICE):
            assert os.listdir() == [] and list(os.scandir()) == []
            put("f", b"alices")
        assert os.fstat(fd).st_size == 0


def test_a_child_keeps_it() -> None:
    fd = os.open("f", NEW)
    os.write(fd, b"data")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(os.pread(fd, 9, 0) != b"data" or os.fstat(fd).st_nlink)
    os.unlink("f")
    os.close(fd)
    os.write(writer, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fifo_without_a_name() -> None:
    os.mkfifo("p")
    with opened("p", os.O_RDWR) as fd:
        os.unlink("p")
        os.write(fd, b"through")
        assert os.read(fd, 99) == b"through"
