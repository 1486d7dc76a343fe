"""Reads while servers are dead (P3), a silent metaserver, a mount that was away for too long."""

import concurrent.futures
import hashlib
import itertools
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EIO
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live import programs
from tests.live.cluster import Cluster
from tests.live.programs import run
from zdfs import placement
from zdfs.ids import Slot

BLOCK = 4096


@contextmanager
def cluster_of(folder: Path, servers: int) -> Iterator[Cluster]:
    """A cluster with small blocks; stopped nodes are woken before its end."""
    folder.mkdir(exist_ok=True)
    cluster = Cluster(folder, servers, block_size=BLOCK)
    try:
        yield cluster.start()
    finally:
        for process in [*cluster.nodes.values(), *cluster.mounts.values()]:
            process.send_signal(signal.SIGCONT)
        cluster.close()


def store(mount: Path, name: str, data: bytes) -> None:
    """A file on a mount, synced."""
    command = ["dd", f"of={mount / name}", "bs=1M", "conv=fsync", "status=none"]
    subprocess.run(command, input=data, check=True, timeout=60)


def digest(path: Path, timeout: float = 30) -> str:
    """The SHA-256 of a file, or what went wrong."""
    done = run("sha256sum", path, timeout=timeout)
    return done.stdout.split()[0].decode() if done.returncode == 0 else done.stderr.decode()


def sha(data: bytes) -> str:
    """As `digest` says it."""
    return hashlib.sha256(data).hexdigest()


# --- every set of dead servers that P3 allows ----------------------------------------------------

Dead = frozenset[int]


def allowed(servers: int) -> list[Dead]:
    """Every set of dead servers under which reads must go on."""
    sets = [
        frozenset(dead)
        for count in range(servers)
        for dead in itertools.combinations(range(servers), count)
    ]
    if servers == 3:
        return [dead for dead in sets if len(dead) <= 2]
    return [dead for dead in sets if placement.readable(servers, {Slot(d) for d in dead})]


def chains(sets: list[Dead]) -> list[list[Dead]]:
    """All sets, in chains from large to small: only the first of a chain costs a timeout."""
    left = set(sets)
    found = []
    while left:
        chain = [max(left, key=lambda dead: (len(dead), sorted(dead)))]
        while chain[-1]:
            smaller = [chain[-1] - {one} for one in sorted(chain[-1])]
            fresh = [dead for dead in smaller if dead in left]
            if not fresh:
                break
            chain.append(fresh[0])
        left -= set(chain)
        found.append(chain)
    return found


def read_under_all_sets(folder: Path, servers: int, part: int, parts: int, seed: int) -> int:
    """Each set of dead servers reads a file that no cache has seen; how many sets there were."""
    mine = chains(allowed(servers))[part::parts]
    sets = list(itertools.chain(*mine))
    dice = random.Random(seed)
    content = {dead: dice.randbytes(BLOCK * servers * 2 - 100) for dead in sets}
    names = {dead: f"f{number}" for number, dead in enumerate(sets)}
    with cluster_of(folder, servers) as cluster:
        mount = cluster.mount("before")
        for dead in sets:
            store(mount, names[dead], content[dead])
        cluster.unmount(mount)
        mount = cluster.mount()
        stopped: Dead = frozenset()
        for dead in sets:
            for slot in stopped - dead:
                cluster.nodes[f"data-{slot}"].send_signal(signal.SIGCONT)
            for slot in dead - stopped:
                cluster.nodes[f"data-{slot}"].send_signal(signal.SIGSTOP)
            stopped = dead
            assert digest(mount / names[dead]) == sha(content[dead]), f"{servers}: {sorted(dead)}"
    return len(sets)


def test_reads_go_on_under_every_set_of_dead_servers(tmp_path: Path, seed: int) -> None:
    """N = 3 to 5, all at once: most of the time is spent waiting for silent servers."""
    assert under_all_sets(tmp_path, seed, [(3, 0, 1), (4, 0, 1), (5, 0, 1)]) == 7 + 11 + 21


@pytest.mark.soak
def test_reads_go_on_under_every_set_of_six(tmp_path: Path, seed: int) -> None:
    assert under_all_sets(tmp_path, seed, [(6, 0, 2), (6, 1, 2)]) == 39


def under_all_sets(folder: Path, seed: int, shares: list[tuple[int, int, int]]) -> int:
    """Clusters of so many servers, each with one part of the sets: how many sets that were."""
    with concurrent.futures.ThreadPoolExecutor(len(shares)) as pool:
        jobs = [
            pool.submit(read_under_all_sets, folder / f"{servers}-{part}", servers, part, of, seed)
            for servers, part, of in shares
        ]
        return sum(job.result() for job in jobs)


