"""The same random operations on two directories: results, errors, attributes, contents.

    python -m live.differential SEED SECONDS MOUNT LOCAL

What is there is read from LOCAL at the start, so rounds may follow one another, with remounts in
between.  Names are few, so that operations meet.  Prints how many it did; fails at the first
difference, with what led to it.
"""

import ctypes
import errno
import os
import random
import stat
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ["a", "b", "c", "d", "e", "\xe4\udcff"]
DEPTH = 3
HANDLES = 6
FAR = 300_000
SET_NS = 10**18  # times below were set by utime
FLAGS = (
    os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_CREAT,
    os.O_WRONLY | os.O_CREAT | os.O_EXCL, os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_APPEND | os.O_CREAT,
)  # fmt: skip
LIBC = ctypes.CDLL(None, use_errno=True)


class Twins:
    """Two directories that shall not differ."""

    def __init__(self, dice: random.Random, mount: str, local: str):
        self.dice, self.tops = dice, (mount, local)
        self.handles: list[tuple[int, int]] = []
        self.done: deque[str] = deque(maxlen=400)
        self.count = 0

    def both(self, what: str, work: Callable[[int], Any]) -> Any:
        """Do something on both sides; what it returned, or its errno."""
        self.count += 1
        answers = []
        for side in (0, 1):
            try:
                answers.append(work(side))
            except OSError as error:
                answers.append(errno.errorcode[error.errno or 0])
        if answers[0] != answers[1]:
            raise AssertionError(
                "\n".join(self.done)
                + f"\n{what}\nmount {answers[0]!r:.300}\nlocal {answers[1]!r:.300}"
            )
        self.done.append(f"{what}: {answers[0]!r:.60}")
        return answers[0]

    def path(self) -> str:
        depth = self.dice.choice([1, 1, 2, 2, DEPTH])
        return "/".join(self.dice.choice(NAMES) for _ in range(depth))

    # --- operations ------------------------------------------------------------------------

    def by_path(self) -> None:
        """One that takes a name."""
        dice, path, tops = self.dice, self.path(), self.tops
        mode, size = dice.choice([0o600, 0o644, 0o4755, 0o2770]), dice.choice([0, 9, 70_000, FAR])
        at = dice.randrange(SET_NS)
        works: list[tuple[str, Callable[[str], Any]]] = [
            ("mkdir", lambda p: os.mkdir(p)),
            ("rmdir", os.rmdir),
            ("unlink", os.unlink),
            ("unlink", os.unlink),
            (f"chmod {mode:o}", lambda p: os.chmod(p, mode)),
            (f"chown {size}", lambda p: os.chown(p, size, -1)),
            (f"truncate {size}", lambda p: os.truncate(p, size)),
            (f"utime {at}", lambda p: os.utime(p, ns=(at, at + 1))),
            ("symlink", lambda p: os.symlink("a/b", p)),
            ("readlink", os.readlink),
            ("listdir", lambda p: sorted(os.listdir(p))),
            ("stat", lambda p: self.seen(os.lstat(p))),
            ("setxattr", lambda p: os.setxattr(p, f"user.{mode}", b"x" * (size % 999))),
            ("removexattr", lambda p: os.removexattr(p, f"user.{mode}")),
            ("xattrs", lambda p: sorted((n, os.getxattr(p, n)) for n in os.listxattr(p))),
            ("read", lambda p: Path(p).read_bytes()),
            ("mkfifo", lambda p: os.mkfifo(p) if size == 9 else None),
        ]
        name, work = dice.choice(works)
        if name == "read" and os.path.exists(f"{tops[1]}/{path}"):
            if not stat.S_ISREG(os.stat(f"{tops[1]}/{path}").st_mode):
                return  # a FIFO would wait
        self.both(f"{name} {path!r}", lambda side: work(f"{tops[side]}/{path}"))

    def two_paths(self) -> None:
        """rename, renameat2, link."""
        old, new, tops = self.path(), self.path(), self.tops
        flags = self.dice.choice([0, 0, 0, 1, 2])

        def rename(side: int) -> None:
            words = [os.fsencode(f"{tops[side]}/{path}") for path in (old, new)]
            if LIBC.renameat2(-100, words[0], -100, words[1], flags):
                raise OSError(ctypes.get_errno(), new)

        def link(side: int) -> None:
            os.link(f"{tops[side]}/{old}", f"{tops[side]}/{new}", follow_symlinks=False)

        if self.dice.random() < 0.7:
            self.both(f"rename {old!r} {new!r} {flags}", rename)
        else:
            self.both(f"link {old!r} {new!r}", link)

    def open(self) -> None:
        path, flags = self.path(), self.dice.choice(FLAGS) | os.O_NONBLOCK
        mode = self.dice.choice([0o600, 0o664])
        pair: list[int] = []

        def work(side: int) -> None:
            pair.append(os.open(f"{self.tops[side]}/{path}", flags, mode))

        self.both(f"open {path!r} {flags:o}", work)
        if len(pair) == 2:
            if stat.S_ISREG(os.fstat(pair[1]).st_mode):
                self.handles.append((pair[0], pair[1]))
            else:
                for fd in pair:
                    os.close(fd)
        if len(self.handles) > HANDLES:
            self.close()

    def close(self) -> None:
        if self.handles:
            pair = self.handles.pop(self.dice.randrange(len(self.handles)))
            self.both(f"close {pair[1]}", lambda side: os.close(pair[side]))

    def by_handle(self) -> None:
        """One that takes a descriptor."""
        if not self.handles:
            return
        dice, pair = self.dice, self.dice.choice(self.handles)
        at = dice.choice([0, 65_536, dice.randrange(FAR), dice.randrange(FAR)])
        size = dice.choice([1, 100, 4096, 65_536, dice.randrange(150_000)])
        data = dice.randbytes(size)
        works: list[tuple[str, Callable[[int], Any]]] = [
            (f"pwrite {size} at {at}", lambda fd: os.pwrite(fd, data, at)),
            (f"pwrite {size} at {at}", lambda fd: os.pwrite(fd, data, at)),
            (f"pread {size} at {at}", lambda fd: os.pread(fd, size, at)),
            (f"ftruncate {at}", lambda fd: os.ftruncate(fd, at)),
            ("fstat", lambda fd: self.seen(os.fstat(fd))),
            ("fsync", os.fsync),
            ("fdatasync", os.fdatasync),
            ("fchmod", lambda fd: os.fchmod(fd, 0o640)),
            ("end", lambda fd: os.lseek(fd, 0, os.SEEK_END)),
        ]
        name, work = dice.choice(works)
        self.both(f"{name}, handle {pair[1]}", lambda side: work(pair[side]))

    def seen(self, found: os.stat_result) -> tuple[int, ...]:
        """Of a stat what both must agree on."""
        directory = stat.S_ISDIR(found.st_mode)
        size = 0 if directory else found.st_size
        mtime = found.st_mtime_ns if found.st_mtime_ns < SET_NS + 2 else -1
        return (found.st_mode, found.st_uid, found.st_gid, found.st_nlink, size, mtime)

    # --- everything --------------------------------------------------------------------------

    def step(self) -> None:
        """One operation."""
        works = [self.by_path, self.by_path, self.two_paths, self.open, self.by_handle]
        self.dice.choice([*works, self.by_handle, self.by_handle])()
        if self.dice.random() < 0.03:
            self.close()

    def compare(self) -> None:
        """Both trees, whole."""
        while self.handles:
            self.close()
        for where, names, files in os.walk(self.tops[1]):
            below = os.path.relpath(where, self.tops[1])
            here = [f"{top}/{below}" for top in self.tops]
            self.both(f"list {below!r}", lambda side: sorted(os.listdir(here[side])))
            for name in names + files:
                both = [f"{one}/{name}" for one in here]
                self.both(f"stat {below}/{name!r}", lambda side: self.seen(os.lstat(both[side])))
                if stat.S_ISREG(os.lstat(both[1]).st_mode):
                    content = [Path(one).read_bytes() for one in both]
                    self.both(f"read {below}/{name!r}", lambda side: content[side])


def main(seed: str, seconds: str, mount: str, local: str) -> None:
    """Compare, do, compare."""
    twins = Twins(random.Random(seed), mount, local)
    twins.compare()
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        twins.step()
    twins.compare()
    print(twins.count)


if __name__ == "__main__":
    os.umask(0o022)
    main(*sys.argv[1:])
