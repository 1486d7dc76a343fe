"""What each measurement of growth is made with: a cluster of its own, rates, memory, a table."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.live.cluster import Cluster
from zdfs import limits
from zdfs.link import Link
from zdfs.paths import PathVolume

PIECE = os.urandom(limits.MIB)
TIMES = 400  # operations of each kind, at each point


class Series(NamedTuple):
    """What was found: what, with its unit -> points."""

    title: str
    axis: str
    lines: dict[str, list[tuple[float, float]]]


@contextmanager
def cluster(servers: int = 4, **more: Any) -> Iterator[Cluster]:
    """One that serves; ended without a check: growing a store by hand outdates what servers know
    of its age, not of its content."""
    folder = Path(tempfile.mkdtemp(prefix="zdfs-scale-"))
    made = Cluster(folder, servers, faults=False, **more)
    made.unchecked = "it is measured, not tested"
    try:
        yield made.start()
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def rate(times: int, act: Callable[[int], object]) -> float:
    """How often a second."""
    began = time.monotonic()
    for number in range(times):
        act(number)
    return times / (time.monotonic() - began)


@contextmanager
def volume(made: Cluster) -> Iterator[tuple[Link, PathVolume]]:
    """The file system without a kernel between."""
    link = Link()
    found = PathVolume(made.meta_address, "(scale)", link)
    link.run(found.contact.open())
    try:
        yield link, found
    finally:
        link.run(found.stop())
        link.close()


def write_synced(path: Path, mib: int) -> float:
    """MB/s of a new file, in order, with one fsync."""
    began = time.monotonic()
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(PIECE)
        file.flush()
        os.fsync(file.fileno())
    return mib * limits.MIB / 1e6 / (time.monotonic() - began)


def forget_pages() -> None:
    """The kernel's, of every file: what is read next comes from servers and disks."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def anonymous_mib(process: "subprocess.Popen[bytes]") -> float:
    """Memory that is not a mapped file."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise ValueError("no RssAnon")


def processor_s(process: "subprocess.Popen[bytes]") -> float:
    """Seconds of processors that it has used."""
    words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def written_bytes(process: "subprocess.Popen[bytes]") -> int:
    """That it wrote to files."""
    for line in Path(f"/proc/{process.pid}/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise ValueError("no wchar")
