"""mkdir(2)."""

import os
import stat
from errno import EACCES, EEXIST, ENOENT

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
    times_of,
    touches,
    umask,
    user,
)

pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777], ids=oct)
@pytest.mark.parametrize("mode", [0o000, 0o700, 0o751, 0o777, 0o1777, 0o6777], ids=oct)
def test_a_new_directory(mode: int, mask: int) -> None:
    """Its set-id bits are not mkdir's to give."""
    os.chmod(".", 0o777)
    with umask(mask), user(ALICE, BOB):
        os.mkdir("d", mode)
    found = os.lstat("d")
    assert stat.S_ISDIR(found.st_mode) and mode_of("d") == mode & ~mask & 0o1777
    assert (found.st_uid, found.st_gid, found.st_nlink) == (ALICE, BOB, 2)
    assert len(set(times_of(found).values())) == 1
    assert sorted(os.listdir()) == ["d"] and os.listdir("d") == []


def test_the_parent_counts_it_and_moves() -> None:
    links = os.stat(".").st_nlink
    with touches(".", "mc"):
        os.mkdir("d")
    assert os.stat(".").st_nlink == links + 1
    with touches("d", "mc"), touches(".", ""):
        os.mkdir("d/e")
    assert os.stat("d").st_nlink == 3 and os.stat(".").st_nlink == links + 1
    os.rmdir("d/e")
    assert os.stat("d").st_nlink == 2


@each_kind
def test_over_something(kind: str) -> None:
    make(kind, "x")
    with touches(".", ""), fails(EEXIST):
        os.mkdir("x")


def test_names_that_are_always_there() -> None:
    for name in (".", "..", "/"):
        with fails(EEXIST):
            os.mkdir(name)


def test_dots_at_the_end_of_what_is_not_there() -> None:
    for name in ("d/.", "d/.."):
        with fails(ENOENT):
            os.mkdir(name)


def test_where_one_may_not() -> None:
    with user(ALICE):
        with fails(EACCES):
            os.mkdir("d")
    os.mkdir("w", 0o777)
    os.chmod("w", 0o666)  # writing needs searching too
    with user(ALICE), fails(EACCES):
        os.mkdir("w/d")


def test_a_setgid_parent_passes_its_group_on() -> None:
    os.mkdir("p")
    os.chown("p", 0, STAFF)
    os.chmod("p", 0o2777)
    with user(ALICE):
        os.mkdir("p/d")
        os.mkdir("p/d/e")
        put("p/d/f")
    for name in ("p/d", "p/d/e"):
        found = os.stat(name)
        assert (found.st_uid, found.st_gid) == (ALICE, STAFF) and mode_of(name) == 0o2755
    assert os.stat("p/d/f").st_gid == STAFF and mode_of("p/d/f") == 0o644


def test_below_a_descriptor() -> None:
    os.mkdir("d")
    with opened("d", os.O_RDONLY) as fd:
        os.rename("d", "e")
        os.mkdir("x", dir_fd=fd)
    assert os.listdir("e") == ["x"]


def test_through_a_symlink() -> None:
    os.mkdir("d")
    os.symlink("d", "s")
    os.mkdir("s/e")
    assert os.listdir("d") == ["e"]
    os.symlink("new", "dangling")
    with fails(EEXIST):
        os.mkdir("dangling")


def test_ten_processes_make_one() -> None:
    children = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            try:
                os.mkdir("d")
            except FileExistsError:
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0] + [1] * 9


def test_many_links() -> None:
    """Each subdirectory is a link of its parent, on a directory of 300."""
    os.mkdir("d")
    for number in range(300):
        os.mkdir(f"d/{number}")
    assert os.stat("d").st_nlink == 302
    for number in range(0, 300, 2):
        os.rmdir(f"d/{number}")
    assert os.stat("d").st_nlink == 152 and len(os.listdir("d")) == 150
