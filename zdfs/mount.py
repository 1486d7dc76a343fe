"""FUSE's operations over a volume: C arguments in, an errno or a count out.

`Operations` has a method for each member of struct fuse_operations that we serve, with C's
arguments (those that only libfuse3 passes have defaults), a few lines each.  What is not here is
ENOSYS, which the kernel remembers and handles: lseek, copy_file_range, access, fsyncdir and locks
(local to the mount).  Names and paths are bytes, as libfuse passes them.

`answer` is the seam: it turns every failure into its errno, and everything unexpected, SystemExit
too, into EIO and a traceback in the log.  No exception gets past it, for ctypes would say success.

**Unlinked, still open.**  libfuse renames such a file to `.fuse_hidden` + 16 hex digits instead of
unlinking it, and unlinks that name after the last close.  `Volume.hide` unlinks the file at once
and lets the hidden name reach its orphan, on this mount only.  Before a rename *onto* an open file
libfuse puts the target aside in the same way; done literally, the name would be gone for a while,
and for ever if we died in between.  So this is only noted, and `Volume.rename` is told the hidden
name: it replaces in one step, and the hidden name reaches what was replaced.

**Several names of one file** are several inodes to the kernel, each with attributes and pages of
its own: libfuse gives every name a node.  `Aliases` keeps under which of them it has asked lately;
what changes the file under one has the kernel drop what it knows under the others.

**security.capability** is asked for before each write().  Until somebody sets one through this
mount the answer is ENODATA, from memory.
"""

import contextlib
import ctypes
import errno
import functools
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from zdfs import kernel, limits
from zdfs.cache import Aliases, moved
from zdfs.calls import Trap
from zdfs.errors import Failure, Interrupted, Posix, StartError
from zdfs.namespace import EXCHANGE
from zdfs.ports import Volume

log = logging.getLogger("zdfs.mount")

T = TypeVar("T")
HIDDEN = re.compile(rb"\.fuse_hidden[0-9a-f]{16}", re.DOTALL)
CAPABILITY = b"security.capability"
NAMESPACES = (b"user.", b"trusted.", b"security.")  # xattr(7); system.: ACLs, which nobody checks
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # sys/stat.h
NOBODY = 0xFFFFFFFF  # chown(2): leave it
PLUS_ASKED, PLUS_GIVEN = 1, 2  # FUSE_READDIR_PLUS, FUSE_FILL_DIR_PLUS


class Run(Protocol):
    """Runs a coroutine of traps in the calling thread (link.run)."""

    def __call__(self, coroutine: Coroutine[Trap, Any, T]) -> T: ...


def _nothing() -> None:
    """Nobody waits for the mount."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to mount.  `options`: as after -o, later ones win."""

    source: str  # the metaserver, HOST:PORT
    options: tuple[str, ...] = ()
    timeout_s: float = limits.CACHE_S / 2  # of names in the kernel; the volume has the other half
    read_ahead_kib: int = limits.READ_AHEAD_KIB
    ready: Callable[[], None] = _nothing  # called once when the kernel is connected


def mount(directory: Path, volume: Volume, run: Run, settings: Settings) -> None:
    """Serve `volume` on `directory` until it is unmounted or the process told to end.

    Everything is flushed then.  StartError when it can't be mounted.  Call it in the main thread.
    """
    operations = Operations(volume, run, settings)
    callbacks = {
        name: answer(getattr(operations, name))
        for name, _, *_ in kernel.binding().module.fuse_operations._fields_
        if callable(getattr(operations, name, None))
    }

    def flush() -> None:
        try:
            run(volume.sync_all())
        except Failure as error:
            log.error(
                "%s ends and can't be flushed, what was written last may be lost: %s",
                directory,
                error,
            )

    def ready() -> None:
        kernel.raise_read_ahead(directory, settings.read_ahead_kib)
        settings.ready()

    kernel.Mount(directory, callbacks, _options(settings), flush).run(ready)


def _options(settings: Settings) -> list[str]:
    """What libfuse is told after -o."""
    if len(settings.options) > limits.MOUNT_OPTIONS:
        raise StartError(f"{len(settings.options)} mount options: {limits.MOUNT_OPTIONS} at most")
    chosen = [
        "default_permissions",
        f"fsname=zdfs:{settings.source}",
        "subtype=zdfs",
        f"attr_timeout={settings.timeout_s}",
        f"entry_timeout={settings.timeout_s}",
        "negative_timeout=0",
    ]
    if kernel.binding().major == 2:
        chosen += ["use_ino", "big_writes", f"max_background={limits.FUSE_BACKGROUND}"]
    if _may_allow_other():
        chosen.append("allow_other")
    return chosen + list(settings.options)


