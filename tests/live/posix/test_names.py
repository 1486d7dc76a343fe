"""Names are bytes: all of them but / and NUL, 255 long; paths to 4,095, trees deeper than that."""

import os
from collections.abc import Callable
from errno import ENAMETOOLONG

import pytest

from tests.live.posix.linux import fails, get, opened, put

pytestmark = pytest.mark.usefixtures("place")

ODD = [
    b"\xff\xfe\x80",  # no UTF-8
    b"\xc3\xa4",
    b"a\xcc\x88",  # the same letter otherwise: another name
    b"a\nb\tc\r",
    b" ",
    b"...",
    b".hidden",
    b"-rf",
    b"*?[]",
    b"\\",
    b"con",
    b"CON",
    b"~",
    b"x" * 255,
    b"\xf0\x9f\x90\xa7" * 63,
    b"\x01\x02\x7f",
    b".fuse_hidden0000000000000001",  # a user's own, though libfuse makes such
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_name(name: bytes) -> None:
    put(name, name)
    assert os.listdir(b".") == [name] and get(name) == name
    os.rename(name, b"plain")
    os.rename(b"plain", name)
    os.link(name, b"link")
    os.unlink(name)
    os.mkdir(name)
    put(name + b"/" + name)
    os.symlink(name, b"s")
    assert os.readlink(b"s") == name and os.listdir(b"s") == [name]
    os.unlink(name + b"/" + name)
    os.rmdir(name)


def test_every_byte() -> None:
    """In one directory at once, and no two of them are one."""
    names = [bytes([number]) for number in range(1, 256) if number not in b"/."]
    for name in names:
        put(name, name)
    assert sorted(os.listdir(b".")) == names
    assert all(get(name) == name for name in names)


@pytest.mark.parametrize("length", [1, 254, 255])
def test_lengths(length: int) -> None:
    name = "n" * length
    os.mkdir(name)
    put(f"{name}/{name}", b"x")
    assert os.listdir(name) == [name] and os.stat(f"{name}/{name}").st_size == 1
    with fails(ENAMETOOLONG):
        os.stat(f"{name}/" + "n" * 256)


@pytest.mark.parametrize(
    "make",
    [os.mkdir, os.mkfifo, put, lambda name: os.symlink("x", name)],
    ids=["mkdir", "mkfifo", "put", "symlink"],
)
def test_one_byte_too_long(make: Callable[[str], object]) -> None:
    with fails(ENAMETOOLONG):
        make("n" * 256)
    assert os.listdir() == []


def test_case_counts() -> None:
    for name in ("a", "A", "\u00e4", "\u00c4"):
        put(name, name.encode())
    assert sorted(os.listdir()) == sorted(["a", "A", "\u00e4", "\u00c4"]) and get("A") == b"A"


def test_the_longest_path() -> None:
    """4,095 bytes go in one call, 4,096 don't."""
    step = "d" * 200
    here = os.getcwd()
    for _ in range(20):
        os.mkdir(step)
        os.chdir(step)
    os.chdir(here)
    path = f"{step}/" * 20
    path += "f" * (4095 - len(path))
    put(path, b"deep")
    assert get(path) == b"deep" and os.stat(path).st_size == 4
    with fails(ENAMETOOLONG):
        os.stat(path + "f")


def test_deeper_than_any_path() -> None:
    """Through openat, step by step: 60 names of 200 bytes."""
    step = "d" * 200
    here = os.open(".", os.O_RDONLY)
    way = [here]
    for _ in range(60):
        os.mkdir(step, dir_fd=way[-1])
        way.append(os.open(step, os.O_RDONLY | os.O_DIRECTORY, dir_fd=way[-1]))
    with opened("bottom", os.O_CREAT | os.O_RDWR, dir_fd=way[-1]) as fd:
        os.write(fd, b"here")
        assert os.pread(fd, 9, 0) == b"here"
    assert os.listdir(way[-1]) == ["bottom"]
    os.rename("bottom", "up", src_dir_fd=way[-1], dst_dir_fd=way[30])
    os.rename("up", "top", src_dir_fd=way[30], dst_dir_fd=here)
    assert get("top") == b"here"
    for above in reversed(way[:-1]):
        os.rmdir(step, dir_fd=above)
    assert os.listdir() == ["top"]


def test_a_hundred_steps() -> None:
    path = "/".join(str(number) for number in range(100))
    os.makedirs(path)
    put(f"{path}/f", b"f")
    assert get(f"{path}/../99/./f") == b"f"
    assert os.path.realpath(f"{path}/..").endswith("/98")
