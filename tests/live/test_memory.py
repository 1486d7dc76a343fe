"""Memory stays bounded while a large file goes through: anonymous memory of every process."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.cluster import Cluster

MIB = 1024 * 1024
MOST_BYTES = 300 * MIB
SAMPLE_S = 0.1
WRITE = """
import hashlib, os, sys
piece, sum = os.urandom(2**20 - 8), hashlib.sha256()
with open(sys.argv[1], "wb", buffering=0) as file:
    for number in range(int(sys.argv[2])):
        data = number.to_bytes(8, "big") + piece
        assert file.write(data) == len(data)
        sum.update(data)
    os.fsync(file.fileno())
print(sum.hexdigest())
"""


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process (proc(5)); 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")]
    return found[0] if found else 0


@contextmanager
def watched(cluster: Cluster) -> Iterator[dict[str, int]]:
    """The most that each process of a cluster used meanwhile."""
    most: dict[str, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            named = {name: one.pid for name, one in list(cluster.nodes.items())}
            named |= {where.name: one.pid for where, one in list(cluster.mounts.items())}
            for name, pid in named.items():
                most[name] = max(most.get(name, 0), anonymous_bytes(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        ended.set()
        watcher.join()


def run(*words: object, timeout_s: float) -> str:
    """A program's output."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def copy_and_read(folder: Path, mebibytes: int, timeout_s: float) -> None:
    """A file of random-looking bytes in, its checksum back cold, everybody watched."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        where = cluster.mount()
        with watched(cluster) as most:
            wanted = run(
                sys.executable, "-c", WRITE, f"{where}/big", mebibytes, timeout_s=timeout_s
            )
            cluster.unmount(where)
            cluster.mount()
            found = run("sha256sum", where / "big", timeout_s=timeout_s)
        assert found.split()[0] == wanted.strip()
        assert set(most) == {"meta", "data-0", "data-1", "data-2", "data-3", "mnt"}
        assert all(0 < size < MOST_BYTES for size in most.values()), most
        print({name: f"{size / MIB:.0f} MiB" for name, size in most.items()})
    finally:
        cluster.close()


def test_half_a_gibibyte(tmp_path: Path) -> None:
    copy_and_read(tmp_path, 512, 110)


@pytest.mark.soak
def test_ten_gibibytes(tmp_path: Path) -> None:
    copy_and_read(tmp_path, 10 * 1024, 1500)
