"""What a figure of `zdfs bench` means: pure.

Every row has two thresholds.  `good` is about four fifths of what was measured for
docs/PERFORMANCE.md, on two processors that were server, mount and program at once, with one disk
under five servers.  A cluster of machines that are not shared does as much.  `slow` is a quarter of
it: a machine that is merely busy with something else is not so slow, so something is wrong, or the
network or the disks are much slower than those.  The figures are zdfs's own, so other file systems
are not judged, only shown beside.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """A thing that is measured."""

    name: str
    unit: str
    good: float  # at least
    slow: float  # below
    reason: str  # what decides it, in words
    look: str  # where to look when it is slow


ROWS = (
    Row("write", "MB/s", 100, 30, "three copies, and three disks that sync them",
        "zdfs health (pace, space), and the servers' disks"),
    Row("read, cold", "MB/s", 160, 50, "one copy's disk and way here, checked twice",
        "zdfs health (pace), the network, the servers' disks"),
    Row("read, warm", "MB/s", 1500, 400, "the kernel's memory here",
        "this machine's free memory, and who else uses its processors"),
    Row("random read, 4 KiB", "reads/s", 800, 250, "the way to a server and back, and one block",
        "the network's delay (ping), and zdfs top on busy servers"),
    Row("write 4 KiB, fsync", "writes/s", 100, 30, "the sync of three disks, and of the metadata's",
        "the disks: those without a power-safe cache sync slowly"),
    Row("create, 4 KiB, close", "files/s", 70, 22, "three changes of names, synced on two copies",
        "the metaserver's disk and processor: zdfs top, zdfs health"),
    Row("stat", "files/s", 3500, 1100, "what the mount remembers, and else the metaserver",
        "the metaserver's processor: zdfs top"),
    Row("readdir", "entries/s", 10000, 2500, "a question for some hundred names, again and again",
        "the metaserver's processor: zdfs top"),
    Row("rename", "files/s", 210, 65, "one change of names, synced on two copies",
        "the metaserver's disk and processor: zdfs top, zdfs health"),
    Row("unlink", "files/s", 280, 85, "one change of names, synced on two copies",
        "the metaserver's disk and processor: zdfs top, zdfs health"),
)  # fmt: skip


def verdict(row: Row, figure: float | None) -> tuple[str, str]:
    """A word (good, normal, slow, failed) and a sentence."""
    if figure is None:
        return "failed", f"not measured: {row.look}"
    if figure >= row.good:
        return "good", f"good: {row.good:,} or more"
    if figure >= row.slow:
        return "normal", f"normal: {row.slow:,} to {row.good:,}"
    return "slow", f"slow: below {row.slow:,}; look at {row.look}"


def ratio(figure: float | None, beside: float | None) -> float | None:
    """How many times as fast as what is beside it."""
    return figure / beside if figure is not None and beside else None
