"""The kernel's side of a mount: its life, its signals, its questions, what it shall forget.

Requests are read and run by `workers`; the calling thread only waits, so signals reach it.

**The end**, in this order, since libfuse frees what operations stand on before it says `destroy`:

    umount, or a signal (then first: flush, while everybody is still served)
      -> no more requests are taken; blocked operations see `interrupted`; workers are joined
      -> flush -> libfuse unmounts and lets go

A second signal gives up flushing.

**Interruption.**  `interrupted()` says, inside an operation, whether its caller was signalled or
the mount ends; whoever waits polls it.

**Invalidation.**  Attributes are forgotten at once, from anywhere.  Pages and names take a thread
of their own: the kernel may make it wait for a page that one of our own workers is about to fill,
or for an operation in the same directory.
"""

import ctypes
import functools
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zdfs import limits, starting
from zdfs.errors import Interrupted, StartError
from zdfs.fuse import ATTRIBUTES_ONLY, EXPIRE_ONLY, Callback, Context, Piece, binding
from zdfs.ids import Ino
from zdfs.workers import Workers, here

log = logging.getLogger("zdfs.kernel")

PF_EXITING = 4  # linux/sched.h
KILL = 1 << (signal.SIGKILL - 1)
SPARED = sum(  # signals whose default is not to end the process (signal(7))
    1 << (number - 1)
    for number in (
        signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH,
        signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
    )
)  # fmt: skip


class Waits(NamedTuple):
    """An operation that has waited for a moment."""

    operation: str
    ino: Ino  # of the directory, where a name is given
    name: bytes
    pid: int  # of the thread that asked
    uid: int
    since: float  # monotonic


