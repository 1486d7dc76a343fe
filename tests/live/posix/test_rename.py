"""rename(2), renameat2(2)."""

import os
import stat
from errno import (
    EACCES,
    EBUSY,
    EEXIST,
    EINVAL,
    EISDIR,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
    EXDEV,
)

import pytest

from tests.live.posix.linux import (
    ALICE,
    BOB,
    EXCHANGE,
    FILES,
    KINDS,
    NOREPLACE,
    TYPES,
    WHITEOUT,
    each_file,
    each_kind,
    fails,
    get,
    make,
    opened,
    put,
    renameat2,
    touches,
    user,
)

pytestmark = pytest.mark.usefixtures("place")


@each_kind
def test_of_every_kind(kind: str) -> None:
    os.mkdir("d")
    make(kind, "x")
    before = os.lstat("x")
    with opened("x", os.O_PATH | os.O_NOFOLLOW) as fd, touches(fd, "c"), touches(".", "mc"):
        os.rename("x", "y")
    with touches(".", "mc"), touches("d", "mc"):
        os.rename("y", "d/z")
    after = os.lstat("d/z")
    assert (after.st_ino, after.st_mode, after.st_nlink) == (
        before.st_ino,
        before.st_mode,
        before.st_nlink,
    )
    assert os.listdir() == ["d"] and os.listdir("d") == ["z"]
    with fails(ENOENT):
        os.lstat("x")


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", KINDS)
def test_over_every_kind(old: str, new: str) -> None:
    """Files take each other's places; directories only empty directories'."""
    make(old, "old")
    make(new, "new")
    ino = os.lstat("old").st_ino
    if (old == "directory") == (new == "directory"):
        with touches(".", "mc"):
            os.rename("old", "new")
        assert os.listdir() == ["new"] and os.lstat("new").st_ino == ino
    else:
        with touches(".", ""), fails(ENOTDIR if old == "directory" else EISDIR):
            os.rename("old", "new")
        assert sorted(os.listdir()) == ["new", "old"]


@each_file
def test_over_another_name_of_itself(kind: str) -> None:
    """Nothing happens; both stay."""
    make(kind, "x")
    os.link("x", "y", follow_symlinks=False)
    with touches(".", ""), touches("x", ""):
        os.rename("x", "y")
        os.rename("x", "x")
    assert sorted(os.listdir()) == ["x", "y"] and os.lstat("x").st_nlink == 2


def test_over_one_of_several_names() -> None:
    put("f", b"new")
    put("g", b"old")
    os.link("g", "h")
    with touches("h", "c"):
        os.rename("f", "g")
    assert os.stat("h").st_nlink == 1 and get("h") == b"old" and get("g") == b"new"


def test_over_an_open_file() -> None:
    put("a", b"a")
    put("b", b"b")
    with opened("b", os.O_RDWR) as fd, opened("a", os.O_RDWR) as mover:
        os.rename("a", "b")
        assert os.pread(fd, 9, 0) == b"b" and os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"still here", 0)
        os.pwrite(mover, b"moved", 0)
        assert os.pread(fd, 99, 0) == b"still here" and get("b") == b"moved"
        assert os.fstat(mover).st_nlink == 1
    assert os.listdir() == ["b"]


def test_an_open_file_moves() -> None:
    os.mkdir("d")
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"one ")
        os.rename("f", "d/g")
        os.write(fd, b"two ")
        os.rename("d", "e")
        os.write(fd, b"three")
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 9)
        assert os.fstat(fd).st_size == 9 and os.readlink(f"/proc/self/fd/{fd}").endswith("/e/g")
    assert get("e/g") == b"one two t" and stat.S_IMODE(os.stat("e/g").st_mode) == 0o600


def test_replaced_for_readers_at_every_moment() -> None:
    """Somebody who opens the name finds the old or the new content, never none."""
    put("f", b"0" * 1000)
    child = os.fork()
    if child == 0:
        for number in range(1, 60):
            put("new", b"%d" % (number % 10) * 1000)
            os.rename("new", "f")
        os._exit(0)
    ended = 0
    while not ended:
        found = get("f")
        assert len(found) == 1000 and len(set(found)) == 1
        ended, status = os.waitpid(child, os.WNOHANG)
    assert status == 0 and get("f") == b"9" * 1000


# --- directories ---------------------------------------------------------------------------------