def test_no_replica_left_is_an_error_and_never_zeros(tmp_path: Path, dice: random.Random) -> None:
    """kill -9 of two and of all three; EIO within seconds; all is well again without a remount."""
    data = dice.randbytes(BLOCK * 9)
    with cluster_of(tmp_path / "c", 3) as cluster:
        mount = cluster.mount("before")
        for name in ("a", "b", "c"):
            store(mount, name, data)
        cluster.unmount(mount)
        mount = cluster.mount()
        cluster.kill("data-0", "data-2")
        assert digest(mount / "a") == sha(data)
        cluster.kill("data-1")
        done = run("cat", mount / "b")
        assert done.returncode != 0 and b"Input/output error" in done.stderr
        assert done.stdout == b""
        assert "read error" in cluster.log("mnt")
        cluster.start_data(0)
        until(lambda: digest(mount / "b") == sha(data), 30, "the read works again")
        assert digest(mount / "c") == sha(data)
        cluster.start_data(1, 2)
        cluster.wait_serving()
        store(mount, "d", data)
        assert digest(mount / "d") == sha(data)


# --- the metaserver is down ----------------------------------------------------------------------


def test_open_files_are_read_while_the_metaserver_is_down(
    tmp_path: Path, dice: random.Random
) -> None:
    """Names wait for it, can be interrupted, and go through when it is back."""
    with cluster_of(tmp_path / "c", 3) as cluster:
        mount = cluster.mount("before")
        store(mount, "f", dice.randbytes(BLOCK * 30))
        cluster.unmount(mount)
        mount = cluster.mount()
        reader = programs.start("read", mount / "f")
        assert programs.line(reader)
        cluster.kill("meta")
        began = time.monotonic()
        until(lambda: programs.line(reader) and time.monotonic() - began > 5, 30, "reads go on")
        waiting = [
            subprocess.Popen(["mkdir", str(mount / name)], stderr=subprocess.PIPE)
            for name in ("one", "two", "three")
        ]
        until(lambda: programs.line(reader) and time.monotonic() - began > 8, 30, "reads go on")
        assert [process.poll() for process in waiting] == [None] * 3
        waiting[0].send_signal(signal.SIGINT)
        waiting[1].send_signal(signal.SIGKILL)
        assert waiting[0].wait(timeout=20) == -signal.SIGINT
        assert waiting[1].wait(timeout=20) == -signal.SIGKILL
        cluster.start_meta()
        assert waiting[2].wait(timeout=30) == 0
        assert (run("test", "-d", mount / "three")).returncode == 0
        assert programs.line(reader) and reader.poll() is None
        reader.kill()
        reader.communicate()
        assert run("mkdir", mount / "four").returncode == 0
        store(mount, "g", b"written after the restart")
        words = ("waiting for the metaserver", "answers again")
        until(lambda: len({*map(cluster.log("mnt").count, words)}) == 1, 30, "it waits no more")
        # (It reads before it has the votes to change names: it may be waited for again.)
        assert 1 <= cluster.log("mnt").count(words[0]) <= 5


# --- the mount was away --------------------------------------------------------------------------


def test_a_mount_that_was_away_for_too_long(tmp_path: Path) -> None:
    """Its unflushed data is lost, which the next fsync says once; everything else goes on."""
    with cluster_of(tmp_path / "c", 3) as cluster:
        mount = cluster.mount()
        store(mount, "kept", b"kept")
        cluster.kill("data-1")
        process = programs.start("hold", mount / "f", "held")
        assert programs.line(process) == "accepted"
        cluster.mounts[mount].send_signal(signal.SIGSTOP)
        until(lambda: "fell silent" in cluster.log("meta"), 30, "the session ends")
        cluster.start_data(1)
        cluster.wait_serving()
        cluster.mounts[mount].send_signal(signal.SIGCONT)
        assert run("mkdir", mount / "d", timeout=20).returncode == 0
        until(lambda: "opening a new one" in cluster.log("mnt"), 10, "a new session")
        process.send_signal(signal.SIGUSR1)
        assert programs.line(process) == str(EIO)
        process.send_signal(signal.SIGUSR1)
        assert programs.line(process) == "fine"
        process.communicate(timeout=30)
        assert digest(mount / "f") == sha(b"later held")
        assert digest(mount / "kept") == sha(b"kept")
        other = cluster.mount("other")
        assert digest(other / "f") == sha(b"later held")


# --- late replies, stopped servers ---------------------------------------------------------------


@pytest.mark.parametrize("round_number", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_random_overwrites_while_servers_stop_and_go(
    tmp_path: Path, dice: random.Random, seed: int, round_number: int
) -> None:
    """The same operations on the mount and on a local file, in step, whatever the servers do."""
    with cluster_of(tmp_path / "c", 4) as cluster:
        mount = cluster.mount()
        here = tmp_path / "here"
        process = programs.start("differ", mount / "there", here, f"{seed} {round_number}", 800)
        last = programs.line(process)
        for _ in range(4):
            slot = dice.randrange(4)
            victim = cluster.nodes[f"data-{slot}"]
            victim.send_signal(signal.SIGSTOP)
            end = time.monotonic() + dice.choice((0.3, 1.0, 4.0))
            until(lambda: time.monotonic() > end, 10)
            victim.send_signal(signal.SIGCONT)
            for _ in range(60):
                last = programs.line(process) or last
        output, errors = process.communicate(timeout=60)
        last = (output.split("\n") if output else [last, ""])[-2] if output else last
        assert last == "same", (last, errors)
        assert digest(mount / "there") == sha(here.read_bytes())
        cluster.unmount(mount)
        mount = cluster.mount("cold")
        assert digest(mount / "there") == sha(here.read_bytes())
