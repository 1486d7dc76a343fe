"""`zdfs drill` on a real cluster: it does what it may, says what it may not, harms nothing else."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import Cluster
from zdfs import addresses
from zdfs.tools import drill, nodes

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, 3, block_size=4096)
    try:
        yield made.start()
    finally:
        end_strangers(made)
        made.close()


def end_strangers(cluster: Cluster) -> None:
    """What the drill has started again: the cluster starts its own in their place."""
    ours = {node.pid for node in cluster.nodes.values() if node.poll() is None}
    ring = tuple(addresses.parse(str(port)) for port in cluster.ports)
    strangers = [node for node in nodes.find_nodes(ring) if node.pid not in ours]
    for node in strangers:
        os.kill(node.pid, signal.SIGTERM)
        until(lambda: node.pid not in [n.pid for n in nodes.find_nodes(ring)], 30, "its end")


def drilled(cluster: Cluster, *words: object) -> tuple[int, dict[str, Any]]:
    """Exit status and report."""
    done = cluster.command(
        "zdfs", "drill", "--meta", cluster.meta_port, "--json", *words, timeout=200
    )
    print(done.stdout, done.stderr)
    return done.returncode, json.loads(done.stdout)


def test_a_drill(cluster: Cluster, dice: random.Random) -> None:
    mount = cluster.mount()
    data = dice.randbytes(100_000)
    files.put(mount / "bystander", data)
    before = cluster.where("/bystander")
    status, facts = drilled(cluster, "--nodes", "1", "--wipe")
    assert status == 0 and facts["held"]
    results = {step["name"]: step["result"] for step in facts["steps"]}
    assert results == {
        "write": "held", "corrupt": "held", "stop": "held", "kill": "held", "wipe": "held",
        "fill": "skipped", "partition": "skipped",
    }  # fmt: skip
    harmed = next(step for step in facts["steps"] if step["name"] == "corrupt")["done"]
    assert len(harmed) == drill.FILES and all(facts["directory"] in line for line in harmed)
    assert {line.partition(":")[0] for line in harmed} == {"flip", "truncate", "lose", "stale"}
    assert list(cluster.folder.glob("data-1.drill-*")), "set aside, not deleted"
    assert "rebuilding" in cluster.log("data-1")
    assert os.listdir(mount) == ["bystander"] and files.get(mount / "bystander") == data
    assert cluster.where("/bystander") == before
    assert "damage" not in [e["kind"] for e in cluster.told()["events"] if "/bystander" in str(e)]


def test_a_full_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "zdfs-test", small], check=True)
    cluster = Cluster(tmp_path, 3, block_size=4096, stores={0: small / "store"})
    try:
        cluster.start()
        status, facts = drilled(cluster, "--fill")
        (fill,) = [step for step in facts["steps"] if step["name"] == "fill"]
        assert status == 0 and fill["result"] == "held"
        assert "is full" in fill["seen"][0] and "room again" in fill["seen"][-2]
        assert not os.listdir(cluster.mount()), "nothing is left of it"
    finally:
        try:
            cluster.close()
        finally:
            subprocess.run(["umount", small], check=True)


def test_what_it_may_not_do(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 3, faults=False)
    try:
        cluster.start()
        status, facts = drilled(cluster)
        results = {step["name"]: step["result"] for step in facts["steps"]}
        assert status == 0 and results.pop("write") == "held"
        assert set(results.values()) == {"skipped"}
        reasons = {step["name"]: step["seen"][0] for step in facts["steps"]}
        assert "--faults" in reasons["corrupt"] and "--nodes" in reasons["kill"]
        wrong = cluster.command("zdfs", "drill", "--meta", cluster.meta_port, "--nodes", "7")
        assert wrong.returncode == 1 and "slot 7" in wrong.stderr
        cluster.kill("data-2")
        cluster.wait_serving(down=[2])
        late = cluster.command("zdfs", "drill", "--meta", cluster.meta_port)
        assert late.returncode == 1 and "not whole" in late.stderr
    finally:
        cluster.close()
