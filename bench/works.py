"""What the race has programs do on a directory: `python -m bench.works WORK DIRECTORY ...`.

One piece of work is one process, the same for every contestant, told only where to work.  It prints
how much it did and how many seconds that took; what must be there before (a process, a list of
names, a directory) is made before the clock runs.  A process of its own can be ended when a mount
hangs, and takes nothing from one piece of work to the next.  Everything drawn is drawn from a fixed
seed, so that all contestants read and overwrite the same places.
"""

import argparse
import dataclasses
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bench.load import MIB, SMALL
from bench.material import NEEDLE, QUIET

T = TypeVar("T")
PAGE = len(SMALL)


@dataclasses.dataclass(frozen=True)
class Job:
    """What a piece of work is told; the sizes are those of `scale` 1 by the scale."""

    top: Path  # where to work
    material: Path  # sources, on the local disk
    scale: float
    streams: int  # processes or threads at once

    def many(self, count: int, least: int = 16) -> int:
        """So many at this scale, and at least a few."""
        return max(least, round(count * self.scale))

    @property
    def stream_bytes(self) -> int:
        """What one of the streams writes and reads: 256 MiB by the number of streams."""
        return max(1, self.many(256) // self.streams) * MIB

    @property
    def share(self) -> int:
        """How many small files each process makes: 4,000 by the number of processes."""
        return max(2, self.many(4000) // self.streams)

    @property
    def entries(self) -> int:
        """How many names a big directory has."""
        return self.many(100_000)

    def big(self, stream: int) -> Path:
        """The big file of a stream."""
        return self.top / f"big-{self.streams}-{stream}"

    def small(self, process: int) -> list[str]:
        """The small files of a process."""
        return [f"{self.top}/small-{self.streams}-{process}/{i}" for i in range(self.share)]

    def places(self, count: int) -> list[int]:
        """Pages of a big file, in an order of chance that is the same for all."""
        dice = random.Random(1)
        pages = self.stream_bytes // PAGE
        return [dice.randrange(pages) * PAGE for _ in range(self.many(count))]


Words = Sequence[str | Path]
Done = tuple[float, float]  # how much, in how many seconds


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def together(count: int, work: Callable[[int], None]) -> float:
    """Seconds that so many processes took, which began at once.  RuntimeError: one failed."""
    if count == 1:
        return timed(lambda: work(0))
    forked = multiprocessing.get_context("fork")
    gate = forked.Barrier(count + 1)

    def one(number: int) -> None:
        gate.wait()
        work(number)

    running = [forked.Process(target=one, args=(number,)) for number in range(count)]
    for process in running:
        process.start()
    gate.wait()
    took = timed(lambda: each(lambda process: process.join(), running))
    if any(process.exitcode for process in running):
        raise RuntimeError(f"one of {count} processes failed")
    return took


def each(work: Callable[[T], object], items: Iterable[T]) -> None:
    """One after the other."""
    for item in items:
        work(item)


def program(rehearsal: Words, *words: str | Path) -> float:
    """Seconds that a program took.  It is run on something local first, because dropping caches has
    dropped the program, too.  CalledProcessError: it failed."""

    def run(words: Words) -> None:
        subprocess.run(words, stdout=subprocess.DEVNULL, env=QUIET, check=True)

    run(rehearsal)
    return timed(lambda: run(words))


# --- big files -----------------------------------------------------------------------------------


def write(job: Job) -> Done:
    """A big file for each stream, in pieces of 1 MiB, synced at the end."""
    piece = os.urandom(MIB)

    def one(stream: int) -> None:
        fd = os.open(job.big(stream), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for _ in range(job.stream_bytes // MIB):
            assert os.write(fd, piece) == MIB
        os.fsync(fd)
        os.close(fd)

    seconds = together(job.streams, one)
    return job.streams * job.stream_bytes / 1e6, seconds


def read(job: Job) -> Done:
    """All of each."""

    def one(stream: int) -> None:
        fd, size = os.open(job.big(stream), os.O_RDONLY), 0
        while some := os.read(fd, MIB):
            size += len(some)
        os.close(fd)
        assert size == job.stream_bytes

    seconds = together(job.streams, one)
    return job.streams * job.stream_bytes / 1e6, seconds


def read_again(job: Job) -> Done:
    """The same, right after it was read."""
    read(job)
    return read(job)


def read_pages(job: Job) -> Done:
    """4 KiB here and there in one big file, by so many threads."""
    alone = dataclasses.replace(job, streams=1)  # the file is that of one stream
    places = alone.places(4000)
    fd = os.open(alone.big(0), os.O_RDONLY)

    def page(place: int) -> None:
        assert len(os.pread(fd, PAGE, place)) == PAGE

    with ThreadPoolExecutor(job.streams) as threads:
        list(threads.map(time.sleep, [0.01] * job.streams))  # all threads are there
        seconds = timed(lambda: list(threads.map(page, places)))
    os.close(fd)
    return len(places), seconds


def overwrite(job: Job) -> Done:
    """4 KiB here and there in one big file, one fsync at the end."""
    places = job.places(4000)
    fd = os.open(job.big(0), os.O_WRONLY)

    def pages() -> None:
        for place in places:
            os.pwrite(fd, SMALL, place)
        os.fsync(fd)

    seconds = timed(pages)
    os.close(fd)
    return len(places), seconds


def overwrite_synced(job: Job) -> Done:
    """The same, with an fsync after each."""
    places = job.places(500)
    fd = os.open(job.big(0), os.O_WRONLY)

    def pages() -> None:
        for place in places:
            os.pwrite(fd, SMALL, place)
            os.fsync(fd)

    seconds = timed(pages)
    os.close(fd)
    return len(places), seconds


# --- small files ---------------------------------------------------------------------------------


def create(job: Job) -> Done:
    """Small files in a directory for each process: open, write 4 KiB, close."""
    for process in range(job.streams):
        Path(job.small(process)[0]).parent.mkdir()

    def one(process: int) -> None:
        for path in job.small(process):
            fd = os.open(path, os.O_CREAT | os.O_WRONLY)
            os.write(fd, SMALL)
            os.close(fd)

    return job.streams * job.share, together(job.streams, one)


def stat(job: Job) -> Done:
    """Each of them."""
    paths = job.small(0)
    return len(paths), timed(lambda: each(os.stat, paths))


def long_list(job: Job) -> Done:
    """ls -l."""
    paths = job.small(0)
    return len(paths), program(["ls", "-l", job.material], "ls", "-l", Path(paths[0]).parent)


def read_small(job: Job) -> Done:
    """All of each."""
    paths = job.small(0)

    def one(path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        assert len(os.read(fd, 2 * PAGE)) == PAGE
        os.close(fd)

    return len(paths), timed(lambda: each(one, paths))


# --- names ---------------------------------------------------------------------------------------


def fill(job: Job) -> Done:
    """One big directory of empty files, by several processes."""
    top = job.top / "many"
    top.mkdir()

    def one(process: int) -> None:
        for number in range(process, job.entries, job.streams):
            os.close(os.open(f"{top}/{number}", os.O_CREAT | os.O_WRONLY))

    return job.entries, together(job.streams, one)


def list_names(job: Job) -> Done:
    """readdir of it."""
    found: list[str] = []
    seconds = timed(lambda: found.extend(os.listdir(job.top / "many")))
    assert len(found) == job.entries
    return len(found), seconds


def rename(job: Job) -> Done:
    """Each to another name in the same directory."""
    top = f"{job.top}/many"
    names = os.listdir(top)
    return len(names), timed(lambda: each(lambda n: os.rename(f"{top}/{n}", f"{top}/x{n}"), names))


def unlink(job: Job) -> Done:
    """Each."""
    top = f"{job.top}/many"
    names = os.listdir(top)
    return len(names), timed(lambda: each(lambda name: os.unlink(f"{top}/{name}"), names))


def mkdir(job: Job) -> Done:
    """As many directories in a new one."""
    top = job.top / "directories"
    top.mkdir()
    names = [f"{top}/{number}" for number in range(job.entries)]
    return job.entries, timed(lambda: each(os.mkdir, names))


# --- programs ------------------------------------------------------------------------------------


def _members(job: Job) -> int:
    with tarfile.open(job.material / "tree.tar") as archive:
        return len(archive.getnames())


def untar(job: Job) -> Done:
    """tar -x of the source tree."""
    top = job.top / "untarred"
    top.mkdir()
    archive = job.material / "tree.tar"
    return _members(job), program(["tar", "-tf", archive], "tar", "-xf", archive, "-C", top)


def grep(job: Job) -> Done:
    """grep -r for a word that some of its files have."""
    words = ["grep", "-r", "-l", NEEDLE]
    return _members(job), program([*words, job.material / "tree.tar"], *words, job.top / "untarred")


def remove(job: Job) -> Done:
    """rm -rf of it."""
    return _members(job), program(["rm", "--version"], "rm", "-rf", job.top / "untarred")


def clone(job: Job) -> Done:
    """git clone of a repository that has the same tree; nothing is linked."""
    source, target = job.material / "repository", job.top / "cloned"
    check: Words = ["git", "-C", source, "fsck"]  # which reads all of the source
    return _members(job), program(check, "git", "clone", "-q", "--no-hardlinks", source, target)


def status(job: Job) -> Done:
    """git status of the clone."""
    words: Words = ["git", "-C", job.material / "repository", "status"]
    return _members(job), program(words, "git", "-C", job.top / "cloned", "status", "--porcelain")


def build(job: Job) -> Done:
    """make -j2 of a C program that was copied there."""
    top = job.top / "program"
    shutil.copytree(job.material / "program", top)
    sources = len(list((job.material / "program").glob("*.c")))
    words: Words = ["make", "-s", "-B", "-C", job.material / "program", "small"]
    return sources, program(words, "make", "-s", "-j2", "-C", top)


def proof(job: Job) -> Done:
    """A file whose copies can be looked for, synced."""
    content = (job.material / "proof").read_bytes()
    fd = os.open(job.top / "proof", os.O_CREAT | os.O_WRONLY)
    os.write(fd, content)
    os.fsync(fd)
    os.close(fd)
    return 1, 0.0


WORKS: dict[str, Callable[[Job], Done]] = {
    work.__name__: work
    for work in (write, read, read_again, read_pages, overwrite, overwrite_synced)
    + (create, stat, long_list, read_small, fill, list_names, rename, unlink, mkdir)
    + (untar, grep, remove, clone, status, build, proof)
}


def main() -> int:
    """The command: amount and seconds on one line."""
    parser = argparse.ArgumentParser(prog="bench.works", description=__doc__)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("top", type=Path)
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--streams", type=int, default=1)
    chosen = parser.parse_args()
    chosen.top.mkdir(exist_ok=True)
    job = Job(chosen.top, chosen.material, chosen.scale, chosen.streams)
    amount, seconds = WORKS[chosen.work](job)
    print(amount, seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
