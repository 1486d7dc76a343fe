"""`zdfs impact`: what it says would be lost is what is lost, once the servers are stopped."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import Cluster, started
from zdfs import placement
from zdfs.ids import BlockNo, Slot

BLOCK = 4096


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Five servers: three of them need not be neighbours."""
    with started(tmp_path, 5, block_size=BLOCK) as made:
        yield made


def foreseen(cluster: Cluster, down: str, *more: str) -> dict[str, Any]:
    """What the command says."""
    done = cluster.command(
        "zdfs", "impact", "--meta", cluster.meta_port, "--down", down, "--json", *more
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def dead_blocks(cluster: Cluster, name: str, dead: set[int]) -> int:
    """Blocks of a file that stand on dead servers only, from `zdfs where`."""
    facts = cluster.where(f"/{name}")
    return sum(
        set(placement.slots(Slot(facts["start"]), BlockNo(block["block"]), 5)) <= dead
        for block in facts["blocks"]
    )


def name_at(start: int) -> str:
    """A name whose first block's replicas begin at a slot."""
    return next(n for n in map(str, range(1000)) if placement.start(f"/{n}".encode(), 5) == start)


def copies(cluster: Cluster) -> set[int]:
    """Who holds copies of the metadata."""
    return {one["slot"] for one in cluster.told()["meta_copies"]["members"]}


def test_what_it_says_comes_true(cluster: Cluster, dice: random.Random) -> None:
    mount = cluster.mount()
    truth = {name_at(start): dice.randbytes((1 + start % 2) * BLOCK) for start in range(5)}
    for name, data in truth.items():
        files.put(mount / name, data)
    files.put(mount / "empty", b"")
    dead = {1, 2, 3}
    expected = {f"/{name}": dead_blocks(cluster, name, dead) for name in truth}
    hit = {name: count for name, count in expected.items() if count}
    assert 0 < len(hit) < len(truth)

    two = foreseen(cluster, "1,3")
    assert two["reads"]["files"] == two["data"]["files"] == 0
    assert two["writes"]["files"] == two["files"] == 6 and two["metaserver_restart"] == "serves"

    port = cluster.ports[2]
    three = foreseen(cluster, f"1,3,{port}")
    for kind in ("reads", "data"):
        assert {one["path"]: one["blocks"] for one in three[kind]["named"]} == hit
        assert three[kind]["blocks"] == sum(hit.values()) and three[kind]["files"] == len(hit)
        assert three[kind]["bytes"] == sum(hit.values()) * BLOCK
    assert three["metaserver_restart"] == "reads only"
    short = foreseen(cluster, "1,2,3", "--limit", "1")
    assert short["reads"]["files"] == len(hit) and len(short["reads"]["named"]) <= 1

    cluster.kill("data-1", "data-2")
    cluster.wait_serving(down=[1, 2])
    rest = foreseen(cluster, "3")  # two are down as it is: reads would go, not the data
    assert [one["slot"] for one in rest["already_down"]] == [1, 2]
    assert rest["reads"]["blocks"] == sum(hit.values()) and rest["data"]["blocks"] == 0
    until(lambda: copies(cluster) == {0, 3, 4}, 40, "the dead give way as holders of copies")
    cluster.kill("data-3")
    cluster.wait_serving(down=[1, 2, 3])
    fresh = cluster.mount("fresh")
    whole = next(name for name in truth if f"/{name}" not in hit)
    assert files.get(fresh / whole) == truth[whole]
    assert "Input/output error" in files.attempt(fresh / min(hit).lstrip("/"), 40)[1]
    said = cluster.command("zdfs", "impact", "--meta", cluster.meta_port, "--down", "0")
    assert "down as it is" in said.stdout and "would be EIO" in said.stdout
    assert f"{cluster.ports[1]}" in said.stdout
    wrong = cluster.command("zdfs", "impact", "--meta", cluster.meta_port, "--down", "9")
    assert wrong.returncode == 1 and "there is no dataserver 9" in wrong.stderr
