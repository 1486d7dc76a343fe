"""lseek(2) over data and holes: flushed or not, at the end, in files that are nearly all hole."""

import errno
import mmap
import os
import subprocess
from pathlib import Path

import pytest

from tests.live.cluster import Cluster
from tests.live.posix.stretches import BLOCK, PUNCH, content, fallocate, opened, refused

pytestmark = pytest.mark.shared
FAR = 2**43  # bytes: half of what ext4 can


def answers(fd: int, offset: int) -> list[int | str]:
    """What SEEK_DATA and SEEK_HOLE say."""
    found: list[int | str] = []
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        try:
            found.append(os.lseek(fd, offset, whence))
        except OSError as error:
            found.append(errno.errorcode[error.errno or 0])
    return found


def expected(blocks: set[int], size: int, offset: int) -> list[int | str]:
    """Likewise, of a file with data in these blocks."""
    if not 0 <= offset < size:
        return ["ENXIO", "ENXIO"]
    block = offset // BLOCK
    behind = [max(offset, one * BLOCK) for one in blocks if one >= block]
    while block in blocks:
        block += 1
    return [min(behind, default="ENXIO"), min(size, max(offset, block * BLOCK))]


def check(fd: int, blocks: set[int], size: int) -> None:
    """At every border, and beside it."""
    borders = {0, size, *(one * BLOCK for one in blocks), *((one + 1) * BLOCK for one in blocks)}
    for offset in sorted({border + by for border in borders for by in (-1, 0, 1)}):
        assert answers(fd, offset) == expected(blocks, size, offset), offset
    assert answers(fd, 2**62) == ["ENXIO", "ENXIO"]


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("blocks", [set(), {0}, {3}, {0, 1, 2}, {1, 4, 5}, {0, 63, 64, 65, 200}])
def test_by_blocks(file: Path, blocks: set[int], flushed: bool) -> None:
    size = 201 * BLOCK + 5
    with opened(file) as fd:
        os.ftruncate(fd, size)
        for block in blocks:
            os.pwrite(fd, b"x" * BLOCK, block * BLOCK)
        if flushed:
            os.fsync(fd)
        check(fd, blocks, size)
    with opened(file, flags=os.O_RDONLY) as fd:
        check(fd, blocks, size)


def test_what_is_flushed_and_what_is_not(file: Path) -> None:
    with opened(file) as fd:
        os.ftruncate(fd, 20 * BLOCK)
        os.pwrite(fd, b"x" * BLOCK, 2 * BLOCK)
        os.fsync(fd)
        os.pwrite(fd, b"y" * BLOCK, 3 * BLOCK)
        os.pwrite(fd, b"z", 7 * BLOCK + 5)  # a byte makes a block
        check(fd, {2, 3, 7}, 20 * BLOCK)
        fallocate(fd, PUNCH, 2 * BLOCK, BLOCK)
        check(fd, {3, 7}, 20 * BLOCK)
        os.ftruncate(fd, 7 * BLOCK)
        os.ftruncate(fd, 20 * BLOCK)
        check(fd, {3}, 20 * BLOCK)


def test_the_end_of_a_file(file: Path) -> None:
    with opened(file) as fd:
        assert answers(fd, 0) == ["ENXIO", "ENXIO"]
        os.pwrite(fd, b"abc", 0)
        check(fd, {0}, 3)
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 3 == os.lseek(fd, 0, os.SEEK_CUR), "it moves"
        refused(errno.EINVAL, os.lseek, fd, 0, 99)


def test_much_data_in_a_row(file: Path) -> None:
    """More map pages than one question to the metaserver looks at, if it were not of 64 blocks."""
    with opened(file) as fd:
        os.pwrite(fd, b"x" * (1000 * BLOCK), 0)
        os.ftruncate(fd, 3000 * BLOCK)
        os.fsync(fd)
    with opened(file, flags=os.O_RDONLY) as fd:
        assert answers(fd, 5) == [5, 1000 * BLOCK]
        assert answers(fd, 1000 * BLOCK) == ["ENXIO", 1000 * BLOCK]


def test_a_byte_in_terabytes(file: Path) -> None:
    """Found at once: no page of the map is asked for that isn't there."""
    with opened(file) as fd:
        os.ftruncate(fd, FAR)
        assert answers(fd, 0) == ["ENXIO", 0]
        os.pwrite(fd, b"x" * BLOCK, FAR - BLOCK)
        os.fsync(fd)
        assert answers(fd, 0) == [FAR - BLOCK, 0]
        assert answers(fd, FAR - BLOCK) == [FAR - BLOCK, FAR]
        assert os.fstat(fd).st_blocks == BLOCK // 512


def test_a_removed_file(file: Path) -> None:
    with opened(file) as fd:
        os.ftruncate(fd, 4 * BLOCK)
        os.pwrite(fd, b"x" * BLOCK, BLOCK)
        file.unlink()
        check(fd, {1}, 4 * BLOCK)


@pytest.mark.parametrize("words", [["cp"], ["cp", "--sparse=always"], ["cp", "--reflink=auto"]])
def test_copies_keep_holes(file: Path, words: list[str]) -> None:
    copy = file.with_name("copy")
    with opened(file) as fd:
        os.ftruncate(fd, 2**33)
        for block in (5, 2**20, 2**21 - 1):
            os.pwrite(fd, b"x" * BLOCK, block * BLOCK)
        subprocess.run([*words, file, copy], check=True, timeout=60)
    with opened(copy, flags=os.O_RDONLY) as fd:
        os.fsync(fd)
        check(fd, {5, 2**20, 2**21 - 1}, 2**33)
        assert os.fstat(fd).st_blocks == 3 * BLOCK // 512
    copy.unlink()


def test_an_archive_of_what_is_not_flushed(file: Path) -> None:
    """tar takes a file without blocks for a hole."""
    archive = file.with_name("archive.tar")
    with opened(file, b"not lost" * 1000) as fd:
        words = ["tar", "-C", file.parent, "-cSf", archive, file.name]
        subprocess.run(words, check=True, timeout=60)
        words = ["tar", "-xOf", archive]
        assert subprocess.run(words, check=True, timeout=60, capture_output=True).stdout == (
            content(fd)
        )
    archive.unlink()


def test_another_mount(cluster: Cluster) -> None:
    """What one closes, the other finds at its next open."""
    other, file = cluster.mount("other"), cluster.folder / "mnt" / "shared"
    try:
        with opened(file) as fd:
            os.ftruncate(fd, 9 * BLOCK)
            os.pwrite(fd, b"x" * BLOCK, BLOCK)
            with opened(other / "shared") as there:
                check(there, {1}, 9 * BLOCK)
                fallocate(there, PUNCH, BLOCK, BLOCK)
                os.pwrite(there, b"y" * BLOCK, 5 * BLOCK)
        with opened(file, flags=os.O_RDONLY) as fd:
            check(fd, {5}, 9 * BLOCK)
    finally:
        file.unlink()
        cluster.unmount(other)


def test_what_a_mapping_has_written(file: Path) -> None:
    """By another descriptor, before anybody synced it: it is no hole."""
    with opened(file) as fd:
        os.ftruncate(fd, 64 * BLOCK)
        with mmap.mmap(fd, 64 * BLOCK) as mapping, opened(file) as other:
            mapping[5 * BLOCK + 7] = 1
            data = os.lseek(other, 0, os.SEEK_DATA)
            assert 0 < data <= 5 * BLOCK + 7
            assert os.pread(other, 1, 5 * BLOCK + 7) == b"\1"
