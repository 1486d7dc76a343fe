"""Offsets beyond 4 GiB, up to the last, 2^63 - 1; st_blocks of files that are mostly hole.

The local side is a tmpfs: its files may be as large as ours.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.cluster import Cluster
from tests.live.posix.stretches import BLOCK, PUNCH, fallocate, opened, pattern, refused

pytestmark = pytest.mark.shared
LAST = 2**63 - 1  # the largest size
GIB = 2**30


@pytest.fixture(params=["tmpfs", "mnt"])
def file(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A name, on either side."""
    if request.param == "mnt":
        path = cluster.folder / "mnt" / "file"
        yield path
        path.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder) / "file"


def blocks(fd: int) -> int:
    """How many blocks of ours are stored."""
    os.fsync(fd)
    return -(-os.fstat(fd).st_blocks * 512 // BLOCK)


@pytest.mark.parametrize("offset", [4 * GIB - 1, 5 * GIB + 7, 2**43, 2**55 + 3, LAST - BLOCK - 1])
def test_far_bytes(file: Path, offset: int) -> None:
    data = b"far away"
    with opened(file) as fd:
        assert os.pwrite(fd, data, offset) == len(data)
        assert os.pread(fd, 100, offset) == data and os.pread(fd, 9, offset // 2) == bytes(9)
        os.fsync(fd)
        assert os.lseek(fd, 0, os.SEEK_END) == offset + len(data)
        assert os.lseek(fd, 0, os.SEEK_DATA) // BLOCK == offset // BLOCK
    with opened(file, flags=os.O_RDONLY) as fd:
        assert os.pread(fd, 100, offset) == data
        assert os.fstat(fd).st_size == offset + len(data)


def test_the_last_byte(file: Path) -> None:
    with opened(file) as fd:
        assert os.pwrite(fd, b"ab", LAST - 2) == 2
        assert os.fstat(fd).st_size == LAST
        assert os.pread(fd, 1, LAST - 1) == b"b"
        refused(errno.EINVAL, os.pread, fd, 1, LAST)
        refused(errno.EINVAL, os.pwrite, fd, b"x", LAST)
        refused(errno.EINVAL, os.pwrite, fd, b"x" * 8, -1)
        refused(errno.EFBIG, fallocate, fd, 0, LAST, 1)
        refused(errno.EINVAL, os.lseek, fd, 1, os.SEEK_END)
        refused(errno.EINVAL, os.ftruncate, fd, -1)
        os.fsync(fd)
        assert blocks(fd) == 1
        ours = file.parent.name == "mnt"  # a tmpfs neither finds nor gives back its last page
        if ours:
            assert os.lseek(fd, 0, os.SEEK_DATA) == LAST // BLOCK * BLOCK
            assert os.lseek(fd, LAST - 1, os.SEEK_HOLE) == LAST
        fallocate(fd, PUNCH, LAST // BLOCK * BLOCK, LAST - LAST // BLOCK * BLOCK)
        assert os.pread(fd, 2, LAST - 2) == bytes(2) and not (ours and blocks(fd))


def test_the_largest_hole(file: Path) -> None:
    with opened(file) as fd:
        os.ftruncate(fd, LAST)
        assert os.fstat(fd).st_size == LAST and blocks(fd) == 0
        assert os.pread(fd, 5, 2**62) == bytes(5)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"x", 2**62)
        os.ftruncate(fd, 2**62)
        os.ftruncate(fd, LAST)
        assert os.pread(fd, 5, 2**62) == bytes(5) and blocks(fd) == 0


def test_what_is_stored(file: Path) -> None:
    """After write, overwrite, truncate, punch, and far apart."""
    with opened(file, pattern(3)) as fd:
        assert blocks(fd) == 3
        os.pwrite(fd, b"x" * BLOCK, BLOCK)
        assert blocks(fd) == 3
        os.pwrite(fd, b"y" * BLOCK, 6 * GIB)
        assert blocks(fd) == 4
        os.ftruncate(fd, 7 * GIB)
        assert blocks(fd) == 4
        fallocate(fd, PUNCH, 0, 5 * GIB)
        assert blocks(fd) == 1
        os.ftruncate(fd, 6 * GIB)
        assert blocks(fd) == 0
        os.pwrite(fd, b"z", 3 * GIB)
        assert blocks(fd) == 1 and os.fstat(fd).st_size == 6 * GIB


def test_unflushed_bytes_are_blocks_too(file: Path) -> None:
    with opened(file, pattern(3)) as fd:
        assert os.fstat(fd).st_blocks == 3 * BLOCK // 512
        os.fsync(fd)
        os.pwrite(fd, b"x" * BLOCK, BLOCK)
        assert os.fstat(fd).st_blocks == 3 * BLOCK // 512
