"""How the cost grows: `python -m bench.scale [SERIES ...]`, clusters of its own on this machine.

    directory   names in one directory           files     files that the metaserver has
    clients     programs at work at once         servers   dataservers, all on this machine
    blocks      block size

Each series becomes rows of a Markdown table on stdout, and a plot under `--plots`; all figures go
to `--json`.  Sizes are multiplied by `--scale`.  Directories and files are grown in the store of
the metaserver while it is stopped, by the functions that it uses itself (`namespace`): a million
names take minutes so, not an hour.  There the metadata has no copies, which would be filled then.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import plot
from tests.live.cluster import Cluster
from zdfs import limits, wire
from zdfs.copied import CopiedStore
from zdfs.ids import ROOT, Epoch, Ino
from zdfs.ledger import Ledger
from zdfs.link import Link
from zdfs.namespace import Newborn, make
from zdfs.paths import PathVolume
from zdfs.store import LmdbStore

PIECE = os.urandom(limits.MIB)
TIMES = 400  # operations of each kind, at each point
NAMES_A_ROUND = 2000
FILES_A_DIRECTORY = 1000


class Series(NamedTuple):
    """What was found: what, with its unit -> points."""

    title: str
    axis: str
    lines: dict[str, list[tuple[float, float]]]


# --- means ---------------------------------------------------------------------------------------


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


def anonymous_mib(process: "subprocess.Popen[bytes]") -> float:
    """Memory that is not a mapped file."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise ValueError("no RssAnon")


# --- the metaserver's store ----------------------------------------------------------------------


def grow(made: Cluster, first: int, last: int, each: int) -> float:
    """Empty files `first` to `last` in directories of so many, made in the store of a metaserver
    that is stopped meanwhile; how long it takes to start with them."""
    made.kill("meta", number=signal.SIGTERM)
    store = CopiedStore(LmdbStore(made.meta_store))
    ledger = Ledger(store, bytes(16))
    ledger.begin()
    parent = ROOT
    for number in range(first, last):
        if number % each == 0:
            parent = _new(ledger, ROOT, b"%d" % (number // each), stat.S_IFDIR | 0o755)
        elif number == first:
            with ledger.view() as view:
                parent = view.entry(ROOT, b"%d" % (number // each)).ino  # type: ignore[union-attr]
        _new(ledger, parent, b"f%d" % number, stat.S_IFREG | 0o644)
        if number % NAMES_A_ROUND == 0:
            store.end_round()
    store.end_round()
    store.close()
    began = time.monotonic()
    made.start_meta()
    made.wait_serving(600)
    return time.monotonic() - began


def _new(ledger: Ledger, parent: Ino, name: bytes, mode: int) -> Ino:
    ino = ledger.new_ino()
    with ledger.change() as tables:
        make(tables, time.time_ns(), parent, name, Newborn(ino, mode, 0, 0, epoch=Epoch(1)))
    return ino


def _sizes(most: int) -> list[int]:
    sizes = [most]
    while sizes[0] > 10:
        sizes.insert(0, sizes[0] // 10)
    return sizes


def _names(title: str, axis: str, most: int, each: int | None) -> Series:
    """Names in the store against the time that an operation takes; `each`: in one directory."""
    lines: dict[str, list[tuple[float, float]]] = {}
    dice = random.Random(1)
    with cluster(meta_more=("--meta-copies", "0")) as made:
        had = 0
        for size in _sizes(most):
            in_one = each or most + 1
            started = grow(made, had, size, in_one)
            had = size
            with volume(made) as (link, found):

                def look(_: int) -> None:
                    number = dice.randrange(size)
                    request = wire.Lookup(ROOT, (b"%d" % (number // in_one), b"f%d" % number))
                    assert link.run(found.contact.ask(request)).number == 0

                top = b"/0/new%d-" % size
                points = {
                    "lookup, /s": rate(TIMES, look),
                    "mkdir, /s": rate(
                        TIMES, lambda n: link.run(found.make(top + b"%d" % n, 0o40755, 0, 0))
                    ),
                    "start of the metaserver, s": started,
                    "its own memory, MiB": anonymous_mib(made.nodes["meta"]),
                }
            for what, value in points.items():
                lines.setdefault(what, []).append((size, value))
            print(f"{axis} {size:,}: {points}", file=sys.stderr, flush=True)
    return Series(title, axis, lines)


def directory(scale: float) -> Series:
    """One directory, of up to a million names."""
    return _names("One directory that grows", "names", round(1_000_000 * scale), None)


def files(scale: float) -> Series:
    """Up to five million files."""
    most = round(5_000_000 * scale)
    return _names("A file system that grows", "files", most, FILES_A_DIRECTORY)


# --- clients, servers, blocks --------------------------------------------------------------------


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
            begin, done = multiprocessing.Event(), multiprocessing.Queue()
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
    began = time.monotonic()
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(PIECE)
        file.flush()
        os.fsync(file.fileno())
    written = mib * limits.MIB / 1e6 / (time.monotonic() - began)
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


ALL: dict[str, Callable[[float], Series]] = {
    "directory": directory,
    "files": files,
    "clients": clients,
    "servers": servers,
    "blocks": blocks,
}


def _shown(value: float) -> str:
    return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"


def table(series: Series) -> str:
    """As Markdown."""
    xs = sorted({x for points in series.lines.values() for x, _ in points})
    rows = [
        f"| {series.axis} |" + "".join(f" {x:,.0f} |" for x in xs),
        "|---" * (len(xs) + 1) + "|",
    ]
    for what, points in series.lines.items():
        found = dict(points)
        cells = "".join(
            f" {found[x]:,.3g} |" if found[x] < 100 else f" {found[x]:,.0f} |" for x in xs
        )
        rows.append(f"| {what} |{cells}")
    return "\n".join(rows)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("series", nargs="*", choices=[[], *ALL], help="all, if none is named")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--plots", type=Path, default=Path("docs/scale"))
    parser.add_argument("--json", type=Path, default=Path("build/scale.json"))
    chosen = parser.parse_args()
    chosen.plots.mkdir(parents=True, exist_ok=True)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(chosen.json.read_text()) if chosen.json.exists() else {}
    for name in chosen.series or ALL:
        found = ALL[name](chosen.scale)
        print(f"\n**{found.title}**\n\n{table(found)}\n", flush=True)
        (chosen.plots / f"{name}.svg").write_text(plot.draw(*found))
        kept[name] = found._asdict()
        chosen.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
