"""More at once, larger pieces, deeper queues: `clients`, `servers`, `blocks`, `behind`, `ahead`."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from bench.series import PIECE, TIMES, Series, cluster, forget_pages, rate, volume, write_synced
from tests.live.cluster import Cluster
from zdfs import limits, writing


def _client(top: str, times: int, begin: Any, done: Any) -> None:
    os.mkdir(top)
    done.put(None)
    begin.wait()
    names = rate(times, lambda n: os.mkdir(f"{top}/d{n}"))
    done.put((names, rate(times // 4, lambda n: _small(f"{top}/f{n}"))))


def _small(path: str) -> None:
    with open(path, "wb") as file:
        file.write(PIECE[:4096])


def clients(scale: float) -> Series:
    """Programs on one mount, each in a directory of its own."""
    lines: dict[str, list[tuple[float, float]]] = {}
    times = max(40, round(TIMES * scale * 10))
    with cluster() as made:
        for count in (1, 2, 4, 8, 16):
            top = made.mount(f"m{count}")
            begin = multiprocessing.Event()
            done: multiprocessing.Queue[Any] = multiprocessing.Queue()
            workers = [
                multiprocessing.Process(
                    target=_client, args=(f"{top}/{count}-{n}", times // count, begin, done)
                )
                for n in range(count)
            ]
            for worker in workers:
                worker.start()
            for _ in workers:
                done.get()
            begin.set()
            found = [done.get() for _ in workers]
            for worker in workers:
                worker.join()
            made.unmount(top)
            for place, what in enumerate(("mkdir, /s", "create + 4 KiB + close, /s")):
                lines.setdefault(what, []).append((count, sum(one[place] for one in found)))
    return Series("Programs at work at once", "programs", lines)


def _stream(top: Path, mib: int) -> tuple[float, float]:
    """MB/s of a write with one fsync, and of a cold read."""
    path = top / "stream"
    written = write_synced(path, mib)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.monotonic()
    read = 0
    while some := os.read(fd, limits.MIB):
        read += len(some)
    os.close(fd)
    assert read == mib * limits.MIB
    return written, mib * limits.MIB / 1e6 / (time.monotonic() - began)


def servers(scale: float) -> Series:
    """More dataservers on the same two hands."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for count in (3, 4, 6, 8, 12):
        with cluster(count) as made:
            top = made.mount()
            written, read = _stream(top, max(32, round(512 * scale)))
            names = rate(TIMES, lambda n: os.mkdir(top / f"d{n}"))
        for what, value in (("write, MB/s", written), ("read, MB/s", read), ("mkdir, /s", names)):
            lines.setdefault(what, []).append((count, value))
    return Series("Dataservers on one machine", "dataservers", lines)


def blocks(scale: float) -> Series:
    """The block size that a cluster is founded with."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for kib in (4, 16, 64, 256, 1024):
        with cluster(block_size=kib * limits.KIB) as made:
            top = made.mount()
            written, read = _stream(top, max(32, round(512 * scale * min(1, kib / 64))))
            fd = os.open(top / "stream", os.O_WRONLY)

            def over(number: int) -> None:
                os.pwrite(fd, PIECE[:4096], number * 37 % 1000 * 4096)
                os.fsync(fd)

            synced = rate(TIMES // 4, over)
            os.close(fd)
        points = (("write, MB/s", written), ("read, MB/s", read), ("4 KiB + fsync, /s", synced))
        for what, value in points:
            lines.setdefault(what, []).append((kib, value))
    return Series("Block size", "KiB", lines)


# --- depths --------------------------------------------------------------------------------------


def _written(made: Cluster, name: bytes, mib: int) -> float:
    """MB/s of a new file with one fsync, without a kernel, whose write-behind comes on top."""
    with volume(made) as (link, one):
        handle = link.run(one.create(name, 0o100644, 0, 0, os.O_RDWR))
        began = time.monotonic()
        for number in range(mib):
            link.run(one.write(handle, PIECE, number * limits.MIB))
        link.run(one.fsync(handle))
        seconds = time.monotonic() - began
        link.run(one.release(handle))
    return mib * limits.MIB / 1e6 / seconds


def behind(scale: float) -> Series:
    """How many flights of blocks a mount has underway."""
    points: list[tuple[float, float]] = []
    with cluster() as made:
        for writing.FLIGHTS in (1, 2, 4, 6, 12):
            rate_found = _written(made, b"/%d" % writing.FLIGHTS, max(32, round(512 * scale)))
            points.append((writing.FLIGHTS, rate_found))
    return Series("Depth of write-behind", "flights underway", {"write, MB/s": points})


def ahead(scale: float) -> Series:
    """How far a mount reads ahead of who reads in order; a kernel's own comes on top."""
    points: list[tuple[float, float]] = []
    mib = max(32, round(512 * scale))
    with cluster() as made:
        _written(made, b"/read", mib)
        for kib in (64, 256, 1024, 4096, 16384):
            limits.READ_AHEAD_BYTES = kib * limits.KIB
            forget_pages()
            with volume(made) as (link, one):
                handle, _ = link.run(one.open(b"/read", os.O_RDONLY))
                began = time.monotonic()
                for number in range(mib * 8):
                    link.run(one.read(handle, limits.MIB // 8, number * limits.MIB // 8))
                points.append((kib, mib * limits.MIB / 1e6 / (time.monotonic() - began)))
                link.run(one.release(handle))
    return Series("Depth of read-ahead, reads of 128 KiB", "KiB", {"read, MB/s": points})
