"""Bytes in, bytes out: read, write and their relatives; what they refuse."""

import ctypes
import mmap
import os
import random
import resource
import signal
from errno import EAGAIN, EBADF, EFAULT, EFBIG, EINVAL, EOPNOTSUPP, ESPIPE

import pytest

from tests.live.posix.linux import fails, get, opened, put, raw, touches

pytestmark = pytest.mark.usefixtures("place")

NEW = os.O_CREAT | os.O_RDWR
BLOCK = 65_536
EDGES = [0, 1, 4095, 4096, 4097, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17]


@pytest.mark.parametrize("size", EDGES)
def test_there_and_back(size: int) -> None:
    data = random.Random(size).randbytes(size)
    put("f", data)
    assert get("f") == data and os.stat("f").st_size == size


@pytest.mark.parametrize("offset", EDGES)
@pytest.mark.parametrize("size", [1, 4096, 70_000])
def test_in_the_middle(offset: int, size: int) -> None:
    model = bytearray(random.Random(1).randbytes(3 * BLOCK))
    put("f", model)
    new = random.Random(2).randbytes(size)
    with opened("f", os.O_RDWR) as fd:
        assert os.pwrite(fd, new, offset) == size
        model.extend(bytes(max(0, offset + size - len(model))))
        model[offset : offset + size] = new
        assert os.pread(fd, 1 << 20, 0) == model
    assert get("f") == model


def test_many_small_writes_at_random_places() -> None:
    dice = random.Random(7)
    model = bytearray()
    with opened("f", NEW) as fd:
        for _ in range(300):
            at, data = dice.randrange(400_000), dice.randbytes(dice.choice([1, 17, 4096, 70_000]))
            assert os.pwrite(fd, data, at) == len(data)
            model.extend(bytes(max(0, at + len(data) - len(model))))
            model[at : at + len(data)] = data
            at, size = dice.randrange(500_000), dice.randrange(200_000)
            assert os.pread(fd, size, at) == model[at : at + size]
        assert os.fstat(fd).st_size == len(model)
    assert get("f") == model


@pytest.mark.parametrize("gap", [1, 4096, BLOCK, 5 * BLOCK + 3])
def test_what_was_never_written_is_zeros(gap: int) -> None:
    put("f", b"start")
    with opened("f", os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 5 + gap)
        assert os.pread(fd, 1 << 20, 0) == b"start" + bytes(gap) + b"end"
    assert get("f") == b"start" + bytes(gap) + b"end"


def test_at_and_behind_the_end() -> None:
    put("f", b"0123")
    with opened("f", os.O_RDONLY) as fd:
        assert os.pread(fd, 10, 2) == b"23"
        assert os.pread(fd, 10, 4) == os.pread(fd, 10, 4096) == os.pread(fd, 10, 1 << 40) == b""
        assert os.read(fd, 0) == b""
        assert os.lseek(fd, 100, os.SEEK_SET) == 100 and os.read(fd, 1) == b""


def test_nothing_written_is_nothing_changed() -> None:
    put("f", b"0123")
    with opened("f", os.O_RDWR) as fd, touches("f", ""):
        assert os.write(fd, b"") == 0
        assert os.pwrite(fd, b"", 1000) == 0
    assert get("f") == b"0123"


def test_vectors() -> None:
    with opened("f", NEW) as fd:
        assert os.writev(fd, [b"ab", b"", b"cde", b"f" * 70_000]) == 70_005
        assert os.pwritev(fd, [b"X", b"Y"], 1) == 2
        assert os.lseek(fd, 0, os.SEEK_SET) == 0
        parts = [bytearray(1), bytearray(3), bytearray(100_000)]
        assert os.readv(fd, parts) == 70_005
        assert bytes(parts[0] + parts[1]) == b"aXYd" and parts[2][:3] == b"eff"
        assert os.preadv(fd, [bytearray(9)], 70_004) == 1
        flags = os.RWF_HIPRI
        assert os.preadv(fd, [parts[1]], 0, flags) == 3 and bytes(parts[1]) == b"aXY"


def test_preadv2_and_pwritev2() -> None:
    with opened("f", NEW) as fd:
        assert os.pwritev(fd, [b"synced"], 0, os.RWF_DSYNC) == 6
        assert os.pwritev(fd, [b" too"], 6, os.RWF_SYNC) == 4
        try:
            assert os.pwritev(fd, [b"!"], 0, os.RWF_APPEND) == 1
            assert get("f") == b"synced too!"
        except OSError as error:
            assert error.errno == EOPNOTSUPP
        with fails(EOPNOTSUPP, EINVAL):
            os.pwritev(fd, [b"x"], 0, 1 << 30)
        try:
            assert os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
        except OSError as error:
            assert error.errno in (EAGAIN, EOPNOTSUPP)


@pytest.mark.parametrize("call", ["read", "write", "pread", "pwrite"])
def test_memory_that_is_not_there(call: str) -> None:
    put("f", b"0123")
    with opened("f", os.O_RDWR) as fd:
        more = (ctypes.c_long(0),) if call.startswith("p") else ()
        with fails(EFAULT):
            raw(call, fd, ctypes.c_void_p(8), ctypes.c_size_t(4), *more)
    assert get("f") == b"0123"