def test_a_tree_moves() -> None:
    os.makedirs("a/deep/er")
    put("a/deep/f", b"f")
    os.mkdir("b")
    os.mkdir("c")
    links = os.stat(".").st_nlink
    os.rename("a", "b/a")
    assert os.stat(".").st_nlink == links - 1 and os.stat("b").st_nlink == 3
    assert get("b/a/deep/f") == b"f" and os.stat("b/a/..").st_ino == os.stat("b").st_ino
    os.rename("b/a/deep", "c")  # over an empty one
    assert os.stat("b/a").st_nlink == 2 and os.stat("c").st_nlink == 3
    assert os.stat("c/..").st_ino == os.stat(".").st_ino and get("c/f") == b"f"


def test_over_a_directory_that_is_not_empty() -> None:
    os.makedirs("a/x")
    os.makedirs("b/y")
    with fails(ENOTEMPTY, EEXIST):
        os.rename("a", "b")
    with fails(ENOTEMPTY, EEXIST):
        os.rename("a/x", "b")
    os.rename("a/x", "b/y")


def test_over_an_empty_open_directory() -> None:
    os.makedirs("a/x")
    os.mkdir("b")
    with opened("b", os.O_RDONLY) as fd:
        os.rename("a", "b")
        with fails(ENOENT):
            os.mkdir("z", dir_fd=fd)
    assert os.listdir("b") == ["x"]


@pytest.mark.parametrize("below", ["a/x", "a/b/x", "a/b/c/x"])
def test_not_below_itself(below: str) -> None:
    os.makedirs("a/b/c")
    with touches("a", ""), fails(EINVAL):
        os.rename("a", below)


@pytest.mark.parametrize("above", ["a", "a/b"])
def test_not_over_what_it_stands_in(above: str) -> None:
    os.makedirs("a/b/c")
    with fails(ENOTEMPTY, EEXIST):
        os.rename("a/b/c", above)


@pytest.mark.parametrize("old, new", [(".", "x"), ("d/.", "x"), ("d/..", "x"), ("d", "d/..")])
def test_dots(old: str, new: str) -> None:
    os.mkdir("d")
    with fails(EBUSY, EINVAL, ENOTEMPTY, EEXIST):
        os.rename(old, new)
    with fails(EBUSY, EINVAL):
        os.rename("d", ".")
    assert os.listdir() == ["d"]


def test_files_with_a_slash_behind() -> None:
    put("f")
    for old, new in (("f/", "g"), ("f", "g/")):
        with fails(ENOTDIR):
            os.rename(old, new)


def test_symlinks_are_not_followed() -> None:
    put("f", b"f")
    os.symlink("f", "s")
    os.rename("s", "t")
    assert os.readlink("t") == "f"
    put("g", b"g")
    os.rename("g", "t")
    assert get("t") == b"g" and get("f") == b"f"


def test_to_another_file_system() -> None:
    put("f")
    with fails(EXDEV):
        os.rename("f", "/dev/shm/zdfs-rename")


# --- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "from_mode, to_mode, number",
    [
        (0o755, 0o777, EACCES),
        (0o777, 0o755, EACCES),
        (0o777, 0o777, 0),
        (0o1777, 0o777, EPERM),
        (0o666, 0o777, EACCES),
    ],
)
@pytest.mark.parametrize("kind", ["regular", "directory"])
def test_who_may(kind: str, from_mode: int, to_mode: int, number: int) -> None:
    os.mkdir("from")
    os.mkdir("to")
    make(kind, "from/x", 0o777)
    os.chown("from/x", BOB, BOB)
    os.chmod("from/x", 0o777)
    os.chmod("from", from_mode)
    os.chmod("to", to_mode)
    with user(ALICE):
        if number:
            with fails(number):
                os.rename("from/x", "to/x")
        else:
            os.rename("from/x", "to/x")


def test_over_what_a_sticky_directory_keeps() -> None:
    os.mkdir("t")
    os.chmod("t", 0o1777)
    put("t/bobs")
    os.chown("t/bobs", BOB, BOB)
    with user(ALICE):
        put("t/own")
        with fails(EPERM):
            os.rename("t/own", "t/bobs")
        with fails(EPERM):
            os.rename("t/bobs", "t/x")
        with fails(EPERM):
            renameat2("t/own", "t/bobs", EXCHANGE)
        os.rename("t/own", "t/x")


def test_a_directory_moves_up_only_if_it_may_be_written() -> None:
    """Its .. changes: the kernel wants write permission on it."""
    os.mkdir("p")
    os.mkdir("p/d")
    os.mkdir("q")
    os.chown("p", ALICE, ALICE)
    os.chown("q", ALICE, ALICE)
    os.chown("p/d", ALICE, ALICE)
    os.chmod("p/d", 0o555)
    with user(ALICE):
        os.rename("p/d", "p/e")
        with fails(EACCES):
            os.rename("p/e", "q/e")


