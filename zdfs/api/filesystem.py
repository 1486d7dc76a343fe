"""A file system without a mount: `os`, `open` and `shutil`, with a connection in front.

Methods are named after what `os` and `shutil` call them and do what these do on a mount; where a
path is given as bytes, paths and names come back as bytes.  Errors are OSErrors with errno and
filename.  All of it may be used from any number of threads.
"""

import atexit
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path as LocalPath
from types import TracebackType
from typing import Any, Self, overload

from zdfs import limits, xattrs
from zdfs.api import trees
from zdfs.api.connection import Connection
from zdfs.api.entries import Entry, listed, nanoseconds, shown
from zdfs.api.files import File, RawFile, check_text, flags_of, raw_of, wrap
from zdfs.api.identity import READ, SEARCH, WRITE, Who, myself
from zdfs.api.places import Path, decoded, encoded, suppress_nowhere
from zdfs.wire import Attributes

NOW = None
_open: "weakref.WeakSet[FileSystem]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """What was left open when the program ends: flushed, for a while."""
    left = [one for one in list(_open) if one.pid == os.getpid() and not one.closed]
    # Beside this thread: whatever holds such a close up, the program ends, and ^C ends it sooner.
    ends = []
    try:
        for one in left:
            end = threading.Thread(target=_end, args=(one,), daemon=True)
            try:
                end.start()
            except RuntimeError:  # some releases of Python start none at this time
                _end(one)
            else:
                ends.append(end)
        for end in ends:
            end.join(limits.MOUNT_JOIN_S)
    finally:
        for one in left:
            one.abandon()


def _end(one: "FileSystem") -> None:
    with suppress(OSError, ValueError), one.within(limits.MOUNT_JOIN_S):
        one.close()


class FileSystem:
    """What `zdfs.connect` returns.  Use it in a `with`, or close it: its end flushes all of it."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._operations = connection.operations
        self._files: "weakref.WeakSet[File]" = weakref.WeakSet()
        self.pid = connection.pid
        _open.add(self)

    # --- life ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close what is open, store what was written, end the session.  Again, or in another thread
        meanwhile: nothing, once that is done."""
        if os.getpid() != self.pid:
            return
        with self._connection.alone("close"):
            if not self.closed:
                self._close()

    def _close(self) -> None:
        first: OSError | None = None
        for file in list(self._files):
            try:
                self._wait_for_others(file)
                file.close()
            except (TimeoutError, InterruptedError):
                raise
            except OSError as error:
                first = first or error
        self._connection.close()
        if first is not None:
            raise first

    def _wait_for_others(self, file: File) -> None:
        """Until no other thread is in a call on it, as it closes or writes it: the lock that it has
        then knows neither time limits nor ^C."""
        with suppress(ValueError):  # detached: its buffer is gone
            raw = raw_of(file)
            if raw.used_elsewhere():
                idle = threading.Event()
                self._connection.until(
                    lambda seconds: not raw.used_elsewhere() or idle.wait(seconds), "close"
                )

    def abandon(self) -> None:
        """End without waiting for anything: what was not stored yet is lost."""
        self._connection.abandon()

    @property
    def closed(self) -> bool:
        """Whether `close` or `abandon` was called."""
        return self._connection.closed

    def within(self, timeout_s: float | None) -> AbstractContextManager[None]:
        """`with fs.within(5):` what this thread calls in it raises TimeoutError after 5 seconds."""
        return self._connection.within(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<zdfs.FileSystem {self._connection.meta}{state}>"

    @property
    def address(self) -> str:
        """The metaserver's, as HOST:PORT."""
        return self._connection.meta

    @property
    def who(self) -> Who:
        """In whose name it works."""
        return self._operations.who

    @property
    def block_size(self) -> int:
        """Bytes of a block."""
        return self._connection.volume.block_bytes

    def _call(
        self, make: Callable[[], Any], what: str, path: Path, other: Path | None = None
    ) -> Any:
        given = os.fspath(path)
        second = None if other is None else os.fspath(other)
        return self._connection.run(self._operations.again(make), what, given, second)

    # --- files ---------------------------------------------------------------------------------

    def open(
        self, path: Path, mode: str = "r", buffering: int = -1, encoding: str | None = None,
        errors: str | None = None, newline: str | None = None, *, permissions: int = 0o666,
    ) -> Any:  # fmt: skip
        """As the built-in `open`; `permissions` are those of a file that it makes, before the
        umask.  Files have `fsync()`, and no `fileno()`."""
        check_text(mode, encoding=encoding, errors=errors, newline=newline)
        flags = flags_of(mode)
        if buffering == 0 and "b" not in mode:
            raise ValueError("can't have unbuffered text I/O")
        whole, given = encoded(path), os.fspath(path)
        handle = self._call(lambda: self._operations.open(whole, flags, permissions), "open", given)
        with ExitStack() as unless_open:
            raw = RawFile(self._connection, handle, flags, given)
            unless_open.callback(raw.close)
            file = wrap(raw, mode, buffering, encoding, errors, newline)
            unless_open.pop_all()
        self._files.add(file)
        return file

    def read_bytes(self, path: Path) -> bytes:
        """A whole file."""
        with self.open(path, "rb", buffering=0) as file:
            found: bytes = file.readall()
            return found

    def write_bytes(self, path: Path, data: bytes) -> int:
        """A whole file, replaced in place; how many bytes."""
        with self.open(path, "wb") as file:
            return int(file.write(data))

    def truncate(self, path: Path, length: int) -> None:
        """os.truncate."""
        whole = encoded(path)
        self._call(lambda: self._operations.truncate(whole, length), "truncate", path)

    # --- looking -------------------------------------------------------------------------------

    def stat(self, path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        """os.stat; st_dev is 0."""
        return shown(self._attributes(path, follow_symlinks), self.block_size)

    def lstat(self, path: Path) -> os.stat_result:
        """os.lstat."""
        return self.stat(path, follow_symlinks=False)

    def _attributes(self, path: Path, follow: bool = True) -> Attributes:
        whole = encoded(path)
        found: Attributes = self._call(lambda: self._operations.stat(whole, follow), "stat", path)
        return found

    def _kind(self, path: Path, follow: bool = True) -> int:
        """The type bits of what is there; 0: nothing."""
        try:
            with suppress_nowhere():
                return stat.S_IFMT(self._attributes(path, follow).mode)
        except ValueError:
            self._connection.check()
        return 0

    def exists(self, path: Path) -> bool:
        """Whether a path leads to something."""
        return bool(self._kind(path))

    def lexists(self, path: Path) -> bool:
        """Likewise; a symlink that leads nowhere is something."""
        return bool(self._kind(path, follow=False))

    def isfile(self, path: Path) -> bool:
        """Whether it is a regular file."""
        return self._kind(path) == stat.S_IFREG

    def isdir(self, path: Path) -> bool:
        """Whether it is a directory."""
        return self._kind(path) == stat.S_IFDIR

    def islink(self, path: Path) -> bool:
        """Whether it is a symlink itself."""
        return self._kind(path, follow=False) == stat.S_IFLNK

    def access(self, path: Path, mode: int) -> bool:
        """os.access: R_OK, W_OK, X_OK, F_OK."""
        whole = encoded(path)
        want = sum(bit for flag, bit in ((os.R_OK, READ), (os.W_OK, WRITE), (os.X_OK, SEARCH))
                   if mode & flag)  # fmt: skip
        with suppress_nowhere():
            return bool(self._call(lambda: self._operations.access(whole, want), "access", path))
        return False

    def scandir(self, path: Path = "/") -> Iterator[Entry]:
        """Entries of a directory, each with its attributes: no further question is asked for
        them.  What is made or removed meanwhile may or may not be among them."""
        return listed(self._connection, path)

    @overload
    def listdir(self, path: bytes) -> list[bytes]: ...
    @overload
    def listdir(self, path: str | os.PathLike[str] = "/") -> list[str]: ...
    def listdir(self, path: Any = "/") -> Any:
        """os.listdir; in the order of names."""
        return [entry.name for entry in self.scandir(path)]

    def walk(
        self, top: Path = "/", topdown: bool = True,
        onerror: Callable[[OSError], object] | None = None, followlinks: bool = False,
    ) -> Iterator[tuple[Any, list[Any], list[Any]]]:  # fmt: skip
        """os.walk: with one question for each 512 names."""
        return trees.walk(self, top, topdown, onerror, followlinks)

    @overload
    def glob(self, pattern: bytes) -> Iterator[bytes]: ...
    @overload
    def glob(self, pattern: str | os.PathLike[str]) -> Iterator[str]: ...
    def glob(self, pattern: Any) -> Iterator[Any]:
        """Paths that a pattern matches: `*`, `?`, `[...]` within a name, `**` for any number of
        directories.  Names that begin with a dot are matched by what begins with one."""
        return trees.glob(self, pattern)

    def statvfs(self, path: Path = "/") -> os.statvfs_result:
        """os.statvfs."""
        whole = encoded(path)
        space = self._call(lambda: self._operations.statfs(whole), "statvfs", path)
        unit = self.block_size
        free = space.free_bytes // unit
        return os.statvfs_result(
            (unit, unit, space.total_bytes // unit, free, free, space.inodes, space.free_inodes,
             space.free_inodes, 0, limits.NAME_BYTES)
        )  # fmt: skip

    # --- names ---------------------------------------------------------------------------------

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        """os.mkdir."""
        whole = encoded(path)
        kind = stat.S_IFDIR | mode
        self._call(lambda: self._operations.make(whole, kind), "mkdir", path)

    def makedirs(self, path: Path, mode: int = 0o777, exist_ok: bool = False) -> None:
        """os.makedirs."""
        trees.makedirs(self, path, mode, exist_ok)

    def mkfifo(self, path: Path, mode: int = 0o666) -> None:
        """os.mkfifo."""
        self.mknod(path, stat.S_IFIFO | mode)

    def mknod(self, path: Path, mode: int = 0o600, device: int = 0) -> None:
        """os.mknod."""
        whole = encoded(path)
        kind = mode if stat.S_IFMT(mode) else stat.S_IFREG | mode
        if not 0 <= device < 1 << 64:
            raise OverflowError(f"no device's number: {device}")
        self._call(lambda: self._operations.make(whole, kind, rdev=device), "mknod", path)

    def symlink(self, source: Path, path: Path) -> None:
        """os.symlink: `path` will lead to `source`."""
        target, whole = encoded(source), encoded(path)
        kind = stat.S_IFLNK | 0o777
        self._call(lambda: self._operations.make(whole, kind, target), "symlink", source, path)

    @overload
    def readlink(self, path: bytes) -> bytes: ...
    @overload
    def readlink(self, path: str | os.PathLike[str]) -> str: ...
    def readlink(self, path: Any) -> Any:
        """os.readlink."""
        whole = encoded(path)
        target = self._call(lambda: self._operations.readlink(whole), "readlink", path)
        return decoded(target, path)

    def link(self, source: Path, path: Path) -> None:
        """os.link: another name."""
        old, new = encoded(source), encoded(path)
        self._call(lambda: self._operations.link(old, new), "link", source, path)

    def rename(self, source: Path, path: Path, *, overwrite: bool = True) -> None:
        """os.rename: what is at `path` is replaced in one step; without `overwrite`
        FileExistsError."""
        old, new = encoded(source), encoded(path)
        self._call(lambda: self._operations.rename(old, new, overwrite), "rename", source, path)

    replace = rename

    def remove(self, path: Path) -> None:
        """os.remove."""
        whole = encoded(path)
        self._call(lambda: self._operations.unlink(whole), "remove", path)

    unlink = remove

    def rmdir(self, path: Path) -> None:
        """os.rmdir."""
        whole = encoded(path)
        self._call(lambda: self._operations.rmdir(whole), "rmdir", path)

    def rmtree(self, path: Path, ignore_errors: bool = False, *, threads: int = 8) -> None:
        """shutil.rmtree, with many removals in flight."""
        trees.rmtree(self, path, ignore_errors, threads)

    # --- attributes ----------------------------------------------------------------------------

    def chmod(self, path: Path, mode: int, *, follow_symlinks: bool = True) -> None:
        """os.chmod."""
        whole = encoded(path)
        self._call(lambda: self._operations.chmod(whole, mode, follow_symlinks), "chmod", path)

    def chown(self, path: Path, uid: int, gid: int, *, follow_symlinks: bool = True) -> None:
        """os.chown; -1: leave it."""
        whole = encoded(path)
        owner, group = (_identity(one) for one in (uid, gid))
        self._call(
            lambda: self._operations.chown(whole, owner, group, follow_symlinks), "chown", path
        )

    def utime(
        self, path: Path, times: tuple[float, float] | None = None, *,
        ns: tuple[int, int] | None = None, follow_symlinks: bool = True,
    ) -> None:  # fmt: skip
        """os.utime."""
        if times is not None and ns is not None:
            raise ValueError("utime: you may specify either 'times' or 'ns' but not both")
        if times is not None:
            ns = (nanoseconds(times[0]), nanoseconds(times[1]))
        whole = encoded(path)
        self._call(lambda: self._operations.utime(whole, ns, follow_symlinks), "utime", path)

    def getxattr(self, path: Path, name: str | bytes, *, follow_symlinks: bool = True) -> bytes:
        """os.getxattr."""
        whole, attribute = encoded(path), encoded(name)
        value: bytes = self._call(
            lambda: self._operations.getxattr(whole, attribute, follow_symlinks), "getxattr", path
        )
        return value

    def setxattr(
        self, path: Path, name: str | bytes, value: bytes, flags: int = 0, *,
        follow_symlinks: bool = True,
    ) -> None:  # fmt: skip
        """os.setxattr; flags: os.XATTR_CREATE, os.XATTR_REPLACE."""
        assert (xattrs.CREATE, xattrs.REPLACE) == (os.XATTR_CREATE, os.XATTR_REPLACE)
        whole, attribute, data = encoded(path), encoded(name), memoryview(value).tobytes()
        self._call(
            lambda: self._operations.setxattr(whole, attribute, data, flags, follow_symlinks),
            "setxattr", path,
        )  # fmt: skip

    def listxattr(self, path: Path = "/", *, follow_symlinks: bool = True) -> list[str]:
        """os.listxattr."""
        whole = encoded(path)
        names = self._call(
            lambda: self._operations.listxattr(whole, follow_symlinks), "listxattr", path
        )
        return [name.decode("utf-8", "surrogateescape") for name in names]

    def removexattr(self, path: Path, name: str | bytes, *, follow_symlinks: bool = True) -> None:
        """os.removexattr."""
        whole, attribute = encoded(path), encoded(name)
        self._call(
            lambda: self._operations.removexattr(whole, attribute, follow_symlinks),
            "removexattr", path,
        )  # fmt: skip

    # --- many files ----------------------------------------------------------------------------

    def copy(self, source: Path, path: Path) -> None:
        """Content and mode of a file to another one within the file system."""
        trees.copy(self, source, path)

    def copy_in(
        self, local: Path, path: Path, *, exist_ok: bool = False, threads: int = trees.THREADS,
        progress: trees.Progress | None = None, owners: bool = False,
    ) -> trees.Copied:  # fmt: skip
        """A local file or tree into the file system: content, modes, times, symlinks, holes."""
        how = trees.How(exist_ok, threads, progress, owners)
        return trees.copy_in(self, local, path, how)

    def copy_out(
        self, path: Path, local: Path, *, exist_ok: bool = False, threads: int = trees.THREADS,
        progress: trees.Progress | None = None, owners: bool = False,
    ) -> trees.Copied:  # fmt: skip
        """A file or tree out of the file system: content, modes, times, symlinks, holes."""
        how = trees.How(exist_ok, threads, progress, owners)
        return trees.copy_out(self, path, local, how)


def _identity(number: int) -> int | None:
    """A user's or group's number for chown; None: leave it."""
    if number == -1:
        return None
    if not 0 <= number < (1 << 32) - 1:
        raise OverflowError(f"no user's or group's number: {number}")
    return number


def connect(
    address: str, *, keys: Path | None = None, uid: int | None = None, gid: int | None = None,
    groups: Iterable[int] | None = None, umask: int | None = None, timeout_s: float | None = None,
    connect_timeout_s: float = limits.MOUNT_TRIES_S, attr_timeout_s: float = limits.CACHE_S,
    entry_timeout_s: float = limits.CACHE_S, name: str | None = None,
) -> FileSystem:  # fmt: skip
    """A session with the metaserver at `address` (`HOST:PORT`, or `PORT` on this machine).

    keys                      a directory of `zdfs keys`: speak under its key, to its servers only
    uid, gid, groups, umask   whose the things are that it makes, and what it may do: this
                              process's own, unless root chooses otherwise
    timeout_s                 no call takes longer: TimeoutError says what it waited for; None:
                              calls wait as they do on a mount
    connect_timeout_s         ConnectionError when no metaserver serves within
    attr_timeout_s, entry_timeout_s   how old attributes and names may be that others change
    name                      as `zdfs status` shows it
    """
    who = myself(uid, gid, groups, umask)
    shown_name = f"python:{os.getpid()}" if name is None else name
    connection = Connection(
        str(address), who, shown_name, timeout_s, attr_timeout_s, entry_timeout_s,
        None if keys is None else LocalPath(os.fsdecode(keys)),
    )  # fmt: skip
    connection.open(connect_timeout_s)
    return FileSystem(connection)