def test_offsets_below_zero() -> None:
    put("f", b"0123")
    with opened("f", os.O_RDWR) as fd:
        for work in (
            lambda: os.pread(fd, 1, -1),
            lambda: os.pwrite(fd, b"x", -1),
            lambda: os.lseek(fd, -1, os.SEEK_SET),
            lambda: os.lseek(fd, -5, os.SEEK_END),
            lambda: os.lseek(fd, 0, 99),
        ):
            with fails(EINVAL):
                work()
        assert os.lseek(fd, -4, os.SEEK_END) == 0


def test_pipes_have_no_offsets() -> None:
    os.mkfifo("p")
    with opened("p", os.O_RDWR) as fd:
        with fails(ESPIPE):
            os.pread(fd, 1, 0)
        with fails(ESPIPE):
            os.lseek(fd, 0, os.SEEK_SET)


# --- from descriptor to descriptor ---------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5000, 300_000])
def test_sendfile(size: int) -> None:
    data = random.Random(size).randbytes(size)
    put("f", data)
    with opened("f", os.O_RDONLY) as source, opened("g", NEW) as target:
        sent = 0
        while sent < size:
            count = os.sendfile(target, source, sent, size - sent)
            assert count > 0
            sent += count
        assert os.sendfile(target, source, size, 1) == 0
    assert get("g") == data


def test_splice() -> None:
    """File to pipe to file."""
    data = random.Random(3).randbytes(200_000)
    put("f", data)
    reader, writer = os.pipe()
    with opened("f", os.O_RDONLY) as source, opened("g", NEW) as target:
        left = len(data)
        while left:
            moved = os.splice(source, writer, 32_768)
            assert moved > 0
            left -= moved
            while moved:
                moved -= os.splice(reader, target, moved)
    assert get("g") == data


# --- limits --------------------------------------------------------------------------------------


def test_file_size_limit() -> None:
    """RLIMIT_FSIZE: what fits is written, then EFBIG and SIGXFSZ."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with opened("f", NEW) as fd:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        assert os.pwrite(fd, b"x" * 8_000, 0) == 8_000
        assert os.pwrite(fd, b"x" * 8_000, 8_000) == 2_000
        with fails(EFBIG):
            os.pwrite(fd, b"x", 10_000)
        with fails(EFBIG):
            os.ftruncate(fd, 10_001)
        os.ftruncate(fd, 10_000)
        os.pwrite(fd, b"y", 9_999)
    assert os.stat("f").st_size == 10_000


def test_file_size_limit_is_signalled() -> None:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with opened("f", NEW) as fd:
            os.pwrite(fd, b"x", 100)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGXFSZ


# --- several at once -----------------------------------------------------------------------------


def test_what_one_descriptor_wrote_another_reads() -> None:
    with opened("f", NEW) as writer, opened("f", os.O_RDONLY) as reader:
        for number in range(50):
            line = b"%05d\n" % number
            os.write(writer, line)
            assert os.fstat(reader).st_size == 6 * (number + 1)
            assert os.read(reader, 100) == line


def test_processes_write_side_by_side() -> None:
    """Each its own bytes of the same blocks, with pwrite."""
    put("f", bytes(80_000))
    children = []
    for letter in b"abcd":
        child = os.fork()
        if child == 0:
            with opened("f", os.O_RDWR) as fd:
                for at in range(letter - ord("a"), 80_000, 4 * 100):
                    os.pwrite(fd, bytes([letter]), at)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    model = bytearray(80_000)
    for letter in b"abcd":
        for at in range(letter - ord("a"), 80_000, 400):
            model[at] = letter
    assert get("f") == model


# --- O_DIRECT, O_SYNC ----------------------------------------------------------------------------


def test_direct() -> None:
    """Aligned, past the kernel's pages; coherent with who goes through them."""
    page = mmap.mmap(-1, 3 * 4096)
    page.write(b"d" * 4096 * 3)
    with opened("f", NEW | os.O_DIRECT) as fd, opened("f", os.O_RDWR) as cached:
        assert os.pwrite(fd, page, 0) == 3 * 4096
        assert os.pread(cached, 5, 4094) == b"ddddd"
        os.pwrite(cached, b"cached", 4096)
        assert os.preadv(fd, [page], 0) == 3 * 4096
        assert page[4094:4104] == b"ddcachedd" + b"d"
        page[:4096] = b"e" * 4096
        assert os.pwritev(fd, [memoryview(page)[:4096]], 4096) == 4096
        assert os.pread(cached, 3, 4095) == b"dee"
        assert os.preadv(fd, [page], 2 * 4096) == 4096  # up to the end
    assert os.stat("f").st_size == 3 * 4096


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC, os.O_RSYNC])
def test_synchronous(flag: int) -> None:
    with opened("f", NEW | flag) as fd:
        assert os.write(fd, b"at once") == 7
        assert os.pwrite(fd, b"A", 0) == 1 and os.pread(fd, 9, 0) == b"At once"


def test_advice_changes_nothing() -> None:
    put("f", b"data" * 1000)
    with opened("f", os.O_RDWR) as fd:
        for advice in range(6):
            os.posix_fadvise(fd, 0, 0, advice)
        raw("readahead", fd, ctypes.c_long(0), ctypes.c_size_t(4000))
        assert os.pread(fd, 4, 0) == b"data"


def test_descriptors_that_are_none() -> None:
    for work in (lambda: os.read(999, 1), lambda: os.write(999, b"x"), lambda: os.fsync(999)):
        with fails(EBADF):
            work()
