"""The kernel's side of a mount: which libfuse, its loop, its threads, its questions.

**Binding.**  mfusepy over libfuse3, else mfusepy or fusepy over libfuse2.  They bring the library
and the layout of its structures.  Their Python wrappers are not used: those drop rename's flags,
the handle of truncate, chmod, chown and utimens, and the attributes of a listing, copy what is
written twice, and fusepy's answer success when a handler ends with SystemExit.  `Mount` hands
libfuse the callbacks of `mount.Operations` as they are, each inside `answer`, which returns an
errno whatever happens: ctypes turns an exception that leaves a callback into success.

Requests are read and run by `workers`; the calling thread only waits, so signals reach it.  Over
libfuse2, libfuse runs its own loop and threads; that is slower and complete.

**The end**, in this order, since libfuse frees what operations stand on before it says `destroy`:

    umount, or a signal (then first: flush, while everybody is still served)
      -> no more requests are taken; blocked operations see `interrupted`; workers are joined
      -> flush -> libfuse unmounts and lets go

A second signal gives up flushing.

**Interruption.**  `interrupted()` says, inside an operation, whether its caller was signalled or
the mount ends; whoever waits polls it.  libfuse's `intr` option stays off: its signal kills us.

**Invalidation** runs in a thread of its own: the kernel may make it wait for a page that one of
our own workers is about to fill.
"""

import ctypes
import functools
import logging
import os
import queue
import signal
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from ctypes.util import find_library
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from zdfs import limits, starting
from zdfs.checksum import Buffer
from zdfs.errors import StartError
from zdfs.wire import Attributes
from zdfs.workers import Workers, here

log = logging.getLogger("zdfs.kernel")

Callback = Callable[..., int]
GETATTR = 3  # opcodes of linux/fuse.h: FUSE_GETATTR
RENAME_IN = {12: 8, 45: 16}  # FUSE_RENAME, FUSE_RENAME2: bytes before their names
RENAME = frozenset(RENAME_IN)
FUSE_IN_HEADER = 40  # struct fuse_in_header
SPLICE = 0b111 << 7  # FUSE_CAP_SPLICE_WRITE, _MOVE, _READ: one more copy than plain reads
PF_EXITING = 4  # linux/sched.h
KILL = 1 << (signal.SIGKILL - 1)
SPARED = sum(  # signals whose default is not to end the process (signal(7))
    1 << (number - 1)
    for number in (
        signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH,
        signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
    )
)  # fmt: skip
NS = 1_000_000_000
PYBUF_READ, PYBUF_WRITE = 0x100, 0x200  # CPython's object.h


class Arguments(ctypes.Structure):
    """struct fuse_args."""

    _fields_ = [
        ("argc", ctypes.c_int),
        ("argv", ctypes.POINTER(ctypes.c_char_p)),
        ("allocated", ctypes.c_int),
    ]


class Caller(NamedTuple):
    """Whose operation this is; `pid` names the thread."""

    uid: int
    gid: int
    pid: int


# --- the binding -------------------------------------------------------------------------------


def _module() -> Any:
    """mfusepy or fusepy over the best libfuse there is."""
    chosen = os.environ.get("FUSE_LIBRARY_PATH")  # both heed it: somebody's own libfuse
    for library, name in (("fuse3", "mfusepy"), ("fuse", "mfusepy"), ("fuse", "fuse")):
        if not chosen and find_library(library) is None:
            continue
        os.environ["FUSE_LIBRARY_NAME"] = library  # mfusepy looks for this when it is imported
        try:
            if name == "fuse":
                import fuse

                return fuse
            import mfusepy

            return mfusepy
        except (ImportError, AttributeError, OSError) as error:
            log.debug("no %s over lib%s: %s", name, library, error)
    raise StartError("libfuse is missing, nothing can be mounted: apt-get install fuse3")


