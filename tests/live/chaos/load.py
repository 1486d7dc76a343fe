"""A small load with known content, and who judges it.

    python load.py ROLE DIRECTORY JOURNAL       until its stdin ends

Three programs, so that one that waits does not keep the others waiting:

    writer    writes the hot files anew, in place or beside and renamed over, each with fsync
    reader    reads the cold files, which no cache knows, and the hot ones
    namer     makes, moves and removes directories, and lists them

Each call is journalled before it is begun and after it ended, with the clock that all processes of
the machine share.  A block says in clear which file, generation and place it belongs to, and the
rest of it follows from those: a reader needs no truth beside it to know a wrong byte.

**Judged**: a read that began at t may show, of each block, what the last write acknowledged before
t wrote, or what any later one that began before the read's end did (`allowed`); nothing else, ever.
An error says that nobody knows: such a write may show until the next that was acknowledged.
"""

import errno
import json
import os
import random
import select
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK = 4096
TAIL = 100  # the last block is not full
FILE_BYTES = 4 * BLOCK + TAIL
BLOCKS = 5
COLD = [f"cold{number:02}" for number in range(48)]
HOT = [f"hot{number}" for number in range(4)]
HEADER_BYTES = 32
DIRECTORIES = 8
FILES = "files"  # all of it is in there: where no mount is, there is nothing to be mistaken for it
NAMES = "names"  # ... and in there is what the namer makes
WRONG = -1  # in a reader's journal: this block is nobody's


def block(name: str, generation: int, number: int) -> bytes:
    """One block of one generation of a file."""
    size = TAIL if number == BLOCKS - 1 else BLOCK
    header = f"{name:>12} {generation:09} {number:08}\n".encode()
    assert len(header) == HEADER_BYTES
    return header + random.Random(header).randbytes(size - HEADER_BYTES)


def content(name: str, generation: int) -> bytes:
    """A file of one generation."""
    return b"".join(block(name, generation, number) for number in range(BLOCKS))


def generations(name: str, data: bytes) -> list[int]:
    """Whose bytes these are, block by block; WRONG for those of no generation of this file."""
    if len(data) != FILE_BYTES:
        return [WRONG]
    found = []
    for number in range(BLOCKS):
        one = data[number * BLOCK : (number + 1) * BLOCK]
        says = one[13:22]
        known = says.isdigit() and one == block(name, int(says), number)
        found.append(int(says) if known else WRONG)
    return found


REPLACED = 4  # opens of a name that somebody else replaces meanwhile (docs/CONSISTENCY.md)


# --- the programs --------------------------------------------------------------------------------


class Program(ABC):
    """One role; its journal has a line for the beginning and one for the end of each call."""

    pause_s = 0.02

    def __init__(self, folder: Path, journal: Path):
        self.folder = folder / FILES
        self.generation = max((number_of(one) for one in calls(journal)), default=0)
        self.journal = journal.open("a", buffering=1)

    def say(self, *words: Any) -> None:
        self.journal.write(json.dumps(words) + "\n")

    def call(self, work: Callable[[], Any], *words: Any) -> bool:
        """One step under observation."""
        self.say("begin", time.monotonic(), *words)
        number, result = 0, None
        try:
            result = work()
        except OSError as error:
            number = error.errno or errno.EIO
        self.say("end", time.monotonic(), number, result)
        return not number

    @abstractmethod
    def steps(self) -> Iterator[None]: ...

    def run(self) -> None:
        for _ in self.steps():
            if select.select([sys.stdin], [], [], self.pause_s)[0]:
                return


class Writer(Program):
    """The only one that changes the hot files."""

    pause_s = 0.05

    def steps(self) -> Iterator[None]:
        while True:
            self.generation += 1
            name = HOT[self.generation % len(HOT)]
            way = self.over if self.generation % 3 == 0 else self.in_place
            self.call(lambda: way(name), "write", name, self.generation)
            yield

    def in_place(self, name: str) -> None:
        self.put(name, os.O_WRONLY, content(name, self.generation))

    def over(self, name: str) -> None:
        self.put(name + "~", os.O_WRONLY | os.O_CREAT, content(name, self.generation))
        os.rename(self.folder / (name + "~"), self.folder / name)

    def put(self, name: str, flags: int, data: bytes) -> None:
        descriptor = os.open(self.folder / name, flags, 0o644)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(descriptor, data[done:], done)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Filler(Writer):
    """Makes all files in their first generation, and ends."""

    def steps(self) -> Iterator[None]:
        os.mkdir(self.folder)
        os.mkdir(self.folder / NAMES)
        for name in COLD + HOT:
            self.put(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, content(name, 0))
            # A value too long for a leaf of the metaserver's file, and one that is not.
            os.setxattr(self.folder / name, "user.long", 5000 * name.encode()[-1:])
            os.setxattr(self.folder / name, "user.short", name.encode())
        return
        yield


class Reader(Program):
    """The cold files once each, so that no cache answers; the hot ones in between."""

    pause_s = 0.1

    def steps(self) -> Iterator[None]:
        while True:
            for number, name in enumerate(COLD):
                self.call(lambda: self.read(name), "read", name, 0)
                yield
                hot = HOT[number % len(HOT)]
                self.call(lambda: self.read(hot), "read", hot, 0)
                yield

    def read(self, name: str) -> list[int]:
        for again in reversed(range(REPLACED)):
            try:
                with open(self.folder / name, "rb", buffering=0) as file:
                    return generations(name, file.readall())
            except OSError as error:
                if error.errno != errno.ESTALE or not again or name not in HOT:
                    raise
        raise AssertionError("unreachable")


