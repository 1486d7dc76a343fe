"""One file, worked on in every way, and what it must hold kept in memory: as fsx does.

    python -m tests.live.fsx SEED COUNT PATH [PATH]      one process, one or two names of the file
    python -m tests.live.fsx verify SEED COUNT PATH ME   one of several processes on the same file

With two paths (on two mounts), each few operations open one of them, act and close.  Every
operation says itself before it is done, into a ring that is printed at the first difference.
`verify` writes blocks that carry who wrote them, where and when, with a checksum, each process its
own blocks, through buffered, synced and mapped files, and O_DIRECT where that is there.
"""

import mmap
import os
import random
import struct
import sys
import zlib
from collections import deque

MOST = 256 * 1024  # bytes of the file
CHUNK = 4096
BLOCKS = 64  # of a process, in `verify`
PATIENCE = 100
HEAD = struct.Struct("<IIII")  # checksum of what follows, process, block, generation


class Model:
    """The file and what it must hold."""

    def __init__(self, seed: str, paths: list[str]):
        self.dice, self.paths = random.Random(seed), paths
        self.wanted = bytearray()
        self.done: deque[str] = deque(maxlen=100)
        self.fd = os.open(paths[0], os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self.left = 0  # operations on this opening

    def reopen(self) -> None:
        """Close; open one of the names."""
        os.close(self.fd)
        path = self.dice.choice(self.paths)
        self.say("open", path)
        self.fd = os.open(path, os.O_RDWR | self.dice.choice([0, 0, 0, os.O_DSYNC]))
        self.left = self.dice.randrange(1, 8 if len(self.paths) > 1 else 100)

    def say(self, *words: object) -> None:
        self.done.append(" ".join(map(str, words)))

    def check(self, at: int, found: bytes, size: int) -> None:
        """What was read is what is wanted."""
        wanted = bytes(self.wanted[at : at + size])
        if found != wanted:
            places = [n for n, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b]
            first = at + places[0] if places else at + min(len(found), len(wanted))
            lines = [*self.done, f"{len(found)} bytes for {len(wanted)}; first difference {first}"]
            sys.exit("\n".join(lines + [f"{len(places)} bytes differ"]))

    def place(self) -> tuple[int, int]:
        """Where, and how many bytes."""
        at = self.dice.choice([self.dice.randrange(MOST), self.dice.randrange(64) * CHUNK])
        size = self.dice.choice([1, CHUNK, self.dice.randrange(1, 60_000)])
        return at, min(size, MOST - at)

    def step(self) -> None:
        """One operation."""
        if not self.left:
            self.reopen()
        self.left -= 1
        works = [self.write] * 5 + [self.read] * 5 + [self.map_write, self.map_read] * 3
        self.dice.choice(works + [self.truncate, self.append, self.sync, self.all])()

    def write(self) -> None:
        at, size = self.place()
        self.say("write", at, size)
        self.put(at, self.dice.randbytes(size))

    def put(self, at: int, data: bytes) -> None:
        assert os.pwrite(self.fd, data, at) == len(data)
        self.keep(at, data)

    def keep(self, at: int, data: bytes) -> None:
        self.wanted.extend(bytes(max(0, at - len(self.wanted))))
        self.wanted[at : at + len(data)] = data

    def append(self) -> None:
        size = min(self.dice.randrange(1, 9000), MOST - len(self.wanted))
        self.say("append", len(self.wanted), size)
        self.put(len(self.wanted), self.dice.randbytes(size))

    def read(self) -> None:
        at, size = self.place()
        self.say("read", at, size)
        self.check(at, os.pread(self.fd, size, at), size)

    def all(self) -> None:
        self.say("read all", len(self.wanted))
        self.check(0, os.pread(self.fd, 2 * MOST, 0), 2 * MOST)
        assert os.fstat(self.fd).st_size == len(self.wanted), self.done

    def truncate(self) -> None:
        size = self.dice.choice([0, self.dice.randrange(MOST), self.dice.randrange(MOST)])
        self.say("truncate", len(self.wanted), size)
        os.ftruncate(self.fd, size)
        del self.wanted[size:]
        self.wanted.extend(bytes(size - len(self.wanted)))

    def sync(self) -> None:
        self.say("fsync")
        os.fsync(self.fd)

    def map_write(self) -> None:
        at, size = self.place()
        size = min(size, len(self.wanted) - at)
        if size > 0:
            self.say("map write", at, size)
            data = self.dice.randbytes(size)
            with mmap.mmap(self.fd, len(self.wanted)) as view:
                view[at : at + size] = data
                view.flush()
            self.keep(at, data)

    def map_read(self) -> None:
        if self.wanted:
            at, size = self.place()
            self.say("map read", at, size)
            with mmap.mmap(self.fd, len(self.wanted), prot=mmap.PROT_READ) as view:
                self.check(at, view[at : at + size], size)


def work(seed: str, count: str, *paths: str) -> None:
    """So many operations."""
    model = Model(seed, list(paths))
    for _ in range(int(count)):
        model.step()
    for path in paths:
        model.paths = [path]
        model.reopen()
        model.all()
    print(f"{count} operations, {len(model.wanted)} bytes at the end: all as they should be")


# --- several processes ------------------------------------------------------------------------


def block(me: int, number: int, generation: int) -> bytes:
    """A block that says who wrote it."""
    rest = HEAD.pack(0, me, number, generation)[4:]
    rest += random.Random(f"{me} {number} {generation}").randbytes(CHUNK - HEAD.size)
    return struct.pack("<I", zlib.crc32(rest)) + rest


def verify(seed: str, count: str, path: str, me: str) -> None:
    """Write own blocks, in turn with the other processes'; read them and check everybody's."""
    dice, mine = random.Random(f"{seed} {me}"), int(me)
    buffered = os.open(path, os.O_RDWR)
    files = [buffered, *(os.open(path, os.O_RDWR | way) for way in (os.O_SYNC, os.O_DIRECT))]
    size = os.fstat(buffered).st_size
    people = size // CHUNK // BLOCKS
    page = mmap.mmap(-1, CHUNK)  # aligned, as O_DIRECT wants it
    latest = dict.fromkeys(range(BLOCKS), 0)
    with mmap.mmap(buffered, size) as view:
        for generation in range(1, int(count) + 1):
            number = dice.randrange(BLOCKS)
            at, how = (number * people + mine) * CHUNK, dice.randrange(4)
            page[:] = block(mine, number, generation)
            if how == 3:
                view[at : at + CHUNK] = page[:]
                view.flush(at, CHUNK)
            else:
                assert os.pwrite(files[how], page, at) == CHUNK
            latest[number] = generation
            number = dice.randrange(BLOCKS)
            at = (number * people + mine) * CHUNK
            how = dice.randrange(3)
            assert os.preadv(files[how], [page], at) == CHUNK
            if page[:] != block(mine, number, latest[number]):
                sys.exit(f"block {number} of {me}: {HEAD.unpack(page[:16])}, not {latest[number]}")
            look(files[dice.randrange(3)], dice.randrange(BLOCKS * people), people, page)
    for number, generation in latest.items():
        data = os.pread(buffered, CHUNK, (number * people + mine) * CHUNK)
        assert data == block(mine, number, generation), (number, generation)
    print(f"{count} blocks written and {2 * int(count) + BLOCKS} checked")


def look(file: int, place: int, people: int, page: mmap.mmap) -> None:
    """Anybody's block is one that was written whole, for this place.

    A read beside a write may see some of either, on any Linux file system; not again and again.
    """
    for _ in range(PATIENCE):
        assert os.preadv(file, [page], place * CHUNK) == CHUNK
        data = page[:]
        check, who, number, generation = HEAD.unpack(data[: HEAD.size])
        if zlib.crc32(data[4:]) == check and number * people + who == place:
            return
    sys.exit(f"block {place} is of {who}, {number}, {generation}; its checksum {check}")


if __name__ == "__main__":
    if sys.argv[1] == "verify":
        verify(*sys.argv[2:])
    else:
        work(*sys.argv[1:])
