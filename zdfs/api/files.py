"""Open files: what `open` returns, on a volume.

    RawFile           one handle and a position; each call goes to the volume
    Reader ... Text   Python's own buffers and text over it, with `fsync`

They differ from Python's own in two things: `fsync()`, and no `fileno()`.

**A close that runs out of time** has accepted what its buffer still holds: the janitor gets it,
too, and waits as long as it takes.

**Forgotten open**, a file is closed by its finaliser, as Python's own are.  That may run in any
thread at any moment, also in one that has the volume's lock, and then must not wait for anything:
what it does there is handed to the connection's janitor, in order.
"""

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from zdfs import limits
from zdfs.api.connection import Connection

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

CHUNK_BYTES = 4 * limits.MIB  # asked for at once: several batches of blocks, not all memory
BUFFER_BYTES = 256 * limits.KIB

_HOW = {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "x": os.O_CREAT | os.O_EXCL}
_HOW["a"] = os.O_CREAT | os.O_APPEND


def flags_of(mode: str) -> int:
    """open(2)'s flags for a mode as `open` takes it; ValueError as there."""
    kinds = [one for one in mode if one in "rwxa"]
    strange = set(mode) - set("rwxabt+")
    if strange or len(set(mode)) != len(mode):
        raise ValueError(f"invalid mode: {mode!r}")
    if "b" in mode and "t" in mode:
        raise ValueError("can't have text and binary mode at once")
    if len(kinds) != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    if "+" in mode:
        return os.O_RDWR | _HOW[kinds[0]]
    return _HOW[kinds[0]] | (os.O_RDONLY if kinds[0] == "r" else os.O_WRONLY)


