"""libfuse3's low-level interface, by ctypes: its operations, its answers, its notifications.

mfusepy brings the library and the layout of its structures, by version; its own wrappers are for
the high-level interface and stay unused.  Questions to libfuse keep the GIL (`PyDLL`): they are
short.  Answers let go of it (`CDLL`), however short: the kernel wakes whom they are for, often on
this very processor, and who is put aside with the GIL in its hands stops everybody (a third of the
speed of small writes).

`Fuse` packs what the kernel is told: a struct stat or struct fuse_entry_param is one `pack`; filled
field by field it would cost ten times as much.
"""

import ctypes
import errno
import functools
import logging
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ctypes import c_char_p, c_double, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from operator import itemgetter
from typing import Any

from zdfs.checksum import Buffer
from zdfs.errors import Posix, StartError
from zdfs.wire import Attributes

log = logging.getLogger("zdfs.kernel")

Callback = Callable[..., None]
NS = 1_000_000_000
DONT_MASK, POSIX_ACL = 1 << 6, 1 << 19  # FUSE_CAP_*: the umask comes along; lists are heeded
PYBUF_READ = 0x100  # CPython's object.h
ATTRIBUTES_ONLY = -1  # an offset of notify_inval_inode
EXPIRE_ONLY = 1  # FUSE_LL_EXPIRE_ONLY: ask again at the next use; nothing in use is torn out
MISSING = "libfuse3 is missing, nothing can be mounted: apt-get install fuse3"


class Arguments(ctypes.Structure):
    """struct fuse_args."""

    _fields_ = [
        ("argc", c_int),
        ("argv", ctypes.POINTER(c_char_p)),
        ("allocated", c_int),
    ]


class Context(ctypes.Structure):
    """struct fuse_ctx: who asks.  `pid` names the thread."""

    _fields_ = [("uid", c_uint32), ("gid", c_uint32), ("pid", c_int), ("umask", c_uint32)]


class Piece(ctypes.Structure):
    """struct fuse_bufvec of one buffer in memory."""

    _fields_ = [
        ("count", c_size_t),
        ("index", c_size_t),
        ("offset", c_size_t),
        ("size", c_size_t),
        ("flags", c_int),
        ("mem", c_char_p),
        ("fd", c_int),
        ("pos", c_int64),
    ]


class View(ctypes.Structure):
    """Py_buffer of CPython: where the bytes of an object are."""

    _fields_ = [
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_char_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("suboffsets", c_void_p),
        ("internal", c_void_p),
    ]


def _operations(module: Any) -> list[tuple[str, Any]]:
    """struct fuse_lowlevel_ops up to lseek, in its order (fuse_lowlevel.h, 3.8 and later)."""
    req, ino, name, off = c_void_p, c_uint64, c_char_p, c_int64
    fi, lock = ctypes.POINTER(module.fuse_file_info), ctypes.POINTER(module.c_flock_t)
    attributes = ctypes.POINTER(module.c_stat)
    connection = ctypes.POINTER(module.fuse_conn_info)
    shapes: list[tuple[str, tuple[Any, ...]]] = [
        ("init", (c_void_p, connection)),
        ("destroy", (c_void_p,)),
        ("lookup", (req, ino, name)),
        ("forget", (req, ino, c_uint64)),
        ("getattr", (req, ino, fi)),
        ("setattr", (req, ino, attributes, c_int, fi)),
        ("readlink", (req, ino)),
        ("mknod", (req, ino, name, c_uint32, c_uint64)),
        ("mkdir", (req, ino, name, c_uint32)),
        ("unlink", (req, ino, name)),
        ("rmdir", (req, ino, name)),
        ("symlink", (req, name, ino, name)),
        ("rename", (req, ino, name, ino, name, c_uint32)),
        ("link", (req, ino, ino, name)),
        ("open", (req, ino, fi)),
        ("read", (req, ino, c_size_t, off, fi)),
        ("write", (req, ino, c_void_p, c_size_t, off, fi)),
        ("flush", (req, ino, fi)),
        ("release", (req, ino, fi)),
        ("fsync", (req, ino, c_int, fi)),
        ("opendir", (req, ino, fi)),
        ("readdir", (req, ino, c_size_t, off, fi)),
        ("releasedir", (req, ino, fi)),
        ("fsyncdir", (req, ino, c_int, fi)),
        ("statfs", (req, ino)),
        ("setxattr", (req, ino, name, c_void_p, c_size_t, c_int)),
        ("getxattr", (req, ino, name, c_size_t)),
        ("listxattr", (req, ino, c_size_t)),
        ("removexattr", (req, ino, name)),
        ("access", (req, ino, c_int)),
        ("create", (req, ino, name, c_uint32, fi)),
        ("getlk", (req, ino, fi, lock)),
        ("setlk", (req, ino, fi, lock, c_int)),
        ("bmap", (req, ino, c_size_t, c_uint64)),
        ("ioctl", (req, ino, c_int, c_void_p, fi, c_uint32, c_void_p, c_size_t, c_size_t)),
        ("poll", (req, ino, fi, c_void_p)),
        ("write_buf", (req, ino, c_void_p, off, fi)),
        ("retrieve_reply", (req, c_void_p, ino, off, c_void_p)),
        ("forget_multi", (req, c_size_t, c_void_p)),
        ("flock", (req, ino, fi, c_int)),
        ("fallocate", (req, ino, c_int, off, off, fi)),
        ("readdirplus", (req, ino, c_size_t, off, fi)),
        ("copy_file_range", (req, ino, off, fi, ino, off, fi, c_size_t, c_int)),
        ("lseek", (req, ino, off, c_int, fi)),
    ]
    return [(one, ctypes.CFUNCTYPE(None, *shape)) for one, shape in shapes]


