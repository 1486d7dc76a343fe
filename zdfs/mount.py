"""FUSE's operations over a volume, by inode: C arguments in, exactly one answer out.

`Operations` has a method for each member of struct fuse_lowlevel_ops that we serve, with C's
arguments but for the request, a few lines each.  What is not here is ENOSYS, which the kernel
remembers and handles: access.  Names are bytes.

**By inode, not by path.**  With libfuse's high-level interface a kernel inode is a path, and then:
another mount replaces a file by rename, and an old descriptor shares pages and size with the new
file; the names of one file are several inodes, with pages, locks and watchers of their own; a
removed directory that somebody is in can't be asked for; an open file is unlinked by a rename to a
hidden name; no name can be taken back; and each operation is a walk.  Here the node id is our inode
number, which is never used twice (the root's is 1, as FUSE wants), so an inode is what it is under
any name or none.  We need not count what the kernel knows: whatever it asks about has its number.

`answer` is the seam.  An operation returns a `Reply`, or None for plain success, or raises; the
seam sends what it says, once, and everything unexpected, SystemExit too, is EIO and a traceback in
the log.  No exception gets past it, for ctypes would drop it and the caller would wait for ever.
"""

import contextlib
import ctypes
import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zdfs import callers, dirents, fuse, insight, kernel, limits, starting
from zdfs.attributes import given_ns, without_set_ids
from zdfs.checksum import Buffer
from zdfs.errors import Failure, Interrupted, StartError
from zdfs.extended import ExtendedOperations
from zdfs.fuse import Reply
from zdfs.fuselocks import LockOperations
from zdfs.ids import Ino
from zdfs.insight import Insight
from zdfs.ports import Run, Volume
from zdfs.ranged import RangedOperations
from zdfs.watchers import Watchers
from zdfs.wire import Attributes

log = logging.getLogger("zdfs.mount")

SET_MODE, SET_UID, SET_GID, SET_SIZE = 1, 2, 4, 8  # FUSE_SET_ATTR_* of fuse_lowlevel.h
SET_ATIME, SET_MTIME, SET_ATIME_NOW, SET_MTIME_NOW = 16, 32, 128, 256
SET_TIMES = SET_ATIME | SET_MTIME | SET_ATIME_NOW | SET_MTIME_NOW
KILLPRIV = 1 << 20  # FUSE_CAP_HANDLE_KILLPRIV


def _nothing() -> None:
    """Nobody waits for the mount."""


def _uncounted(operation: str, number: int) -> None:
    """Nobody wants to know how long it took."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to mount.  `options`: as after -o, later ones win."""

    source: str  # the metaserver, HOST:PORT
    options: tuple[str, ...] = ()
    attr_timeout_s: float = limits.CACHE_S  # the kernel and the volume have half of it each
    entry_timeout_s: float = limits.CACHE_S
    wake: bool = False  # inotify watchers here, when another mount changes what they watch
    read_ahead_kib: int = limits.READ_AHEAD_KIB
    ready: Callable[[], None] = _nothing  # called once when the kernel is connected
    turn: Callable[[], None] = _nothing  # called each second
    ending: Callable[[], None] = _nothing  # called once, before the last flush
    insight: Insight | None = None  # what it can say of its waits


def mount(directory: Path, volume: Volume, run: Run, settings: Settings) -> None:
    """Serve `volume` on `directory` until it is unmounted or the process told to end.

    Everything is flushed then.  StartError when it can't be mounted.  Call it in the main thread.
    """
    operations = Operations(volume, run, settings)
    watchers = operations.watchers = Watchers(directory, settings.wake, volume.last_place)
    volume.on_change = lambda ino, known: watchers.changed(ino, known, volume.names_in(ino))
    binding = fuse.binding()
    done = settings.insight.done if settings.insight else _uncounted
    callbacks = {
        name: answer(getattr(operations, name), binding, done)
        for name, _ in binding.operations
        if hasattr(operations, name)
    }
    callbacks["init"] = operations.init

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

    kernel.Mount(directory, callbacks, _options(settings), flush).run(
        ready, settings.turn, settings.ending
    )


def _options(settings: Settings) -> list[str]:
    """What libfuse is told after -o."""
    if len(settings.options) > limits.MOUNT_OPTIONS:
        raise StartError(f"{len(settings.options)} mount options: {limits.MOUNT_OPTIONS} at most")
    chosen = [
        "default_permissions",
        f"fsname=zdfs:{settings.source}",
        "subtype=zdfs",
    ]
    if starting.may_allow_other():
        chosen.append("allow_other")
    return chosen + list(settings.options)


