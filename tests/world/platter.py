"""A directory on a disk whose power can be cut: what a file system promises, and not a bit more.

The real stores write real files; here it is watched what they sync.  `cut()` makes the directory
what the next boot may find:

    a file's bytes   as of its last fsync; of each sector written since, the old or the new content;
                     it may end anywhere between its old and its new end
    names            a directory's as of its last fsync, or as they were at the moment: a file that
                     was made and synced may be gone as long as its directory was not
    LMDB's file      as it is: LMDB syncs it itself, in C, at each commit

`Disks` stands between the process and its disks: it takes fsync, fdatasync and statvfs of `os` for
as long as it is entered, answers EIO for a platter that is `broken`, and no room for one that is
`full`.  Nothing is synced in truth: only what survives a cut is real.
"""

import contextlib
import errno
import os
import random
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from zdfs.disk import DATA_FILE

SECTOR = 512

Inode = int


class Entry(NamedTuple):
    """What a directory said of a name when it was synced."""

    inode: Inode
    is_directory: bool


class Platter:
    """One directory, and what of it is on the disk."""

    def __init__(self, path: Path):
        self.path = path
        self.full = self.broken = False
        self.syncs = 0
        self.fatal = 0  # the power goes at this sync
        self._bytes: dict[Inode, bytes] = {}
        self._names: dict[Inode, dict[str, Entry]] = {}
        self._pins: dict[Inode, int] = {}  # kept open, so that no other file gets the number
        path.mkdir(parents=True)

    def sync(self, file: int) -> None:
        """A file or directory is on the disk."""
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.syncs += 1
        if self.syncs == self.fatal:
            raise PowerCut
        about = os.fstat(file)
        if stat.S_ISDIR(about.st_mode):
            self._names[about.st_ino] = _listing(Path(f"/proc/self/fd/{file}"))
        else:
            path = f"/proc/self/fd/{file}"
            self._bytes[about.st_ino] = Path(path).read_bytes()
            if about.st_ino not in self._pins:
                self._pins[about.st_ino] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def cut(self, dice: random.Random) -> None:
        """The power goes.  Nobody may have the directory open."""
        found = self.path.with_name(self.path.name + ".found")
        self._rebuild(self.path.stat().st_ino, self.path, found, dice)
        shutil.rmtree(self.path)
        found.rename(self.path)
        self._settle()

    def _settle(self) -> None:
        """What is found after a cut is what is on the disk."""
        self.forget()
        for place, _, files in os.walk(self.path):
            self._names[os.stat(place).st_ino] = _listing(Path(place))
            for name in files:
                file = os.open(Path(place, name), os.O_RDONLY | os.O_CLOEXEC)
                inode = os.fstat(file).st_ino
                self._bytes[inode] = Path(place, name).read_bytes()
                self._pins[inode] = file

    def forget(self) -> None:
        """Let go of all files."""
        for pin in self._pins.values():
            os.close(pin)
        self._pins.clear()
        self._bytes.clear()
        self._names.clear()

    def _rebuild(self, inode: Inode, path: Path | None, into: Path, dice: random.Random) -> None:
        into.mkdir()
        now = {} if path is None else _listing(path)
        old = self._names.get(inode, {})
        places = {entry.inode: path / name for name, entry in now.items()} if path else {}
        for name, entry in (now if dice.random() < 0.5 else old).items():
            place = places.get(entry.inode)
            if entry.is_directory:
                self._rebuild(entry.inode, place, into / name, dice)
            else:
                (into / name).write_bytes(self._survivor(entry.inode, name, place, dice))

    def _survivor(self, inode: Inode, name: str, place: Path | None, dice: random.Random) -> bytes:
        synced = self._bytes.get(inode, b"")
        written = synced if place is None else place.read_bytes()
        if name == DATA_FILE or written == synced:
            return written
        least, most = sorted((len(synced), len(written)))
        end = dice.choice([least, most, dice.randint(least, most)])
        pieces = []
        share = dice.choice([0.0, 0.5, 0.9, 1.0])
        for at in range(0, end, SECTOR):
            old, new = synced[at : at + SECTOR], written[at : at + SECTOR]
            piece = new if old == new or dice.random() < share else old
            pieces.append(piece.ljust(SECTOR, b"\0"))
        return b"".join(pieces)[:end]


class PowerCut(Exception):
    """The power went in the middle of something: nothing that waited for it goes on."""


class Disks:
    """All platters of a process."""

    def __init__(self) -> None:
        self.platters: list[Platter] = []

    def platter(self, path: Path) -> Platter:
        """A new one."""
        self.platters.append(Platter(path))
        return self.platters[-1]

    @contextlib.contextmanager
    def spinning(self) -> Iterator[None]:
        """Syncs of files below a platter are the platter's; of others, the kernel's."""
        real_fsync, real_fdatasync, real_statvfs = os.fsync, os.fdatasync, os.statvfs

        def fsync(file: int) -> None:
            platter = self._of(os.readlink(f"/proc/self/fd/{file}"))
            platter.sync(file) if platter else real_fsync(file)

        def fdatasync(file: int) -> None:
            platter = self._of(os.readlink(f"/proc/self/fd/{file}"))
            platter.sync(file) if platter else real_fdatasync(file)

        def statvfs(path: str | Path) -> os.statvfs_result:
            found = real_statvfs(path)
            platter = self._of(os.fspath(path))
            if platter and platter.full:
                return os.statvfs_result((*found[:4], 0, *found[5:]))
            return found

        with (
            mock.patch.object(os, "fsync", fsync),
            mock.patch.object(os, "fdatasync", fdatasync),
            mock.patch.object(os, "statvfs", statvfs),
        ):
            yield

    def _of(self, path: str) -> Platter | None:
        for platter in self.platters:
            if Path(path).is_relative_to(platter.path):
                return platter
        return None


def _listing(path: Path) -> dict[str, Entry]:
    with os.scandir(path) as entries:
        return {one.name: Entry(one.inode(), one.is_dir()) for one in entries}
