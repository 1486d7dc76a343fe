"""What every call that takes a path says of a path that leads nowhere."""

import ctypes
import os
from collections.abc import Callable
from errno import EACCES, EFAULT, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR

import pytest

from tests.live.posix.linux import (
    ALICE,
    AT_SYMLINK_FOLLOW,
    HERE,
    NOREPLACE,
    EXCHANGE,
    Path,
    fails,
    libc,
    checked,
    linkat,
    put,
    renameat2,
    user,
)

pytestmark = pytest.mark.usefixtures("place")

# What is done to a path; a second one, where the call takes two, is "f", a file that is there.
CALLS: dict[str, Callable[[Path], object]] = {
    "access": lambda path: checked(libc.access(os.fsencode(path), os.F_OK)),
    "chdir": os.chdir,
    "chmod": lambda path: os.chmod(path, 0o600),
    "chown": lambda path: os.chown(path, -1, -1),
    "execve": lambda path: checked(libc.execv(os.fsencode(path), (ctypes.c_char_p * 2)(b"x"))),
    "getxattr": lambda path: os.getxattr(path, "user.a"),
    "lchown": lambda path: os.lchown(path, 0, 0),
    "link from": lambda path: os.link(path, "new"),
    "link to": lambda path: os.link("f", path),
    "linkat from, followed": lambda path: linkat(HERE, path, "new", AT_SYMLINK_FOLLOW),
    "listxattr": os.listxattr,
    "lstat": os.lstat,
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "mknod": os.mknod,
    "open": lambda path: os.open(path, os.O_RDONLY),
    "open O_CREAT": lambda path: os.open(path, os.O_CREAT | os.O_WRONLY),
    "open O_CREAT|O_EXCL": lambda path: os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "open O_DIRECTORY": lambda path: os.open(path, os.O_DIRECTORY),
    "open O_PATH": lambda path: os.open(path, os.O_PATH),
    "open O_TRUNC": lambda path: os.open(path, os.O_TRUNC | os.O_WRONLY),
    "readlink": os.readlink,
    "rename from": lambda path: os.rename(path, "new"),
    "rename to": lambda path: os.rename("f", path),
    "renameat2 EXCHANGE": lambda path: renameat2("f", path, EXCHANGE),
    "renameat2 NOREPLACE": lambda path: renameat2("f", path, NOREPLACE),
    "rmdir": os.rmdir,
    "setxattr": lambda path: os.setxattr(path, "user.a", b""),
    "stat": os.stat,
    "statvfs": os.statvfs,
    "symlink": lambda path: os.symlink("target", path),
    "truncate": lambda path: os.truncate(path, 0),
    "unlink": os.unlink,
    "utimensat": lambda path: os.utime(path),
}
COMES = {name for name in CALLS if name.startswith(("mk", "symlink", "link to", "rename to"))}
COMES |= {"open O_CREAT", "open O_CREAT|O_EXCL", "renameat2 NOREPLACE"}
# Calls on the last name itself, whether it is a symlink or not
LAST = {"lchown", "link from", "lstat", "open O_CREAT|O_EXCL", "open O_PATH", "readlink", "unlink"}
LAST |= {"rename from", "rename to", "renameat2 EXCHANGE", "renameat2 NOREPLACE", "rmdir"} | COMES
LAST -= {"open O_CREAT", "open O_PATH"}

each_call = pytest.mark.parametrize("call", [pytest.param(CALLS[name], id=name) for name in CALLS])


@each_call
def test_a_directory_that_is_missing(call: Callable[[Path], object]) -> None:
    put("f")
    with fails(ENOENT):
        call("missing/x")
    with fails(ENOENT):
        call("")
    assert os.listdir() == ["f"]


@pytest.mark.parametrize("name", sorted(CALLS.keys() - COMES))
def test_a_name_that_is_missing(name: str) -> None:
    put("f")
    with fails(ENOENT):
        CALLS[name]("missing")
    assert os.listdir() == ["f"]


@each_call
@pytest.mark.parametrize("through", ["f", "fifo", "link"])
def test_through_what_is_no_directory(call: Callable[[Path], object], through: str) -> None:
    put("f")
    os.mkfifo("fifo")
    os.symlink("f", "link")
    with fails(ENOTDIR):
        call(f"{through}/x")


@each_call
def test_names_and_paths_that_are_too_long(call: Callable[[Path], object]) -> None:
    put("f")
    os.mkdir("d")
    for path in ("n" * 256, "d/" + "n" * 256, "n" * 256 + "/x", "./" * 2048 + "x"):
        with fails(ENAMETOOLONG):
            call(path)
    assert sorted(os.listdir()) == ["d", "f"]


@each_call
def test_through_a_loop(call: Callable[[Path], object]) -> None:
    put("f")
    os.symlink("b", "a")
    os.symlink("a", "b")
    with fails(ELOOP):
        call("a/x")


@pytest.mark.parametrize("name", sorted(CALLS.keys() - LAST))
def test_a_loop(name: str) -> None:
    put("f")
    os.symlink("loop", "loop")
    with fails(ELOOP):
        CALLS[name]("loop")


@each_call
def test_through_a_directory_that_may_not_be_searched(call: Callable[[Path], object]) -> None:
    os.chmod(".", 0o777)
    os.mkdir("d", 0o700)
    put("d/x")
    with user(ALICE):
        put("f")
        with fails(EACCES):
            call("d/x")
        with fails(EACCES):
            call("d/missing")


@pytest.mark.parametrize(
    "call, more",
    [
        ("stat", (0,)),
        ("open", (os.O_RDONLY,)),
        ("mkdir", (0o777,)),
        ("rmdir", ()),
        ("unlink", ()),
        ("chmod", (0o777,)),
        ("truncate", (0,)),
        ("chdir", ()),
        ("rename", (b"x",)),
        ("link", (b"x",)),
        ("symlink", (b"x",)),
        ("readlink", (b"x", 1)),
    ],
)
def test_a_path_that_is_no_memory(call: str, more: tuple[object, ...]) -> None:
    bad = ctypes.c_void_p(8)
    more = (ctypes.create_string_buffer(300), *more[1:]) if call == "stat" else more
    with fails(EFAULT):
        checked(getattr(libc, call)(bad, *more))


def test_slashes_at_the_end() -> None:
    """They ask for a directory, and go through a symlink to it."""
    put("f")
    os.mkdir("d")
    os.symlink("d", "to-d")
    os.symlink("f", "to-f")
    os.symlink("missing", "dangling")
    assert os.stat("d///").st_ino == os.lstat("to-d/").st_ino == os.stat("d").st_ino
    for path in ("f/", "to-f/"):
        for call in (os.stat, os.lstat, os.unlink, os.rmdir, os.readlink):
            with fails(ENOTDIR):
                call(path)
    os.mkdir("new/")
    os.rmdir("new/")
    with fails(ENOTDIR):
        os.rename("f", "to-d/")
    os.rename("d", "e/")
    assert sorted(os.listdir()) == ["dangling", "e", "f", "to-d", "to-f"]


def test_dots() -> None:
    os.makedirs("d/e")
    put("f")
    assert os.stat("d/../d/./e/..").st_ino == os.stat("d").st_ino
    with fails(ENOTDIR):
        os.stat("f/..")
    with fails(ENOTDIR):
        os.stat("f/.")
    os.symlink("d/e", "link")
    assert os.stat("link/..").st_ino == os.stat("d").st_ino
