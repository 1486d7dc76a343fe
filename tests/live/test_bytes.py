"""Every byte of one file, under every way to write and read it: fsx, and blocks with checksums."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live import fsx
from tests.live.cluster import Cluster

pytestmark = pytest.mark.shared
ROOT = Path(__file__).parents[2]
PROCESSES = 4
Tell = Callable[[str], None]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two mounts."""
    one = Cluster(tmp_path_factory.mktemp("bytes"), block_size=16384)
    try:
        one.start()
        one.mount("a")
        one.mount("b")
        yield one
    finally:
        one.close()


def program(*words: object) -> "subprocess.Popen[str]":
    """Start fsx.py."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.live.fsx", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: "subprocess.Popen[str]", seconds: float) -> str:
    """What it said, when all was right."""
    try:
        said, wrong = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, wrong[-6000:]
    return said.strip()


def operations(cluster: Cluster, mounts: str, seed: int, count: int) -> str:
    """fsx on a new file; every replica is right afterwards."""
    paths = [cluster.folder / mount / f"fsx-{mounts}-{count}" for mount in mounts]
    said = end(program(seed, count, *paths), 30 + count / 20)
    checked = cluster.command("zdfs", "fsck", "--meta", cluster.meta_port, timeout=300)
    assert checked.returncode == 0, checked.stdout[-3000:]
    os.unlink(paths[0])
    return f"{len(mounts)} mount(s): {said}"


@pytest.mark.parametrize("mounts", ["a", "ab"])
def test_fsx(cluster: Cluster, tell: Tell, seed: int, mounts: str) -> None:
    tell(operations(cluster, mounts, seed, 1500 // len(mounts)))


@pytest.mark.soak
@pytest.mark.parametrize("mounts", ["a", "ab"])
def test_fsx_20000(cluster: Cluster, tell: Tell, seed: int, mounts: str) -> None:
    tell(operations(cluster, mounts, seed, 20_000))


def verified(cluster: Cluster, seed: int, count: int) -> str:
    """Four processes on one file of one mount, each with blocks of its own."""
    path = cluster.folder / f"a/verified-{count}"
    blocks = ((me, number) for number in range(fsx.BLOCKS) for me in range(PROCESSES))
    path.write_bytes(b"".join(fsx.block(me, number, 0) for me, number in blocks))
    crowd = [program("verify", seed, count, path, me) for me in range(PROCESSES)]
    try:
        said = [end(one, 60 + count) for one in crowd]
    finally:
        for one in crowd:
            one.kill()
    os.unlink(path)
    return f"{PROCESSES} processes, each: {said[0]}"


def test_blocks_with_checksums(cluster: Cluster, tell: Tell, seed: int) -> None:
    tell(verified(cluster, seed, 150))


@pytest.mark.soak
def test_many_blocks_with_checksums(cluster: Cluster, tell: Tell, seed: int) -> None:
    tell(verified(cluster, seed, 5000))
