"""How fast it is: a cluster and a mount of its own, beside the local disk; then the vocabulary.

Everything stands in one temporary directory (TMPDIR chooses the disk), so both columns share disk
and machine.  Rounds alternate between the two, each figure is the median of its rounds, and only
the ratio means something on another machine.  "Cold" is after a new mount and, as root, after the
kernel dropped its caches.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import load, vocabulary
from tests.live.cluster import Cluster

ROUNDS = 3
SERVERS = 4
TIMEOUT_S = 120

FIGURES: list[tuple[str, str, str, float]] = [  # work, what, unit, units done in one go
    ("write", "sequential write, with fsync", "MB/s", load.BIG_BYTES / 1e6),
    ("read", "sequential read, cold", "MB/s", load.BIG_BYTES / 1e6),
    ("create", "create, write 4 KiB, close", "files/s", load.FILES),
    ("stat", "stat, cold", "files/s", load.FILES),
    ("sync", "write 4 KiB, fsync", "writes/s", load.SYNCS),
]


def run(work: str, where: Path) -> float:
    """Seconds that a piece of work took."""
    words = [sys.executable, "-m", "bench.load", work, str(where)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT_S)
    return float(done.stdout)


def drop_caches() -> None:
    """Have the kernel forget what it read; only root may."""
    os.sync()
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")


def measure(where: Path, cool: Callable[[], None], taken: dict[str, list[float]]) -> None:
    """One round on a directory.  `cool` forgets what is cached."""
    for work in ("write", "create", "sync"):
        taken.setdefault(work, []).append(run(work, where))
    cool()
    for work in ("read", "stat"):
        taken.setdefault(work, []).append(run(work, where))
    run("clear", where)


def compare(folder: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """All rounds, on the mount and on the local disk."""
    mounted: dict[str, list[float]] = {}
    local: dict[str, list[float]] = {}
    beside = folder / "local"
    beside.mkdir()
    cluster = Cluster(folder, SERVERS, faults=False)
    try:
        cluster.start()
        where = cluster.mount()

        def cool() -> None:
            cluster.unmount(where)
            drop_caches()
            cluster.mount()

        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS} ...", file=sys.stderr)
            measure(where, cool, mounted)
            measure(beside, drop_caches, local)
    finally:
        cluster.close()
    return mounted, local


def main() -> int:
    """Print the tables."""
    with tempfile.TemporaryDirectory(prefix="zdfs-bench-") as folder:
        mounted, local = compare(Path(folder))
    print(f"{SERVERS} dataservers, 3 replicas; medians of {ROUNDS} rounds\n")
    print(f"{'':32}{'zdfs':>12}{'local disk':>12}{'ratio':>10}")
    for work, what, unit, amount in FIGURES:
        ours = amount / statistics.median(mounted[work])
        theirs = amount / statistics.median(local[work])
        print(f"{what:32}{ours:12.1f}{theirs:12.1f}{ours / theirs:10.4f}   {unit}")
    print("\nwhat the vocabulary costs\n")
    return vocabulary.main()


if __name__ == "__main__":
    sys.exit(main())
