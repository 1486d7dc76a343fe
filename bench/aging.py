"""A store that has been used, and one that is repaired: `aged`, `repair`."""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench import rebuild
from bench.series import PIECE, Series, cluster, forget_pages, processor_s, write_synced
from bench.series import written_bytes
from tests.live.cluster import Cluster
from zdfs import limits

DISK_BYTES = 2 * limits.GIB  # of each server of a store that ages
FILLED = 0.8
OVERWRITTEN = 5  # times
SERVERS = 4
STRIDE = 16  # MiB overwritten between two fsyncs


@contextmanager
def disk(size_bytes: int) -> Iterator[Path]:
    """A file system of its own, in a file of the disk that everything else is measured on."""
    with tempfile.TemporaryDirectory(prefix="zdfs-aged-") as folder:
        image, where = Path(folder, "image"), Path(folder, "disk")
        where.mkdir()
        with image.open("wb") as file:
            file.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, where], check=True)
        try:
            yield where
        finally:
            subprocess.run(["umount", where], check=True)


def aged(scale: float) -> Series:
    """Filled to 80 %, then overwritten at random for five times its size."""
    lines: dict[str, list[tuple[float, float]]] = {}
    dice = random.Random(1)
    with ExitStack() as disks:
        size = max(limits.GIB, round(DISK_BYTES * scale))
        stores = {slot: disks.enter_context(disk(size)) / "store" for slot in range(SERVERS)}
        with cluster(SERVERS, stores=stores) as made:
            path = made.mount() / "aged"
            room = os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize
            mib = round(room * FILLED / limits.MIB)
            fresh = write_synced(path, mib)
            for times in range(OVERWRITTEN + 1):
                amount = mib if times else STRIDE
                before = _spent(made)
                rate = _overwrite(path, mib, dice, amount)
                wrote, worked = (now - was for now, was in zip(_spent(made), before))
                for what, value in {
                    "overwrite at random, 64 KiB, MB/s": rate,
                    "written by a server, of what came": wrote / (amount * limits.MIB * 3),
                    "processors, all processes, ms/MB": worked * 1e9 / (amount * limits.MIB),
                    "read in order, MB/s": _read(path, mib),
                    "on disk, of what is live": _stored(stores) / (mib * limits.MIB * 3),
                    "written once, MB/s": fresh,
                }.items():
                    lines.setdefault(what, []).append((times + 1, value))
                print(times, {k: v[-1] for k, v in lines.items()}, file=sys.stderr, flush=True)
    return Series("A store that ages, 80 % full", "times written", lines)


def _spent(made: Cluster) -> tuple[float, float]:
    """Bytes that dataservers wrote, and seconds of processors that everybody used."""
    servers = [node for name, node in made.nodes.items() if name.startswith("data")]
    everybody = [*made.nodes.values(), *made.mounts.values()]
    return sum(map(written_bytes, servers)), sum(map(processor_s, everybody))


def _overwrite(path: Path, mib: int, dice: random.Random, amount: int) -> float:
    """Whole blocks anywhere, with an fsync now and then."""
    step = limits.BLOCK_BYTES
    fd = os.open(path, os.O_WRONLY)
    began = time.monotonic()
    for number in range(amount * limits.MIB // step):
        os.pwrite(fd, PIECE[:step], dice.randrange(mib * limits.MIB // step) * step)
        if number % (STRIDE * limits.MIB // step) == 0:
            os.fsync(fd)
    os.fsync(fd)
    os.close(fd)
    return amount * limits.MIB / 1e6 / (time.monotonic() - began)


def _read(path: Path, mib: int) -> float:
    forget_pages()
    began = time.monotonic()
    with path.open("rb", buffering=0) as file:
        while file.read(limits.MIB):
            pass
    return mib * limits.MIB / 1e6 / (time.monotonic() - began)


def _stored(stores: dict[int, Path]) -> int:
    """Bytes of all segments; what is deleted while we look is none."""
    total = 0
    for path in (path for store in stores.values() for path in store.glob("segment-*.log")):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def repair(scale: float) -> Series:
    """A lost disk, and a scrub of everything, nobody at work."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for mib in (256, 1024, 4096):
        with cluster(SERVERS) as made:
            gib = max(rebuild.FILE_BYTES / limits.GIB, mib * scale / 1024)
            rebuild.fill(made.mount(), gib)
            for what, value in (("rebuild", _rebuilt(made)), ("scrub", _scrubbed(made, gib))):
                lines.setdefault(f"{what}, MB/s", []).append((gib, value))
            print(gib, {k: v[-1] for k, v in lines.items()}, file=sys.stderr, flush=True)
    return Series("A disk rebuilt, a cluster scrubbed", "GiB of files", lines)


def _rebuilt(made: Cluster) -> float:
    started = rebuild.lose(made)
    size: int = rebuild.state(made)[1].get("total_bytes", 0)
    made.wait_serving(rebuild.READY_S)
    return size / 1e6 / (time.monotonic() - started)


def _scrubbed(made: Cluster, gib: float) -> float:
    """Bytes of all copies, read and checked."""
    began = time.monotonic()
    done = made.command("zdfs", "scrub", "--now", "--meta", made.meta_port, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    return gib * limits.GIB * limits.REPLICAS / 1e6 / (time.monotonic() - began)