class RawFile(io.RawIOBase):
    """An open file without a buffer: a write has been accepted when it returns, and is stored when
    `close` or `fsync` returns."""

    def __init__(self, connection: Connection, handle: int, flags: int, path: str | bytes):
        self._connection, self._handle, self._flags = connection, handle, flags
        self.name = path
        self.wrapped = False  # a buffer over it looks after its end
        self._users: list[int] = []  # threads in a call, also that of a buffer's close
        self.ending = False  # it is being closed: what can't be written now is written later
        self._put_off: BaseException | None = None  # why something is written later
        self._position = 0
        self._placing = threading.RLock()  # a read and its move are one step
        self._drops_privileges = False
        if flags & os.O_APPEND:
            self._position = self._size()

    # --- what it can ---------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """As FileIO says it."""
        if self._flags & os.O_APPEND:
            return "ab+" if self.readable() else "ab"
        if self._flags & os.O_EXCL:
            return "xb+" if self.readable() else "xb"
        return {os.O_RDONLY: "rb", os.O_WRONLY: "wb"}.get(self._flags & os.O_ACCMODE, "rb+")

    def readable(self) -> bool:
        self._alive()
        return self._flags & os.O_ACCMODE != os.O_WRONLY

    def writable(self) -> bool:
        self._alive()
        return self._flags & os.O_ACCMODE != os.O_RDONLY

    def seekable(self) -> bool:
        self._alive()
        return True

    def _alive(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _needs(self, able: bool, what: str) -> None:
        if not able:
            raise io.UnsupportedOperation(f"File not open for {what}")

    def _run(self, coroutine: Any, what: str) -> Any:
        with self.used():
            return self._connection.run(coroutine, what, self.name)

    @contextmanager
    def used(self) -> Iterator[None]:
        """This thread is in a call."""
        me = threading.get_ident()
        self._users.append(me)
        try:
            yield
        finally:
            self._users.remove(me)

    def used_elsewhere(self) -> bool:
        """Whether another thread is in a call, and may have the lock of a buffer over it, for which
        nothing but that call's end ends a wait."""
        return any(one != threading.get_ident() for one in list(self._users))

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"mode={self.mode!r}"
        return f"<zdfs.RawFile name={self.name!r} {state}>"

    # --- content -------------------------------------------------------------------------------

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill as much as there is, in one go if it isn't huge; 0 at the end."""
        self._needs(self.readable(), "reading")
        view = memoryview(buffer).cast("B")
        with self._placing:
            size = min(len(view), CHUNK_BYTES)
            data = self._pread(size, self._position)
            view[: len(data)] = data
            self._position += len(data)
        return len(data)

    def _pread(self, size: int, offset: int) -> Any:
        return self._run(self._connection.volume.read(self._handle, size, offset), "read")

    def pread(self, size: int, offset: int) -> bytes:
        """Bytes at an offset; short at the end of the file only.  The position stays."""
        self._needs(self.readable(), "reading")
        if size < 0 or offset < 0:
            raise ValueError("negative size or offset")
        parts = []
        while size:
            data = self._pread(min(size, CHUNK_BYTES), offset)
            if not len(data):
                break
            parts.append(bytes(data))
            size, offset = size - len(data), offset + len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readall(self) -> bytes:
        """Everything from the position to the end."""
        self._needs(self.readable(), "reading")
        with self._placing:
            parts = []
            while len(data := self._pread(CHUNK_BYTES, self._position)):
                self._position += len(data)
                parts.append(bytes(data))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, data: "ReadableBuffer") -> int:
        """Accept bytes, as many as it says; where the file ends, if it was opened to append."""
        self._needs(self.writable(), "writing")
        view = memoryview(data).cast("B")
        if self._put_off is not None or self._connection.reentered():
            return self._write_later(bytes(view))
        try:
            return self._write_now(view)
        except (TimeoutError, InterruptedError, KeyboardInterrupt) as error:
            if not self.ending:
                raise
            self._put_off = error  # close raises it
            return self._write_later(bytes(view))

    def _write_now(self, view: memoryview) -> int:
        with self._placing:
            self._end_privileges()
            written = self._pwrite(view, self._position)
            if self._flags & os.O_APPEND:
                self._position = self._size()
            else:
                self._position += written
        return written

    def _write_later(self, data: bytes) -> int:
        """What a buffer still had when it was finalised, or its close ran out of time."""

        def write(view: memoryview = memoryview(data), at: int = self._position) -> None:
            while len(view):
                done = self._pwrite(view, at)
                view, at = view[done:], at + done

        self._connection.later(write)
        self._position += len(data)
        return len(data)

    def _pwrite(self, view: memoryview, offset: int) -> int:
        if not len(view):
            return 0
        return cast(int, self._run(
            self._connection.volume.write(self._handle, view[:CHUNK_BYTES], offset), "write"
        ))  # fmt: skip

    def _end_privileges(self) -> None:
        """Once: the first write ends set-id bits and a capability."""
        if self._drops_privileges:
            return
        self._run(self._connection.operations.end_privileges_of(self._handle), "write")
        self._drops_privileges = True

    def truncate(self, size: int | None = None) -> int:
        """Cut or lengthen; the position stays."""
        self._needs(self.writable(), "writing")
        with self._placing:
            size = self._position if size is None else size
            if size < 0:
                raise OSError(22, os.strerror(22), self.name)
            self._end_privileges()
            volume = self._connection.volume
            ino = volume.open_inode(self._handle)
            assert ino is not None, "an open file has its inode"
            self._run(volume.truncate_ino(ino, self._handle, size), "truncate")
        return size

    # --- the position --------------------------------------------------------------------------

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; also to where the next data or hole begins (SEEK_DATA, SEEK_HOLE)."""
        self._alive()
        with self._placing:
            if whence in (os.SEEK_DATA, os.SEEK_HOLE):
                volume = self._connection.volume
                self._position = self._run(volume.lseek(self._handle, offset, whence), "seek")
                return self._position
            if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
                raise ValueError(f"invalid whence: {whence}")
            base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
            at = (self._size() if base is None else base) + offset
            if not 0 <= at <= limits.FILE_BYTES:
                raise OSError(22, os.strerror(22), self.name)
            self._position = at
            return at

    def tell(self) -> int:
        self._alive()
        return self._position

    def _size(self) -> int:
        return cast(int, self._run(self._connection.volume.stat(self._handle), "stat").size)

    # --- the end -------------------------------------------------------------------------------

    def fsync(self) -> None:
        """When this returns, what was written, and the file's name, are on all disks."""
        self._alive()
        self._run(self._connection.volume.fsync(self._handle), "fsync")

    def close(self) -> None:
        """When this returns, what was written is stored.  The file is closed also when it raises;
        then what can still be stored is, for as long as the connection is open."""
        if self.closed:
            return
        try:
            if self._put_off is not None:
                self._connection.later(self._close_now)
                raise self._put_off
            if self._connection.reentered():
                self._connection.later(self._close_now)
            elif self._connection.usable():
                self._close_now()
        finally:
            super().close()

    def _close_now(self) -> None:
        flush = self._flags & os.O_ACCMODE != os.O_RDONLY
        self._run(self._connection.operations.close(self._handle, flush), "close")

    def _dealloc_warn(self, source: object) -> None:
        """Called by buffers that are forgotten open, as FileIO's."""
        warnings.warn(f"unclosed file {source!r}", ResourceWarning, source=source, stacklevel=2)

    def __del__(self) -> None:
        # A buffer over it closes it; of a cycle of both, it may be finalised first.
        if not self.wrapped and not self.closed:
            self._dealloc_warn(self)
            self.close()

    def __reduce__(self) -> Any:
        raise TypeError("an open file can't be pickled: open it where it is used")