def _may_allow_other() -> bool:
    """fusermount lets root, and others where the administrator says so in fuse.conf."""
    if os.geteuid() == 0:
        return True
    try:
        lines = Path("/etc/fuse.conf").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def answer(operation: Callable[..., int | None]) -> Callable[..., int]:
    """The seam: an operation's count, or minus its errno; never an exception, never a false 0."""
    name = operation.__name__

    @functools.wraps(operation)
    def answered(*arguments: Any) -> int:
        try:
            return operation(*arguments) or 0
        except Failure as failure:
            number = failure.number if failure.number > 0 else errno.EIO  # 0 would be success
            if number == errno.EIO:
                _report(logging.WARNING, f"{name} %s: EIO, {failure}", arguments)
            return -number
        except BaseException:
            _report(logging.ERROR, f"{name} %s: unexpected, answered EIO", arguments)
            return -errno.EIO

    return answered


def _report(level: int, text: str, arguments: Sequence[Any]) -> None:
    """Log what an operation was about: its path, else its handle.  Whatever goes wrong here, the
    answer must still leave."""
    with contextlib.suppress(BaseException):
        about = [os.fsdecode(a) for a in arguments[:1] if isinstance(a, bytes)]
        files = [a.contents for a in arguments if a and hasattr(a, "contents")]
        about += [f"of handle {file.fh}" for file in files if hasattr(file, "fh")]
        subject = " ".join(about).encode(errors="backslashreplace").decode()
        log.log(level, text.replace("%s", subject, 1), exc_info=level >= logging.ERROR)


def _hides(path: bytes) -> bool:
    return HIDDEN.fullmatch(path.rpartition(b"/")[2]) is not None


def _handle(file: Any) -> int | None:
    return file.contents.fh if file else None


class Aside(threading.local):
    """What libfuse just put aside in this thread, before renaming onto it: (path, hidden)."""

    pair: tuple[bytes, bytes] | None = None


