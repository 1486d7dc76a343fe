"""chown, fchown, lchown."""

import os
from errno import EPERM

import pytest

from tests.live.posix.linux import (
    ALICE,
    BOB,
    STAFF,
    each_kind,
    fails,
    make,
    mode_of,
    opened,
    put,
    touches,
    user,
)

pytestmark = pytest.mark.usefixtures("place")


def owners(name: str | int) -> tuple[int, int]:
    """uid and gid."""
    found = os.fstat(name) if isinstance(name, int) else os.lstat(name)
    return found.st_uid, found.st_gid


@each_kind
def test_of_every_kind(kind: str) -> None:
    make(kind, "x")
    with touches("x", "c"), touches(".", ""):
        os.lchown("x", ALICE, BOB)
    assert owners("x") == (ALICE, BOB)
    os.lchown("x", -1, STAFF)
    assert owners("x") == (ALICE, STAFF)
    os.lchown("x", BOB, -1)
    assert owners("x") == (BOB, STAFF)


@pytest.mark.parametrize("number", [0, 1, 65_534, 65_536, (1 << 31) + 5, (1 << 32) - 2])
def test_every_number(number: int) -> None:
    put("f")
    os.chown("f", number, number)
    assert owners("f") == (number, number)


def test_by_descriptor_and_through_symlinks() -> None:
    put("f")
    os.symlink("f", "s")
    with opened("f", os.O_RDONLY) as fd:
        os.fchown(fd, ALICE, BOB)
        assert owners(fd) == owners("f") == (ALICE, BOB)
    os.chown("s", BOB, ALICE)
    assert owners("f") == (BOB, ALICE) and owners("s") == (0, 0)


@pytest.mark.parametrize(
    "uid, gid, number",
    [
        (-1, STAFF, 0),  # to a group that one is in
        (ALICE, STAFF, 0),
        (-1, ALICE, 0),
        (-1, BOB, EPERM),
        (BOB, -1, EPERM),
        (0, 0, EPERM),
        (ALICE, -1, 0),
        (-1, -1, 0),
    ],
)
@pytest.mark.parametrize("kind", ["regular", "directory", "symlink"])
def test_by_the_owner(kind: str, uid: int, gid: int, number: int) -> None:
    make(kind, "x")
    os.lchown("x", ALICE, ALICE)
    with user(ALICE, groups=(STAFF,)):
        if number:
            with fails(number):
                os.lchown("x", uid, gid)
        else:
            os.lchown("x", uid, gid)
    assert owners("x") == (ALICE, ALICE if number or gid == -1 else gid)


def test_by_somebody_else() -> None:
    put("f")
    os.chown("f", BOB, STAFF)
    os.chmod("f", 0o777)
    with user(ALICE, groups=(STAFF,)):
        for uid, gid in ((ALICE, -1), (-1, STAFF), (-1, ALICE)):
            with fails(EPERM):
                os.chown("f", uid, gid)


@pytest.mark.parametrize("who", ["root", "owner"])
@pytest.mark.parametrize(
    "before, after",
    [(0o6777, 0o777), (0o4711, 0o711), (0o2755, 0o755), (0o2745, 0o2745), (0o1644, 0o1644)],
)
def test_set_id_bits_of_a_file(who: str, before: int, after: int) -> None:
    """A new owner ends them, by root too; setgid without the group's x is a lock's old mark."""
    put("f")
    os.chown("f", ALICE, ALICE)
    os.chmod("f", before)
    if who == "root":
        os.chown("f", BOB, STAFF)
    else:
        with user(ALICE, groups=(STAFF,)):
            os.chown("f", -1, STAFF)
    assert mode_of("f") == after


def test_set_id_bits_of_a_directory() -> None:
    os.mkdir("d")
    os.chmod("d", 0o6755)
    os.chown("d", ALICE, STAFF)
    assert mode_of("d") == 0o6755


def test_of_nothing_moves_ctime_only() -> None:
    """chown(-1, -1) by root; the set-id bits go as well."""
    put("f")
    os.chmod("f", 0o4755)
    with touches("f", "c"):
        os.chown("f", 0, 0)
    assert mode_of("f") == 0o755


def test_it_holds_from_now_on() -> None:
    put("f", b"x")
    os.chmod("f", 0o600)
    os.chown("f", ALICE, ALICE)
    with user(ALICE), opened("f", os.O_RDWR):
        pass
    os.chown("f", BOB, BOB)
    with user(ALICE), fails(13):
        os.open("f", os.O_RDONLY)
    os.chmod("f", 0o060)
    os.chown("f", BOB, STAFF)
    with user(ALICE, groups=(STAFF,)), opened("f", os.O_RDWR):
        pass
