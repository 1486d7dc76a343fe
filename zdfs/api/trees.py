"""Many names at once: walk, glob, rmtree, and copies in and out with many files in flight.

A copy walks the source in the calling thread, makes directories as it meets them, and gives files
to threads; a file's way is a handful of questions that mostly wait for disks, so they overlap.
Modes and times of directories are set when everything in them is there.  What can't be copied is
collected, the rest is copied, and then `shutil.Error` lists it: (source, target, reason) each.
"""

import fnmatch
import glob as local_glob
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EINVAL, ENXIO, EPERM
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from zdfs import limits
from zdfs.api.files import CHUNK_BYTES
from zdfs.api.places import Path, decoded, encoded, suppress_nowhere
from zdfs.api.sides import Local, Remote, Side
from zdfs.ids import ROOT

if TYPE_CHECKING:
    from zdfs.api.filesystem import FileSystem

THREADS = 16
QUEUED = 4  # files given to each thread ahead of time
ENDS = (TimeoutError, InterruptedError)  # of the whole, not of one file


class Copied(NamedTuple):
    """What a copy has done."""

    files: int
    bytes: int


class Progress(Protocol):
    """Called after each file, by one thread at a time, with all that is copied so far."""

    def __call__(self, done: Copied, path: str | bytes) -> object: ...


class How(NamedTuple):
    """How to copy."""

    exist_ok: bool = False  # over what is there
    threads: int = THREADS
    progress: Progress | None = None
    owners: bool = False


# --- one file system ---------------------------------------------------------------------------


def walk(
    fs: "FileSystem", top: Path, topdown: bool, onerror: Callable[[OSError], object] | None,
    followlinks: bool,
) -> Iterator[tuple[Any, list[Any], list[Any]]]:  # fmt: skip
    """os.walk."""
    given: Any = os.fspath(top)
    try:
        directories, others, links = _sorted_out(fs, given)
    except ENDS:  # a directory that was not asked is not empty
        raise
    except OSError as error:
        if onerror is not None:
            onerror(error)
        return
    if topdown:
        yield given, directories, others
    for name in directories:
        if followlinks or name not in links:
            below = os.path.join(given, name)
            yield from walk(fs, below, topdown, onerror, followlinks)
    if not topdown:
        yield given, directories, others


def _sorted_out(fs: "FileSystem", path: Any) -> tuple[list[Any], list[Any], set[Any]]:
    """Names in a directory: of directories, of others, and which of them are symlinks."""
    directories: list[Any] = []
    others: list[Any] = []
    links: set[Any] = set()
    for entry in fs.scandir(path):
        (directories if entry.is_dir() else others).append(entry.name)
        if entry.is_symlink():
            links.add(entry.name)
    return directories, others, links


def glob(fs: "FileSystem", pattern: Path) -> Iterator[Any]:
    """Paths that a pattern matches, of its kind."""
    whole = encoded(pattern)
    parts = [str(decoded(part, "")) for part in whole.split(b"/") if part]
    for path in _matches(fs, "/" if whole.startswith(b"/") else "", parts):
        yield decoded(encoded(path), pattern)


def _matches(fs: "FileSystem", base: str, parts: list[str]) -> Iterator[str]:
    if not parts:
        yield base
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _matches(fs, base, rest)
        for entry in _children(fs, base):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _matches(fs, entry.path, parts)
    elif not local_glob.has_magic(part):
        path = os.path.join(base, part)
        if fs.lexists(path):
            yield from _matches(fs, path, rest)
    else:
        wanted = re.compile(fnmatch.translate(part)).match
        for entry in _children(fs, base):
            hidden = entry.name.startswith(".") and not part.startswith(".")
            if wanted(entry.name) and not hidden and (not rest or entry.is_dir()):
                yield from _matches(fs, entry.path, rest)


def _children(fs: "FileSystem", base: str) -> Iterator[Any]:
    with suppress_nowhere():
        for entry in fs.scandir(base or "/"):
            if not base:
                entry.path = entry.name
            yield entry


def makedirs(fs: "FileSystem", path: Path, mode: int, exist_ok: bool) -> None:
    """os.makedirs."""
    given: Any = os.fspath(path)
    head, tail = os.path.split(
        given.rstrip(given[:0] + (b"/" if isinstance(given, bytes) else "/"))
    )
    if head and tail and not fs.exists(head):
        with suppress(FileExistsError):
            makedirs(fs, head, 0o777, True)
    try:
        fs.mkdir(given, mode)
    except OSError:
        if not exist_ok or not fs.isdir(given):
            raise