class Binding:
    """The library, its structures and how to fill them."""

    def __init__(self, module: Any):
        self.module = module
        self.library = module._libfuse
        self.major: int = getattr(module, "fuse_version_major", 2)
        self.quick = ctypes.PyDLL(self.library._name)  # keeps the GIL: for calls that are short
        self.quick.fuse_get_context.restype = ctypes.POINTER(module.fuse_context)
        self._stat, self._order = _stat_layout(module.c_stat)

    def fill_stat(self, pointer: Any, attributes: Attributes, block_bytes: int) -> None:
        """Write a C stat; a dict and setattr would cost ten times as much."""
        a = attributes
        values = (
            *(a.ino, a.mode, a.nlink, a.uid, a.gid, a.rdev, a.size),
            max(4096, block_bytes),
            -(-a.stored // 512),
            *divmod(a.atime_ns, NS),
            *divmod(a.mtime_ns, NS),
            *divmod(a.ctime_ns, NS),
        )
        fill(pointer, self._stat.pack(*self._order(values)))

    def table(self, callbacks: Mapping[str, Callback]) -> Any:
        """struct fuse_operations of these callbacks."""
        table = self.module.fuse_operations()
        for name, prototype, *_ in self.module.fuse_operations._fields_:
            if name in callbacks and hasattr(prototype, "argtypes"):
                setattr(table, name, prototype(callbacks[name]))
        if self.major == 2:
            table.flag_nullpath_ok = table.flag_utime_omit_ok = 1
        return table


def _stat_layout(c_stat: Any) -> tuple[struct.Struct, Callable[[Any], Any]]:
    """A packer for this machine's struct stat, and the order in which it wants the values."""
    names = "ino mode nlink uid gid rdev size blksize blocks".split()
    places = {f"st_{name}": number for number, name in enumerate(names)}
    times = {"st_atimespec": 9, "st_mtimespec": 11, "st_ctimespec": 13}
    form, order, end = "=", [], 0
    for name, *_ in c_stat._fields_:
        field = getattr(c_stat, name)
        if name in places:
            form += f"{field.offset - end}x{'IQ'[field.size == 8]}"
            order.append(places[name])
        elif name in times:
            form += f"{field.offset - end}x{'iq'[field.size == 16] * 2}"
            order += [times[name], times[name] + 1]
        else:
            continue
        end = field.offset + field.size
    return struct.Struct(form), itemgetter(*order)


@functools.cache
def binding() -> Binding:
    """The one of this process; StartError where there is no libfuse."""
    return Binding(_module())


_PYTHON = ctypes.pythonapi
_PYTHON.PyMemoryView_FromMemory.restype = ctypes.py_object
_PYTHON.PyMemoryView_FromMemory.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]


def readable(pointer: Any, size: int) -> memoryview:
    """C memory as it is, no copy; gone when the operation ends."""
    view: memoryview = _PYTHON.PyMemoryView_FromMemory(pointer, size, PYBUF_READ)
    return view


def fill(pointer: Any, data: Buffer) -> int:
    """Copy into C memory; the number of bytes."""
    if data:
        _PYTHON.PyMemoryView_FromMemory(pointer, len(data), PYBUF_WRITE)[:] = data
    return len(data)


# --- inside an operation -----------------------------------------------------------------------

_mounted: "Mount | None" = None  # one mount per process


def enter(operation: Callback) -> Callback:
    """Mark what runs inside a callback, where libfuse can be asked."""

    def inside(*arguments: Any) -> int:
        here.inside = True
        try:
            return operation(*arguments)
        finally:
            here.inside = here.closing = False

    return inside


def interrupted() -> bool:
    """Whether to stop waiting: the caller was signalled, or the mount ends.

    In close(2) also when the caller is being killed: the kernel tells nobody then.  Outside of an
    operation it is true once a second signal told the mount not to flush any more.
    """
    if not here.inside:
        return _mounted is not None and _mounted.hurried
    if _mounted is not None and _mounted.ending:
        return True
    if binding().quick.fuse_interrupted():
        return True
    return here.closing and killed(caller().pid)


def caller() -> Caller:
    """Who asked; valid inside an operation."""
    context = binding().quick.fuse_get_context().contents
    return Caller(context.uid, context.gid, context.pid)


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
    if not here.inside or (_mounted is not None and _mounted.ending):
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


def operation() -> int:
    """Which of the kernel's requests runs here (0: not known); one may be several callbacks."""
    buffer = here.buffer
    if buffer is None or not buffer.mem:
        return 0
    return int(ctypes.c_uint32.from_address(buffer.mem + 4).value)


def rename_target() -> bytes:
    """The new name that the kernel's rename request carries (struct fuse_rename_in, then names)."""
    buffer = here.buffer
    assert buffer is not None and operation() in RENAME
    names = buffer.mem + FUSE_IN_HEADER + RENAME_IN[operation()]
    return ctypes.string_at(names + len(ctypes.string_at(names)) + 1)