def answer(
    operation: Callable[..., Reply | None], binding: fuse.Fuse,
    done: Callable[[str, int], None] = _uncounted,
) -> fuse.Callback:  # fmt: skip
    """The seam: each request is answered exactly once, whatever happens.  `done` counts it."""
    name = operation.__name__

    @functools.wraps(operation)
    def answered(request: int, *arguments: Any) -> None:
        reply, number = None, errno.EIO
        kernel.enter(request, name, arguments)
        try:
            reply, number = operation(*arguments), 0
        except Failure as failure:
            number = failure.number if failure.number > 0 else errno.EIO  # 0 would be success
            insight.refused(name, arguments, number, failure.text)
            if number == errno.EIO:
                _report(logging.WARNING, f"{name} %s: EIO, {failure}", arguments)
        except BaseException as bug:
            insight.refused(name, arguments, number, f"unexpected: {bug!r}")
            _report(logging.ERROR, f"{name} %s: unexpected, answered EIO", arguments)
        kernel.leave()
        if reply is None:
            binding.reply_err(request, number)
        else:
            _send(binding, request, reply, name, arguments)
        done(name, number)

    return answered


def _send(
    binding: fuse.Fuse, request: int, reply: Reply, name: str, arguments: Sequence[Any]
) -> None:
    try:
        sent = reply.send(request)
    except BaseException:  # nothing has left: what is sent raises nothing
        _report(logging.ERROR, f"{name} %s: the answer can't be sent, answered EIO", arguments)
        sent = binding.reply_err(request, errno.EIO) or -errno.EIO
    if sent and reply.undo is not None:
        try:
            reply.undo()
        except BaseException:
            _report(logging.ERROR, f"{name} %s: nobody waited, and not undone", arguments)


def _report(level: int, text: str, arguments: Sequence[Any]) -> None:
    """Log what an operation was about: its inode and names, or its handle.  Whatever goes wrong
    here, the answer must still leave."""
    with contextlib.suppress(BaseException):
        about = [f"of inode {arguments[0]}"] if isinstance(arguments[0], int) else []
        about += [os.fsdecode(a) for a in arguments if isinstance(a, bytes)]
        files = [a.contents for a in arguments if a and hasattr(a, "contents")]
        about += [f"of handle {file.fh}" for file in files if hasattr(file, "fh")]
        subject = " ".join(about).encode(errors="backslashreplace").decode()
        log.log(level, text.replace("%s", subject, 1), exc_info=level >= logging.ERROR)


