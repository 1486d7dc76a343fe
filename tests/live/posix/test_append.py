"""O_APPEND: every write goes to the end, wherever that is by then."""

import os

import pytest

from tests.live.posix.linux import fails, get, opened, put
from errno import EBADF

pytestmark = pytest.mark.usefixtures("place")

APPEND = os.O_CREAT | os.O_RDWR | os.O_APPEND


def test_the_place_moves_to_the_end() -> None:
    put("f", b"0123")
    with opened("f", APPEND) as fd:
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0 and os.read(fd, 2) == b"01"
        os.write(fd, b"45")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 6
        os.lseek(fd, 1, os.SEEK_SET)
        os.write(fd, b"6")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 7
    assert get("f") == b"0123456"


def test_pwrite_appends_too() -> None:
    """As Linux does, against POSIX's letter: pwrite(2), BUGS."""
    put("f", b"0123")
    with opened("f", APPEND) as fd:
        assert os.pwrite(fd, b"45", 0) == 2
        assert os.pwritev(fd, [b"6", b"7"], 2) == 2
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
        assert os.pread(fd, 3, 1) == b"123"
    assert get("f") == b"01234567"


def test_after_somebody_else_made_it_longer_or_shorter() -> None:
    with opened("f", APPEND) as fd, opened("f", os.O_RDWR) as other:
        os.write(fd, b"one")
        os.pwrite(other, b"TWO", 100)
        os.write(fd, b"three")
        assert os.fstat(fd).st_size == 108
        os.ftruncate(other, 2)
        os.write(fd, b"!")
        assert get("f") == b"on!"
        os.truncate("f", 0)
        os.write(fd, b"new")
    assert get("f") == b"new"


def test_truncate_by_the_appender() -> None:
    with opened("f", APPEND) as fd:
        os.write(fd, b"0123456789")
        os.ftruncate(fd, 4)
        os.write(fd, b"!")
        os.ftruncate(fd, 8)
        os.write(fd, b"?")
    assert get("f") == b"0123!\0\0\0?"


def test_under_two_names() -> None:
    put("a")
    os.link("a", "b")
    with opened("a", APPEND) as one, opened("b", APPEND) as two:
        for number in range(20):
            os.write((one, two)[number % 2], b"%02d" % number)
    assert get("a") == get("b") == b"".join(b"%02d" % number for number in range(20))


def test_only_for_writing() -> None:
    put("f", b"x")
    with opened("f", os.O_RDONLY | os.O_APPEND) as fd, fails(EBADF):
        os.write(fd, b"x")


@pytest.mark.parametrize("names", ["f", "fg"])
def test_many_processes(names: str) -> None:
    """Every line once and whole; under two names of the file, too."""
    put("f")
    if len(names) > 1:
        os.link("f", "g")
    lines, children = 60, []
    for letter in b"abcd":
        child = os.fork()
        if child == 0:
            name = names[letter % len(names)]
            with opened(name, os.O_WRONLY | os.O_APPEND) as fd:
                for number in range(lines):
                    os.write(fd, b"%s %06d\n" % (bytes([letter]) * 9, number))
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    written = get("f").splitlines()
    for letter in b"abcd":  # each writer's in its order
        wanted = [b"%s %06d" % (bytes([letter]) * 9, number) for number in range(lines)]
        assert [line for line in written if line[0] == letter] == wanted
    assert len(written) == 4 * lines
