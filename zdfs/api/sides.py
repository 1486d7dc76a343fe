"""The two ends of a copy, with the same methods: a local file system and ours.

`data(at)`: the next stretch with data, (first, end), None when there is none; `settle`: mode, times
and, if wanted, the owner, in as few steps as can be.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from zdfs import limits
from zdfs.api.places import encoded

if TYPE_CHECKING:
    from zdfs.api.filesystem import FileSystem

Listing = list[tuple[Any, Any, os.stat_result]]  # name, path, attributes


class Side(Protocol):
    """One end."""

    def lstat(self, path: Any) -> os.stat_result: ...
    def entries(self, path: Any) -> Listing: ...
    def join(self, path: Any, name: Any) -> Any: ...
    def mkdir(self, path: Any, exist_ok: bool) -> None: ...
    def readlink(self, path: Any) -> Any: ...
    def symlink(self, target: Any, path: Any, exist_ok: bool) -> None: ...
    def settle(self, path: Any, found: os.stat_result, owners: bool) -> None: ...
    def reading(self, path: Any) -> Any: ...
    def writing(self, path: Any, exist_ok: bool) -> Any: ...
    def may_give(self) -> bool: ...


def joined(path: Any, name: Any) -> Any:
    """A path with a name, of the kind of the path."""
    wanted = os.fsencode(name) if isinstance(path, bytes) else os.fsdecode(name)
    return os.path.join(path, wanted)


def _to_write(exist_ok: bool) -> int:
    return os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if exist_ok else os.O_EXCL)


def times(found: os.stat_result) -> tuple[int, int]:
    """The times that a copy keeps."""
    return found.st_atime_ns, found.st_mtime_ns


class Local:
    """This machine."""

    lstat = staticmethod(os.lstat)
    join = staticmethod(joined)
    readlink = staticmethod(os.readlink)

    def may_give(self) -> bool:
        """Whether files may be given to others here."""
        return os.geteuid() == 0

    def entries(self, path: Any) -> Listing:
        """Sorted, so that a run is like the other."""
        with os.scandir(path) as found:
            listing = [(one.name, one.path, one.stat(follow_symlinks=False)) for one in found]
        return sorted(listing, key=lambda one: one[0])

    def mkdir(self, path: Any, exist_ok: bool) -> None:
        """Open to the owner until it is settled."""
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not exist_ok or not os.path.isdir(path):
                raise

    def symlink(self, target: Any, path: Any, exist_ok: bool) -> None:
        """`exist_ok`: in place of what is there, if that is no directory."""
        try:
            os.symlink(target, path)
        except FileExistsError:
            if not exist_ok:
                raise
            os.remove(path)
            os.symlink(target, path)

    def settle(self, path: Any, found: os.stat_result, owners: bool) -> None:
        """Of a symlink or a directory."""
        if owners:
            os.chown(path, found.st_uid, found.st_gid, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(path, stat.S_IMODE(found.st_mode))
        os.utime(path, ns=times(found), follow_symlinks=False)

    @contextmanager
    def reading(self, path: Any) -> Iterator["LocalFile"]:
        """A file to read."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield LocalFile(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def writing(self, path: Any, exist_ok: bool) -> Iterator["LocalFile"]:
        """A file to write; only the owner may look until it is settled."""
        descriptor = os.open(path, _to_write(exist_ok) | os.O_CLOEXEC, 0o600)
        try:
            yield LocalFile(descriptor)
        finally:
            os.close(descriptor)


