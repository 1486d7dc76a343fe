"""fsync, fdatasync, sync, syncfs, msync, and what close says."""

import os
from collections.abc import Callable
from errno import EBADF, EINVAL

import pytest

from tests.live.posix.linux import checked, fails, get, libc, make, opened, put, raw

pytestmark = pytest.mark.usefixtures("place")


def syncfs(fd: int) -> None:
    """syncfs(2)."""
    checked(libc.syncfs(fd))


def sync_file_range(fd: int) -> None:
    """sync_file_range(2), all of it."""
    raw("sync_file_range", fd, 0, 0, 7)


@pytest.mark.parametrize("sync", [os.fsync, os.fdatasync, syncfs, sync_file_range])
def test_after_a_write(sync: Callable[[int], None]) -> None:
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        for number in range(5):
            os.write(fd, b"x" * 10_000)
            sync(fd)
            assert os.stat("f").st_size == 10_000 * (number + 1)
    assert get("f") == b"x" * 50_000


@pytest.mark.parametrize("sync", [os.fsync, os.fdatasync, syncfs])
@pytest.mark.parametrize("what", ["a reader", "a directory", "a file without a name"])
def test_by_every_descriptor(sync: Callable[[int], None], what: str) -> None:
    put("f", b"x")
    with opened("." if what == "a directory" else "f", os.O_RDONLY) as fd:
        if what == "a file without a name":
            os.unlink("f")
        sync(fd)


def test_by_a_reader_of_what_another_wrote() -> None:
    with opened("f", os.O_CREAT | os.O_WRONLY) as writer, opened("f", os.O_RDONLY) as reader:
        os.write(writer, b"data")
        os.fsync(reader)
        assert os.fstat(reader).st_blocks > 0


def test_what_has_nothing_to_sync() -> None:
    make("fifo", "p")
    with opened("p", os.O_RDWR) as fd, fails(EINVAL):
        os.fsync(fd)
    with fails(EBADF):
        os.fsync(999)


def test_everything() -> None:
    with opened("f", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"data")
        os.sync()
        assert get("f") == b"data"


def test_the_way_that_files_are_replaced() -> None:
    """Written, synced, renamed, the directory synced: what editors and databases do."""
    put("f", b"old")
    for number in range(5):
        with opened("new", os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
            os.write(fd, b"%d" % number)
            os.fsync(fd)
        os.rename("new", "f")
        with opened(".", os.O_RDONLY) as top:
            os.fsync(top)
    assert get("f") == b"4" and os.listdir() == ["f"]


def test_close_of_a_duplicate_leaves_the_rest() -> None:
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        for _ in range(10):
            twin = os.dup(fd)
            os.write(twin, b"x")
            os.close(twin)
        assert os.fstat(fd).st_size == 10
    assert get("f") == b"x" * 10
