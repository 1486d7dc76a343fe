"""A server that missed something never serves an old byte, and becomes whole again."""

import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import Cluster, started

KIB = 1024
BLOCK = 4 * KIB
LATE = 1  # the server that misses things


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four servers, small blocks."""
    with started(tmp_path, 4, block_size=BLOCK) as made:
        yield made


def skip(cluster: Cluster, switch: str) -> None:
    """zdfs faults skip."""
    words = ("faults", "skip", cluster.ports[LATE], switch, "--meta", cluster.meta_port)
    done = cluster.command("zdfs", *words)
    assert done.returncode == 0, done.stderr


def fill(mount: Path, dice: random.Random) -> dict[str, bytes]:
    """Files to be changed; the truth about them."""
    truth = {}
    for name in ("overwritten", "patched", "cut", "deleted", "made-anew", "kept", "renamed"):
        truth[name] = dice.randbytes(dice.randrange(5 * BLOCK, 12 * BLOCK))
        files.put(mount / name, truth[name])
    return truth


def change(mount: Path, truth: dict[str, bytes], dice: random.Random) -> None:
    """Overwrite, patch, cut and grow, delete, delete and make anew, rename over."""
    truth["overwritten"] = dice.randbytes(len(truth["overwritten"]))
    files.put(mount / "overwritten", truth["overwritten"])
    patch = dice.randbytes(BLOCK + 100)
    at = BLOCK // 2
    script = 'head -c "$2" | dd of="$1" bs=1 seek="$3" conv=notrunc,fsync status=none'
    subprocess.run(
        ["sh", "-c", script, "-", str(mount / "patched"), str(len(patch)), str(at)],
        input=patch, timeout=60, check=True,
    )  # fmt: skip
    old = truth["patched"]
    truth["patched"] = old[:at] + patch + old[at + len(patch) :]
    files.do("truncate", "-s", BLOCK + 7, mount / "cut")
    files.do("truncate", "-s", 4 * BLOCK, mount / "cut")
    truth["cut"] = truth["cut"][: BLOCK + 7].ljust(4 * BLOCK, b"\0")
    files.do("rm", mount / "deleted")
    del truth["deleted"]
    files.do("rm", mount / "made-anew")
    truth["made-anew"] = dice.randbytes(len(truth["made-anew"]))
    files.put(mount / "made-anew", truth["made-anew"])
    files.put(mount / "new", dice.randbytes(100))
    truth["renamed"] = dice.randbytes(3 * BLOCK)
    files.put(mount / "tmp", truth["renamed"])
    files.do("mv", mount / "tmp", mount / "renamed")
    files.do("rm", mount / "new")


def never_old(cluster: Cluster, truth: dict[str, bytes], name: str) -> int:
    """From a mount that remembers nothing: each file is right or EIO.  How many were right."""
    mount = cluster.mount(name)
    readers = {
        path: subprocess.Popen(
            ["cat", str(mount / path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for path in truth
    }
    right = 0
    for path, reader in readers.items():
        data, error = reader.communicate(timeout=60)
        if reader.returncode:
            assert b"Input/output error" in error
            assert truth[path].startswith(data), path
        else:
            assert data == truth[path], path
            right += 1
    cluster.unmount(mount)
    return right


def only_the_late_one(cluster: Cluster, truth: dict[str, bytes], name: str) -> int:
    """Read with both other holders of every block dead that has a replica on the late server."""
    others = ["data-0", "data-2"]
    cluster.kill(*others)
    until(lambda: cluster.states().count("down") == 2, 20)
    right = never_old(cluster, truth, name)
    cluster.start_data(0, 2)
    return right


def test_what_it_missed_is_never_read(cluster: Cluster, dice: random.Random) -> None:
    mount = cluster.mount()
    truth = fill(mount, dice)
    skip(cluster, "on")
    cluster.kill(f"data-{LATE}")
    change(mount, truth, dice)
    cluster.unmount(mount)
    cluster.kill("data-0", "data-2")  # before it is back: from whom could it learn?
    cluster.start_data(LATE)
    until(lambda: cluster.states()[LATE : LATE + 1] == ["recovering"], 30)
    assert never_old(cluster, truth, "while") < len(truth)
    cluster.start_data(0, 2)
    skip(cluster, "off")
    cluster.wait_serving()
    assert files.all_whole(cluster, truth)
    assert only_the_late_one(cluster, truth, "after") == len(truth)


def test_skipped_although_it_is_up(cluster: Cluster, dice: random.Random) -> None:
    """Nothing tells it what it missed but the end of the skip."""
    mount = cluster.mount()
    truth = fill(mount, dice)
    skip(cluster, "on")
    change(mount, truth, dice)
    skip(cluster, "off")
    until(lambda: files.all_whole(cluster, truth), 30)
    assert only_the_late_one(cluster, truth, "after") == len(truth)


def test_messages_still_queued_for_it(cluster: Cluster, dice: random.Random) -> None:
    """A writer waits for a server that stands still; others overwrite; then it gets its mail."""
    mount = cluster.mount()
    truth = fill(mount, dice)
    late = cluster.nodes[f"data-{LATE}"]
    late.send_signal(signal.SIGSTOP)
    first = subprocess.Popen(
        ["dd", f"of={mount}/kept", "bs=64K", "conv=fsync", "status=none"], stdin=subprocess.PIPE
    )
    assert first.stdin is not None
    first.stdin.write(dice.randbytes(len(truth["kept"])))
    first.stdin.close()
    until(lambda: cluster.status().get("writes_blocked"), 30)
    skip(cluster, "on")
    assert first.wait(timeout=60) == 0
    truth["kept"] = dice.randbytes(len(truth["kept"]))
    files.put(mount / "kept", truth["kept"])
    change(mount, truth, dice)
    late.send_signal(signal.SIGCONT)
    assert never_old(cluster, truth, "while") == len(truth)
    skip(cluster, "off")
    cluster.wait_serving()
    until(lambda: files.all_whole(cluster, truth), 30)
    assert only_the_late_one(cluster, truth, "after") == len(truth)


@pytest.mark.parametrize("running", [pytest.param(False, marks=pytest.mark.soak), True])
def test_an_older_copy_of_its_store(cluster: Cluster, dice: random.Random, running: bool) -> None:
    mount = cluster.mount()
    truth = fill(mount, dice)
    store = cluster.stores[LATE]
    if not running:
        cluster.kill(f"data-{LATE}")
    copy = store.with_name("copy")
    shutil.copytree(store, copy)
    if not running:
        cluster.start_data(LATE)
        cluster.wait_serving()
    change(mount, truth, dice)
    cluster.unmount(mount)
    cluster.wait_report(LATE)  # what shows the copy to be old
    cluster.kill(f"data-{LATE}", "data-0", "data-2")
    shutil.rmtree(store)
    copy.rename(store)
    cluster.start_data(LATE)
    until(lambda: cluster.states()[LATE : LATE + 1] == ["recovering"], 30)
    assert "old" in [event["kind"] for event in cluster.told()["events"]]
    assert never_old(cluster, truth, "while") < len(truth)
    cluster.start_data(0, 2)
    cluster.wait_serving()
    assert files.all_whole(cluster, truth)
    assert only_the_late_one(cluster, truth, "after") == len(truth)


def blocks(cluster: Cluster) -> int:
    """Block versions on all servers."""
    return sum(server["blocks"] for server in cluster.told()["servers"])


def needed(cluster: Cluster, paths: list[str]) -> int:
    """How many replicas these files have."""
    return sum(len(files.replicas(cluster.where(f"/{path}"))) for path in paths)


def test_space_comes_back(cluster: Cluster, dice: random.Random) -> None:
    """Overwritten, cut and deleted: what no file names is gone from every server soon."""
    mount = cluster.mount()
    truth = fill(mount, dice)
    for _ in range(3):
        truth["kept"] = dice.randbytes(50 * BLOCK)
        files.put(mount / "kept", truth["kept"])
    change(mount, truth, dice)
    wanted = needed(cluster, list(truth))
    until(lambda: blocks(cluster) == wanted, 30, f"{wanted} replicas, not {blocks(cluster)}")
    for path in truth:
        files.do("rm", mount / path)
    until(lambda: blocks(cluster) == 0, 30, "no replicas")
    assert sum(server["used_bytes"] for server in cluster.told()["servers"]) == 0


def test_garbage_of_a_dead_writer_is_swept(cluster: Cluster, dice: random.Random) -> None:
    """Blocks were put and never committed: their token is void once the mount has died."""
    mount = cluster.mount()
    truth = fill(mount, dice)
    fresh = cluster.mount("writer")
    late = cluster.nodes[f"data-{LATE}"]
    late.send_signal(signal.SIGSTOP)  # so that no commit goes through
    writer = subprocess.Popen(
        ["dd", "if=/dev/urandom", f"of={fresh}/big", "bs=64K", "count=32", "status=none"]
    )
    wanted = needed(cluster, list(truth))
    until(lambda: blocks(cluster) > wanted, 30)
    process = cluster.mounts.pop(fresh)
    process.kill()
    process.wait(timeout=30)
    subprocess.run(["umount", "-l", str(fresh)], timeout=30, check=True)
    writer.wait(timeout=30)
    late.send_signal(signal.SIGCONT)
    cluster.wait_serving()
    wanted += needed(cluster, ["big"])
    until(lambda: blocks(cluster) == wanted, 60, "the garbage is gone")
    assert files.all_whole(cluster, truth)
    assert never_old(cluster, truth, "after") == len(truth)
