"""mmap: pages and bytes are one content."""

import mmap
import os
import signal
from errno import EACCES, ENODEV

import pytest

from tests.live.posix.differences import differs
from tests.live.posix.linux import fails, get, opened, put

pytestmark = pytest.mark.usefixtures("place")

PAGE = 4096
READ, WRITE = mmap.PROT_READ, mmap.PROT_WRITE


def mapped(name: str, size: int = 0, flags: int = mmap.MAP_SHARED) -> mmap.mmap:
    """A file's pages; the descriptor is closed."""
    with opened(name, os.O_RDWR) as fd:
        return mmap.mmap(fd, size, flags)


def test_what_is_stored_is_read() -> None:
    put("f", bytes(3 * PAGE))
    with mapped("f") as pages, opened("f", os.O_RDONLY) as fd:
        pages[PAGE - 2 : PAGE + 3] = b"hello"
        assert os.pread(fd, 5, PAGE - 2) == b"hello"
        pages.flush()
    assert get("f") == bytes(PAGE - 2) + b"hello" + bytes(2 * PAGE - 3)


def test_what_is_written_is_in_the_pages() -> None:
    put("f", b"a" * 200_000)
    with mapped("f") as pages, opened("f", os.O_RDWR) as fd:
        assert pages[130_000:130_008] == b"aaaaaaaa"
        os.pwrite(fd, b"by write", 130_000)
        assert pages[130_000:130_008] == b"by write"
        pages[130_000:130_002] = b"BY"
        os.pwrite(fd, b"WRITE", 130_003)
        assert os.pread(fd, 8, 130_000) == pages[130_000:130_008] == b"BY WRITE"


def test_a_mapping_outlives_its_descriptor() -> None:
    put("f", bytes(200_000))
    pages = mapped("f")
    pages[199_999:] = b"z"
    pages.close()
    assert get("f")[-2:] == b"\0z"


def test_without_flush() -> None:
    """Unmapping is enough for whoever reads afterwards."""
    put("f", bytes(100_000))
    pages = mapped("f")
    for at in range(0, 100_000, 1000):
        pages[at : at + 1] = b"x"
    pages.close()
    assert get("f") == (b"x" + bytes(999)) * 100


def test_private() -> None:
    put("f", b"a" * PAGE)
    with mapped("f", flags=mmap.MAP_PRIVATE) as own, mapped("f") as shared:
        own[:4] = b"mine"
        shared[4:8] = b"ours"
        own.flush()
        assert shared[:8] == b"aaaaours" and own[:4] == b"mine"
    assert get("f")[:8] == b"aaaaours"


def test_two_mappings() -> None:
    put("f", bytes(2 * PAGE))
    with mapped("f") as one, mapped("f") as two:
        one[0:3] = b"one"
        two[PAGE : PAGE + 3] = b"two"
        assert two[0:3] == b"one" and one[PAGE : PAGE + 3] == b"two"


def test_two_processes() -> None:
    put("f", bytes(PAGE))
    pages = mapped("f")
    child = os.fork()
    if child == 0:
        own = mapped("f")
        own[0:5] = b"child"
        pages[5:10] = b"again"
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pages[:10] == b"childagain" and get("f")[:10] == b"childagain"


def test_two_mappings_under_two_names() -> None:
    put("f", bytes(PAGE))
    os.link("f", "g")
    with mapped("f") as one, mapped("g") as two:
        assert two[0:3] == bytes(3)
        one[0:3] = b"one"
        assert two[0:3] == b"one"


def test_a_flushed_mapping_under_two_names() -> None:
    """Through msync both names agree, for whoever opens."""
    put("f", bytes(PAGE))
    os.link("f", "g")
    assert get("g") == bytes(PAGE)
    with mapped("f") as one:
        one[0:3] = b"one"
        one.flush()
        assert get("g")[:3] == b"one"


@differs("mappings that append")
def test_by_a_descriptor_that_appends() -> None:
    put("f", b"a" * 100)
    with opened("f", os.O_RDWR | os.O_APPEND) as fd, mmap.mmap(fd, 100) as pages:
        pages[10:14] = b"here"
        pages.flush()
        assert os.fstat(fd).st_size == 100
    assert get("f") == b"a" * 10 + b"here" + b"a" * 86