# --- flags ---------------------------------------------------------------------------------------


@each_kind
def test_noreplace(kind: str) -> None:
    make(kind, "x")
    put("f")
    for old in ("f", "x"):
        with touches(".", ""), fails(EEXIST):
            renameat2(old, "x", NOREPLACE)
    renameat2("x", "y", NOREPLACE)
    assert sorted(os.listdir()) == ["f", "y"]


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", ["regular", "directory", "fifo"])
def test_exchange(one: str, other: str) -> None:
    os.mkdir("d")
    make(one, "x")
    make(other, "d/y")
    x, y = os.lstat("x").st_ino, os.lstat("d/y").st_ino
    flags = os.O_PATH | os.O_NOFOLLOW
    with opened("x", flags) as one_fd, opened("d/y", flags) as other_fd:
        with touches(one_fd, "c"), touches(other_fd, "c"):
            with touches(".", "mc"), touches("d", "mc"):
                renameat2("x", "d/y", EXCHANGE)
    assert (os.lstat("x").st_ino, os.lstat("d/y").st_ino) == (y, x)
    assert stat.S_IFMT(os.lstat("d/y").st_mode) == TYPES[one]
    assert os.stat("d").st_nlink == 2 + (one == "directory")


def test_exchange_counts_links_and_parents() -> None:
    os.makedirs("a/x/below")
    os.makedirs("b")
    put("b/y", b"y")
    renameat2("a/x", "b/y", EXCHANGE)
    assert (os.stat("a").st_nlink, os.stat("b").st_nlink) == (2, 3)
    assert get("a/x") == b"y" and os.listdir("b/y") == ["below"]
    assert os.stat("b/y/..").st_ino == os.stat("b").st_ino
    os.rmdir("b/y/below")
    os.rmdir("b/y")


def test_exchange_keeps_what_directories_hold() -> None:
    os.makedirs("a/1")
    os.makedirs("b/2")
    renameat2("a", "b", EXCHANGE)
    assert os.listdir("a") == ["2"] and os.listdir("b") == ["1"]


def test_exchange_of_open_files() -> None:
    put("a", b"a")
    put("b", b"b")
    with opened("a", os.O_RDWR) as one, opened("b", os.O_RDWR) as two:
        renameat2("a", "b", EXCHANGE)
        os.pwrite(one, b"A", 0)
        os.pwrite(two, b"B", 0)
        assert os.fstat(one).st_nlink == os.fstat(two).st_nlink == 1
        os.unlink("a")
        assert os.fstat(two).st_nlink == 0 and os.pread(two, 9, 0) == b"B"
    assert get("b") == b"A" and os.listdir() == ["b"]


def test_exchange_of_names_of_one_file() -> None:
    put("a", b"x")
    os.link("a", "b")
    renameat2("a", "b", EXCHANGE)
    assert sorted(os.listdir()) == ["a", "b"] and os.stat("a").st_nlink == 2


@pytest.mark.parametrize("old, new", [("a", "a/b"), ("a/b", "a"), ("a", "a/b/c"), ("a/b/f", "a")])
def test_exchange_with_what_it_stands_in(old: str, new: str) -> None:
    os.makedirs("a/b/c")
    put("a/b/f")
    with fails(EINVAL):
        renameat2(old, new, EXCHANGE)


def test_exchange_with_nothing() -> None:
    put("f")
    for old, new in (("f", "none"), ("none", "f"), ("none", "neither")):
        with fails(ENOENT):
            renameat2(old, new, EXCHANGE)


@pytest.mark.parametrize("flags", [NOREPLACE | EXCHANGE, EXCHANGE | WHITEOUT, 8, 1 << 31])
def test_flags_that_do_not_go(flags: int) -> None:
    put("f")
    put("g")
    with fails(EINVAL):
        renameat2("f", "g", flags)


def test_below_descriptors() -> None:
    os.makedirs("a")
    os.makedirs("b")
    put("a/f")
    with opened("a", os.O_RDONLY) as one, opened("b", os.O_RDONLY) as two:
        os.rename("a", "c")
        os.rename("f", "g", src_dir_fd=one, dst_dir_fd=two)
    assert os.listdir("b") == ["g"]


@pytest.mark.parametrize("kind", FILES)
def test_back_and_forth_many_times(kind: str) -> None:
    make(kind, "0")
    ino = os.lstat("0").st_ino
    for number in range(40):
        os.rename(f"{number}", f"{number + 1}")
    assert os.listdir() == ["40"] and os.lstat("40").st_ino == ino
