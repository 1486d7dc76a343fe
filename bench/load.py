"""One piece of work on a directory, timed: `python -m bench.load WORK DIRECTORY`, seconds out.

A process of its own: a mount that hangs shall not hang the benchmark, and what one piece of work
leaves in a process's memory shall not help the next.
"""

import os
import sys
import time
from collections.abc import Callable

MIB = 1024 * 1024
BIG_BYTES = 128 * MIB
FILES = 200
SYNCS = 100
SMALL = os.urandom(4096)


def write(top: str) -> None:
    """A big file, in pieces of 1 MiB, synced at the end."""
    piece = os.urandom(MIB)
    fd = os.open(f"{top}/big", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for _ in range(BIG_BYTES // MIB):
        os.write(fd, piece)
    os.fsync(fd)
    os.close(fd)


def read(top: str) -> None:
    """All of it."""
    fd = os.open(f"{top}/big", os.O_RDONLY)
    while os.read(fd, MIB):
        pass
    os.close(fd)


def create(top: str) -> None:
    """Small files: open, write 4 KiB, close."""
    for number in range(FILES):
        fd = os.open(f"{top}/small-{number}", os.O_CREAT | os.O_WRONLY)
        os.write(fd, SMALL)
        os.close(fd)


def stat(top: str) -> None:
    """Each of them."""
    for number in range(FILES):
        os.stat(f"{top}/small-{number}")


def sync(top: str) -> None:
    """4 KiB somewhere, fsync, again."""
    fd = os.open(f"{top}/synced", os.O_CREAT | os.O_WRONLY)
    for number in range(SYNCS):
        os.pwrite(fd, SMALL, number % 16 * 4096)
        os.fsync(fd)
    os.close(fd)


def clear(top: str) -> None:
    """Remove the small files: the next round makes them anew."""
    for number in range(FILES):
        os.unlink(f"{top}/small-{number}")


WORKS: dict[str, Callable[[str], None]] = {
    work.__name__: work for work in (write, read, create, stat, sync, clear)
}

if __name__ == "__main__":
    start = time.perf_counter()
    WORKS[sys.argv[1]](sys.argv[2])
    print(time.perf_counter() - start)
