"""More names, files, bytes, open files: `directory`, `files`, `start`, `memory`."""

import os
import random
import signal
import stat
import sys
import time

from bench.series import PIECE, TIMES, Series, anonymous_mib, cluster, rate, volume
from tests.live.cluster import Cluster
from zdfs import checksum, limits, wire
from zdfs.blockstore import LogStore
from zdfs.copied import CopiedStore
from zdfs.ids import ROOT, BlockNo, Epoch, Ino, Name, Slot, Token, Version
from zdfs.ledger import Ledger
from zdfs.namespace import Newborn, make
from zdfs.store import LmdbStore

NAMES_A_ROUND = 2000
FILES_A_DIRECTORY = 1000
NOBODYS = Ino(2**62)  # no metaserver has lived so often
OLD = Version(Token(1), 1)


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


def start(scale: float) -> Series:
    """One dataserver whose store was grown to 20 GiB while it was stopped."""
    most = 20 * 1024 * scale
    lines: dict[str, list[tuple[float, float]]] = {}
    with cluster() as made:
        had = 0
        for mib in (most / 1000, most / 100, most / 10, most):
            made.kill("data-0", number=signal.SIGTERM)
            had = _store(made, had, max(1, round(mib)))
            began = time.monotonic()
            made.start_data(0)
            made.wait_serving(600)
            points = {
                "until it serves, s": time.monotonic() - began,
                "its own memory, MiB": anonymous_mib(made.nodes["data-0"]),
            }
            for what, value in points.items():
                lines.setdefault(what, []).append((had / 1024, value))
            print(f"store of {had:,} MiB: {points}", file=sys.stderr, flush=True)
    return Series("A dataserver starts with a store of that size", "GiB", lines)


def _store(made: Cluster, had: int, mib: int) -> int:
    """Blocks of one inode that nobody knows of, so that the store is that large."""
    store = LogStore(made.stores[0], Slot(0))
    each = limits.MIB // limits.BLOCK_BYTES
    for number in range(had, mib):
        for place in range(each):
            data = memoryview(PIECE)[place * limits.BLOCK_BYTES :][: limits.BLOCK_BYTES]
            name = Name(NOBODYS, BlockNo(number * each + place), OLD)
            store.append(name, checksum.seal(name, data), Epoch(1), Slot(0), data)
        store.end_round()
        if number % 64 == 63:
            store.settle()
    store.settle()
    store.close()
    return mib


def memory(scale: float) -> Series:
    """Files that a mount has open, each with a block written."""
    lines: dict[str, list[tuple[float, float]]] = {}
    with cluster() as made:
        top = made.mount()
        files: list[int] = []
        for count in _sizes(round(10_000 * scale)):
            while len(files) < count:
                files.append(os.open(top / str(len(files)), os.O_CREAT | os.O_RDWR))
                os.write(files[-1], PIECE[:4096])
            os.fsync(files[-1])
            time.sleep(2.0)  # what waited half a second for its rest is flushed
            for what, process in (
                ("mount, MiB", made.mounts[top]),
                ("metaserver, MiB", made.nodes["meta"]),
                ("a dataserver, MiB", made.nodes["data-0"]),
            ):
                lines.setdefault(what, []).append((count, anonymous_mib(process)))
        for fd in files:
            os.close(fd)
    return Series("Memory of each process and open files", "open files", lines)
