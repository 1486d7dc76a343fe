"""What the copies of the metadata cost, per operation: `python -m bench.copies`.

Three clusters beside one another, with none, one and two copies (`--meta-copies`), on one disk and
machine; rounds alternate between them.  Figures are microseconds per operation, medians of rounds;
what the copies cost is the difference of two columns.  `N processes`: so many at once, each with
operations of its own; the figure is the time of all by the number of all operations.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import load
from tests.live.cluster import Cluster

COPIES = (0, 1, 2)
ROUNDS = 3
COUNT = 200
TIMEOUT_S = 300


def mkdir(top: str) -> None:
    """Directories."""
    for number in range(COUNT):
        os.mkdir(f"{top}/{number}")


def chmod(top: str) -> None:
    """Of each."""
    for number in range(COUNT):
        os.chmod(f"{top}/{number}", 0o711)


def rename(top: str) -> None:
    """Each, and back."""
    for number in range(COUNT // 2):
        os.rename(f"{top}/{number}", f"{top}/x{number}")
        os.rename(f"{top}/x{number}", f"{top}/{number}")


def rmdir(top: str) -> None:
    """Each."""
    for number in range(COUNT):
        os.rmdir(f"{top}/{number}")


WORKS: dict[str, tuple[Callable[[str], None], int]] = {  # the work, and its operations
    "mkdir": (mkdir, COUNT),
    "chmod": (chmod, COUNT),
    "rename": (rename, COUNT),
    "rmdir": (rmdir, COUNT),
    "create": (load.create, load.FILES),
    "unlink": (load.clear, load.FILES),
    "sync": (load.sync, load.SYNCS),
}
PLAN = [(work, processes) for processes in (1, 8) for work in WORKS]


def run(work: str, processes: int, mount: Path) -> float:
    """Microseconds per operation."""
    tops = [mount / f"{processes}-{number}" for number in range(processes)]
    for top in tops:
        top.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "bench.copies", work]
    began = time.perf_counter()
    running = [subprocess.Popen([*words, str(top)], stdout=subprocess.PIPE) for top in tops]
    inside = [float(one.communicate(timeout=TIMEOUT_S)[0]) for one in running]
    assert not any(one.returncode for one in running), work
    took = inside[0] if processes == 1 else time.perf_counter() - began
    return took / processes / WORKS[work][1] * 1e6


def main() -> int:
    """Print the table."""
    taken: dict[tuple[str, int, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="zdfs-bench-") as folder, ExitStack() as stack:
        mounts = {}
        for copies in COPIES:
            where = Path(folder) / f"copies-{copies}"
            where.mkdir()
            cluster = Cluster(where, 4, faults=False, meta_more=("--meta-copies", str(copies)))
            stack.callback(cluster.close)
            mounts[copies] = cluster.start().mount()
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS} ...", file=sys.stderr)
            for work, processes in PLAN:
                for copies, mount in mounts.items():
                    figure = run(work, processes, mount)
                    taken.setdefault((work, processes, copies), []).append(figure)
    print(f"microseconds per operation; medians of {ROUNDS} rounds\n")
    print(f"{'copies of the metadata':28}" + "".join(f"{copies:>9}" for copies in COPIES))
    for work, processes in PLAN:
        what = work if processes == 1 else f"{work}, {processes} processes"
        figures = [statistics.median(taken[work, processes, copies]) for copies in COPIES]
        shown = "".join(f"{figure:9.0f}" for figure in figures)
        print(f"{what:28}{shown}   x {figures[-1] / figures[0]:.2f}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main())
    start = time.perf_counter()
    WORKS[sys.argv[1]][0](sys.argv[2])
    print(time.perf_counter() - start)
