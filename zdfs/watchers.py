"""What other mounts changed, said to the kernel here, and to the programs that watch for it.

The metaserver tells a mount of changes to what it has looked at.  The kernel's attributes and pages
of such a file, and the names that it believes in such a directory, are dropped at once, rather than
when their time is over.  With `wake`, inotify watchers here are woken too: the kernel tells them of
changes that go through it and no others, so we set the file's own mtime again, through our own
mount.  `Operations.setattr` knows that call by its thread and answers without asking anybody.
Programs see IN_MODIFY when the content (or a directory's entries) changed, IN_ATTRIB when only the
attributes did.

A thread of its own: nothing here keeps the mount busy, or waits in an operation.
"""

import ctypes
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from zdfs import kernel
from zdfs.fuse import NS
from zdfs.ids import Ino
from zdfs.wire import Attributes

log = logging.getLogger("zdfs.mount")

AT_FDCWD, AT_SYMLINK_NOFOLLOW = -100, 0x100  # linux/fcntl.h
UTIME_OMIT = (1 << 30) - 2  # sys/stat.h


class Timespec(ctypes.Structure):
    """struct timespec."""

    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


class Change(NamedTuple):
    """One inode that another mount has changed."""

    ino: Ino
    known: Attributes | None  # until then
    names: tuple[bytes, ...]  # in it


class Watchers:
    """The queue of changed inodes, and its thread."""

    def __init__(self, directory: Path, wake: bool, place: Callable[[Ino], bytes | None]):
        """`place`: the path that an inode was last found under, from the mount's root."""
        self._directory, self._wake, self._place = os.fsencode(directory), wake, place
        self._changed: queue.SimpleQueue[Change] = queue.SimpleQueue()
        self._set_times = ctypes.CDLL(None, use_errno=True).utimensat
        self._thread = threading.Thread(target=self._work, name="watchers", daemon=True)
        self._thread.start()

    def changed(self, ino: Ino, known: Attributes | None, names: Sequence[bytes]) -> None:
        """Somebody else changed an inode; what we knew of it until now, and, of a directory, the
        names in it that the kernel may believe.  Never waits."""
        self._changed.put(Change(ino, known, tuple(names)))

    def waking(self, thread: int) -> bool:
        """Whether a system call of this thread is our own."""
        return thread == self._thread.native_id

    def _work(self) -> None:
        while True:
            change = self._changed.get()
            kernel.forget_inode(change.ino)
            for name in change.names:
                kernel.forget_name(change.ino, name)
            path = self._place(change.ino) if self._wake else None
            if path is not None:
                try:
                    self._touch(self._directory + path, change.known)
                except OSError as error:  # gone meanwhile, or not ours to touch
                    log.debug("watchers of %s are not woken: %s", os.fsdecode(path), error)

    def _touch(self, path: bytes, known: Attributes | None) -> None:
        """Set the times that are there.  Only the mtime: IN_MODIFY; both: IN_ATTRIB."""
        found = os.lstat(path)
        same = known is not None and known.mtime_ns == found.st_mtime_ns
        mtime = Timespec(*divmod(found.st_mtime_ns, NS))
        atime = Timespec(*divmod(found.st_atime_ns, NS)) if same else Timespec(0, UTIME_OMIT)
        times = (Timespec * 2)(atime, mtime)
        if self._set_times(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
