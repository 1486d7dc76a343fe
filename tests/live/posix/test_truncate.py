"""truncate, ftruncate: what is cut is gone, what is added is zeros."""

import os
from collections.abc import Callable
from errno import EACCES, EINVAL, EISDIR, ENXIO, EPERM

import pytest

from tests.live.posix.linux import ALICE, fails, get, make, mode_of, opened, put, touches, user

pytestmark = pytest.mark.usefixtures("place")

BLOCK = 65_536


def by_path(size: int) -> None:
    """truncate."""
    os.truncate("f", size)


def by_descriptor(size: int) -> None:
    """ftruncate."""
    with opened("f", os.O_RDWR) as fd:
        os.ftruncate(fd, size)


each_way = pytest.mark.parametrize("truncate", [by_path, by_descriptor])


@each_way
@pytest.mark.parametrize("old", [0, 1, 5000, BLOCK, 3 * BLOCK + 5])
@pytest.mark.parametrize("new", [0, 1, 4096, BLOCK - 1, BLOCK, 2 * BLOCK + 9])
def test_shorter_and_longer(truncate: Callable[[int], None], old: int, new: int) -> None:
    put("f", b"x" * old)
    truncate(new)
    assert get("f") == b"x" * min(old, new) + bytes(max(0, new - old))
    assert os.stat("f").st_size == new


@each_way
def test_what_was_cut_never_comes_back(truncate: Callable[[int], None]) -> None:
    put("f", b"x" * 3 * BLOCK)
    for size in (70_000, 150_000, BLOCK, BLOCK + 1, 10, 3 * BLOCK):
        truncate(size)
    assert get("f") == b"x" * 10 + bytes(3 * BLOCK - 10)


def test_between_writes_that_are_not_flushed() -> None:
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"y" * 10, 149_990)
        os.ftruncate(fd, BLOCK)
        os.ftruncate(fd, BLOCK + 1)
        os.pwrite(fd, b"z", BLOCK + 4)
        assert os.pread(fd, 100, BLOCK - 1) == bytes(5) + b"z"
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"end", 5)
        assert os.fstat(fd).st_size == 8
        os.truncate("f", 6)
        assert os.pread(fd, 100, 0) == bytes(5) + b"e"
    assert get("f") == bytes(5) + b"e"


@each_way
@pytest.mark.parametrize("size", [0, 3, 10])
def test_times(truncate: Callable[[int], None], size: int) -> None:
    put("f", b"abc")
    os.mkdir("d")
    os.rename("f", "d/f")
    os.rename("d/f", "f")
    with touches("f", "mc"), touches(".", ""):
        truncate(size)


def test_to_the_same_size_by_descriptor_moves_times() -> None:
    put("f", b"abc")
    with opened("f", os.O_RDWR) as fd, touches("f", "mc"):
        os.ftruncate(fd, 3)


@each_way
def test_sizes_that_cannot_be(truncate: Callable[[int], None]) -> None:
    put("f", b"abc")
    with fails(EINVAL):
        truncate(-1)
    assert get("f") == b"abc"


def test_what_is_no_file() -> None:
    os.mkdir("d")
    os.mkfifo("p")
    make("socket", "s")
    with fails(EISDIR):
        os.truncate("d", 0)
    with fails(EINVAL):
        os.truncate("p", 0)
    with fails(EINVAL, ENXIO):
        os.truncate("s", 0)


def test_who_may() -> None:
    put("f", b"abc")
    os.chmod("f", 0o644)
    with user(ALICE), fails(EACCES):
        os.truncate("f", 0)
    os.chmod("f", 0o222)
    with user(ALICE):
        os.truncate("f", 2)
    assert get("f") == b"ab"
    os.chown("f", ALICE, ALICE)
    os.chmod("f", 0o444)
    with user(ALICE), fails(EACCES):
        os.truncate("f", 0)


def test_a_descriptor_outlives_the_permission() -> None:
    put("f", b"abc")
    with opened("f", os.O_RDWR) as fd:
        os.chmod("f", 0)
        os.chown("f", ALICE, ALICE)
        with user(ALICE):
            os.ftruncate(fd, 1)
    assert os.stat("f").st_size == 1 and mode_of("f") == 0


def test_only_open_for_writing() -> None:
    put("f", b"abc")
    with opened("f", os.O_RDONLY) as fd, fails(EINVAL):
        os.ftruncate(fd, 0)


def test_while_it_is_being_executed_by_nobody() -> None:
    """A file that was run can be cut afterwards."""
    put("f", b"#!/bin/true\n")
    os.chmod("f", 0o755)
    assert os.spawnv(os.P_WAIT, "./f", ["f"]) == 0
    os.truncate("f", 0)


def test_blocks_come_back() -> None:
    put("f", b"x" * (1 << 20))
    assert os.stat("f").st_blocks * 512 >= 1 << 20
    os.truncate("f", 0)
    assert os.stat("f").st_blocks == 0
    os.truncate("f", 1 << 30)
    assert os.stat("f").st_blocks == 0 and os.stat("f").st_size == 1 << 30


def test_immutable_to_others_means_eperm_or_eacces() -> None:
    """A file of somebody else in a sticky directory is cut by its mode alone."""
    os.mkdir("t")
    os.chmod("t", 0o1777)
    put("t/f", b"abc")
    os.chmod("t/f", 0o666)
    with user(ALICE):
        os.truncate("t/f", 1)
        with fails(EPERM):
            os.unlink("t/f")
    assert get("t/f") == b"a"
