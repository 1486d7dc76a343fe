"""Policy quorum on real processes: writes go on without a server, which collects it later."""

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live.cluster import Cluster, started
from tests.live.programs import run
from zdfs.tools import owing

BLOCK = 4096
SIZE = 8 * BLOCK  # two blocks start on each of the four servers
SOON_S = 20.0  # what does not wait is done by then, however busy the machine


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four servers with small blocks."""
    with started(tmp_path, 4, block_size=BLOCK) as made:
        yield made


def store(path: Path, data: bytes) -> None:
    """A file, synced, by a program that must not wait."""
    words = ["dd", f"of={path}", f"bs={BLOCK}", "conv=fsync,notrunc", "status=none"]
    subprocess.run(words, input=data, check=True, timeout=SOON_S)


def owed(cluster: Cluster) -> list[int]:
    """How many replicas each server is owed."""
    found: dict[str, Any] = cluster._ask(owing.debts(f"127.0.0.1:{cluster.meta_port}"))
    return [server["replicas"] for server in found["servers"]]


def zdfs(cluster: Cluster, *words: object) -> dict[str, Any]:
    """A command's facts."""
    done = cluster.command("zdfs", *words, "--json", "--meta", cluster.meta_port)
    assert done.stdout, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def test_one_of_four_is_dead_and_nobody_waits(cluster: Cluster, dice: random.Random) -> None:
    """Written without one server, read back while those that have it are killed in turn."""
    mount = cluster.mount()
    old, new, newer = (dice.randbytes(SIZE) for _ in range(3))
    (mount / "d").mkdir()
    shown = zdfs(cluster, "policy", mount / "d", "quorum")
    assert (shown["policy"], shown["from"]) == ("quorum", "/d")
    for name in ("kept", "over"):
        store(mount / "d" / name, old)
    assert owed(cluster) == [0] * 4

    cluster.kill("data-1")
    store(mount / "d" / "over", new)  # one timeout in all
    store(mount / "d" / "over", newer)
    store(mount / "d" / "fresh", new)
    assert owed(cluster) == [0, 12, 0, 0]  # of each file, six of eight blocks have a replica there
    assert cluster.log("mnt").count("writes go on without dataserver") == 1
    assert not cluster.told()["writes_blocked"]
    shown = zdfs(cluster, "debts")["servers"][1]
    assert {one["path"]: one["replicas"] for one in shown["files"]} == {"/d/over": 6, "/d/fresh": 6}
    assert shown["bytes"] == 12 * BLOCK and shown["since_ns"]
    report = zdfs(cluster, "where", "/d/over")
    states = {one["state"] for block in report["blocks"] for one in block["replicas"]}
    assert states == {"ok", "owed"}
    waiter = subprocess.Popen(["cp", mount / "d" / "fresh", mount / "outside"])
    until(lambda: cluster.told()["writes_blocked"], SOON_S, "outside of it, writes wait")

    wanted = {"kept": old, "over": newer, "fresh": new}
    for slot in (0, 2, 3):  # of whatever is owed, two servers have it: one of them may die
        cluster.kill(f"data-{slot}")
        cold = cluster.mount(f"cold{slot}")
        for name, data in wanted.items():
            assert run("cat", cold / "d" / name, timeout=SOON_S).stdout == data
        cluster.unmount(cold)
        cluster.start_data(slot)
        cluster.wait_serving(down=[1])
    assert owed(cluster) == [0, 12, 0, 0]

    cluster.start_data(1)
    until(lambda: not any(owed(cluster)), 30, "everything is collected")
    assert waiter.wait(timeout=SOON_S) == 0
    cluster.wait_serving()
    cluster.kill("data-0", "data-2")  # what was owed is read from where it was collected
    cold = cluster.mount("last")
    for name, data in wanted.items():
        assert run("cat", cold / "d" / name, timeout=SOON_S).stdout == data
    cluster.unmount(cold)