class LocalFile:
    """An open file of this machine."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def get(self, size: int, offset: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def put(self, data: Any, offset: int) -> None:
        """All of it."""
        view = memoryview(data)
        while len(view):
            done = os.pwrite(self.descriptor, view, offset)
            view, offset = view[done:], offset + done

    def data(self, at: int) -> tuple[int, int] | None:
        """Where the next data stands."""
        try:
            first = os.lseek(self.descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None
        return first, os.lseek(self.descriptor, first, os.SEEK_HOLE)

    def cut(self, size: int) -> None:
        os.ftruncate(self.descriptor, size)

    def settle(self, found: os.stat_result, owners: bool) -> None:
        """The owner first: it ends set-id bits."""
        if owners:
            os.fchown(self.descriptor, found.st_uid, found.st_gid)
        os.fchmod(self.descriptor, stat.S_IMODE(found.st_mode))
        os.utime(self.descriptor, ns=times(found))


class Remote:
    """Ours."""

    def __init__(self, fs: "FileSystem"):
        self._fs = fs
        self._connection = fs._connection
        self._operations = fs._operations

    join = staticmethod(joined)

    def lstat(self, path: Any) -> os.stat_result:
        return self._fs.lstat(path)

    def may_give(self) -> bool:
        """Whether files may be given to others here."""
        return self._operations.who.root

    def entries(self, path: Any) -> Listing:
        """With attributes, which came along."""
        found = self._fs.scandir(path)
        return [(one.name, one.path, one.stat(follow_symlinks=False)) for one in found]

    def mkdir(self, path: Any, exist_ok: bool) -> None:
        """Open to the owner until it is settled."""
        try:
            self._fs.mkdir(path, 0o700)
        except FileExistsError:
            if not exist_ok or not self._fs.isdir(path):
                raise

    def readlink(self, path: Any) -> Any:
        return self._fs.readlink(path)

    def symlink(self, target: Any, path: Any, exist_ok: bool) -> None:
        """`exist_ok`: in place of what is there, if that is no directory."""
        try:
            self._fs.symlink(target, path)
        except FileExistsError:
            if not exist_ok:
                raise
            self._fs.remove(path)
            self._fs.symlink(target, path)

    def settle(self, path: Any, found: os.stat_result, owners: bool) -> None:
        """Of a symlink or a directory: one question to look, one to change."""
        whole = encoded(path)
        self._call(lambda: self._settle(whole, found, owners), "utime", path)

    async def _settle(self, path: bytes, found: os.stat_result, owners: bool) -> None:
        there = await self._operations.stat(path, follow=False)
        await self._set(there.ino, found, owners, link=stat.S_ISLNK(there.mode))

    async def _set(self, ino: Any, found: os.stat_result, owners: bool, link: bool) -> None:
        atime, mtime = (min(max(ns, limits.FIRST_NS), limits.LAST_NS) for ns in times(found))
        mode = stat.S_IMODE(found.st_mode)
        if not self.may_give():
            mode &= 0o1777
        await self._operations.volume.set_ino(
            ino,
            mode=None if link else mode,
            uid=found.st_uid if owners else None,
            gid=found.st_gid if owners else None,
            atime_ns=atime,
            mtime_ns=mtime,
        )

    def _call(self, make: Any, what: str, path: Any) -> Any:
        return self._connection.run(self._operations.again(make), what, path)

    @contextmanager
    def reading(self, path: Any) -> Iterator["RemoteFile"]:
        """A file to read."""
        whole, flags = encoded(path), os.O_RDONLY | os.O_NOFOLLOW
        handle = self._call(lambda: self._operations.open(whole, flags, 0), "open", path)
        try:
            yield RemoteFile(self, handle, path)
        finally:
            self._connection.run(self._operations.close(handle, False), "close", path)

    @contextmanager
    def writing(self, path: Any, exist_ok: bool) -> Iterator["RemoteFile"]:
        """A file to write."""
        whole, flags = encoded(path), _to_write(exist_ok)
        handle = self._call(lambda: self._operations.open(whole, flags, 0o600, 0), "open", path)
        file = RemoteFile(self, handle, path)
        try:
            yield file
        finally:
            if not file.closed:
                with suppress(ValueError):
                    self._connection.run(self._operations.close(handle, False), "close", path)


class RemoteFile:
    """An open file of ours."""

    def __init__(self, side: Remote, handle: int, path: Any):
        self._side, self._handle, self._path = side, handle, path
        self._volume = side._operations.volume
        self.closed = False

    def _run(self, make: Any, what: str) -> Any:
        return self._side._call(make, what, self._path)

    def get(self, size: int, offset: int) -> Any:
        return self._run(lambda: self._volume.read(self._handle, size, offset), "read")

    def put(self, data: Any, offset: int) -> None:
        """All of it."""
        view = memoryview(data)
        while len(view):
            done = self._run(
                lambda view=view, at=offset: self._volume.write(self._handle, view, at),
                "write",
            )
            view, offset = view[done:], offset + done

    def data(self, at: int) -> tuple[int, int] | None:
        """Where the next data stands."""
        try:
            first = self._run(lambda: self._volume.lseek(self._handle, at, os.SEEK_DATA), "lseek")
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None
        return first, self._run(
            lambda: self._volume.lseek(self._handle, first, os.SEEK_HOLE), "lseek"
        )

    def cut(self, size: int) -> None:
        ino = self._volume.open_inode(self._handle)
        assert ino is not None
        self._run(lambda: self._volume.truncate_ino(ino, self._handle, size), "truncate")

    def settle(self, found: os.stat_result, owners: bool) -> None:
        """Stored, then mode and times, which a commit would move; and closed."""

        async def finish() -> None:
            await self._volume.flush(self._handle)
            ino = self._volume.open_inode(self._handle)
            await self._side._set(ino, found, owners, link=False)
            await self._volume.release(self._handle)

        self._run(finish, "close")
        self.closed = True
