"""Words to say what Linux does: users, expected failures, times that move, and system calls that
Python has no function for.

A case runs in a process of its own (conftest), in an empty directory that is its working directory,
with umask 022, as root.  So paths are short and relative, and whatever a case does to itself (its
user, its limits, its directory) ends with it.
"""

import ctypes
import errno
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NS = 1_000_000_000
ALICE, BOB, STAFF = 61_001, 61_002, 62_000  # users whose group has their number, and a group
HERE = -100  # AT_FDCWD
AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR, AT_SYMLINK_FOLLOW = 0x100, 0x200, 0x400
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4

COARSE = 5  # CLOCK_REALTIME_COARSE of linux/time.h

Path = str | bytes

KINDS = ("regular", "directory", "symlink", "fifo", "socket", "character", "block")
FILES = tuple(kind for kind in KINDS if kind != "directory")  # what unlink and link take
TYPES = {
    "regular": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "character": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_file = pytest.mark.parametrize("kind", FILES)


def make(kind: str, name: Path, mode: int = 0o644) -> None:
    """Something of a kind under a name; a symlink leads nowhere."""
    if kind == "regular":
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    elif kind == "directory":
        os.mkdir(name, mode)
    elif kind == "symlink":
        os.symlink("nowhere", name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.fsencode(name))
        os.chmod(name, mode)
    else:
        os.mknod(name, TYPES[kind] | mode, os.makedev(1, 3))


def remove(kind: str, name: Path) -> None:
    """unlink, or rmdir of a directory."""
    (os.rmdir if kind == "directory" else os.unlink)(name)


def put(name: Path | int, data: bytes = b"") -> None:
    """A file's content, anew."""
    with open(name, "wb", buffering=0) as file:
        file.write(data)


def get(name: Path | int) -> bytes:
    """A file's content."""
    with open(name, "rb", buffering=0) as file:
        return file.read()


def mode_of(name: Path | int) -> int:
    """Permission and set-id bits, not through a symlink."""
    found = os.fstat(name) if isinstance(name, int) else os.lstat(name)
    return stat.S_IMODE(found.st_mode)


@contextmanager
def fails(*numbers: int) -> Iterator[None]:
    """What stands below fails with one of these errnos."""
    try:
        yield
    except OSError as error:
        got = errno.errorcode.get(error.errno or 0, str(error.errno))
        assert error.errno in numbers, f"{got}, not {names_of(numbers)}: {error}"
        return
    raise AssertionError(f"success, not {names_of(numbers)}")


def names_of(numbers: tuple[int, ...]) -> str:
    """Errnos as people write them."""
    return " or ".join(errno.errorcode[number] for number in numbers)


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o666, dir_fd: int | None = None) -> Iterator[int]:
    """A descriptor."""
    fd = os.open(path, flags, mode, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def user(uid: int, gid: int | None = None, groups: tuple[int, ...] = ()) -> Iterator[None]:
    """What stands below is done by somebody else, without root's capabilities."""
    gid = uid if gid is None else gid
    os.setgroups(groups)
    os.setresgid(gid, gid, 0)
    os.setresuid(uid, uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups([])


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Another umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# --- times ---------------------------------------------------------------------------------------


def tick() -> None:
    """Wait until whatever happens next gets a later time: file systems may take it from a clock
    that moves some hundred times a second only."""
    start = time.time_ns()
    while time.clock_gettime_ns(COARSE) <= start:
        pass


def times_of(found: os.stat_result) -> dict[str, int]:
    """atime, mtime and ctime by their letters."""
    return {"a": found.st_atime_ns, "m": found.st_mtime_ns, "c": found.st_ctime_ns}


@contextmanager
def touches(name: Path | int, letters: str, among: str = "mc") -> Iterator[None]:
    """What stands below moves these times of a file to now ("m": mtime, "c": ctime, "a": atime),
    and leaves the others of `among` as they are."""

    def look() -> dict[str, int]:
        return times_of(os.fstat(name) if isinstance(name, int) else os.lstat(name))

    before = look()
    tick()
    start = time.clock_gettime_ns(COARSE)
    yield
    after = look()
    moved = "".join(letter for letter in among if after[letter] != before[letter])
    assert moved == letters, f"{name!r}: times that moved: {moved or 'none'}, not {letters}"
    for letter in letters:
        assert start <= after[letter] <= time.time_ns(), f"{name!r}: {letter}time is not now"


# --- system calls --------------------------------------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)
for _name in ("mmap", "opendir", "fdopendir", "readdir"):
    getattr(libc, _name).restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long


def checked(result: int, about: object = None) -> int:
    """The result of a function of libc's, or the OSError that it means."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), about)
    return result


def renameat2(old: Path, new: Path, flags: int) -> None:
    """rename with flags."""
    checked(libc.renameat2(HERE, os.fsencode(old), HERE, os.fsencode(new), flags), new)


def utimensat(
    name: Path,
    atime: tuple[int, int],
    mtime: tuple[int, int],
    flags: int = 0,
) -> None:
    """utimensat with times as (seconds, nanoseconds)."""
    spec = (ctypes.c_long * 4)(*atime, *mtime)
    checked(libc.utimensat(HERE, os.fsencode(name), spec, flags), name)


def linkat(old_fd: int, old: Path, new: Path, flags: int) -> None:
    """link with flags."""
    checked(libc.linkat(old_fd, os.fsencode(old), HERE, os.fsencode(new), flags), new)


def unlinkat(name: Path, flags: int = 0, fd: int = HERE) -> None:
    """unlink, or rmdir with AT_REMOVEDIR."""
    checked(libc.unlinkat(fd, os.fsencode(name), flags), name)


def raw(call: str, *arguments: Any) -> int:
    """Any function of libc's; -1 becomes OSError."""
    return checked(getattr(libc, call)(*arguments), call)
