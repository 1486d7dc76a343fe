"""Paths to inodes, as path_resolution(7) has it: symlinks, `..`, the right to search.

A path is absolute within the file system, with or without a slash in front.  A symlink's target
that begins with a slash leads from the file system's root.
"""

import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EBUSY, EINVAL, ELOOP, ENAMETOOLONG, ENODATA, ENOENT, ENOTDIR
from typing import NamedTuple

from zdfs import acls, limits
from zdfs.acls import Acl
from zdfs.api.identity import SEARCH, Who, allows
from zdfs.errors import Posix
from zdfs.ids import ROOT
from zdfs.volume import Volume
from zdfs.wire import Attributes

NOWHERE = {EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR}  # errors of a path, not of a server
SYMLINKS = 40  # on one way, as Linux
Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class Place(NamedTuple):
    """A name in a directory, and what is there; the root has no name."""

    directory: Attributes
    name: bytes
    found: Attributes | None

    @property
    def there(self) -> Attributes:
        """What is there; ENOENT."""
        if self.found is None:
            raise Posix(ENOENT)
        return self.found


def encoded(path: Path) -> bytes:
    """A path as the file system has it; ValueError for what no path is, as in `os`."""
    given = os.fspath(path)
    whole = given if isinstance(given, bytes) else given.encode("utf-8", "surrogateescape")
    if b"\0" in whole:
        raise ValueError("embedded null byte")
    return whole


def decoded(name: bytes, like: Path) -> str | bytes:
    """A name of the kind that the path was given as."""
    if isinstance(os.fspath(like), bytes):
        return name
    return name.decode("utf-8", "surrogateescape")


@contextmanager
def suppress_nowhere() -> Iterator[None]:
    """Without the error that a path leads nowhere, as far as one may see."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOWHERE:
            raise


async def acl_of(volume: Volume, found: Attributes) -> Acl:
    """An inode's access list; () when the mode says it all."""
    if not found.xattrs or stat.S_ISLNK(found.mode):
        return ()
    try:
        return acls.unpack(await volume.getxattr_ino(found.ino, acls.ACCESS))
    except Posix as error:
        if error.number != ENODATA:
            raise
        return ()


async def permit(volume: Volume, who: Who, found: Attributes, want: int) -> None:
    """EACCES unless somebody may."""
    if who.root:
        return
    if not allows(who, found, await acl_of(volume, found), want):
        raise Posix(EACCES)


async def place(volume: Volume, who: Who, path: bytes, follow: bool = True) -> Place:
    """Where a path leads.  `follow`: a symlink at its end, too; a slash there follows as well."""
    if not path:
        raise Posix(ENOENT)
    if len(path) >= limits.PATH_BYTES:
        raise Posix(ENAMETOOLONG)
    root = current = directory = await volume.stat_ino(ROOT)
    names, last, links = deque(_names(path)), b"", 0
    must = path.endswith(b"/")
    while names:
        name = names.popleft()
        await _enter(volume, who, current)
        found = await _look(volume, current, name, bool(names))
        if found is None:
            return Place(current, name, None)
        if stat.S_ISLNK(found.mode) and (names or follow or must):
            links += 1
            if links > SYMLINKS:
                raise Posix(ELOOP)
            target = await volume.readlink_ino(found.ino)
            must = must or (not names and target.endswith(b"/"))
            names.extendleft(reversed(_names(target)))
            if target.startswith(b"/"):
                current = directory = root
                last = b""
            continue
        directory, last, current = current, name, found
    if must and not stat.S_ISDIR(current.mode):
        raise Posix(ENOTDIR)
    return Place(directory, last, current)


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]


async def _enter(volume: Volume, who: Who, directory: Attributes) -> None:
    if not stat.S_ISDIR(directory.mode):
        raise Posix(ENOTDIR)
    await permit(volume, who, directory, SEARCH)


async def _look(
    volume: Volume, directory: Attributes, name: bytes, further: bool
) -> Attributes | None:
    """None: no such name, and the way ends with it."""
    try:
        return await volume.lookup_at(directory.ino, name)
    except Posix as error:
        if error.number != ENOENT or further:
            raise
        return None


async def named(volume: Volume, who: Who, path: bytes) -> Place:
    """Where a path leads whose last name is to be given, moved or removed: not the root, not `.`,
    and no symlink is followed there."""
    found = await place(volume, who, path.rstrip(b"/") or path, follow=False)
    if not found.name:
        raise Posix(EBUSY)
    if path.rstrip(b"/").endswith(b"/."):
        raise Posix(EINVAL)
    if path.endswith(b"/") and found.found and not stat.S_ISDIR(found.found.mode):
        raise Posix(ENOTDIR)
    return found