class Operations:
    """struct fuse_operations.  `file`: a pointer to struct fuse_file_info, or None."""

    def __init__(self, volume: Volume, run: Run, settings: Settings):
        self._volume = volume
        self._run = run
        self._fill_stat = kernel.binding().fill_stat
        self._capabilities = False  # somebody set one through this mount
        self._aside = Aside()
        self._aliases = Aliases(settings.timeout_s)
        self._learning = threading.Lock()
        self._opened: dict[int, bytes] = {}  # under which name a handle was opened

    @contextlib.contextmanager
    def _shared(self, path: bytes | None, handle: int | None = None) -> Iterator[None]:
        """What is changed in here is changed under all names of the file."""
        others: list[bytes] = []
        if self._aliases and (path is not None or handle is not None):
            volume = self._volume
            with contextlib.suppress(Failure):  # not there: the operation itself says so
                if handle is not None:
                    ino, path = self._run(volume.stat(handle)).ino, self._opened.get(handle)
                else:
                    assert path is not None
                    ino = self._run(volume.lookup(path)).ino
                others = self._aliases.others(ino, path, time.monotonic())
        yield
        if others:
            kernel.invalidate_now(others)

    def init(self, connection: Any, config: Any = None) -> int:
        """Settle what only the two structures can say; once, before everything else."""
        if hasattr(connection, "contents"):
            settled = connection.contents
            settled.want &= ~kernel.SPLICE
            settled.max_background = limits.FUSE_BACKGROUND
            settled.congestion_threshold = limits.FUSE_BACKGROUND * 3 // 4
        if config:
            config.contents.use_ino = 1
            config.contents.nullpath_ok = 1
        return 0

    # --- attributes ----------------------------------------------------------------------------

    def getattr(self, path: bytes | None, into: Any, file: Any = None) -> None:
        """stat, fstat and the kernel's LOOKUP."""
        if file:
            found = self._run(self._volume.stat(file.contents.fh))
            path = self._opened.get(file.contents.fh, b"")
        else:
            assert path is not None
            found = self._run(self._volume.lookup(path))
        with self._learning:
            self._aliases.learnt(found, path, time.monotonic())
        if _hides(path) and found.nlink and kernel.operation() == kernel.GETATTR:
            found = found._replace(nlink=found.nlink + 1)  # libfuse counts the hidden name off
        self._fill_stat(into, found, self._volume.block_bytes)

    fgetattr = getattr

    def chmod(self, path: bytes | None, mode: int, file: Any = None) -> None:
        with self._shared(path, _handle(file)):
            self._run(self._volume.set_attributes(path, _handle(file), mode=stat.S_IMODE(mode)))

    def chown(self, path: bytes | None, uid: int, gid: int, file: Any = None) -> None:
        """-1 leaves one as it is."""
        new_uid, new_gid = (None if number == NOBODY else number for number in (uid, gid))
        with self._shared(path, _handle(file)):
            self._run(self._volume.set_attributes(path, _handle(file), uid=new_uid, gid=new_gid))

    def truncate(self, path: bytes | None, size: int, file: Any = None) -> None:
        with self._shared(path, _handle(file)):
            self._run(self._volume.truncate(path, _handle(file), size))

    ftruncate = truncate

    def utimens(self, path: bytes | None, times: Any, file: Any = None) -> None:
        """Each time may be given, UTIME_NOW or UTIME_OMIT.  One given and one NOW: two steps."""
        pair = (times.contents.actime, times.contents.modtime) if times else (None, None)
        nows = [spec is None or spec.tv_nsec == UTIME_NOW for spec in pair]
        given = [
            (
                None
                if spec is None or spec.tv_nsec in (UTIME_NOW, UTIME_OMIT)
                else spec.tv_sec * kernel.NS + spec.tv_nsec
            )
            for spec in pair
        ]
        handle, change = _handle(file), self._volume.set_attributes
        with self._shared(path, handle):
            if given != [None, None]:
                self._run(change(path, handle, atime_ns=given[0], mtime_ns=given[1]))
            if any(nows):
                atime, mtime = (0 if now else None for now in nows)
                self._run(change(path, handle, atime_ns=atime, mtime_ns=mtime, now=True))

    def statfs(self, path: bytes, into: Any) -> None:
        """What can still be stored."""
        space, unit = self._run(self._volume.statfs()), self._volume.block_bytes
        said = into.contents
        said.f_bsize = said.f_frsize = unit
        said.f_blocks = space.total_bytes // unit
        said.f_bfree = said.f_bavail = space.free_bytes // unit
        said.f_files = space.inodes
        said.f_ffree = said.f_favail = space.free_inodes
        said.f_namemax = limits.NAME_BYTES

    # --- names ---------------------------------------------------------------------------------

    def mknod(self, path: bytes, mode: int, rdev: int) -> None:
        uid, gid, _ = kernel.caller()
        self._run(self._volume.make(path, mode, uid, gid, rdev))

    def mkdir(self, path: bytes, mode: int) -> None:
        uid, gid, _ = kernel.caller()
        self._run(self._volume.make(path, stat.S_IFDIR | mode, uid, gid))

    def symlink(self, target: bytes, path: bytes) -> None:
        uid, gid, _ = kernel.caller()
        mode = stat.S_IFLNK | 0o777
        self._run(self._volume.make(path, mode, uid, gid, target=target))

    def readlink(self, path: bytes, into: Any, size: int) -> None:
        target = self._run(self._volume.readlink(path))
        kernel.fill(into, target[: size - 1] + b"\0")

    def link(self, old: bytes, new: bytes) -> None:
        with self._shared(old):
            self._run(self._volume.link(old, new))
        kernel.invalidate_now([old])  # the kernel moves only its ctime

    def unlink(self, path: bytes) -> None:
        with self._shared(path):
            self._run(self._volume.unlink(path))

    def rmdir(self, path: bytes) -> None:
        self._run(self._volume.rmdir(path))

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """rename, or libfuse putting an open file aside (see above)."""
        if _hides(new) and self._puts_aside(old, new):
            for handle in [one for one, path in list(self._opened.items()) if path == old]:
                self._opened[handle] = new
            if kernel.operation() in kernel.RENAME:
                self._aside.pair = (old, new)
                return
            with self._shared(old):
                self._run(self._volume.hide(old, new))
            return
        (replaced, hidden), self._aside.pair = self._aside.pair or (b"", b""), None
        name = hidden if replaced == new else b""
        with self._shared(new):
            self._run(self._volume.rename(old, new, flags, name))
        swapped = flags == EXCHANGE
        for handle, path in list(self._opened.items()):
            if handle in self._opened:  # not closed meanwhile
                self._opened[handle] = moved(path, old, new, swapped)
        with self._learning:
            self._aliases.renamed(old, new, swapped)

    def _puts_aside(self, old: bytes, new: bytes) -> bool:
        """Whether libfuse hides `old`, rather than a program renames to such a name.  What counts
        is what libfuse thinks: we may have released a file that it still takes for open."""
        operation = kernel.operation()
        if operation in kernel.RENAME:  # the target of some other rename, or the very request
            return kernel.rename_target() != os.path.basename(new)
        return operation != 0 or self._run(self._volume.is_open(old))

    # --- content -------------------------------------------------------------------------------

    def create(self, path: bytes, mode: int, file: Any) -> None:
        """open(2) of a name that was not there."""
        uid, gid, _ = kernel.caller()
        fi = file.contents
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        fi.fh = self._run(self._volume.create(path, mode, uid, gid, fi.flags))
        self._opened[fi.fh] = path

    def open(self, path: bytes, file: Any) -> None:
        """open(2) of what is there; O_TRUNC comes along, no truncate follows."""
        fi = file.contents
        with self._shared(path if fi.flags & os.O_TRUNC else None):
            fi.fh, fi.keep_cache = self._run(self._volume.open(path, fi.flags))
        self._opened[fi.fh] = path
        if self._volume.outdated(fi.fh):  # the kernel would read up to the old size only
            kernel.invalidate_now([path])

    def read(self, path: bytes | None, into: Any, size: int, offset: int, file: Any) -> int:
        data = self._run(self._volume.read(file.contents.fh, size, offset))
        assert len(data) <= size
        return kernel.fill(into, data)

    def write(self, path: bytes | None, data: Any, size: int, offset: int, file: Any) -> int:
        view, handle = kernel.readable(data, size), file.contents.fh
        with self._shared(None, handle):
            return self._run(self._volume.write(handle, view, offset))

    def flush(self, path: bytes | None, file: Any) -> None:
        """close(2).  Nobody waits for the answer to a process that is being killed."""
        kernel.closing()
        try:
            self._run(self._volume.flush(file.contents.fh))
        except Interrupted:
            if not kernel.killed(kernel.caller().pid):
                raise

    def fsync(self, path: bytes | None, data_only: int, file: Any) -> None:
        self._run(self._volume.fsync(file.contents.fh))

    def release(self, path: bytes | None, file: Any) -> None:
        self._opened.pop(file.contents.fh, None)
        self._run(self._volume.release(file.contents.fh))

    # --- directories ---------------------------------------------------------------------------

    def opendir(self, path: bytes, file: Any) -> None:
        file.contents.fh = self._run(self._volume.opendir(path))

    def readdir(
        self,
        path: bytes | None,
        into: Any,
        filler: Callable[..., int],
        offset: int,
        file: Any,
        flags: int | None = None,
    ) -> None:
        """Entries from `offset` until libfuse's buffer is full.

        With attributes where the kernel asks for them, but not of files with several names: in
        `getattr` we see under which of them it learns these.  (libfuse 3.14 then keeps the node of
        the one entry that did not fit: some bytes per listed file, at most.)
        """
        entry = kernel.binding().module.c_stat()
        plus = PLUS_GIVEN if flags and flags & PLUS_ASKED else 0
        while page := self._run(self._volume.readdir(file.contents.fh, offset)):
            for name, attributes, offset in page:
                shown, several = None, False
                if attributes is not None:
                    several = attributes.nlink > 1 and not stat.S_ISDIR(attributes.mode)
                    self._fill_stat(ctypes.byref(entry), attributes, self._volume.block_bytes)
                    shown = entry
                extra = () if flags is None else (plus if shown and not several else 0,)
                if filler(into, name, shown, offset, *extra):
                    return

    def releasedir(self, path: bytes | None, file: Any) -> None:
        self._run(self._volume.releasedir(file.contents.fh))

    # --- extended attributes -------------------------------------------------------------------

    def getxattr(self, path: bytes, name: bytes, into: Any, size: int) -> int:
        """Size 0 asks how long it is."""
        if name == CAPABILITY and not self._capabilities:
            return -errno.ENODATA
        if not name.startswith(NAMESPACES):
            return -errno.EOPNOTSUPP
        return _give(self._run(self._volume.getxattr(path, name)), into, size)

    def setxattr(self, path: bytes, name: bytes, value: Any, size: int, flags: int) -> None:
        """EOPNOTSUPP outside of the namespaces, as on other file systems."""
        if not name.startswith(NAMESPACES):
            raise Posix(errno.EOPNOTSUPP)
        if name == CAPABILITY:
            self._capabilities = True
        data = bytes(kernel.readable(value, size)) if size else b""
        self._run(self._volume.setxattr(path, name, data, flags))

    def listxattr(self, path: bytes, into: Any, size: int) -> int:
        names = self._run(self._volume.listxattr(path))
        return _give(b"".join(name + b"\0" for name in names), into, size)

    def removexattr(self, path: bytes, name: bytes) -> None:
        if not name.startswith(NAMESPACES):
            raise Posix(errno.EOPNOTSUPP)
        self._run(self._volume.removexattr(path, name))


def _give(value: bytes, into: Any, size: int) -> int:
    """Fill a buffer of `size` (0: only say how much it would be); ERANGE when it is too small."""
    if size and len(value) > size:
        raise Posix(errno.ERANGE)
    return kernel.fill(into, value) if size else len(value)
