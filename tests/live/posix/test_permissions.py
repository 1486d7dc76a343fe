"""Who may do what: nine bits, groups, sticky and setgid directories; checked by the kernel."""

import os
from errno import EACCES, EPERM

import pytest

from tests.live.posix.linux import (
    ALICE,
    BOB,
    STAFF,
    each_kind,
    fails,
    get,
    make,
    mode_of,
    put,
    umask,
    user,
)

pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.parametrize("bits", range(8))
@pytest.mark.parametrize("who", ["owner", "group", "another group", "other"])
def test_a_directory(who: str, bits: int) -> None:
    """r lists, x walks, w with x makes and removes; the first class that fits counts."""
    shift = {"owner": 6, "group": 3, "another group": 3, "other": 0}[who]
    os.mkdir("d")
    put("d/f", b"x")
    put("d/k")
    os.chmod("d/f", 0o666)
    os.chown("d", ALICE if who == "owner" else BOB, STAFF if who == "another group" else ALICE)
    if who == "other":
        os.chown("d", BOB, BOB)
    os.chmod("d", 0o777 & ~(7 << shift) | bits << shift)
    with user(ALICE, groups=(STAFF,)):
        for wanted, work in (
            (4, lambda: os.listdir("d")),
            (1, lambda: os.stat("d/f")),
            (1, lambda: get("d/f")),
            (1, lambda: os.chdir("d") or os.chdir("..")),
            (3, lambda: put("d/new")),
            (3, lambda: os.mkdir("d/sub")),
            (3, lambda: os.link("d/f", "d/g")),
            (3, lambda: os.rename("d/f", "d/h")),
            (3, lambda: os.unlink("d/k")),
        ):
            if bits & wanted == wanted:
                work()
            else:
                with fails(EACCES):
                    work()


@pytest.mark.parametrize("groups, number", [((), EACCES), ((STAFF,), 0), ((BOB, STAFF), 0)])
def test_supplementary_groups(groups: tuple[int, ...], number: int) -> None:
    put("f", b"x")
    os.chown("f", 0, STAFF)
    os.chmod("f", 0o060)
    with user(ALICE, groups=groups):
        if number:
            with fails(number):
                get("f")
        else:
            assert get("f") == b"x"


def test_thirty_groups() -> None:
    put("f", b"x")
    os.chown("f", 0, STAFF + 29)
    os.chmod("f", 0o040)
    with user(ALICE, groups=tuple(range(STAFF, STAFF + 30))):
        assert get("f") == b"x"


@pytest.mark.parametrize("bits", range(8))
def test_access_says_what_open_does(bits: int) -> None:
    put("f")
    os.chmod("f", bits)
    with user(ALICE):
        for wanted in range(8):
            assert os.access("f", wanted) == (bits & wanted == wanted)
        assert os.access("f", os.F_OK) and not os.access("none", os.F_OK)


def test_access_of_root() -> None:
    """All but executing what nobody may execute."""
    put("f")
    os.chmod("f", 0)
    assert os.access("f", os.R_OK | os.W_OK) and not os.access("f", os.X_OK)
    os.chmod("f", 0o001)
    assert os.access("f", os.X_OK)
    os.mkdir("d", 0)
    assert os.access("d", os.R_OK | os.W_OK | os.X_OK)


@each_kind
def test_setgid_directories(kind: str) -> None:
    """What is made in them has their group; directories have the bit too."""
    os.mkdir("p")
    os.chown("p", BOB, STAFF)
    os.chmod("p", 0o2777)
    with user(ALICE), umask(0):
        make(kind, "p/x", 0o755) if kind not in ("character", "block") else None
    if kind in ("character", "block"):
        make(kind, "p/x", 0o755)
    found = os.lstat("p/x")
    assert found.st_gid == STAFF
    if kind != "symlink":
        assert mode_of("p/x") == (0o2755 if kind == "directory" else 0o755)
    os.rename("p/x", "x")
    os.rename("x", "p/y")  # what comes by rename keeps its own
    assert os.lstat("p/y").st_gid == STAFF


@pytest.mark.parametrize(
    "groups, kept", [((), False), ((STAFF,), True)], ids=["a stranger", "a member"]
)
def test_setgid_files_in_setgid_directories(groups: tuple[int, ...], kept: bool) -> None:
    """A program may not be made to run as a group that one isn't in."""
    os.mkdir("p")
    os.chown("p", 0, STAFF)
    os.chmod("p", 0o2777)
    with user(ALICE, groups=groups), umask(0):
        os.close(os.open("p/f", os.O_CREAT | os.O_WRONLY, 0o2775))
        os.mknod("p/n", 0o100000 | 0o2775)
    for name in ("p/f", "p/n"):
        assert os.stat(name).st_gid == STAFF
        assert mode_of(name) == (0o2775 if kept else 0o775)


@pytest.mark.parametrize("owner", ["file", "directory", "root", "nobody of them"])
def test_sticky_directories(owner: str) -> None:
    """Names go by the file's owner, the directory's, and root."""
    os.mkdir("t")
    os.chown("t", ALICE if owner == "directory" else BOB, 0)
    os.chmod("t", 0o1777)
    put("t/f")
    os.chown("t/f", ALICE if owner == "file" else BOB, 0)
    os.mkdir("t/d")
    os.chown("t/d", ALICE if owner == "file" else BOB, 0)
    with user(0 if owner == "root" else ALICE):
        for work in (
            lambda: os.rename("t/f", "t/g"),
            lambda: os.unlink("t/g" if os.path.exists("t/g") else "t/f"),
            lambda: os.rmdir("t/d"),
        ):
            if owner == "nobody of them":
                with fails(EPERM):
                    work()
            else:
                work()
        put("t/new")
        os.unlink("t/new")


def test_walking_wants_every_step() -> None:
    os.makedirs("a/b/c")
    put("a/b/c/f", b"x")
    os.chmod("a/b", 0o600)
    with user(ALICE), fails(EACCES):
        os.stat("a/b/c/f")
    os.chmod("a/b", 0o711)
    with user(ALICE):
        assert get("a/b/c/f") == b"x"
    os.chdir("a/b/c")
    os.chmod("../../b", 0)
    with user(ALICE):
        assert get("f") == b"x"  # who stands there already
        with fails(EACCES):
            os.stat("../c/f")


def test_a_change_holds_at_once() -> None:
    os.mkdir("d")
    put("d/f", b"x")
    for _ in range(5):
        os.chmod("d", 0o700)
        with user(ALICE), fails(EACCES):
            get("d/f")
        os.chmod("d", 0o755)
        with user(ALICE):
            assert get("d/f") == b"x"