class _Wrapper:
    """A buffer over a file of a connection."""

    def fsync(self) -> None:
        """When this returns, what was written, and the file's name, are on all disks."""
        self.flush()  # type: ignore[attr-defined]
        raw_of(self).fsync()

    def close(self) -> None:
        """Flush and close.  Python's own forgets what it can't write in time: `RawFile.write`."""
        with ExitStack() as while_closing:
            with suppress(ValueError):  # detached, or never whole
                raw = raw_of(self)
                raw.ending = True
                while_closing.enter_context(raw.used())
            super().close()  # type: ignore[misc]

    def detach(self) -> Any:
        """What is below; it looks after its own end from now on."""
        below = super().detach()  # type: ignore[misc]
        below.wrapped = False
        return below


class Reader(_Wrapper, io.BufferedReader):
    """A file to read."""


class Writer(_Wrapper, io.BufferedWriter):
    """A file to write."""


class Random(_Wrapper, io.BufferedRandom):
    """A file to read and write."""


class Text(_Wrapper, io.TextIOWrapper):
    """A file of text."""


File = RawFile | Reader | Writer | Random | Text


def raw_of(file: Any) -> RawFile:
    """What is at the bottom of a file; ValueError when that was detached."""
    while not isinstance(file, RawFile):
        file = file.buffer if isinstance(file, io.TextIOWrapper) else file.raw
    return file


def wrap(
    raw: RawFile, mode: str, buffering: int, encoding: str | None, errors: str | None,
    newline: str | None,
) -> File:  # fmt: skip
    """What `open` puts over a raw file."""
    text = "b" not in mode
    if buffering == 0:
        if text:
            raise ValueError("can't have unbuffered text I/O")
        return raw
    size = BUFFER_BYTES if buffering in (-1, 1) else buffering
    kind = Random if "+" in mode else Reader if "r" in mode else Writer
    file = kind(raw, size)
    raw.wrapped = True
    if not text:
        return file
    over = Text(file, encoding, errors, newline, buffering == 1)
    setattr(over, "mode", mode)  # as io.open does
    return over


def check_text(mode: str, **given: str | None) -> None:
    """ValueError for what only text has, as `open` says it."""
    for name, value in given.items():
        if "b" in mode and value is not None:
            raise ValueError(f"binary mode doesn't take an {name} argument")
