"""fcntl and flock as FUSE brings them: the callbacks `getlk`, `setlk` and `flock`.

    fcntl(F_SETLK, F_SETLKW, F_GETLK)  -> setlk, getlk; owner: the process (its descriptors' table)
    fcntl(F_OFD_...)                   -> likewise, owner: the open file description; not told apart
    flock                              -> flock, owner: the open file description
    close                              -> flush, which unlocks everything of the process
    last close of a description        -> release; the volume gives back what is left

The kernel keeps none of these locks itself.  F_GETLK says the pid of whoever locked through this
mount; a lock of another mount shows pid 0, as on NFSv4.  A wait keeps its worker; who is signalled
stops waiting, within a second if it survives that.

After a lock is taken the kernel drops its pages of the file, if another mount has changed it.
"""

import contextlib
import ctypes
import fcntl
import os
from errno import EINVAL
from typing import Any

from zdfs import kernel, limits
from zdfs.errors import Failure, Posix
from zdfs.fuse import Fuse, Reply
from zdfs.ids import Ino
from zdfs.ports import Owner, Run, Volume
from zdfs.wire import LockKind, Span

END = limits.FILE_BYTES


class Flock(ctypes.Structure):
    """struct flock of fcntl.h, with 64-bit offsets."""

    _fields_ = [
        ("l_type", ctypes.c_short),
        ("l_whence", ctypes.c_short),
        ("l_start", ctypes.c_int64),
        ("l_len", ctypes.c_int64),
        ("l_pid", ctypes.c_int),
    ]


def _span(wanted: Flock) -> Span:
    """Length 0: to the end."""
    first, length = wanted.l_start, wanted.l_len
    last = first + length - 1 if length else END
    if not 0 <= first <= last <= END:
        raise Posix(EINVAL)
    return Span(first, last, wanted.l_type == fcntl.F_WRLCK)


class LockOperations:
    """The callbacks.  `file`: a pointer to struct fuse_file_info; `pointer`: to struct flock."""

    _volume: Volume
    _run: Run
    _fuse: Fuse

    def getlk(self, ino: Ino, file: Any, pointer: Any) -> Reply:
        """F_GETLK."""
        wanted = ctypes.cast(pointer, ctypes.POINTER(Flock)).contents
        owner = Owner(LockKind.POSIX, file.contents.lock_owner, wanted.l_pid)
        found = self._run(self._volume.test_lock(file.contents.fh, owner, _span(wanted)))
        said = Flock(fcntl.F_UNLCK, os.SEEK_SET)
        if found is not None:
            said.l_type = fcntl.F_WRLCK if found.span.exclusive else fcntl.F_RDLCK
            said.l_start, said.l_pid = found.span.first, found.pid
            said.l_len = 0 if found.span.last == END else found.span.last - found.span.first + 1
        return Reply(lambda request: self._fuse.reply_lock(request, ctypes.byref(said)))

    def setlk(self, ino: Ino, file: Any, pointer: Any, waits: int) -> None:
        """F_SETLK, F_SETLKW."""
        wanted = ctypes.cast(pointer, ctypes.POINTER(Flock)).contents
        handle, number = file.contents.fh, file.contents.lock_owner
        owner, span = Owner(LockKind.POSIX, number, wanted.l_pid), _span(wanted)
        if wanted.l_type == fcntl.F_UNLCK:
            self._run(self._volume.unlock(handle, owner, span))
        else:
            self._lock(ino, handle, owner, span, bool(waits))

    def unlock_all(self, file: Any) -> None:
        """close(2): whatever descriptor of a file a process closes, its locks there end."""
        owner = Owner(LockKind.POSIX, file.contents.lock_owner, 0)
        self._run(self._volume.unlock(file.contents.fh, owner, Span(0, END, False)))

    def flock(self, ino: Ino, file: Any, command: int) -> None:
        """flock(2)."""
        owner = Owner(LockKind.FLOCK, file.contents.lock_owner, kernel.caller().pid)
        span = Span(0, END, bool(command & fcntl.LOCK_EX))
        if command & fcntl.LOCK_UN:
            self._run(self._volume.unlock(file.contents.fh, owner, span))
        else:
            self._lock(ino, file.contents.fh, owner, span, not command & fcntl.LOCK_NB)

    def _lock(self, ino: Ino, handle: int, owner: Owner, span: Span, waits: bool) -> None:
        self._run(self._volume.lock(handle, owner, span, waits))
        change = self._volume.stale(handle)
        if change is None:
            return
        kernel.drop_pages(ino)  # who is killed meanwhile: the kernel closes its files, that unlocks
        self._volume.dropped(handle, change)
        self.stretch(ino, handle)

    def stretch(self, ino: Ino, handle: int) -> None:
        """Have the kernel know how far a file reaches that another mount has changed."""
        with contextlib.suppress(Failure):  # whoever reads is told
            size = self._run(self._volume.stat_ino(ino)).size
            last = bytes(self._run(self._volume.read(handle, 1, size - 1))) if size else b""
            if last:
                kernel.stretch(ino, size, last)
                kernel.forget_inode(ino)  # it may have changed again meanwhile