class Namer(Program):
    """Changes of names, which need no dataserver."""

    pause_s = 0.05

    def steps(self) -> Iterator[None]:
        here = self.folder / NAMES
        made: list[str] = []
        while True:
            self.generation += 1
            new, moved = f"new{self.generation}", f"moved{self.generation}"
            there = self.call(lambda: os.mkdir(here / new), "mkdir", new, "")
            yield
            if there and self.call(
                lambda: os.rename(here / new, here / moved), "rename", new, moved
            ):
                made.append(moved)
            yield
            self.call(lambda: sorted(os.listdir(here)), "list", "", "")
            yield
            if len(made) > DIRECTORIES:
                old = made.pop(0)
                self.call(lambda: os.rmdir(here / old), "rmdir", old, "")
                yield


class Checker(Reader):
    """Every file once, and ends."""

    pause_s = 0.0

    def steps(self) -> Iterator[None]:
        for name in COLD + HOT:
            self.call(lambda: self.read(name), "read", name, 0)
            yield
            self.call(lambda: self.attributes(name), "attributes", name, 0)
            yield
        here = self.folder / NAMES
        self.call(lambda: sorted(os.listdir(here)), "list", "", "")

    def attributes(self, name: str) -> bool:
        """Whether they are what the filler set; a file that was renamed over has none."""
        path = self.folder / name
        if not os.listxattr(path):
            return name in HOT
        long, short = os.getxattr(path, "user.long"), os.getxattr(path, "user.short")
        return (long, short) == (5000 * name.encode()[-1:], name.encode())


ROLES = {
    "fill": Filler,
    "write": Writer,
    "read": Reader,
    "name": Namer,
    "check": Checker,
}


# --- what a journal says -------------------------------------------------------------------------


class Call(NamedTuple):
    """One call: `end` is infinite and `error` -1 when its end was never written down."""

    begin: float
    end: float
    error: int
    kind: str
    name: str
    more: Any
    result: Any

    @property
    def ok(self) -> bool:
        return self.error == 0


def number_of(call: Call) -> int:
    """The generation of a writer's or a namer's call; 0 for others."""
    if call.kind == "mkdir":
        return int(call.name.removeprefix("new"))
    return int(call.more) if call.kind == "write" else 0


def calls(journal: Path) -> list[Call]:
    """Every call of a journal, in order; its last line may be torn."""
    found: list[Call] = []
    for line in journal.read_text().splitlines() if journal.exists() else []:
        try:
            word, at, *rest = json.loads(line)
        except ValueError:
            break
        if word == "begin":
            found.append(Call(at, float("inf"), -1, *rest, None))
        else:
            found[-1] = found[-1]._replace(end=at, error=rest[0], result=rest[1])
    return found


def allowed(writes: list[Call], name: str, begin: float, end: float) -> set[int]:
    """The generations that a read of [begin, end] may show."""
    mine = [one for one in writes if one.name == name and one.begin < end]
    known = max((one.more for one in mine if one.ok and one.end <= begin), default=0)
    return {known} | {one.more for one in mine if one.more > known}


def wrong_reads(writes: list[Call], reads: list[Call]) -> list[str]:
    """Reads that showed what they must not, as text."""
    found = []
    for read in reads:
        if read.kind == "read" and read.ok:
            may = allowed(writes, read.name, read.begin, read.end)
            if not set(read.result) <= may:
                found.append(f"{read.name} at {read.begin:.3f}: {read.result}, not of {may}")
        elif read.kind == "attributes" and read.ok and not read.result:
            found.append(f"the attributes of {read.name}")
    return found


def wrong_names(changes: list[Call], listings: list[Call]) -> list[str]:
    """Listings that miss an acknowledged name or show one that was removed, as text.  `changes`
    were made one after the other; what failed may or may not have happened."""
    found = []
    for listing in listings:
        if listing.kind != "list" or not listing.ok:
            continue
        there, maybe = names_at(changes, listing)
        seen = set(listing.result)
        if not there <= seen | maybe or not seen <= there | maybe:
            odd = sorted((there ^ seen) - maybe)
            found.append(f"names at {listing.begin:.3f}: {odd}")
    return found


def names_at(changes: list[Call], listing: Call) -> tuple[set[str], set[str]]:
    """Names that must be there at a listing, and those that may."""
    there: set[str] = set()
    maybe: set[str] = set()
    for one in changes:
        if one.begin > listing.end:
            break
        if not one.ok or one.end > listing.begin:
            maybe |= {one.name, one.more} - {""} if one.kind != "list" else set()
        elif one.kind == "mkdir":
            there.add(one.name)
        elif one.kind == "rename":
            there.discard(one.name)
            there.add(one.more)
        elif one.kind == "rmdir":
            there.discard(one.name)
    return there, maybe


def main() -> int:
    """One role; whatever goes wrong with files is in its journal."""
    role, folder, journal = sys.argv[1:4]
    ROLES[role](Path(folder), Path(journal)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
