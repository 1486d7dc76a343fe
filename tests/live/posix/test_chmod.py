"""chmod, fchmod, and what becomes of set-id bits."""

import os
from collections.abc import Callable
from errno import EACCES, EPERM

import pytest

from tests.live.posix.differences import differs
from tests.live.posix.linux import (
    ALICE,
    BOB,
    STAFF,
    each_kind,
    fails,
    get,
    make,
    mode_of,
    opened,
    put,
    touches,
    user,
)

pytestmark = pytest.mark.usefixtures("place")

Change = Callable[[int], None]
MODES = [0o000, 0o111, 0o644, 0o777, 0o1000, 0o1777, 0o2755, 0o4711, 0o6777, 0o7777]


@pytest.mark.parametrize("kind", ["regular", "directory", "fifo", "socket", "character"])
@pytest.mark.parametrize("mode", MODES, ids=oct)
def test_every_bit(kind: str, mode: int) -> None:
    make(kind, "x")
    with touches("x", "c"), touches(".", ""):
        os.chmod("x", mode)
    assert mode_of("x") == mode


@pytest.mark.parametrize("mode", MODES, ids=oct)
def test_by_descriptor(mode: int) -> None:
    put("f")
    with opened("f", os.O_RDONLY) as fd, touches("f", "c"):
        os.fchmod(fd, mode)
        assert mode_of(fd) == mode_of("f") == mode
    with opened(".", os.O_RDONLY) as fd:
        os.fchmod(fd, mode)
        assert mode_of(".") == mode
        os.fchmod(fd, 0o755)


def test_through_a_symlink() -> None:
    put("f")
    os.symlink("f", "s")
    os.chmod("s", 0o600)
    assert mode_of("f") == 0o600 and mode_of("s") == 0o777


@each_kind
def test_only_the_owner_and_root(kind: str) -> None:
    if kind == "symlink":
        return  # leads nowhere
    make(kind, "x", 0o777)
    os.chown("x", BOB, STAFF)
    os.chmod("x", 0o777)
    with user(ALICE, groups=(STAFF,)), fails(EPERM):
        os.chmod("x", 0o600)
    with user(BOB):
        os.chmod("x", 0o600)
    assert mode_of("x") == 0o600


def test_it_holds_from_now_on() -> None:
    put("f", b"x")
    os.chown("f", ALICE, ALICE)
    with user(ALICE):
        for _ in range(3):
            os.chmod("f", 0)
            with fails(EACCES):
                get("f")
            os.chmod("f", 0o400)
            assert get("f") == b"x"
            with fails(EACCES):
                put("f")


@pytest.mark.parametrize("group, kept", [(ALICE, True), (STAFF, True), (BOB, False)])
def test_setgid_of_a_group_that_one_is_not_in(group: int, kept: bool) -> None:
    """The bit is dropped without a word."""
    put("f")
    os.chown("f", ALICE, group)
    with user(ALICE, groups=(STAFF,)):
        os.chmod("f", 0o2755)
    assert mode_of("f") == (0o2755 if kept else 0o755)
    os.mkdir("d")
    os.chown("d", ALICE, group)
    with user(ALICE, groups=(STAFF,)):
        os.chmod("d", 0o2755)
    assert mode_of("d") == (0o2755 if kept else 0o755)


# --- set-id bits end when the content changes ----------------------------------------------------


def write(fd: int) -> None:
    """write."""
    os.write(fd, b"new")


def truncate(fd: int) -> None:
    """ftruncate."""
    os.ftruncate(fd, 1)


def append(fd: int) -> None:
    """write by a descriptor that was opened to append."""
    with opened(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND) as other:
        os.write(other, b"new")


@pytest.mark.parametrize("change", [write, truncate, append])
@pytest.mark.parametrize("owner", [ALICE, BOB])
@pytest.mark.parametrize(
    "before, after",
    [
        (0o4777, 0o777),
        (0o2777, 0o777),
        (0o6777, 0o777),
        (0o1777, 0o1777),
    ],
)
def test_set_id_bits_of_what_somebody_writes(
    change: Change, owner: int, before: int, after: int
) -> None:
    put("f", b"data")
    os.chown("f", owner, owner)
    os.chmod("f", before)
    with user(ALICE), opened("f", os.O_RDWR) as fd:
        change(fd)
    assert mode_of("f") == after


@pytest.mark.parametrize(
    "group, after", [(ALICE, 0o2766), pytest.param(BOB, 0o766, marks=differs("setgid without x"))]
)
@pytest.mark.parametrize("change", [write, truncate])
def test_setgid_without_the_groups_x(change: Change, group: int, after: int) -> None:
    """Once the mark of mandatory locks: it stays for who is in the group."""
    put("f", b"data")
    os.chown("f", BOB, group)
    os.chmod("f", 0o6766)
    with user(ALICE), opened("f", os.O_RDWR) as fd:
        change(fd)
    assert mode_of("f") == after


@pytest.mark.parametrize("change", [write, truncate, append])
def test_set_id_bits_of_what_root_writes(change: Change) -> None:
    put("f", b"data")
    os.chmod("f", 0o6777)
    with opened("f", os.O_RDWR) as fd:
        change(fd)
    assert mode_of("f") == 0o6777


def test_set_id_bits_when_it_is_opened_to_be_emptied() -> None:
    put("f", b"data")
    os.chmod("f", 0o6777)
    with user(ALICE):
        os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))
    assert mode_of("f") == 0o777


def test_set_id_bits_of_what_is_only_read() -> None:
    put("f", b"data")
    os.chmod("f", 0o6777)
    with user(ALICE), opened("f", os.O_RDWR) as fd:
        os.read(fd, 4)
    assert mode_of("f") == 0o6777
