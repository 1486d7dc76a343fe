"""One side of the differential test: operations on a directory, each told in a line of Python.

    twin = Twin()
    twin.do("open(0, 'a', O_RDWR | O_CREAT)", look=True)

What is open stands in a few numbered slots, so that a step needs no answer of an earlier one and a
sequence from which steps were taken still means something.  A step's answer is a value that can be
compared with another directory's: an errno is its name, long content a digest.  With `look` comes
what the step did to the whole tree: attributes, and **which times moved**, for the times
themselves differ from one directory to the next.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import random
import stat
import time
from collections.abc import Iterator
from typing import Any

from tests.live.posix.acl_text import ACCESS, DEFAULT, packed

LIBC = ctypes.CDLL(None, use_errno=True)
COARSE = 5  # CLOCK_REALTIME_COARSE of <time.h>: what inode times may be taken from
START_USER = os.geteuid()
SHORT = 64  # bytes of content that are shown as they are
SET_NS = 10**18  # times before this (the year 2001) were set by a step: they agree exactly
KINDS = {"access": ACCESS, "default": DEFAULT}
XATTR_FLAGS = {"create": os.XATTR_CREATE, "replace": os.XATTR_REPLACE, "": 0}


def shown(data: bytes) -> bytes | tuple[int, str]:
    """Content, or its length and digest."""
    if len(data) <= SHORT:
        return data
    return len(data), hashlib.blake2b(data, digest_size=6).hexdigest()


def noise(seed: int, size: int) -> bytes:
    """Bytes that no other seed gives."""
    return random.Random(seed).randbytes(size)


def exact(time_ns: int) -> int:
    """A time that a step has set; -1 for one that the clock gave."""
    return time_ns if time_ns < SET_NS else -1


class Twin:
    """The operations.  Paths are relative to where the process is."""

    def __init__(self) -> None:
        self.slots: dict[int, int] = {}
        self.user = 0
        self.words = {name: getattr(self, name) for name in dir(self) if name[0] != "_"}
        self.words |= {name: getattr(os, name) for name in dir(os) if name.startswith("O_")}

    # --- a step --------------------------------------------------------------------------------

    def do(self, step: str, look: bool) -> Any:
        """What a step answered; with `look`, and what it did to the tree."""
        before = self.times() if look else {}
        if self.user:
            self._be(self.user)
        try:
            answer = eval(step, self.words)  # the test's own words
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        finally:
            if os.geteuid() != START_USER:
                self._be(0)
        return (answer, self.tree(before)) if look else answer

    def _be(self, user: int) -> None:
        """Act as a user; the groups first, while we may."""
        os.seteuid(0)
        os.setgroups([user] if user else [])
        os.setegid(user)
        os.seteuid(user)

    def become(self, user: int) -> None:
        """Act as this user from here on."""
        self.user = user

    def enter(self, directory: str) -> None:
        """Begin a sequence in a directory of its own."""
        self.leave()
        os.mkdir(directory)
        os.chmod(directory, 0o777)
        os.chdir(directory)

    def leave(self) -> None:
        """Close everything, as root, without an answer."""
        self.become(0)
        for slot in list(self.slots):
            os.close(self.slots.pop(slot))

    # --- looking -------------------------------------------------------------------------------

    def nodes(self) -> Iterator[tuple[Any, os.stat_result]]:
        """Everything that has a name, and what is open."""
        yield ".", os.lstat(".")
        for where, folders, files in os.walk("."):
            folders.sort()
            for name in sorted(folders + files):
                path = os.path.join(where, name)
                yield path, os.lstat(path)
        for slot, fd in sorted(self.slots.items()):
            yield slot, os.fstat(fd)

    def times(self) -> dict[int, tuple[int, int]]:
        """mtime and ctime of every inode.  Then the clock moves on, the coarse one too."""
        found = {one.st_ino: (one.st_mtime_ns, one.st_ctime_ns) for _, one in self.nodes()}
        tick = time.clock_gettime(COARSE)
        while time.clock_gettime(COARSE) == tick:
            os.sched_yield()
        return found

    def tree(self, before: dict[int, tuple[int, int]]) -> list[Any]:
        """Every node: which names are one file, attributes, and which times moved, and whither."""
        first: dict[int, Any] = {}
        found = []
        for path, one in self.nodes():
            same = first.setdefault(one.st_ino, path)
            size = 0 if stat.S_ISDIR(one.st_mode) else one.st_size
            now = (one.st_mtime_ns, one.st_ctime_ns)
            then = before.get(one.st_ino, now)
            moved = [(b > a) - (b < a) for a, b in zip(then, now)]
            who = (one.st_nlink, one.st_uid, one.st_gid, size)
            times = f"mtime {moved[0]:+} {exact(now[0])} ctime {moved[1]:+}"
            found.append((path, same, f"{one.st_mode:o}", *who, times))
        return found

    def whole(self) -> list[Any]:
        """The tree with contents, targets and extended attributes."""
        found: list[Any] = self.tree({})
        for path, one in self.nodes():
            if stat.S_ISREG(one.st_mode) and isinstance(path, str):
                found.append((path, self.content(path), self.xattrs(path)))
            elif stat.S_ISLNK(one.st_mode):
                found.append((path, os.readlink(path)))
            elif stat.S_ISDIR(one.st_mode):
                found.append((path, self.xattrs(path)))
        return found

    # --- with a descriptor ---------------------------------------------------------------------

    def _fd(self, slot: int) -> int:
        if slot not in self.slots:
            raise OSError(errno.EBADF, "nothing is open there")
        return self.slots[slot]

    def open(self, slot: int, path: str, flags: int, mode: int = 0o644) -> None:
        """Open in a slot; what was there is closed first."""
        self.close(slot)
        self.slots[slot] = os.open(path, flags | os.O_NONBLOCK, mode)

    def close(self, slot: int) -> None:
        if slot in self.slots:
            os.close(self.slots.pop(slot))

    def dup(self, slot: int, other: int) -> None:
        """The same open file in another slot: one offset for both."""
        fd = os.dup(self._fd(slot))
        self.close(other)
        self.slots[other] = fd

    def read(self, slot: int, size: int) -> Any:
        return shown(os.read(self._fd(slot), size))

    def pread(self, slot: int, size: int, at: int) -> Any:
        return shown(os.pread(self._fd(slot), size, at))

    def write(self, slot: int, seed: int, size: int) -> int:
        return os.write(self._fd(slot), noise(seed, size))

    def pwrite(self, slot: int, seed: int, size: int, at: int) -> int:
        return os.pwrite(self._fd(slot), noise(seed, size), at)

    def writev(self, slot: int, seed: int, size: int) -> int:
        data = noise(seed, size)
        return os.writev(self._fd(slot), [data[: size // 3], data[size // 3 :]])

    def seek(self, slot: int, at: int, whence: int) -> int:
        return os.lseek(self._fd(slot), at, whence)

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._fd(slot), size)

    def fsync(self, slot: int) -> None:
        os.fsync(self._fd(slot))

    def fdatasync(self, slot: int) -> None:
        os.fdatasync(self._fd(slot))

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._fd(slot), mode)

    def fchown(self, slot: int, user: int, group: int) -> None:
        os.fchown(self._fd(slot), user, group)

    def futime(self, slot: int, at: int) -> int:
        os.utime(self._fd(slot), ns=(at, at + 1))
        return os.fstat(self._fd(slot)).st_atime_ns

    def _length(self, slot: int) -> int:
        """Of a file; nothing else can be mapped, and a directory's is nobody's business."""
        found = os.fstat(self._fd(slot))
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def map_write(self, slot: int, seed: int, size: int, at: int) -> str:
        """Through a shared mapping, no further than the file's end; then msync."""
        end = self._length(slot)
        if at >= end or self._appends(slot):
            return "nothing to map"
        with mmap.mmap(self._fd(slot), end) as view:
            data = noise(seed, min(size, end - at))
            view[at : at + len(data)] = data
            view.flush()
        return "mapped"

    def map_read(self, slot: int) -> Any:
        if not self._length(slot) or self._appends(slot):
            return "nothing to map"
        with mmap.mmap(self._fd(slot), 0, prot=mmap.PROT_READ) as view:
            return shown(view[:])

    def _appends(self, slot: int) -> bool:
        """With O_APPEND: shared mappings of those are refused, see docs/CONSISTENCY.md."""
        return bool(fcntl.fcntl(self._fd(slot), fcntl.F_GETFL) & os.O_APPEND)

    def fallocate(self, slot: int, mode: int, at: int, size: int) -> None:
        """1: keep the size; 3: punch a hole; 16: zero, 17: zero and keep the size."""
        if LIBC.fallocate(self._fd(slot), mode, ctypes.c_long(at), ctypes.c_long(size)):
            raise OSError(ctypes.get_errno(), "fallocate")

    def copy(self, slot: int, other: int, size: int, at: int, to: int) -> int:
        """copy_file_range."""
        return os.copy_file_range(self._fd(slot), self._fd(other), size, at, to)

    def holes(self, slot: int) -> str:
        """Whether SEEK_DATA and SEEK_HOLE cover the file in turn, and what is no data is zeros.

        Where a hole begins is each file system's own business.
        """
        fd, size, end = self._fd(slot), self._length(slot), 0
        os.pread(fd, 1, 0)  # EBADF, EISDIR
        kept = os.lseek(fd, 0, os.SEEK_CUR)
        try:
            while end < size:
                begin = self._data(fd, end, size)
                if any(os.pread(fd, begin - end, end)):
                    return f"bytes in the hole from {end} to {begin}"
                if begin == size:
                    break
                end = os.lseek(fd, begin, os.SEEK_HOLE)
                if not begin < end <= size:
                    return f"data from {begin} to {end} of {size}"
        finally:
            os.lseek(fd, kept, os.SEEK_SET)
        return "sound"

    def _data(self, fd: int, at: int, size: int) -> int:
        """Where data begins; the end if there is none."""
        try:
            return os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return size

    # --- with a path ---------------------------------------------------------------------------

    def put(self, path: str, seed: int, size: int, flags: int = os.O_TRUNC) -> int:
        """Open (made if it isn't there), write, close."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | flags, 0o666)
        try:
            return os.write(fd, noise(seed, size))
        finally:
            os.close(fd)

    def content(self, path: str) -> Any:
        """Open, read all, close."""
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return shown(os.read(fd, 1 << 24))
        finally:
            os.close(fd)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(path, size)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        os.mkdir(path, mode)

    def mkfifo(self, path: str) -> None:
        os.mkfifo(path)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """renameat2: 1 is RENAME_NOREPLACE, 2 RENAME_EXCHANGE."""
        if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
            raise OSError(ctypes.get_errno(), new)

    def link(self, old: str, new: str) -> None:
        os.link(old, new, follow_symlinks=False)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, path)

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: str, user: int, group: int) -> None:
        os.lchown(path, user, group)

    def utime(self, path: str, at: int) -> int:
        os.utime(path, ns=(at, at + 1), follow_symlinks=False)
        return os.lstat(path).st_atime_ns

    def touch(self, path: str) -> None:
        os.utime(path)

    def listdir(self, path: str) -> Any:
        return sorted(os.listdir(path))

    def stat(self, path: str) -> Any:
        one = os.stat(path)
        directory = stat.S_ISDIR(one.st_mode)
        return f"{one.st_mode:o}", one.st_nlink, one.st_uid, 0 if directory else one.st_size

    def access(self, path: str, how: int) -> bool:
        return os.access(path, how, effective_ids=True)

    def setxattr(self, path: str, name: str, seed: int, size: int, how: str = "") -> None:
        self._set(path, f"user.{name}", noise(seed, size), XATTR_FLAGS[how])

    def _set(self, path: str, name: str, value: bytes, flags: int) -> None:
        """Unless it has just this value: then ext4 does nothing and leaves ctime as it is."""
        with contextlib.suppress(OSError):
            if os.getxattr(path, name, follow_symlinks=False) == value:
                return
        os.setxattr(path, name, value, flags, follow_symlinks=False)

    def setacl(self, path: str, kind: str, who: int, bits: str) -> None:
        """An access control list with one named user, or a folder's default."""
        value = packed(f"u::rwx,u:{who}:{bits},g::r-x,m::{bits},o::--x")
        self._set(path, KINDS[kind], value, 0)

    def dropacl(self, path: str, kind: str) -> None:
        os.removexattr(path, KINDS[kind], follow_symlinks=False)

    def getxattr(self, path: str, name: str) -> Any:
        return shown(os.getxattr(path, f"user.{name}", follow_symlinks=False))

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(path, f"user.{name}", follow_symlinks=False)

    def xattrs(self, path: str) -> Any:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        return [(name, shown(os.getxattr(path, name, follow_symlinks=False))) for name in names]
