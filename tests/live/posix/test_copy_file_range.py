"""copy_file_range(2): offsets, ends, holes, what is not flushed, errors."""

import errno
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.cluster import Cluster
from tests.live.posix import stretches
from tests.live.posix.stretches import BLOCK, content, opened, pattern, refused

pytestmark = pytest.mark.shared


@pytest.fixture(params=["local", "mnt"])
def where(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory, on either side."""
    path = cluster.folder / request.param / "where"
    path.mkdir()
    yield path
    for one in path.iterdir():
        one.unlink()
    path.rmdir()


def copy(source: int, into: int, count: int, offset: int = 0, at: int = 0) -> int:
    """All of it, in as many calls as it takes."""
    done = 0
    while done < count:
        step = os.copy_file_range(source, into, count - done, offset + done, at + done)
        if not step:
            break
        done += step
    return done


def test_nothing_beyond_the_end(where: Path) -> None:
    """Nothing to copy, to where there is nothing yet: the target stays as it is."""
    with opened(where / "a", b"source") as source, opened(where / "b", b"target") as into:
        assert os.copy_file_range(source, into, 100, 6, 1000) == 0
        assert content(into) == b"target"


@pytest.mark.parametrize("flushed", [False, True])
def test_pieces_of_a_file(where: Path, flushed: bool, seed: int) -> None:
    dice = random.Random(f"{seed} {flushed}")
    data, expected = pattern(30) + b"end", bytearray()
    with opened(where / "a", data) as source, opened(where / "b") as into:
        for _ in range(20):
            if flushed:
                os.fsync(source)
            offset, at = dice.randrange(len(data) + 9), dice.randrange(30 * BLOCK)
            count = dice.choice([1, BLOCK, dice.randrange(1, 9 * BLOCK)])
            piece = data[offset : offset + count]
            assert copy(source, into, count, offset, at) == len(piece)
            if piece:
                expected.extend(bytes(max(0, at - len(expected))))
                expected[at : at + len(piece)] = piece
            assert content(into) == expected
    assert (where / "b").read_bytes() == expected and (where / "a").read_bytes() == data


def test_offsets_of_descriptors(where: Path) -> None:
    with opened(where / "a", b"0123456789") as source, opened(where / "b") as into:
        os.lseek(source, 3, os.SEEK_SET)
        assert os.copy_file_range(source, into, 4) == 4
        assert (os.lseek(source, 0, os.SEEK_CUR), os.lseek(into, 0, os.SEEK_CUR)) == (7, 4)
        assert os.copy_file_range(source, into, 99) == 3
        assert os.copy_file_range(source, into, 99) == 0
        assert os.copy_file_range(source, into, 0, 0) == 0
        assert os.copy_file_range(source, into, 2, 0, 0) == 2
        assert (os.lseek(source, 0, os.SEEK_CUR), os.lseek(into, 0, os.SEEK_CUR)) == (10, 7)
        assert content(into) == b"0156789"


def test_within_a_file(where: Path) -> None:
    with opened(where / "a", pattern(4)) as fd:
        refused(errno.EINVAL, os.copy_file_range, fd, fd, BLOCK, 0, 100)
        refused(errno.EINVAL, os.copy_file_range, fd, fd, BLOCK, 100, 0)
        assert copy(fd, fd, BLOCK + 7, 0, 2 * BLOCK) == BLOCK + 7
        expected = pattern(4)[: 2 * BLOCK] + pattern(4)[: BLOCK + 7] + pattern(4)[3 * BLOCK + 7 :]
        assert content(fd) == expected
        assert copy(fd, fd, 4 * BLOCK, 0, 4 * BLOCK) == 4 * BLOCK
        assert content(fd) == expected * 2


def test_errors(where: Path) -> None:
    with opened(where / "a", b"abc") as a, opened(where / "b", b"xyz") as b:
        with opened(where / "b", flags=os.O_WRONLY | os.O_APPEND) as appending:
            refused(errno.EBADF, os.copy_file_range, a, appending, 3)
            fcntl.fcntl(appending, fcntl.F_SETFL, 0)
            assert os.copy_file_range(b, appending, 0) == 0
            assert os.copy_file_range(a, appending, 3, 0, 3) == 3
            assert content(b) == b"xyzabc"
            os.ftruncate(b, 3)
        with opened(where / "b", flags=os.O_RDONLY) as reading:
            refused(errno.EBADF, os.copy_file_range, a, reading, 3)
        with opened(where / "b", flags=os.O_WRONLY) as writing:
            refused(errno.EBADF, os.copy_file_range, writing, a, 3)
        with opened(where, flags=os.O_RDONLY) as directory:
            refused(errno.EISDIR, os.copy_file_range, directory, a, 3)
        refused(errno.EFBIG, os.copy_file_range, a, b, 3, 0, 2**63 - 1)
        assert content(a) == b"abc" and content(b) == b"xyz"


def test_the_limit_of_a_process(where: Path) -> None:
    calls = f"""os.copy_file_range(os.open({str(where / "a")!r}, 0), fd, 9000, 0, 0)
os.copy_file_range(os.open({str(where / "a")!r}, 0), fd, 9000, 0, 8192)"""
    with opened(where / "a", pattern(4)), opened(where / "b") as into:
        assert stretches.under_a_limit(into, 8192, calls) == ["8192 0", "EFBIG 1"]
        assert content(into) == pattern(2)


def test_over_what_the_kernel_knows(where: Path) -> None:
    with opened(where / "a", pattern(8)) as source, opened(where / "b", b"z" * 6 * BLOCK) as into:
        os.fsync(into)
        os.utime(into, ns=(10**18, 10**18))
        with opened(where / "b", flags=os.O_RDONLY) as reader:
            assert content(reader) == b"z" * 6 * BLOCK
            assert copy(source, into, 2 * BLOCK, 3 * BLOCK, BLOCK + 100) == 2 * BLOCK
            seen = content(reader)
        piece = pattern(8)[3 * BLOCK : 5 * BLOCK]
        assert seen == b"z" * (BLOCK + 100) + piece + b"z" * (3 * BLOCK - 100)
        assert os.fstat(into).st_mtime_ns > 10**18 and os.fstat(into).st_ctime_ns > 10**18


def test_a_hole_over_data(where: Path) -> None:
    with opened(where / "a") as source, opened(where / "b", b"z" * 9 * BLOCK) as into:
        os.ftruncate(source, 12 * BLOCK)
        os.pwrite(source, b"x" * BLOCK, 4 * BLOCK)
        assert copy(source, into, 5 * BLOCK, 2 * BLOCK, BLOCK - 3) == 5 * BLOCK
        expected = b"z" * (BLOCK - 3) + bytes(2 * BLOCK) + b"x" * BLOCK + bytes(2 * BLOCK)
        assert content(into) == expected + b"z" * (3 * BLOCK + 3)
        assert copy(source, into, 3 * BLOCK, 9 * BLOCK, 20 * BLOCK) == 3 * BLOCK
        assert os.fstat(into).st_size == 23 * BLOCK, "it ends in a hole"
        assert not any(content(into)[9 * BLOCK :])


def test_synced(where: Path) -> None:
    with opened(where / "a", pattern(3)) as source:
        with opened(where / "b", flags=os.O_WRONLY | os.O_SYNC) as into:
            assert copy(source, into, 3 * BLOCK) == 3 * BLOCK
            assert (where / "b").read_bytes() == pattern(3)


# --- of zdfs only ------------------------------------------------------------------------------


def test_holes_stay_holes(cluster: Cluster) -> None:
    """They are neither read nor stored; what the copy covers is given back."""
    where = cluster.folder / "mnt"
    with opened(where / "a") as source, opened(where / "b", pattern(16)) as into:
        os.ftruncate(source, 2**40)
        os.pwrite(source, b"x" * BLOCK, 8 * BLOCK)
        os.pwrite(source, b"y", 2**39)
        assert copy(source, into, 2**31) == 2**31
        os.fsync(into)
        assert os.fstat(into).st_blocks == BLOCK // 512
        assert os.fstat(into).st_size == 2**31
        assert os.pread(into, 10 * BLOCK, 0) == bytes(8 * BLOCK) + b"x" * BLOCK + bytes(BLOCK)
    (where / "a").unlink()
    (where / "b").unlink()


def test_from_mount_to_mount(cluster: Cluster) -> None:
    """The kernel copies by itself; within a mount, what another mount wrote last is copied."""
    other, where = cluster.mount("other"), cluster.folder / "mnt"
    try:
        with opened(where / "a", pattern(40)) as source:
            with opened(other / "b") as into:
                assert copy(source, into, 40 * BLOCK) == 40 * BLOCK
            assert (where / "b").read_bytes() == pattern(40)
            with opened(other / "a", flags=os.O_RDONLY) as there, opened(other / "c") as into:
                # As cp does: the kernel copies up to the size that it knows, without asking.
                assert os.fstat(there).st_size == 40 * BLOCK
                assert copy(there, into, 40 * BLOCK) == 40 * BLOCK
                assert content(into) == pattern(40)
        for name in "abc":
            (where / name).unlink()
    finally:
        cluster.unmount(other)
