"""How fast a lost disk comes back, and what that costs those who work: `python -m bench.rebuild`.

A cluster of its own, `--gib` GiB of files (three quarters of them stand on each of four servers).
Three kinds of work are measured for some seconds each, before and while one server's store, removed
after a kill, is rebuilt; then it is lost once more and rebuilt with nobody at work.  Rounds go on
until the rebuild ends; the one that it ended in does not count.  All share one disk and machine.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import until
from tests.live.cluster import Cluster

MIB = 1024 * 1024
FILE_BYTES = 64 * MIB
LOST = 1
READY_S = 3600.0
WHAT = {
    "read": ("sequential read", "MB/s"),
    "write": ("sequential write, fsync each 16 MiB", "MB/s"),
    "sync": ("write 4 KiB, fsync", "writes/s"),
}


def read(top: Path, end: float, turn: int) -> float:
    """MB read of files that the kernel has forgotten."""
    files = sorted(top.glob("stored-*"))
    done = 0
    while time.monotonic() < end:
        fd = os.open(files[turn % len(files)], os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        while time.monotonic() < end and (some := os.read(fd, MIB)):
            done += len(some)
        os.close(fd)
        turn += 1
    return done / 1e6


def write(top: Path, end: float, turn: int) -> float:
    """MB written and synced."""
    piece, done = os.urandom(MIB), 0
    fd = os.open(top / "written", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    while time.monotonic() < end:
        for _ in range(16):
            done += os.write(fd, piece)
        os.fsync(fd)
        os.lseek(fd, 0, os.SEEK_SET)
    os.close(fd)
    return done / 1e6


def sync(top: Path, end: float, turn: int) -> float:
    """Small writes, each synced."""
    fd, done = os.open(top / "synced", os.O_CREAT | os.O_WRONLY), 0
    while time.monotonic() < end:
        os.pwrite(fd, os.urandom(4096), done % 16 * 4096)
        os.fsync(fd)
        done += 1
    os.close(fd)
    return float(done)


WORKS: dict[str, Callable[[Path, float, int], float]] = {"read": read, "write": write, "sync": sync}


def work(kind: str, top: Path, seconds: float, turn: int) -> float:
    """A second's worth of it, in a process of its own: a mount that hangs must not hang us."""
    words = [sys.executable, "-m", "bench.rebuild", "--work", kind, str(top), str(seconds)]
    done = subprocess.run(
        [*words, str(turn)], stdout=subprocess.PIPE, check=True, timeout=seconds + 120
    )
    return float(done.stdout)


def fill(top: Path, gib: float) -> None:
    """The files that are to come back."""
    for number in range(max(1, round(gib * 1024 * MIB / FILE_BYTES))):
        with (top / f"stored-{number:04}").open("wb") as file:
            for _ in range(FILE_BYTES // MIB):
                file.write(os.urandom(MIB))


def lose(cluster: Cluster) -> float:
    """Kill a server, remove its store, start it; when that was."""
    cluster.kill(f"data-{LOST}")
    shutil.rmtree(cluster.stores[LOST])
    started = time.monotonic()
    cluster.start_data(LOST)
    until(lambda: state(cluster)[0] == "recovering", READY_S, "a rebuild")
    return started


def state(cluster: Cluster) -> tuple[str, dict[str, Any]]:
    """Of the server that was lost, with its rebuild."""
    servers = cluster.status().get("servers")
    return (servers[LOST]["state"], servers[LOST]["rebuild"] or {}) if servers else ("", {})


def measure(cluster: Cluster, top: Path, seconds: float) -> tuple[dict[str, list[float]], int]:
    """Rounds of each work until the rebuild ends, and the bytes of that."""
    found: dict[str, list[float]] = {kind: [] for kind in WORKS}
    turn, size = 0, 0
    while True:
        for kind in WORKS:
            done = work(kind, top, seconds, turn)
            is_in, job = state(cluster)
            if is_in == "serving":
                return found, size
            size = job.get("total_bytes", size)
            found[kind].append(done)
            turn += 1


def compare(folder: Path, gib: float, seconds: float) -> None:
    """All of it, with a table at the end."""
    cluster = Cluster(folder, 4, faults=False)
    try:
        cluster.start()
        top = cluster.mount()
        fill(top, gib)
        before = {kind: [work(kind, top, seconds, turn) for turn in range(3)] for kind in WORKS}
        started = lose(cluster)
        during, size = measure(cluster, top, seconds)
        cluster.wait_serving(READY_S)
        busy_s = time.monotonic() - started
        started = lose(cluster)
        size = max(size, state(cluster)[1].get("total_bytes", 0))
        cluster.wait_serving(READY_S)
        alone_s = time.monotonic() - started
    finally:
        cluster.close()
    print(f"{size / 2**30:.2f} GiB came back in {alone_s:.1f} s: {size / 1e6 / alone_s:.1f} MB/s")
    print(f"  while others worked in {busy_s:.1f} s: {size / 1e6 / busy_s:.1f} MB/s\n")
    print(f"{'':40}{'whole':>10}{'rebuilding':>12}{'kept':>8}")
    for kind, (what, unit) in WHAT.items():
        if not during[kind]:
            print(f"{what:40}the rebuild ended before it was measured: more --gib")
            continue
        ours, theirs = statistics.median(before[kind]), statistics.median(during[kind])
        row = f"{ours / seconds:10.1f}{theirs / seconds:12.1f}{theirs / ours:8.0%}"
        print(f"{what:40}{row}   {unit}, {len(during[kind])} rounds")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="bench.rebuild", description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0, help="of files (2)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each work (4)")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        kind, top, seconds, turn = chosen.work
        print(WORKS[kind](Path(top), time.monotonic() + float(seconds), int(turn)))
        return 0
    with tempfile.TemporaryDirectory(prefix="zdfs-rebuild-") as folder:
        compare(Path(folder), chosen.gib, chosen.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