def rmtree(fs: "FileSystem", path: Path, ignore_errors: bool, threads: int) -> None:
    """shutil.rmtree; the first failure is raised when all others are done."""
    given: Any = os.fspath(path)
    _check_removable(fs, given)
    if fs.islink(given):
        raise OSError("Cannot call rmtree on a symbolic link")
    failures: list[OSError] = []
    with _Crew(fs, threads, failures.append) as crew:
        levels = _remove_files(fs, given, crew)
        for level in reversed(levels):
            crew.rest()
            for directory in level:
                crew.submit(partial(fs.rmdir, directory))
    if failures and not ignore_errors:
        raise failures[0]


def _check_removable(fs: "FileSystem", path: Any) -> None:
    """Before anything is gone: the root by any of its names, and what rmdir would refuse."""
    names = [name for name in encoded(path).split(b"/") if name]
    if names and names[-1] in (b".", b".."):
        raise OSError(EINVAL, "rmtree of '.' or '..': name the directory itself", path)
    if not names or (fs.exists(path) and fs.stat(path).st_ino == ROOT):
        raise ValueError("rmtree of the root: name what is below it")


def _remove_files(fs: "FileSystem", top: Any, crew: "_Crew") -> list[list[Any]]:
    """Have everything but directories removed; these, by how deep they are."""
    levels = [[top]]

    def look(directory: Any, below: list[Any]) -> None:
        for entry in list(fs.scandir(directory)):
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            else:
                crew.submit(partial(fs.remove, entry.path))

    while levels[-1]:
        levels.append([])
        for directory in levels[-2]:
            crew.try_now(partial(look, directory, levels[-1]))
    return levels


def copy(fs: "FileSystem", source: Path, path: Path) -> None:
    """shutil.copy, within the file system; holes stay holes."""
    volume = fs._connection.volume
    with fs.open(source, "rb", buffering=0) as old:
        found = fs.stat(source)
        if _same(fs, found, path):
            raise shutil.SameFileError(f"{source!r} and {path!r} are the same file")
        mode = stat.S_IMODE(found.st_mode)
        with fs.open(path, "wb", buffering=0, permissions=mode & 0o777) as new:
            for at, end in _stretches(old):
                while at < end and (
                    done := old._run(
                        volume.copy_file_range(
                            old._handle, at, new._handle, at, min(end - at, 64 * limits.MIB)
                        ),
                        "copy",
                    )
                ):
                    at += done
                    fs._connection.go_on("a copy")
            if new.seek(0, os.SEEK_END) < found.st_size:  # it ends in a hole
                new.truncate(found.st_size)
    fs.chmod(path, mode)  # after the writes, which end set-id bits, and whatever the umask