waiting: dict[int, Waits] = {}  # by thread
_NAMES = {"symlink": 1, "link": 1}  # where parent and name stand, if not in front
_NAMING = {"lookup", "mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "create"}


def subject(operation: str, arguments: Sequence[Any]) -> tuple[Ino, bytes]:
    """What an operation is about: an inode, or a name in a directory."""
    at = _NAMES.get(operation, 0)
    if not isinstance(arguments[at], int):
        return Ino(0), b""
    name = arguments[at + 1] if operation in _NAMING else b""
    return Ino(arguments[at]), name[: limits.NAME_BYTES]


# --- inside an operation -----------------------------------------------------------------------

_mounted: "Mount | None" = None  # one mount per process


def enter(request: int, operation: str, arguments: Sequence[Any]) -> None:
    """This thread begins an operation, about which libfuse can be asked until it is answered."""
    here.request, here.since = request, time.monotonic()
    here.operation, here.arguments = operation, arguments


def leave() -> None:
    """The operation is about to be answered."""
    here.request, here.closing, here.arguments = 0, False, ()
    if waiting:
        waiting.pop(threading.get_ident(), None)


def interrupted() -> bool:
    """Whether to stop waiting: the caller was signalled, or the mount ends.

    In close(2) also when the caller is being killed: the kernel tells nobody then.  Outside of an
    operation it is true once a second signal told the mount not to flush any more.
    """
    if not here.request:
        return _mounted is not None and _mounted.hurried
    if threading.get_ident() not in waiting:  # whoever asks has waited for a moment
        who = caller()
        about = subject(here.operation, here.arguments)
        waiting[threading.get_ident()] = Waits(here.operation, *about, who.pid, who.uid, here.since)
    if _mounted is not None and _mounted.ending:
        return True
    if binding().req_interrupted(here.request):
        return True
    return here.closing and killed(caller().pid)


def caller() -> Context:
    """Who asked: uid, gid, pid (of the thread), umask; valid inside an operation."""
    context: Context = binding().req_ctx(here.request).contents
    return context


def closing() -> None:
    """This operation is close(2): a caller that is being killed counts as signalled."""
    here.closing = True


def killed(pid: int) -> bool:
    """Whether a thread is on its way out because of a signal (proc(5): flags, exit_code)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:  # gone, or of another pid namespace
        return False
    return bool(int(fields[6]) & PF_EXITING) and bool(int(fields[49]) & 0x7F)


def dying() -> bool:
    """Whether the caller has a signal pending that ends it (proc(5): SigPnd, ShdPnd, SigCgt)."""
    if not here.request or (_mounted is not None and _mounted.ending):
        return True
    masks = {"SigPnd": 0, "ShdPnd": 0, "SigBlk": 0, "SigIgn": 0, "SigCgt": 0}
    try:
        text = Path(f"/proc/{caller().pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:  # gone
        return True
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in masks:
            masks[name] = int(value, 16)
    pending = masks["SigPnd"] | masks["ShdPnd"]
    harmless = masks["SigBlk"] | masks["SigIgn"] | masks["SigCgt"] | SPARED
    return bool(pending & ~harmless) or bool(pending & KILL) or killed(caller().pid)


# --- the mount ---------------------------------------------------------------------------------


class Stale(NamedTuple):
    """What the kernel shall forget: an inode's pages, or a name in a directory."""

    ino: Ino
    name: bytes | None = None


class Mount:
    """One mounted directory, from connecting to letting go."""

    def __init__(
        self,
        directory: Path,
        callbacks: Mapping[str, Callback],
        options: Sequence[str],
        flush: Callable[[], None],
    ):
        self.directory = Path(starting.real(directory))
        self.ending = False  # operations shall not wait any longer
        self.hurried = False  # nor shall the flush
        self._flush = flush
        self._ended = threading.Event()
        self._signalled = False
        self._fuse = binding()
        self._table = self._fuse.table(callbacks)  # kept: C points into it
        self._options = ",".join(options)
        self._session: int | None = None
        self._notifying = threading.Lock()  # held by who may wait inside libfuse
        self._telling = threading.Lock()  # ... and by who is there and never waits

    def run(
        self, ready: Callable[[], None], turn: Callable[[], None], ending: Callable[[], None]
    ) -> None:
        """Mount, call `ready`, serve until it is unmounted or the process is told to end; `turn` is
        called each second meanwhile, `ending` before what is dirty is flushed."""
        global _mounted
        _mounted = self
        library = self._fuse.library
        session = self._session = self._connect()
        restore = self._take_signals()
        workers = Workers(library, session, self._ended.set)
        try:
            workers.first()
            workers.start()  # first: who is told may ask at once
            ready()
            while not self._ended.wait(1.0):
                turn()  # a signal that another thread caught is seen now
            ending()
            if self._signalled:
                self._flush()  # everybody is still served
            self.ending = True
            library.fuse_session_exit(session)
            idle = workers.join()
            self._flush()
        finally:
            with self._telling:
                self._session = None
            library.fuse_session_unmount(session)
            restore()
        if idle and self._notifying.acquire(timeout=limits.MOUNT_JOIN_S):
            library.fuse_session_destroy(session)  # nobody stands in libfuse any more

    def forget(self, stale: Stale) -> None:
        """Have the kernel drop pages, or ask for a name again.  What it doesn't know is no error.

        Waits for pages under way, or for the directory: call it from a thread that no operation
        waits for (Forgetting).
        """
        with self._notifying:
            if self._session is None or self.ending:
                return
            fuse, session = self._fuse, self._session
            if stale.name is None:
                fuse.lowlevel_notify_inval_inode(session, stale.ino, 0, 0)
                return
            place = (session, stale.ino, stale.name, len(stale.name))
            if fuse.lowlevel_notify_expire_entry is None:
                fuse.lowlevel_notify_inval_entry(*place)
            else:
                fuse.lowlevel_notify_expire_entry(*place, EXPIRE_ONLY)

    def stretch(self, ino: Ino, size: int, last: bytes) -> None:
        """Have the kernel take a file for no shorter than it is.

        Inside an operation: its worker is awaited before the session goes, so no lock is taken.
        """
        if self._session is not None and not self.ending:
            piece = Piece(1, 0, 0, len(last), 0, last, -1, 0)
            place = (self._session, ino, size - len(last))
            self._fuse.lowlevel_notify_store(*place, ctypes.byref(piece), 0)

    def forget_attributes(self, ino: Ino) -> None:
        """Have the kernel ask for an inode's attributes again; never waits."""
        with self._telling:
            if self._session is not None and not self.ending:
                self._fuse.lowlevel_notify_inval_inode(self._session, ino, ATTRIBUTES_ONLY, 0)

    def _connect(self) -> int:
        """A session, mounted."""
        library = self._fuse.library
        session = self._fuse.session([b"zdfs", b"-o", os.fsencode(self._options)], self._table)
        if not session:
            raise StartError(
                f"libfuse refuses the options: {self._options} (how long names and attributes are"
                " believed is said by --entry-timeout and --attr-timeout)"
            )
        if self._fuse.session_mount(session, os.fsencode(self.directory)):
            library.fuse_session_destroy(session)
            raise StartError(
                f"{self.directory} can't be mounted on: is /dev/fuse there and ours?"
                f" ({self._options})"
            )
        return session

    def _take_signals(self) -> Callable[[], None]:
        """End on SIGTERM, SIGINT and SIGHUP; SIGUSR1 only wakes a thread from its read."""

        def end(number: int, _: object) -> None:
            if self._signalled:
                self.hurried = True
                log.warning("second signal (%d): what is not flushed yet is given up", number)
            self._signalled = True
            self._ended.set()

        ends = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, end) for number in ends}
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda *_: None)

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore


