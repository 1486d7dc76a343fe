"""`zdfs://host:port/path` for fsspec, and so for pandas, pyarrow, dask, zarr and others.

A ZdfsFileSystem is a FileSystem under fsspec's names.  It connects when it is first used, and once
more in a process that was forked off, so it may be pickled, kept and passed to workers.  Names are
a directory tree, so parents are made when a file is opened to be written (`auto_mkdir=False`: not).

What a transaction is and promises stands in `transactions`.
"""

import datetime
import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeVar

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from fsspec.utils import stringify_path

from zdfs import addresses
from zdfs.api.entries import Entry
from zdfs.api.filesystem import FileSystem, connect
from zdfs.api.transactions import Deferred, Stored
from zdfs.errors import StartError

T = TypeVar("T")
PORT = 2222
RANGES = 8  # read at once by cat_ranges
_KINDS = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}


class ZdfsFileSystem(AbstractFileSystem):
    """fsspec.filesystem("zdfs", host="localhost", port=2222); more options are zdfs.connect's."""

    protocol = "zdfs"
    root_marker = "/"
    transaction_type = Stored

    def __init__(
        self, host: str = "127.0.0.1", port: int = PORT, auto_mkdir: bool = True,
        **storage_options: Any,
    ):  # fmt: skip
        super().__init__(host=host, port=port, auto_mkdir=auto_mkdir, **storage_options)
        self.address = f"{host}:{port}"
        self.auto_mkdir = auto_mkdir
        strange = ("asynchronous", "loop", "skip_instance_cache", "use_listings_cache",
                   "listings_expiry_time", "max_paths", "batch_size")  # fmt: skip
        self._chosen = {k: v for k, v in storage_options.items() if k not in strange}
        self._files: FileSystem | None = None
        self._connecting = (os.getpid(), threading.Lock())

    @property
    def files(self) -> FileSystem:
        """The file system as zdfs.connect has it."""
        files = self._files
        if files is not None and files.pid == os.getpid() and not files.closed:
            return files
        if self._connecting[0] != os.getpid():  # whoever held the lock is not in this process
            self._connecting = (os.getpid(), threading.Lock())
        with self._connecting[1]:
            files = self._files
            if files is None or files.pid != os.getpid() or files.closed:
                files = self._files = connect(self.address, **self._chosen)
            return files

    # --- names of paths ------------------------------------------------------------------------

    @property
    def fsid(self) -> str:
        """The same for instances of the same file system."""
        return f"zdfs_{self.address}"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        path = stringify_path(path)
        if path.startswith("zdfs://"):
            path = path.removeprefix("zdfs://").partition("/")[2]
        return "/" + path.strip("/") if path.strip("/") else "/"

    @staticmethod
    def _get_kwargs_from_urls(path: Any) -> dict[str, Any]:
        path = stringify_path(path)
        if not path.startswith("zdfs://"):
            return {}
        host, _, port = path.removeprefix("zdfs://").partition("/")[0].partition(":")
        try:
            addresses.parse(f"{host or addresses.LOOPBACK}:{port or PORT}")
        except StartError as error:
            raise ValueError(f"{path}: {error}; a URL looks like zdfs://HOST:PORT/path") from error
        found: dict[str, Any] = {"host": host} if host else {}
        if port:
            found["port"] = int(port)
        return found

    def unstrip_protocol(self, name: str) -> str:
        """The whole URL, with host and port."""
        return f"zdfs://{self.address}{self._strip_protocol(name)}"

    @classmethod
    def _parent(cls, path: Any) -> Any:
        return cls._strip_protocol(path).rpartition("/")[0] or "/"

    def _with_parents(self, path: str, make: Callable[[], T]) -> T:
        """Have something made; its directories too, if they are not there."""
        try:
            return make()
        except FileNotFoundError:
            if not self.auto_mkdir:
                raise
        # That they are there now may be another thread's doing: it is tried again in any case.
        self.files.makedirs(self._parent(path), exist_ok=True)
        return make()

    # --- looking -------------------------------------------------------------------------------

    def _described(self, name: str, found: os.stat_result, link: bool) -> dict[str, Any]:
        return {
            "name": name,
            "size": found.st_size,
            "type": _KINDS.get(stat.S_IFMT(found.st_mode), "other"),
            "islink": link,
            "created": found.st_ctime,  # the nearest to it that is kept
            "mtime": found.st_mtime,
            "mode": found.st_mode,
            "uid": found.st_uid,
            "gid": found.st_gid,
            "ino": found.st_ino,
            "nlink": found.st_nlink,
            "version": f"{found.st_ino}-{found.st_ctime_ns}-{found.st_size}",
        }

    def _entry(self, entry: Entry) -> dict[str, Any]:
        found = entry.stat(follow_symlinks=False)
        if not entry.is_symlink():
            return self._described(entry.path, found, False)
        with suppress(OSError):  # one that leads nowhere is what it is
            found = entry.stat()
        described = self._described(entry.path, found, True)
        if described["type"] == "directory":  # a walk that went in might never come out
            described["type"] = "other"
        return described

    def ls(self, path: Any, detail: bool = True, **kwargs: Any) -> list[Any]:
        """A directory with attributes, by one question for each 512 names; a file: itself.  A
        symlink to a directory is none here, as in fsspec's local file system: nobody descends."""
        path = self._strip_protocol(path)
        try:
            entries = list(self.files.scandir(path))
        except NotADirectoryError:
            return [self.info(path) if detail else path]
        return [self._entry(entry) if detail else entry.path for entry in entries]

    def info(self, path: Any, **kwargs: Any) -> dict[str, Any]:
        """One path; a symlink is followed, if it leads somewhere."""
        path = self._strip_protocol(path)
        found = self.files.lstat(path)
        link = stat.S_ISLNK(found.st_mode)
        if link:
            with suppress(OSError):
                found = self.files.stat(path)
        return self._described(path, found, link)

    def exists(self, path: Any, **kwargs: Any) -> bool:
        """Whether something is there; that nobody answers is an error."""
        return self.files.exists(self._strip_protocol(path))

    def lexists(self, path: Any, **kwargs: Any) -> bool:
        """Likewise; a symlink that leads nowhere is something."""
        return self.files.lexists(self._strip_protocol(path))

    def isdir(self, path: Any) -> bool:
        """Whether it is a directory."""
        return self.files.isdir(self._strip_protocol(path))

    def isfile(self, path: Any) -> bool:
        """Whether it is a file."""
        return self.files.isfile(self._strip_protocol(path))

    def islink(self, path: Any) -> bool:
        """Whether it is a symlink."""
        return self.files.islink(self._strip_protocol(path))

    def created(self, path: Any) -> datetime.datetime:
        """The last change of anything about it: when it was made is not kept."""
        return _moment(self.info(path)["created"])

    def modified(self, path: Any) -> datetime.datetime:
        """The last change of its content."""
        return _moment(self.info(path)["mtime"])

    def ukey(self, path: Any) -> str:
        """Another one after each change."""
        return hashlib.sha256(self.info(path)["version"].encode()).hexdigest()

    def checksum(self, path: Any) -> int:
        """Likewise, as a number."""
        return int(self.ukey(path), 16)

    # --- names ---------------------------------------------------------------------------------

    def mkdir(self, path: Any, create_parents: bool = True, **kwargs: Any) -> None:
        """A directory, with those above it."""
        path = self._strip_protocol(path)
        if create_parents:
            self.files.makedirs(path)
        else:
            self.files.mkdir(path)

    def makedirs(self, path: Any, exist_ok: bool = False) -> None:
        """os.makedirs."""
        self.files.makedirs(self._strip_protocol(path), exist_ok=exist_ok)

    def rmdir(self, path: Any) -> None:
        """An empty directory."""
        self.files.rmdir(self._strip_protocol(path))

    def rm_file(self, path: Any) -> None:
        """A file."""
        self.files.remove(self._strip_protocol(path))

    _rm = rm_file

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Files; with `recursive` trees, to `maxdepth` if that is given: a directory that is not
        empty then stays."""
        deep = recursive and maxdepth is not None
        found = self.expand_path(path, recursive=deep, maxdepth=maxdepth)
        # What was found in a tree went with it; what is behind a symlink stays.
        gone = {one for one in found if deep and self.islink(one)}
        for one in reversed(found) if deep else found:
            if not gone.isdisjoint(map(str, PurePosixPath(one).parents)):
                continue
            if not recursive or not self.isdir(one) or self.islink(one):
                self.files.remove(one)
            elif not deep:
                self.files.rmtree(one)
                gone.add(one)
            elif not self.files.listdir(one):
                self.files.rmdir(one)

    def mv(
        self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """By a rename, also of directories; into `path2` if that is a directory."""
        many = isinstance(path1, list) or isinstance(path2, list) or maxdepth is not None
        if many or any(sign in stringify_path(path1) for sign in "*?["):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if source == target:
            return
        if stringify_path(path2).endswith("/") or self.isdir(target):
            target = target.rstrip("/") + "/" + source.rpartition("/")[2]
        self.files.lstat(source)  # or no parents are made
        self._with_parents(target, lambda: self.files.rename(source, target))

    def cp_file(self, path1: Any, path2: Any, **kwargs: Any) -> None:
        """A file; of a directory only itself."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if stat.S_ISDIR(self.files.stat(source).st_mode):  # if it is there: else nothing is made
            self.files.makedirs(target, exist_ok=True)
        else:
            self._with_parents(target, lambda: self.files.copy(source, target))

    def symlink(self, src: Any, dst: Any) -> None:
        """`dst` leads to `src`."""
        self.files.symlink(self._strip_protocol(src), self._strip_protocol(dst))

    def link(self, src: Any, dst: Any) -> None:
        """Another name."""
        self.files.link(self._strip_protocol(src), self._strip_protocol(dst))

    def chmod(self, path: Any, mode: int) -> None:
        """os.chmod."""
        self.files.chmod(self._strip_protocol(path), mode)

    def touch(self, path: Any, truncate: bool = True, **kwargs: Any) -> None:
        """An empty file, or, without `truncate`, one that was changed now."""
        path = self._strip_protocol(path)
        if not truncate and self.files.exists(path):
            self.files.utime(path)
            return
        mode = "wb" if truncate else "ab"
        self._with_parents(path, lambda: self.files.open(path, mode)).close()

    # --- content -------------------------------------------------------------------------------

    def _open(
        self, path: Any, mode: str = "rb", block_size: int | None = None, autocommit: bool = True,
        cache_options: dict[str, Any] | None = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        path = self._strip_protocol(path)
        if mode == "rb" and "cache_type" in kwargs:
            return CachedFile(
                self, path, mode, block_size or "default", cache_options=cache_options, **kwargs
            )
        buffering = block_size if block_size else -1
        if not autocommit and mode.strip("bt") != "r":
            file = self._deferred(path, mode, buffering)
        elif "r" in mode:
            file = self.files.open(path, mode, buffering)
        else:
            file = self._with_parents(path, lambda: self.files.open(path, mode, buffering))
        file.fs, file.path = self, path
        if "r" in mode:
            file.size = self.files.stat(path).st_size
        return file

    def _deferred(self, path: str, mode: str, buffering: int) -> Any:
        """A file beside its place, with what a transaction calls at its end."""
        one = Deferred(self.files, path, mode)
        made = partial(
            self.files.open, one.beside, mode.replace("w", "x"), buffering,
            permissions=one.permissions,
        )  # fmt: skip
        one.file = file = self._with_parents(one.beside, made)
        file.deferred, file.commit, file.discard = one, one.commit, one.discard
        return file

    def cat_file(
        self, path: Any, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Bytes from `start` to `end`; negative: from the file's end."""
        with self.files.open(self._strip_protocol(path), "rb", buffering=0) as file:
            if start is None and end is None:
                whole: bytes = file.readall()
                return whole
            first, last = start or 0, end
            if first < 0 or last is None or last < 0:
                size = file.seek(0, io.SEEK_END)
                first = max(0, size + first) if first < 0 else first
                last = size if last is None else size + last if last < 0 else last
            found: bytes = file.pread(max(0, last - first), first)
            return found

    def cat_ranges(
        self, paths: Sequence[Any], starts: Any, ends: Any, max_gap: Any = None,
        on_error: str = "return", **kwargs: Any,
    ) -> list[Any]:  # fmt: skip
        """Several of them at once."""
        count = len(paths)
        firsts = starts if isinstance(starts, list | tuple) else [starts] * count
        lasts = ends if isinstance(ends, list | tuple) else [ends] * count
        if not len(firsts) == len(lasts) == count:
            raise ValueError("cat_ranges wants as many starts and ends as paths")

        def one(asked: tuple[Any, Any, Any]) -> Any:
            try:
                return self.cat_file(*asked)
            except OSError as error:
                if on_error != "return":
                    raise
                return error

        with ThreadPoolExecutor(RANGES, "zdfs-ranges") as pool:
            return list(pool.map(one, zip(paths, firsts, lasts)))


class CachedFile(AbstractBufferedFile):
    """A file to read through one of fsspec's caches: where `cache_type` is given."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        found: bytes = self.fs.cat_file(self.path, start, end)
        return found


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.timezone.utc)