@pytest.mark.parametrize("keep", [False, True])
def test_beside_a_descriptor_that_appends(keep: bool) -> None:
    """Pages go where they belong, whichever descriptor the kernel writes them back by."""
    put("f", b"a" * 100)
    with opened("f", os.O_RDWR | os.O_APPEND) as fd:
        with opened("f", os.O_RDWR) as plain:
            pages = mmap.mmap(plain, 100)
            pages[10:14] = b"here"
            if keep:
                pages.flush()
        pages[20:25] = b"there"
        pages.flush()
        pages.close()
        assert os.fstat(fd).st_size == 100
        os.write(fd, b"end")
    assert get("f") == b"a" * 10 + b"here" + b"a" * 6 + b"there" + b"a" * 75 + b"end"


def faults(pages: mmap.mmap, at: int) -> bool:
    """Whether a touch of a page ends in SIGBUS."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        pages[at]
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGBUS


def test_behind_the_end() -> None:
    """The last page is filled with zeros; what is behind it isn't there."""
    put("f", b"x" * (PAGE + 5))
    os.truncate("f", 3 * PAGE)
    with mapped("f") as pages:
        os.truncate("f", PAGE + 5)
        assert pages[PAGE : PAGE + 8] == b"xxxxx\0\0\0"
        assert not faults(pages, 2 * PAGE - 1) and faults(pages, 2 * PAGE)
        pages[PAGE + 6 : PAGE + 7] = b"!"  # in the page, and in no file
    assert get("f") == b"x" * (PAGE + 5)


def test_cut_and_grown() -> None:
    """What was cut off is zeros when the file grows again, in pages mapped all the while."""
    put("f", b"x" * 4 * PAGE)
    with mapped("f") as pages:
        assert pages[3 * PAGE : 3 * PAGE + 1] == b"x"
        os.truncate("f", PAGE + 10)
        assert faults(pages, 3 * PAGE)
        os.truncate("f", 4 * PAGE)
        assert pages[PAGE + 8 : PAGE + 12] == b"xx\0\0" and pages[3 * PAGE :] == bytes(PAGE)
        pages[3 * PAGE : 3 * PAGE + 1] = b"y"
    assert get("f") == b"x" * (PAGE + 10) + bytes(2 * PAGE - 10) + b"y" + bytes(PAGE - 1)


def test_a_file_that_grows_below_a_mapping() -> None:
    put("f", b"x")
    with opened("f", os.O_RDWR) as fd:
        os.ftruncate(fd, 3 * PAGE)
        pages = mmap.mmap(fd, 3 * PAGE)
        os.ftruncate(fd, 1)
        os.pwrite(fd, b"grown", 2 * PAGE)
        assert pages[2 * PAGE : 2 * PAGE + 5] == b"grown"
        pages.close()


def test_who_may() -> None:
    put("f", b"x" * PAGE)
    with opened("f", os.O_RDONLY) as fd:
        with fails(EACCES):
            mmap.mmap(fd, PAGE)
        mmap.mmap(fd, PAGE, mmap.MAP_PRIVATE, READ | WRITE).close()
        mmap.mmap(fd, PAGE, mmap.MAP_SHARED, READ).close()
    with opened("f", os.O_WRONLY) as fd, fails(EACCES):
        mmap.mmap(fd, PAGE, mmap.MAP_SHARED, READ)
    with opened(".", os.O_RDONLY) as fd, fails(ENODEV, EACCES):
        mmap.mmap(fd, PAGE, mmap.MAP_SHARED, READ)


def test_pages_and_writes_of_every_size() -> None:
    """A model: what is stored, written, cut and read, in turns."""
    import random

    dice = random.Random(11)
    size = 20 * PAGE
    model = bytearray(dice.randbytes(size))
    put("f", model)
    with mapped("f", size) as pages, opened("f", os.O_RDWR) as fd:
        for _ in range(200):
            at = dice.randrange(size - 9000)
            data = dice.randbytes(dice.choice([1, 100, 4096, 9000]))
            if dice.random() < 0.5:
                pages[at : at + len(data)] = data
            else:
                os.pwrite(fd, data, at)
            model[at : at + len(data)] = data
            if dice.random() < 0.1:
                pages.flush()
            at = dice.randrange(size - 9000)
            assert os.pread(fd, 9000, at) == pages[at : at + 9000] == model[at : at + 9000]
    assert get("f") == model