class Operations(LockOperations, RangedOperations, ExtendedOperations):
    """struct fuse_lowlevel_ops.  `file`: a pointer to struct fuse_file_info, or to nothing."""

    def __init__(self, volume: Volume, run: Run, settings: Settings):
        self._volume = volume
        self._run = run
        self._fuse = fuse.binding()
        self._attr_s, self._entry_s = settings.attr_timeout_s / 2, settings.entry_timeout_s / 2
        self.watchers: Watchers | None = None
        self._insight = settings.insight

    def init(self, _: Any, connection: Any) -> None:
        """Settle what only the structure can say; once, before everything else."""
        settled = connection.contents
        settled.want &= ~KILLPRIV  # else the kernel leaves it to us that a write ends suid
        self.heed_lists(settled)
        settled.max_background = limits.FUSE_BACKGROUND
        settled.congestion_threshold = limits.FUSE_BACKGROUND * 3 // 4

    # --- answers -------------------------------------------------------------------------------

    def _packed(self, attributes: Attributes) -> bytes:
        """As struct fuse_entry_param."""
        packed = self._fuse.attributes(attributes, self._volume.block_bytes)
        return self._fuse.entry(attributes.ino, packed, self._attr_s, self._entry_s)

    def _entry(self, attributes: Attributes) -> Reply:
        """A name and what it leads to."""
        packed = self._packed(attributes)
        return Reply(lambda request: self._fuse.reply_entry(request, packed))

    def _attributes(self, attributes: Attributes) -> Reply:
        packed = self._fuse.attributes(attributes, self._volume.block_bytes)
        return Reply(lambda request: self._fuse.reply_attr(request, packed, self._attr_s))

    def _moved(self, name: str, size: int) -> None:
        if self._insight is not None:
            self._insight.meter.count(name, size)

    def _bytes(self, data: Buffer) -> Reply:
        return Reply(lambda request: self._fuse.send_buffer(request, data))

    # --- attributes ----------------------------------------------------------------------------

    def getattr(self, ino: Ino, file: Any) -> Reply:
        """stat and fstat."""
        return self._attributes(self._run(self._volume.stat_ino(ino)))

    def setattr(self, ino: Ino, wanted: Any, valid: int, file: Any) -> Reply:
        """chmod, chown, truncate, utimens: all that one request carries."""
        want, volume = wanted.contents, self._volume
        times = valid & SET_TIMES
        if times and self.watchers and self.watchers.waking(kernel.caller().pid):
            return self._attributes(volume.last_known(ino) or self._run(volume.stat_ino(ino)))
        if valid & SET_SIZE:
            handle = file.contents.fh if file else None
            self._run(volume.truncate_ino(ino, handle, want.st_size))
        if not valid & (SET_MODE | SET_UID | SET_GID | SET_TIMES):
            return self._attributes(self._run(volume.stat_ino(ino)))
        atime, mtime = (
            given_ns(spec.tv_sec, spec.tv_nsec) for spec in (want.st_atimespec, want.st_mtimespec)
        )
        found = volume.set_ino(
            ino,
            mode=stat.S_IMODE(want.st_mode) if valid & SET_MODE else None,
            uid=want.st_uid if valid & SET_UID else None,
            gid=want.st_gid if valid & SET_GID else None,
            atime_ns=atime if valid & SET_ATIME else None,
            mtime_ns=mtime if valid & SET_MTIME else None,
            atime_now=bool(valid & SET_ATIME_NOW),
            mtime_now=bool(valid & SET_MTIME_NOW),
        )
        return self._attributes(self._run(found))

    def statfs(self, ino: Ino) -> Reply:
        """What can still be stored."""
        space, unit = self._run(self._volume.statfs()), self._volume.block_bytes
        said = self._fuse.module.c_statvfs()
        said.f_bsize = said.f_frsize = unit
        said.f_blocks = space.total_bytes // unit
        said.f_bfree = said.f_bavail = space.free_bytes // unit
        said.f_files = space.inodes
        said.f_ffree = said.f_favail = space.free_inodes
        said.f_namemax = limits.NAME_BYTES
        return Reply(lambda request: self._fuse.reply_statfs(request, ctypes.byref(said)))

    # --- names ---------------------------------------------------------------------------------

    def lookup(self, parent: Ino, name: bytes) -> Reply:
        """What a name leads to; that there is none is not remembered."""
        return self._entry(self._run(self._volume.lookup_at(parent, name)))

    def _make(
        self, parent: Ino, name: bytes, mode: int, rdev: int = 0, target: bytes = b""
    ) -> Reply:
        who = kernel.caller()
        umask = 0 if target else who.umask & 0o777
        made = self._volume.make_at(parent, name, mode, who.uid, who.gid, rdev, target, umask)
        return self._entry(self._run(made))

    def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int) -> Reply:
        return self._make(parent, name, mode, rdev)

    def mkdir(self, parent: Ino, name: bytes, mode: int) -> Reply:
        return self._make(parent, name, stat.S_IFDIR | mode)

    def symlink(self, target: bytes, parent: Ino, name: bytes) -> Reply:
        return self._make(parent, name, stat.S_IFLNK | 0o777, target=target)

    def readlink(self, ino: Ino) -> Reply:
        target = self._run(self._volume.readlink_ino(ino))
        return Reply(lambda request: self._fuse.reply_readlink(request, target))

    def link(self, ino: Ino, parent: Ino, name: bytes) -> Reply:
        return self._entry(self._run(self._volume.link_at(ino, parent, name)))

    def unlink(self, parent: Ino, name: bytes) -> None:
        self._run(self._volume.unlink_at(parent, name))

    def rmdir(self, parent: Ino, name: bytes) -> None:
        self._run(self._volume.rmdir_at(parent, name))

    def rename(self, parent: Ino, name: bytes, to: Ino, new_name: bytes, flags: int) -> None:
        self._run(self._volume.rename_at(parent, name, to, new_name, flags))

    # --- content -------------------------------------------------------------------------------

    def create(self, parent: Ino, name: bytes, mode: int, file: Any) -> Reply:
        """open(2) of a name that was not there."""
        who, fi = kernel.caller(), file.contents
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        made = self._volume.create_at(
            parent, name, mode, who.uid, who.gid, fi.flags, who.umask & 0o777
        )
        fi.fh, found = self._run(made)
        fi.direct_io = self._direct(fi.flags)
        packed = self._packed(found)
        return Reply(
            lambda request: self._fuse.reply_create(request, packed, file), self._closing(fi.fh)
        )

    def open(self, ino: Ino, file: Any) -> Reply:
        """open(2) of what is there; O_TRUNC comes along, no truncate follows."""
        fi = file.contents
        unset = fi.flags & os.O_TRUNC and kernel.caller().uid and self._end_set_ids(ino)
        fi.fh, fi.keep_cache = self._run(self._volume.open_ino(ino, fi.flags))
        fi.direct_io = self._direct(fi.flags)
        if unset or self._volume.outdated(fi.fh):  # the kernel would read up to the old size only
            kernel.forget_attributes(ino)
            if not fi.flags & (os.O_WRONLY | os.O_TRUNC):
                self.stretch(ino, fi.fh)
        return Reply(lambda request: self._fuse.reply_open(request, file), self._closing(fi.fh))

    def _closing(self, handle: int) -> Callable[[], None]:
        return lambda: self._run(self._volume.release(handle))

    def _end_set_ids(self, ino: Ino) -> bool:
        """Before somebody empties a file; whether it had set-id bits."""
        mode = self._run(self._volume.stat_ino(ino)).mode
        left = without_set_ids(mode)
        if left != mode:
            self._run(self._volume.set_ino(ino, mode=stat.S_IMODE(left)))
        return left != mode

    def _end_privileges(self, ino: Ino, handle: int) -> None:
        """Before a write that the kernel passes on as it is (`_direct`): elsewhere it ends them."""
        self.end_capability(ino)
        mode, who = self._volume.known_mode(handle), kernel.caller()
        if without_set_ids(mode) == mode:
            return
        if not callers.capable(who.uid, who.pid, callers.FSETID) and self._end_set_ids(ino):
            kernel.forget_attributes(ino)

    def _direct(self, flags: int) -> int:
        """Whether the kernel shall pass writes on as they are.  It cuts those that go through its
        pages where a page ends, by where it thinks the file ends: another mount's line would get
        into the middle of an appended one."""
        return int(bool(flags & os.O_APPEND))

    def read(self, ino: Ino, size: int, offset: int, file: Any) -> Reply:
        """read(2): fewer bytes than asked for only at the end of the file."""
        data = self._run(self._volume.read(file.contents.fh, size, offset))
        assert len(data) <= size
        self._moved("zdfs_mount_read_bytes_total", len(data))
        return self._bytes(data)

    def write(self, ino: Ino, data: Any, size: int, offset: int, file: Any) -> Reply:
        """write(2), and pages of mappings: how many bytes were taken, all."""
        fi = file.contents
        # Pages of a mapping come with any handle that may write, also one that appends.
        append = bool(fi.flags & os.O_APPEND) and not fi.writepage
        if append:
            self._end_privileges(ino, fi.fh)
        view = fuse.readable(data, size)
        written = self._run(self._volume.write(fi.fh, view, offset, append))
        self._moved("zdfs_mount_written_bytes_total", written)
        return Reply(lambda request: self._fuse.reply_write(request, written))

    def flush(self, ino: Ino, file: Any) -> None:
        """close(2).  Nobody waits for the answer to a process that is being killed."""
        kernel.closing()
        try:
            self._run(self._volume.flush(file.contents.fh))
        except Interrupted:
            if not kernel.killed(kernel.caller().pid):
                raise
        finally:
            self.unlock_all(file)

    def fsync(self, ino: Ino, data_only: int, file: Any) -> None:
        self._run(self._volume.fsync(file.contents.fh))

    def release(self, ino: Ino, file: Any) -> None:
        self._run(self._volume.release(file.contents.fh))

    # --- directories ---------------------------------------------------------------------------

    def opendir(self, ino: Ino, file: Any) -> Reply:
        handle = file.contents.fh = self._run(self._volume.opendir_ino(ino))

        def close() -> None:
            self._run(self._volume.releasedir(handle))

        return Reply(lambda request: self._fuse.reply_open(request, file), close)

    def readdir(self, ino: Ino, size: int, offset: int, file: Any) -> Reply:
        """Names and what they are."""
        return self._list(size, offset, file, plus=False)

    def readdirplus(self, ino: Ino, size: int, offset: int, file: Any) -> Reply:
        """Names, and all that lookups of them would say."""
        return self._list(size, offset, file, plus=True)

    def _list(self, size: int, offset: int, file: Any, plus: bool) -> Reply:
        """Entries from `offset`, as many as fit."""
        parts: list[bytes] = []
        most = size // dirents.LEAST_BYTES + 1  # kernels ask for 4 KiB, or for more, of a long page
        while page := self._run(self._volume.readdir(file.contents.fh, offset, plus, most)):
            for one in page:
                packed = dirents.dirent(one.name, one.ino, one.mode, one.next)
                if plus:
                    packed = self._looked_up(one.attributes) + packed
                size -= len(packed)
                if size < 0:
                    return self._bytes(b"".join(parts))
                parts.append(packed)
                offset = one.next
        return self._bytes(b"".join(parts))

    def _looked_up(self, found: Attributes | None) -> bytes:
        """What a lookup of a name would say; None: nothing that the kernel shall keep."""
        if found is None:
            return dirents.UNKNOWN
        return dirents.entry(found, self._volume.block_bytes, self._attr_s, self._entry_s)

    def fsyncdir(self, ino: Ino, data_only: int, file: Any) -> None:
        self._run(self._volume.fsyncdir())

    def releasedir(self, ino: Ino, file: Any) -> None:
        self._run(self._volume.releasedir(file.contents.fh))
