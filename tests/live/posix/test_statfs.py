"""statfs(2): its numbers agree with what is stored.  Each server has a small disk of its own."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.cluster import Cluster
from tests.live.files import do

MIB = 1 << 20
DISK_BYTES = 256 * MIB
FILE_BYTES = 96 * MIB


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A mount of a cluster of three small disks."""
    disks = {index: tmp_path / f"disk{index}" for index in range(3)}
    for disk in disks.values():
        disk.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "zdfs-test", disk], check=True
        )
    stores = {index: disk / "store" for index, disk in disks.items()}
    cluster = Cluster(tmp_path, servers=3, stores=stores)
    try:
        yield cluster.start().mount()
    finally:
        cluster.close()
        for disk in disks.values():
            subprocess.run(["umount", disk], check=True, timeout=30)


def space(where: Path) -> tuple[int, int]:
    """Bytes free and bytes used, as df says."""
    words = do("stat", "-f", "-c", "%S %b %f %a", where).split()
    unit, blocks, free, available = map(int, words)
    assert free == available <= blocks
    return free * unit, (blocks - free) * unit


def test_free_falls_by_what_is_written_and_comes_back(small: Path) -> None:
    """Three servers, three replicas: a byte costs each of them one."""
    free, used = until(lambda: (found := space(small))[0] and found, 30, "the servers report")
    assert free <= DISK_BYTES and used == 0
    do("dd", "if=/dev/urandom", f"of={small}/f", "bs=1M", "count=96", "conv=fsync", "status=none")
    assert space(small)[1] == FILE_BYTES == os.stat(small / "f").st_blocks * 512
    until(
        lambda: FILE_BYTES <= free - space(small)[0] <= FILE_BYTES * 5 // 4,
        30,
        "what was written is not free",
    )
    do("truncate", "-s", "8M", small / "f")
    assert space(small)[1] == 8 * MIB
    do("rm", small / "f")
    until(lambda: space(small)[1] == 0, 30, "nothing is used")
    # But for the part of the log that is written just now: it goes when the next one is begun.
    until(lambda: free - space(small)[0] < FILE_BYTES // 2, 60, "what was removed is free again")


def test_holes_cost_nothing(small: Path) -> None:
    do("truncate", "-s", "100G", small / "sparse")
    assert space(small)[1] == 0
    do("dd", "if=/dev/urandom", f"of={small}/sparse", "bs=1M", "count=1", "seek=5000",
       "conv=notrunc,fsync", "status=none")  # fmt: skip
    assert space(small)[1] == MIB


def test_inodes_are_counted(small: Path) -> None:
    def used() -> int:
        files, free = map(int, do("stat", "-f", "-c", "%c %d", small).split())
        return files - free

    before = used()
    do("sh", "-c", f"cd {small} && mkdir d && touch d/a d/b && ln -s a d/c && mkfifo d/p")
    assert used() == before + 5
    do("rm", "-r", small / "d")
    until(lambda: used() == before, 30, "what was removed is not counted")