class Forgetting:
    """A queue of what the kernel shall forget, and its thread."""

    def __init__(self, forget: Callable[[Stale], None]):
        self._forget = forget
        self._stale: queue.SimpleQueue[Stale] = queue.SimpleQueue()
        self._queued: dict[Stale, threading.Event] = {}  # each waits once
        threading.Thread(target=self._work, name="forgetting", daemon=True).start()

    def submit(self, stale: Stale) -> threading.Event:
        """Soon; never waits.  The event says when it is done."""
        done = self._queued.get(stale)
        if done is None:
            done = self._queued[stale] = threading.Event()
            self._stale.put(stale)
        return done

    def _work(self) -> None:
        while True:
            stale = self._stale.get()
            done = self._queued.pop(stale)  # before: what changes from now on needs another
            self._forget(stale)
            done.set()


def _forget(stale: Stale) -> None:
    if _mounted is not None:
        _mounted.forget(stale)


@functools.cache
def _forgetting() -> Forgetting:
    return Forgetting(_forget)


def forget_attributes(ino: Ino) -> None:
    """Have the kernel ask for an inode's attributes at the next look; may be called anywhere."""
    if _mounted is not None:
        _mounted.forget_attributes(ino)


def stretch(ino: Ino, size: int, last: bytes) -> None:
    """Have the kernel take a file for no shorter than it is; `last`: its last byte.

    copy_file_range, splice and mappings go by the size that the kernel knows and never ask, and no
    answer to an open or a lock can say it.  A byte that is stored in its pages does.  Only inside
    an operation; may wait for that page.
    """
    if _mounted is not None:
        _mounted.stretch(ino, size, last)


def drop_pages(ino: Ino) -> None:
    """Have the kernel write back and drop an inode's pages, and wait for it.  Interrupted, for a
    caller that is about to die."""
    done = forget_inode(ino)
    while not done.wait(limits.INTERRUPT_POLL_S):
        if interrupted() and dying():
            raise Interrupted()


def forget_inode(ino: Ino) -> threading.Event:
    """Have the kernel drop an inode's attributes at once and its pages soon: the event says when.
    May be called anywhere."""
    forget_attributes(ino)
    return _forgetting().submit(Stale(ino))


def forget_name(parent: Ino, name: bytes) -> None:
    """Have the kernel ask what a name leads to, soon; may be called anywhere."""
    _forgetting().submit(Stale(parent, name))


def raise_read_ahead(directory: Path, kib: int) -> None:
    """Let the kernel read ahead so much per file (root only; else it stays at 128 KiB).

    The device number comes from mountinfo, not from stat: asking the mount could wait for it.
    """
    line = starting.mounted_on(directory)
    if line is None:
        return
    try:
        Path(f"/sys/class/bdi/{line.device}/read_ahead_kb").write_text(str(kib))
    except OSError as error:
        log.debug("read-ahead of %s stays as it is: %s", directory, error)