def _stretches(file: Any) -> Iterator[tuple[int, int]]:
    """Where a file has data: first, end."""
    end = 0
    while True:
        try:
            first = file.seek(end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != ENXIO:
                raise
            return
        end = file.seek(first, os.SEEK_HOLE)
        yield first, end


def _same(fs: "FileSystem", found: os.stat_result, path: Path) -> bool:
    try:
        return fs.stat(path).st_ino == found.st_ino
    except FileNotFoundError:
        return False


# --- threads -----------------------------------------------------------------------------------


class _Crew:
    """Threads with a bounded queue; what fails is told, and whoever leaves early stops them."""

    def __init__(
        self, fs: "FileSystem", threads: int, failed: Callable[[OSError], object] | None = None
    ):
        """`failed`: is told of each OSError; None: jobs see to their own."""
        connection = fs._connection
        self._stop = threading.Event()
        self._go_on = partial(connection.go_on, "work on a tree")
        self._on_behalf = partial(connection.on_behalf, self._stop, connection.deadline())
        self._pool = ThreadPoolExecutor(max(1, threads), "zdfs-copy")
        self._most = max(1, threads) * QUEUED
        self._failed = failed
        self._underway: set[Future[None]] = set()

    def __enter__(self) -> "_Crew":
        return self

    def submit(self, job: Callable[[], object]) -> None:
        """Have it done; waits while too much is waiting already."""
        self._go_on()
        while len(self._underway) >= self._most:
            self._collect(FIRST_COMPLETED)
        self._underway.add(self._pool.submit(self._do, job))

    def _do(self, job: Callable[[], object]) -> None:
        if not self._stop.is_set():
            with self._on_behalf():
                self._go_on()
                self.try_now(job)

    def try_now(self, job: Callable[[], object]) -> None:
        """Do it in this thread; a failure is told, but what ends all of it is raised."""
        try:
            job()
        except ENDS:
            raise
        except OSError as error:
            if self._failed is None:
                raise
            self._failed(error)

    def _collect(self, until: str) -> None:
        done, self._underway = wait(self._underway, return_when=until)
        for one in done:
            one.result()

    def rest(self) -> None:
        """Until everything submitted is done."""
        while self._underway:
            self._collect(FIRST_COMPLETED)

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.rest()
        else:
            self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


# --- in and out --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Copy:
    """One copy underway."""

    fs: "FileSystem"
    source: Side
    target: Side
    how: How
    errors: list[tuple[Any, Any, str]] = field(default_factory=list)
    done: Copied = Copied(0, 0)
    directories: dict[int, list[tuple[Any, Any, os.stat_result]]] = field(default_factory=dict)
    telling: Any = field(default_factory=threading.Lock)

    def tell(self, size: int, path: Any) -> None:
        """A file is copied."""
        with self.telling:
            self.done = Copied(self.done.files + 1, self.done.bytes + size)
            if self.how.progress is not None:
                self.how.progress(self.done, path)

    def fail(self, old: Any, new: Any, error: OSError) -> None:
        """One that isn't."""
        with self.telling:
            self.errors.append((old, new, str(error)))


def copy_in(fs: "FileSystem", local: Path, path: Path, how: How) -> Copied:
    """A local file or tree into the file system."""
    return _copy(_Copy(fs, Local(), Remote(fs), how), local, path)


def copy_out(fs: "FileSystem", path: Path, local: Path, how: How) -> Copied:
    """A file or tree out of the file system."""
    return _copy(_Copy(fs, Remote(fs), Local(), how), path, local)


def _copy(copy: _Copy, old: Path, new: Path) -> Copied:
    source, target = os.fspath(old), os.fspath(new)
    encoded(source), encoded(target)
    if copy.how.owners and not copy.target.may_give():
        raise PermissionError(EPERM, "only root may give files to others: leave out owners", target)
    found = copy.source.lstat(source)
    if not stat.S_ISDIR(found.st_mode):
        copy.tell(_one(copy, source, target, found), source)
        return copy.done
    with _Crew(copy.fs, copy.how.threads) as crew:
        _tree(copy, crew, source, target, found, 0)
        crew.rest()
        for level in sorted(copy.directories, reverse=True):  # the deepest first: a mode may shut
            for directory in copy.directories[level]:
                crew.submit(partial(_finish, copy, *directory))
            crew.rest()
    if copy.errors:
        raise shutil.Error(copy.errors)
    return copy.done


def _tree(copy: _Copy, crew: _Crew, old: Any, new: Any, found: os.stat_result, depth: int) -> None:
    """A directory and all below it: directories now, the rest by the crew."""
    try:
        copy.target.mkdir(new, bool(depth) or copy.how.exist_ok)
        copy.directories.setdefault(depth, []).append((old, new, found))
        entries = copy.source.entries(old)
    except ENDS:
        raise
    except OSError as error:
        if not depth:
            raise
        copy.fail(old, new, error)
        return
    for name, path, one in entries:
        target = copy.target.join(new, name)
        if stat.S_ISDIR(one.st_mode):
            _tree(copy, crew, path, target, one, depth + 1)
        else:
            crew.submit(partial(_try, copy, path, target, one))


def _try(copy: _Copy, old: Any, new: Any, found: os.stat_result) -> None:
    try:
        size = _one(copy, old, new, found)
    except ENDS:
        raise
    except OSError as error:
        copy.fail(old, new, error)
    else:
        copy.tell(size, old)  # what it raises ends the copy


def _one(copy: _Copy, old: Any, new: Any, found: os.stat_result) -> int:
    """A file or a symlink; returns how long the file is."""
    if stat.S_ISLNK(found.st_mode):
        copy.target.symlink(copy.source.readlink(old), new, copy.how.exist_ok)
        copy.target.settle(new, found, copy.how.owners)
        return 0
    if not stat.S_ISREG(found.st_mode):
        raise shutil.SpecialFileError(f"{old!r} is no file, directory or symlink: not copied")
    return _content(copy, old, new, found)


def _content(copy: _Copy, old: Any, new: Any, found: os.stat_result) -> int:
    """Bytes where there are any, holes where not; returns how long the file is."""
    there = copy.how.exist_ok
    with copy.source.reading(old) as source, copy.target.writing(new, there) as target:
        size = 0
        sparse = found.st_blocks * 512 < found.st_size
        for offset, data in _pieces(source, sparse):
            copy.fs._connection.go_on("a copy")
            target.put(data, offset)
            size = offset + len(data)
        if sparse and size < found.st_size:
            size = found.st_size
            target.cut(size)
        target.settle(found, copy.how.owners)
    return size


def _pieces(source: Any, sparse: bool) -> Iterator[tuple[int, Any]]:
    """What is to be copied, and where it stands."""
    at = 0
    while True:
        end = None
        if sparse:
            reach = source.data(at)
            if reach is None:
                return
            at, end = reach
        while end is None or at < end:
            data = source.get(CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - at), at)
            if not len(data):
                return
            yield at, data
            at += len(data)


def _finish(copy: _Copy, old: Any, new: Any, found: os.stat_result) -> None:
    """A directory whose content is there."""
    try:
        copy.target.settle(new, found, copy.how.owners)
    except ENDS:
        raise
    except OSError as error:
        copy.fail(old, new, error)
