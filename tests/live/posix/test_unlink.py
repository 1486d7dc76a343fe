"""unlink(2)."""

import os
from errno import EACCES, EISDIR, ENOENT, EPERM

import pytest

from tests.live.posix.linux import (
    ALICE,
    BOB,
    HERE,
    each_file,
    fails,
    get,
    make,
    opened,
    put,
    touches,
    unlinkat,
    user,
)

pytestmark = pytest.mark.usefixtures("place")


@each_file
def test_of_every_kind(kind: str) -> None:
    make(kind, "x")
    with touches(".", "mc"):
        os.unlink("x")
    assert os.listdir() == []
    with fails(ENOENT):
        os.lstat("x")
    with fails(ENOENT):
        os.unlink("x")


@each_file
def test_one_of_two_names(kind: str) -> None:
    make(kind, "x")
    os.link("x", "y", follow_symlinks=False)
    ino = os.lstat("x").st_ino
    with touches("y", "c"), touches(".", "mc"):
        os.unlink("x")
    found = os.lstat("y")
    assert (found.st_nlink, found.st_ino) == (1, ino) and os.listdir() == ["y"]


@pytest.mark.parametrize("name", ["d", "d/", ".", "..", "d/.", "/"])
def test_a_directory(name: str) -> None:
    os.mkdir("d")
    with touches("d", ""), fails(EISDIR):
        os.unlink(name)


def test_a_symlink_and_not_what_it_leads_to() -> None:
    put("f", b"x")
    os.mkdir("d")
    for target in ("f", "d", "nowhere"):
        os.symlink(target, "s")
        os.unlink("s")
    assert sorted(os.listdir()) == ["d", "f"] and get("f") == b"x"


@pytest.mark.parametrize(
    "parent_mode, parent_owner, owner, number",
    [
        (0o755, 0, ALICE, EACCES),  # the parent's permission counts, not the file's
        (0o777, 0, BOB, 0),
        (0o666, 0, ALICE, EACCES),
        (0o333, 0, BOB, 0),
        (0o1777, 0, BOB, EPERM),  # sticky: the file's owner, the directory's, root
        (0o1777, 0, ALICE, 0),
        (0o1777, ALICE, BOB, 0),
        (0o1755, BOB, ALICE, EACCES),
    ],
)
@each_file
def test_who_may(kind: str, parent_mode: int, parent_owner: int, owner: int, number: int) -> None:
    os.mkdir("p")
    make(kind, "p/x")
    os.chown("p/x", owner, owner, follow_symlinks=False)
    os.chown("p", parent_owner, parent_owner)
    os.chmod("p", parent_mode)
    with user(ALICE):
        if number:
            with fails(number):
                os.unlink("p/x")
        else:
            os.unlink("p/x")
    assert os.path.lexists("p/x") == bool(number)


def test_of_a_file_without_permissions() -> None:
    os.chmod(".", 0o777)
    with user(ALICE):
        put("f")
        os.chmod("f", 0)
        os.unlink("f")


def test_by_descriptor() -> None:
    os.mkdir("d")
    put("d/f")
    with opened("d", os.O_RDONLY) as fd:
        os.rename("d", "e")
        unlinkat("f", 0, fd)
        with fails(ENOENT):
            unlinkat("f", 0, fd)
    with fails(EISDIR):
        unlinkat("e", 0, HERE)


def test_a_new_file_under_the_old_name_is_another() -> None:
    put("f", b"old" * 1000)
    old = os.stat("f").st_ino
    with opened("f", os.O_RDONLY):  # else its number may be used again
        os.unlink("f")
        put("f", b"new")
        assert os.stat("f").st_ino != old and get("f") == b"new"


def test_ten_processes_remove_one() -> None:
    put("f")
    children = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            try:
                os.unlink("f")
            except FileNotFoundError:
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0] + [1] * 9