# --- the mount ---------------------------------------------------------------------------------


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
        self._binding = binding()
        self._callbacks = {name: enter(callback) for name, callback in callbacks.items()}
        self._words = [b"zdfs", b"-o", os.fsencode(",".join(options))]
        self._fuse: int | None = None
        self._invalidating = threading.Lock()  # held by who is inside fuse_invalidate_path

    def run(self, ready: Callable[[], None]) -> None:
        """Mount, call `ready`, serve until it is unmounted or the process is told to end."""
        global _mounted
        _mounted = self
        if self._binding.major == 2:
            self._run_2(ready)
        else:
            self._run_3(ready)

    def invalidate(self, path: bytes) -> bool:
        """Drop the kernel's pages and attributes of a path; False: libfuse2 can't, or not known.

        Waits for pages under way: call it from a thread that no operation waits for (Invalidator).
        """
        with self._invalidating:
            if self._fuse is None or self.ending:
                return False
            return not self._binding.library.fuse_invalidate_path(self._fuse, path)

    def _run_3(self, ready: Callable[[], None]) -> None:
        library = self._binding.library
        self._fuse, session = self._connect()
        restore = self._take_signals()
        workers = Workers(library, session, self._ended.set)
        try:
            workers.first()
            workers.start()  # first: who is told may ask at once
            ready()
            while not self._ended.wait(1.0):
                pass  # a signal that another thread caught is seen now
            if self._signalled:
                self._flush()  # everybody is still served
            self.ending = True
            library.fuse_session_exit(session)
            idle = workers.join()
            self._flush()
        finally:
            self._fuse, fuse = None, self._fuse
            library.fuse_unmount(fuse)
            restore()
        if idle and self._invalidating.acquire(timeout=limits.MOUNT_JOIN_S):
            library.fuse_destroy(fuse)  # nobody stands in libfuse any more

    def _connect(self) -> tuple[int, int]:
        """struct fuse and its session, mounted."""
        library = self._binding.library
        library.fuse_new.restype = library.fuse_get_session.restype = ctypes.c_void_p
        library.fuse_new.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_size_t, ctypes.c_void_p]
        library.fuse_mount.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.fuse_invalidate_path.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        for name in ("unmount", "destroy", "get_session", "session_exit", "session_exited"):
            getattr(library, f"fuse_{name}").argtypes = [ctypes.c_void_p]
        words = (ctypes.c_char_p * len(self._words))(*self._words)
        arguments = Arguments(len(self._words), words, 0)
        table = self._table = self._binding.table(self._callbacks)  # kept: C points into it
        fuse = library.fuse_new(
            ctypes.byref(arguments), ctypes.byref(table), ctypes.sizeof(table), None
        )
        options = self._words[2].decode(errors="replace")
        if not fuse:
            raise StartError(f"libfuse refuses the options: {options}")
        if library.fuse_mount(fuse, os.fsencode(self.directory)):
            library.fuse_destroy(fuse)
            raise StartError(
                f"{self.directory} can't be mounted on: is /dev/fuse there and ours? ({options})"
            )
        return fuse, library.fuse_get_session(fuse)

    def _run_2(self, ready: Callable[[], None]) -> None:
        """libfuse2 with its own loop, threads and signal handlers."""

        def init(connection: Any) -> int:
            self._callbacks["init"](connection)
            ready()
            return 0

        library = self._binding.library
        table = self._binding.table({**self._callbacks, "init": init})
        words = [*self._words, b"-f", os.fsencode(self.directory)]
        argv = (ctypes.c_char_p * len(words))(*words)
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # libfuse only takes those
        status = library.fuse_main_real(
            len(words), argv, ctypes.byref(table), ctypes.sizeof(table), None
        )
        signal.signal(signal.SIGINT, before)
        restore = self._take_signals()
        self._flush()
        restore()
        if status:
            raise StartError(f"libfuse2 can't mount on {self.directory} (status {status})")

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


class Invalidator:
    """A queue of paths whose pages and attributes the kernel shall drop, and its thread."""

    def __init__(self, drop: Callable[[bytes], bool]):
        self._drop = drop
        self._paths: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._queued: dict[bytes, threading.Event] = {}  # each path waits once
        threading.Thread(target=self._work, name="invalidate", daemon=True).start()

    def submit(self, path: bytes) -> threading.Event:
        """Soon; never waits.  The event says when it is done."""
        done = self._queued.get(path)
        if done is None:
            done = self._queued[path] = threading.Event()
            self._paths.put(path)
        return done

    def stop(self) -> None:
        """No further ones."""
        self._paths.put(None)

    def _work(self) -> None:
        while (path := self._paths.get()) is not None:
            done = self._queued.pop(path)  # before: what changes from now on needs another
            self._drop(path)
            done.set()


@functools.cache
def _invalidator() -> Invalidator:
    return Invalidator(lambda path: _mounted is not None and _mounted.invalidate(path))


def invalidate(path: bytes) -> None:
    """Have the kernel drop its pages and attributes of a path, soon; may be called anywhere."""
    _invalidator().submit(path)


def invalidate_now(paths: Sequence[bytes]) -> None:
    """Likewise, and wait for it, but not for long: where the kernel itself waits for a page that
    the caller's own operation holds, it is done when that ends."""
    deadline = time.monotonic() + limits.INTERRUPT_POLL_S
    for done in [_invalidator().submit(path) for path in paths]:
        done.wait(max(0.0, deadline - time.monotonic()))


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