_FUNCTIONS: dict[str, tuple[Any, ...]] = {  # after "fuse_": what it takes; all that give a status
    "session_mount": (c_void_p, c_char_p),
    "reply_buf": (c_void_p, c_void_p, c_size_t),
    "lowlevel_notify_inval_inode": (c_void_p, c_uint64, c_int64, c_int64),
    "lowlevel_notify_store": (c_void_p, c_uint64, c_int64, c_void_p, c_int),
    "lowlevel_notify_inval_entry": (c_void_p, c_uint64, c_char_p, c_size_t),
    "lowlevel_notify_expire_entry": (c_void_p, c_uint64, c_char_p, c_size_t, c_int),
    "reply_err": (c_void_p, c_int),
    "reply_entry": (c_void_p, c_char_p),
    "reply_create": (c_void_p, c_char_p, c_void_p),
    "reply_attr": (c_void_p, c_char_p, c_double),
    "reply_readlink": (c_void_p, c_char_p),
    "reply_open": (c_void_p, c_void_p),
    "reply_write": (c_void_p, c_size_t),
    "reply_statfs": (c_void_p, c_void_p),
    "reply_xattr": (c_void_p, c_size_t),
    "reply_lock": (c_void_p, c_void_p),
    "reply_lseek": (c_void_p, c_int64),
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What an operation answers."""

    send: Callable[[int], int]  # given libfuse's request; minus an errno when nobody waits for it
    undo: Callable[[], None] | None = None  # what was opened, when nobody has got it


class Fuse:
    """The library and its structures.  Replies give 0, or minus an errno: nobody waits for it."""

    def __init__(self, module: Any):
        self.module = module
        self.library = ctypes.CDLL(module._libfuse._name)
        quick = ctypes.PyDLL(module._libfuse._name)
        for name, shape in _FUNCTIONS.items():
            found = getattr(self.library, f"fuse_{name}", None)  # expire_entry: since 3.13
            if found is not None:
                found.argtypes, found.restype = shape, c_int
            setattr(self, name, found)
        self.req_interrupted = quick.fuse_req_interrupted
        self.req_interrupted.argtypes = [c_void_p]
        for name in ("session_unmount", "session_destroy", "session_exit", "session_exited"):
            getattr(self.library, f"fuse_{name}").argtypes = [c_void_p]
            getattr(self.library, f"fuse_{name}").restype = c_int
        self.library.fuse_session_new.argtypes = [c_void_p, c_void_p, c_size_t, c_void_p]
        self.library.fuse_session_new.restype = c_void_p
        self.req_ctx = quick.fuse_req_ctx
        self.req_ctx.argtypes, self.req_ctx.restype = [c_void_p], ctypes.POINTER(Context)
        self.operations = _operations(module)
        self._stat, self._order = _stat_layout(module.c_stat)
        self._entry_head, self._entry_tail = struct.Struct("=QQ"), struct.Struct("=dd")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # for mypy: the functions above are set by name

    # --- what the kernel is told ---------------------------------------------------------------

    def attributes(self, attributes: Attributes, block_bytes: int) -> bytes:
        """A struct stat."""
        a = attributes
        values = (
            *(a.ino, a.mode, a.nlink, a.uid, a.gid, a.rdev, a.size),
            max(4096, block_bytes),
            -(-a.stored // 512),
            *divmod(a.atime_ns, NS),
            *divmod(a.mtime_ns, NS),
            *divmod(a.ctime_ns, NS),
        )
        return self._stat.pack(*self._order(values))

    def entry(
        self, ino: int, packed: bytes, attr_timeout_s: float, entry_timeout_s: float
    ) -> bytes:
        """A struct fuse_entry_param, from a struct stat.  Inode numbers are never used twice, so
        the generation is always 0."""
        times = self._entry_tail.pack(attr_timeout_s, entry_timeout_s)
        return self._entry_head.pack(ino, 0) + packed + times

    def send_buffer(self, request: int, data: Buffer) -> int:
        """Answer with bytes, from where they are."""
        if isinstance(data, bytes):
            sent: int = self.reply_buf(request, data, len(data))
            return sent
        view = View()
        _PYTHON.PyObject_GetBuffer(data, ctypes.byref(view), 0)
        try:
            sent = self.reply_buf(request, view.buf, view.len)
        finally:
            _PYTHON.PyBuffer_Release(ctypes.byref(view))
        return sent

    def sized(self, value: bytes, size: int) -> Reply:
        """A value for a buffer of `size` (0: only how long it is); ERANGE when it is too small."""
        if not size:
            return Reply(lambda request: self.reply_xattr(request, len(value)))
        if len(value) > size:
            raise Posix(errno.ERANGE)
        return Reply(lambda request: self.reply_buf(request, value, len(value)))

    def table(self, callbacks: Mapping[str, Callback]) -> Any:
        """struct fuse_lowlevel_ops of these callbacks; keep it as long as the session."""

        class Table(ctypes.Structure):
            _fields_ = self.operations

        table = Table()
        for name, prototype in self.operations:
            if name in callbacks:
                setattr(table, name, prototype(callbacks[name]))
        return table

    def session(self, words: list[bytes], table: Any) -> int | None:
        """A new session; None: libfuse refuses the words."""
        argv = (c_char_p * len(words))(*words)
        arguments = Arguments(len(words), argv, 0)
        session: int | None = self.library.fuse_session_new(
            ctypes.byref(arguments), ctypes.byref(table), ctypes.sizeof(table), None
        )
        return session


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
    form += f"{ctypes.sizeof(c_stat) - end}x"
    return struct.Struct(form), itemgetter(*order)


def _module() -> Any:
    """mfusepy over libfuse3."""
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")  # it looks for this when it is imported
    try:
        import mfusepy
    except (ImportError, AttributeError, OSError) as error:
        log.debug("no mfusepy over libfuse3: %s", error)
        raise StartError(MISSING) from error
    if mfusepy.fuse_version_major != 3:
        raise StartError(MISSING)
    return mfusepy


@functools.cache
def binding() -> Fuse:
    """The one of this process; StartError where there is no libfuse3."""
    return Fuse(_module())


def version() -> str:
    """That of libfuse; StartError likewise."""
    module = _module()
    return f"{module.fuse_version_major}.{module.fuse_version_minor}"


_PYTHON = ctypes.pythonapi
_PYTHON.PyMemoryView_FromMemory.restype = ctypes.py_object
_PYTHON.PyMemoryView_FromMemory.argtypes = [c_void_p, ctypes.c_ssize_t, c_int]
_PYTHON.PyObject_GetBuffer.argtypes = [ctypes.py_object, c_void_p, c_int]
_PYTHON.PyBuffer_Release.argtypes = [c_void_p]
_PYTHON.PyBuffer_Release.restype = None


def readable(pointer: Any, size: int) -> memoryview:
    """C memory as it is, no copy; gone when the operation ends."""
    view: memoryview = _PYTHON.PyMemoryView_FromMemory(pointer, size, PYBUF_READ)
    return view
