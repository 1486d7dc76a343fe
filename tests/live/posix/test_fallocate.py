"""fallocate(2): each mode, over what is flushed and what is not; sizes, bytes, times, errors."""

import errno
import mmap
import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.cluster import Cluster
from tests.live.posix import stretches
from tests.live.posix.stretches import BLOCK, KEEP_SIZE, NOBODY, PUNCH, PUNCH_HOLE, ZERO_RANGE
from tests.live.posix.stretches import content, fallocate, opened, pattern, refused

pytestmark = pytest.mark.shared


@pytest.mark.parametrize("mode", [0, ZERO_RANGE])
def test_the_file_becomes_longer(file: Path, mode: int) -> None:
    with opened(file, b"abc") as fd:
        fallocate(fd, mode, BLOCK, 3 * BLOCK + 1)
        assert os.fstat(fd).st_size == 4 * BLOCK + 1
        assert content(fd) == b"abc" + bytes(4 * BLOCK - 2)
        fallocate(fd, 0, 0, BLOCK)
        assert content(fd) == b"abc" + bytes(4 * BLOCK - 2), "what is there stays"


@pytest.mark.parametrize("mode", [KEEP_SIZE, PUNCH, ZERO_RANGE | KEEP_SIZE])
def test_the_size_stays(file: Path, mode: int) -> None:
    with opened(file, b"a" * 100) as fd:
        fallocate(fd, mode, 90, 3 * BLOCK)
        kept = b"a" * (100 if mode == KEEP_SIZE else 90)
        assert os.fstat(fd).st_size == 100 and content(fd) == kept.ljust(100, b"\0")
        fallocate(fd, mode, 5 * BLOCK, BLOCK)
        assert os.fstat(fd).st_size == 100
        os.ftruncate(fd, 2 * BLOCK)
        assert content(fd) == kept.ljust(2 * BLOCK, b"\0"), "nothing comes back"


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("mode", [PUNCH, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
def test_zeros_and_nothing_but_zeros(file: Path, mode: int, flushed: bool, seed: int) -> None:
    dice = random.Random(f"{seed} {mode} {flushed}")
    expected = bytearray(pattern(20) + b"end")
    with opened(file, bytes(expected)) as fd, opened(file, flags=os.O_RDONLY) as reader:
        for _ in range(25):
            if flushed:
                os.fsync(fd)
            low = dice.randrange(len(expected))
            high = dice.choice([low + dice.randint(1, 9000), low // BLOCK * BLOCK + BLOCK])
            fallocate(fd, mode, low, high - low)
            if high > len(expected) and not mode & KEEP_SIZE:
                expected.extend(bytes(high - len(expected)))
            high = min(high, len(expected))
            expected[low:high] = bytes(high - low)
            assert content(reader) == expected, (low, high)
            at, data = dice.randrange(len(expected)), dice.randbytes(dice.randint(1, 6000))
            os.pwrite(fd, data, at)
            expected[at : at + len(data)] = data
    assert file.read_bytes() == expected


def test_punched_blocks_are_given_back(file: Path) -> None:
    with opened(file, pattern(16)) as fd:
        os.fsync(fd)
        assert os.fstat(fd).st_blocks == 16 * BLOCK // 512
        fallocate(fd, PUNCH, 3 * BLOCK - 1, 4 * BLOCK + 2)  # four blocks and two bytes
        os.fsync(fd)
        assert os.fstat(fd).st_blocks == 12 * BLOCK // 512
        fallocate(fd, PUNCH, 4 * BLOCK, BLOCK)  # again: nothing is stored for a hole in a hole
        fallocate(fd, PUNCH, 4 * BLOCK + 5, 10)
        os.fsync(fd)
        assert os.fstat(fd).st_blocks == 12 * BLOCK // 512
        fallocate(fd, PUNCH, 0, 16 * BLOCK)
        assert os.fstat(fd).st_blocks == 0 and content(fd) == bytes(16 * BLOCK)


def test_pages_that_the_kernel_knows(file: Path) -> None:
    with opened(file, pattern(4)) as fd:
        os.fsync(fd)
        assert file.read_bytes() == pattern(4)
        with opened(file, flags=os.O_RDONLY) as reader:
            assert content(reader) == pattern(4)
            fallocate(fd, PUNCH, BLOCK, BLOCK)
            fallocate(fd, ZERO_RANGE, 3 * BLOCK - 1, 2)
            seen = content(reader)
    assert seen[BLOCK : 2 * BLOCK] == bytes(BLOCK) and seen[3 * BLOCK - 1 :][:3] == b"\0\0\4"


def test_under_another_name(file: Path) -> None:
    """Which is another inode to the kernel's cache, where libfuse stands between."""
    other = file.with_name("other")
    with opened(file, pattern(4)) as fd:
        os.fsync(fd)
        os.link(file, other)
        with opened(other, flags=os.O_RDONLY) as reader:
            assert content(reader) == pattern(4)
            fallocate(fd, PUNCH, BLOCK, BLOCK + 1)
            expected = pattern(4)[:BLOCK] + bytes(BLOCK + 1) + pattern(4)[2 * BLOCK + 1 :]
            assert content(reader) == expected
            fallocate(fd, 0, 0, 9 * BLOCK)
            assert os.fstat(reader).st_size == 9 * BLOCK
    other.unlink()


def test_a_mapping(file: Path) -> None:
    """What was written to it does not come back over the hole."""
    with opened(file, pattern(4)) as fd, mmap.mmap(fd, 4 * BLOCK) as mapped:
        mapped[: 4 * BLOCK] = b"m" * 4 * BLOCK
        fallocate(fd, PUNCH, BLOCK - 1, BLOCK + 2)
        expected = b"m" * (BLOCK - 1) + bytes(BLOCK + 2) + b"m" * (2 * BLOCK - 1)
        assert mapped[: 4 * BLOCK] == expected
        mapped[BLOCK] = 7
        mapped.flush()
        expected = expected[:BLOCK] + b"\7" + expected[BLOCK + 1 :]
        assert content(fd) == expected
    assert file.read_bytes() == expected


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, PUNCH, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
def test_times_move(file: Path, mode: int) -> None:
    with opened(file, pattern(2)) as fd:
        os.fsync(fd)
        os.utime(fd, ns=(10**18, 10**18))
        before = os.fstat(fd)
        fallocate(fd, mode, 0, BLOCK)
        after = os.fstat(fd)
        assert after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns
        assert after.st_atime_ns == 10**18


@pytest.mark.parametrize("mode", [0, PUNCH, ZERO_RANGE])
def test_set_id_bits_go(file: Path, mode: int) -> None:
    """Where the caller isn't privileged."""
    script = "import sys; from tests.live.posix.stretches import fallocate\n"
    script += "fallocate(*map(int, sys.argv[1:]), 0, 9000)"
    with opened(file, pattern(2)) as fd:
        os.fchown(fd, NOBODY, NOBODY)
        os.fchmod(fd, 0o6755)
        words = [sys.executable, "-c", script, str(fd), str(mode)]
        root = Path(__file__).parents[3]
        done = subprocess.run(words, pass_fds=[fd], timeout=60, cwd=root, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o6755, "root may"
        done = subprocess.run(
            ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *words],
            pass_fds=[fd], timeout=60, cwd=root, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o755


def test_errors(file: Path) -> None:
    with opened(file, b"abc") as fd:
        for offset, length in ((0, 0), (0, -1), (-1, 5)):
            refused(errno.EINVAL, fallocate, fd, 0, offset, length)
        refused(errno.EFBIG, fallocate, fd, 0, 2**62, 2**62)
        refused(errno.EFBIG, fallocate, fd, PUNCH, 2**63 - 1, 1)
        refused(errno.EOPNOTSUPP, fallocate, fd, PUNCH_HOLE, 0, 1)
        refused(errno.EOPNOTSUPP, fallocate, fd, PUNCH | ZERO_RANGE, 0, 1)
        assert content(fd) == b"abc"
    with opened(file, flags=os.O_RDONLY) as fd:
        refused(errno.EBADF, fallocate, fd, 0, 0, 1)
    with opened(file.parent, flags=os.O_RDONLY) as fd:
        refused(errno.EBADF, fallocate, fd, 0, 0, 1)
    fifo = file.with_name("fifo")
    os.mkfifo(fifo)
    with opened(fifo) as fd:
        refused(errno.ESPIPE, fallocate, fd, 0, 0, 1)
    fifo.unlink()


def test_the_limit_of_a_process(file: Path) -> None:
    """RLIMIT_FSIZE: EFBIG and SIGXFSZ, and what fits is done."""
    calls = """os.pwrite(fd, b'x' * 9000, 0)
os.pwrite(fd, b'x', 8192)
os.ftruncate(fd, 8193)
fallocate(fd, 0, 0, 8193)
fallocate(fd, 0, 0, 8192)
fallocate(fd, 1, 0, 8193)
fallocate(fd, 16, 8000, 1000)"""
    with opened(file) as fd:
        answers = stretches.under_a_limit(fd, 8192, calls)
        assert answers == [
            "8192 0", "EFBIG 1", "EFBIG 1", "EFBIG 1", "None 0", "None 0", "EFBIG 1",
        ]  # fmt: skip
        assert content(fd) == b"x" * 8192


# --- of zdfs only ------------------------------------------------------------------------------


@pytest.fixture
def ours(cluster: Cluster) -> Iterator[Path]:
    """A name on the mount."""
    path = cluster.folder / "mnt" / "file"
    yield path
    path.unlink(missing_ok=True)


def test_bytes_are_not_shifted(ours: Path) -> None:
    with opened(ours, pattern(4)) as fd:
        for mode in (stretches.COLLAPSE_RANGE, stretches.INSERT_RANGE, stretches.UNSHARE_RANGE):
            refused(errno.EOPNOTSUPP, fallocate, fd, mode, 0, BLOCK)
        assert content(fd) == pattern(4)


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, ZERO_RANGE])
def test_more_than_there_is(ours: Path, mode: int) -> None:
    """What the file has already is not missing."""
    seen = os.statvfs(ours.parent)
    free = seen.f_bavail * seen.f_frsize
    with opened(ours, pattern(300)) as fd:
        refused(errno.ENOSPC, fallocate, fd, mode, 0, 2 * free)
        assert os.fstat(fd).st_size == 300 * BLOCK and content(fd) == pattern(300)
        fallocate(fd, KEEP_SIZE, 0, free // 2)
        fallocate(fd, PUNCH, 0, 2 * free)


def test_another_mount_sees_the_hole(cluster: Cluster, ours: Path) -> None:
    other = cluster.mount("other")
    try:
        with opened(ours, pattern(8)) as fd:
            os.fsync(fd)
            assert (other / "file").read_bytes() == pattern(8)
            with opened(other / "file") as there:
                fallocate(there, PUNCH, BLOCK + 1, 4 * BLOCK)
                expected = pattern(8)[: BLOCK + 1].ljust(5 * BLOCK + 1, b"\0")
                expected += pattern(8)[5 * BLOCK + 1 :]
                assert content(there) == expected
            os.pwrite(fd, b"!", 3 * BLOCK)  # over the hole that the other made
            expected = expected[: 3 * BLOCK] + b"!" + expected[3 * BLOCK + 1 :]
        assert ours.read_bytes() == (other / "file").read_bytes() == expected
    finally:
        cluster.unmount(other)
