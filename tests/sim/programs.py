"""Who works in a life: casts of processes, by name."""

import os
from collections.abc import Callable

from tests.sim.clients import Filer, Histories, Lister, Moder
from tests.sim.processes import (
    LOG,
    ROWS,
    SHARED,
    Appender,
    Dater,
    Labeller,
    Namer,
    Owner,
    Process,
    Rewriter,
    Watcher,
)
from tests.sim.rulers import Counter, Ruler
from tests.world.cluster import Cluster
from tests.world.nemesis import Nemesis

Cast = Callable[[Cluster, Nemesis], list[Process]]


def create(cluster: Cluster, path: bytes) -> None:
    """An empty file."""
    do, volume = cluster.do, cluster.volume
    handle = do(volume.create(path, 0o644, 0, 0, os.O_RDWR))
    do(volume.flush(handle))
    do(volume.release(handle))


def everybody(cluster: Cluster, nemesis: Nemesis) -> list[Process]:
    """Blocks of one file are shared, one log is appended to, a file is emptied and rewritten while
    others read it, names and attributes come and go."""
    for path in (SHARED, LOG, ROWS):
        create(cluster, path)
    mounts = cluster.mounts
    return [
        *(Owner(number, mounts, nemesis) for number in range(4)),
        *(Appender(number, mounts, nemesis) for number in range(2)),
        Rewriter(mounts, nemesis),
        Dater(mounts, nemesis),
        Labeller("labeller", mounts, nemesis),
        Watcher("watcher", mounts, nemesis),
        *(Namer(f"namer{number}", mounts, nemesis) for number in range(2)),
    ]


def linear(cluster: Cluster, nemesis: Nemesis) -> list[Process]:
    """One of each on each mount: all of them on the same names, files and inodes."""
    histories = Histories(cluster)
    return [
        kind(place, histories, cluster.mounts, nemesis)
        for place in range(len(cluster.mounts))
        for kind in (Lister, Filer, Moder)
    ]


def quorum(cluster: Cluster, nemesis: Nemesis) -> list[Process]:
    """Everybody, and one who counts copies."""
    return [*everybody(cluster, nemesis), Counter(cluster, nemesis)]


def mixed(cluster: Cluster, nemesis: Nemesis) -> list[Process]:
    """The same, and one who changes the policy."""
    return [*quorum(cluster, nemesis), Ruler("ruler", cluster.mounts, nemesis)]


CASTS: dict[str, Cast] = {
    "everybody": everybody, "linear": linear, "quorum": quorum, "mixed": mixed,
}  # fmt: skip
