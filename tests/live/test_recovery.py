"""A lost disk comes back (P5): everything, with exact progress, whatever dies meanwhile."""

import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import Cluster, started

KIB = 1024
BLOCK = 4 * KIB
KEYS = {"done", "total", "done_bytes", "total_bytes", "blocks_per_s", "bytes_per_s", "eta_s"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four servers with small blocks, so that there are many."""
    with started(tmp_path, 4, block_size=BLOCK) as made:
        yield made


def fill(mount: Path, dice: random.Random, count: int, most: int = 300 * KIB) -> dict[str, bytes]:
    """Files of all sizes; the truth about them."""
    truth = {f"f{number}": dice.randbytes(dice.randrange(1, most)) for number in range(count)}
    for name, data in truth.items():
        files.put(mount / name, data)
    return truth


def lose(cluster: Cluster, index: int) -> None:
    """Kill a dataserver and delete its store."""
    cluster.kill(f"data-{index}")
    shutil.rmtree(cluster.stores[index])


def server(cluster: Cluster, index: int) -> dict[str, Any]:
    """A dataserver's line of the status."""
    found: dict[str, Any] = cluster.told()["servers"][index]
    return found


def duty(cluster: Cluster, truth: dict[str, bytes], index: int) -> int:
    """How many blocks belong on a server."""
    shown = [one for path in truth for one in files.replicas(cluster.where(f"/{path}"))]
    return sum(one["slot"] == index for one in shown)


def test_lost_disks_one_after_the_other(cluster: Cluster, dice: random.Random) -> None:
    mount = cluster.mount()
    truth = fill(mount, dice, 6)
    for index in (1, 2, 3, 0):
        lose(cluster, index)
        cluster.start_data(index)
        cluster.wait_serving()
        assert server(cluster, index)["blocks"] == duty(cluster, truth, index)
        texts = [e["text"] for e in cluster.told()["events"] if e["kind"] == "rebuilt"]
        assert f"{cluster.ports[index]}: whole again" in texts[-1]
    assert files.all_whole(cluster, truth)
    files.verify(cluster, truth, "fresh")


def test_progress_is_exact_and_work_goes_on(cluster: Cluster, dice: random.Random) -> None:
    """With both neighbours dead only what stands on the fourth server too can come back."""
    mount = cluster.mount()
    truth = fill(mount, dice, 6, most=200 * KIB)
    total = duty(cluster, truth, 2)
    blocks = [block for path in truth for block in cluster.where(f"/{path}")["blocks"]]
    slots = [{one["slot"] for one in block["replicas"]} for block in blocks]
    possible = sum({0, 2} <= one for one in slots)
    cluster.kill("data-1", "data-3")
    lose(cluster, 2)
    cluster.start_data(2)

    def progress() -> tuple[Any, ...]:
        shown = cluster.status()  # none, while the loss is recorded with two of three copies dead
        if not shown:
            return ()
        one = shown["servers"][2]
        seen = one["rebuild"] or {}
        assert not seen or KEYS == set(seen)
        return one["state"], seen.get("done"), seen.get("total")

    until(lambda: progress() == ("recovering", possible, total), 30, f"{possible} of {total}")
    shown = cluster.command("zdfs", "status", "--meta", cluster.meta_port).stdout
    assert f"rebuilding {possible} of {total} blocks" in shown
    cluster.start_data(1, 3)
    truth["new"] = dice.randbytes(50 * KIB)
    files.put(mount / "new", truth["new"])
    assert files.get(mount / "f0") == truth["f0"]
    cluster.wait_serving(60)
    assert files.all_whole(cluster, truth)
    assert f"rebuilding {total} blocks" in cluster.log("data-2")
    files.verify(cluster, truth, "fresh")


def test_killed_in_the_middle_of_a_rebuild(cluster: Cluster, dice: random.Random) -> None:
    """It goes on: all that was ever stored here is little more than what must be here."""
    mount = cluster.mount()
    truth = fill(mount, dice, 6, most=100 * KIB)
    truth["big"] = dice.randbytes(16 * KIB * KIB)
    files.put(mount / "big", truth["big"])
    cluster.more = ("--rebuild-rate", "1500000")
    lose(cluster, 1)
    cluster.start_data(1)

    def underway() -> bool:
        servers = cluster.status().get("servers") or [{}] * 4
        return (servers[1].get("rebuild") or {}).get("done", 0) > 200

    for victim in ("data-1", "data-2", "meta", "data-1"):
        until(underway, 30, "a rebuild underway")
        cluster.kill(victim)
        if victim == "meta":
            cluster.start_meta()
        else:
            cluster.start_data(int(victim[-1]))
    cluster.wait_serving(60)
    assert files.all_whole(cluster, truth)
    begun = re.findall(r"rebuild: rebuilding (\d+) blocks", cluster.log("data-1"))
    totals = [int(total) for total in begun]
    assert len(totals) >= 3 and totals == sorted(totals, reverse=True), "not from the beginning"
    assert totals[0] - totals[-1] > 400
    stored = sum(path.stat().st_size for path in cluster.stores[1].glob("segment-*.log"))
    must = server(cluster, 1)["used_bytes"]
    assert must <= stored <= 1.05 * must + 4 * KIB * KIB
    files.verify(cluster, truth, "fresh")


def test_all_neighbours_are_asked_alike(cluster: Cluster, dice: random.Random) -> None:
    files.put(cluster.mount() / "one", dice.randbytes(600 * BLOCK))
    lose(cluster, 2)
    cluster.start_data(2)
    cluster.wait_serving()
    (text,) = [e["text"] for e in cluster.told()["events"] if e["kind"] == "rebuilt"]
    shares = [int(part.split()[1]) for part in text.rpartition(": ")[2].rstrip(")").split(", ")]
    assert sum(shares) == 450 * BLOCK and max(shares) - min(shares) <= 2 * BLOCK, text


def test_a_rebuild_waits_for_silent_neighbours(cluster: Cluster, dice: random.Random) -> None:
    """What nobody could be asked for is not lost: the server isn't whole before it has all."""
    truth = fill(cluster.mount(), dice, 6)
    cluster.kill("data-0", "data-2", "data-3")
    lose(cluster, 1)
    cluster.start_data(1)
    until(lambda: cluster.states()[1:2] == ["recovering"], 30)
    until(lambda: _passes(cluster) > 1, 40, "it has begun")
    assert cluster.states()[1] == "recovering"
    cluster.start_data(0, 2, 3)
    cluster.wait_serving(60)
    assert files.all_whole(cluster, truth)
    assert not [e for e in cluster.told()["events"] if e["kind"] == "lost"]


def _passes(cluster: Cluster) -> int:
    return cluster.log("data-1").count("starts again") + 2 * cluster.log("data-1").count("rebuild")


@pytest.mark.parametrize("lost", [[1], [1, 3]])
def test_everything_killed_while_disks_are_lost(
    cluster: Cluster, dice: random.Random, lost: list[int]
) -> None:
    """Two of four are no majority: those that remember suffice when all are there."""
    mount = cluster.mount()
    truth = fill(mount, dice, 5)
    names = ["meta", *(f"data-{index}" for index in range(4))]
    cluster.kill(*names)
    for index in lost:
        shutil.rmtree(cluster.stores[index])
    order = list(names)
    dice.shuffle(order)
    for name in order:
        if name == "meta":
            cluster.start_meta()
        else:
            cluster.start_data(int(name[-1]))
    cluster.wait_serving(60)
    cluster.kill(*names)  # and once more, with all memory anew
    cluster.start_data(0, 1, 2, 3)
    cluster.start_meta()
    cluster.wait_serving(60)
    assert files.all_whole(cluster, truth)
    files.put(mount / "after", b"works")
    files.verify(cluster, truth | {"after": b"works"}, "fresh")


def test_killed_while_two_of_three_are_rebuilt(tmp_path: Path, dice: random.Random) -> None:
    """A server votes again as soon as it knows whom it serves, not when its blocks are back."""
    cluster = Cluster(tmp_path, 3, block_size=BLOCK)
    try:
        cluster.start()
        truth = fill(cluster.mount(), dice, 2, most=100 * KIB)
        files.put(cluster.folder / "mnt" / "big", big := dice.randbytes(8 * KIB * KIB))
        for index in (0, 1):
            lose(cluster, index)
        cluster.start_data(0, 1)
        until(lambda: "lost disk" in str(cluster.status().get("events")), 30)
        until(lambda: (two := cluster.states()[:2]) and not {"joining", "down"} & {*two}, 30)
        cluster.kill("meta", "data-0", "data-1", "data-2")
        cluster.start_meta()
        cluster.start_data(0, 1, 2)
        cluster.wait_serving(60)
        truth["big"] = big
        assert files.all_whole(cluster, truth)
        files.verify(cluster, truth, "fresh")
    finally:
        cluster.close()


def test_a_kill_is_not_an_older_copy(cluster: Cluster, dice: random.Random) -> None:
    """kill -9 under load, of a server and of both sides: what comes back is believed."""
    mount = cluster.mount()
    load = subprocess.Popen(
        ["sh", "-c", f"while :; do head -c 200000 /dev/urandom > {mount}/x || exit; done"]
    )
    try:
        for round_ in range(4):
            index = dice.randrange(4)
            victims = [f"data-{index}"] + (["meta"] if round_ % 2 else [])
            cluster.kill(*victims)
            if round_ % 2:
                cluster.start_meta()
            cluster.start_data(index)
            cluster.wait_serving()
    finally:
        load.terminate()
        load.wait(timeout=30)
    assert not [e for e in cluster.told()["events"] if e["kind"] in ("old", "lost", "damage")]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_gib_come_back(tmp_path: Path, dice: random.Random) -> None:
    """With the server, a source and the metaserver killed on the way, again and again."""
    cluster = Cluster(tmp_path, 3)
    try:
        cluster.start()
        mount = cluster.mount()
        piece = dice.randbytes(64 * KIB * KIB)
        for number in range(160):
            files.put(mount / f"big-{number}", number.to_bytes(8, "big") + piece[8:])
        lose(cluster, 1)
        cluster.start_data(1)
        for victim in ("data-1", "data-2", "meta") * 3:
            most = server(cluster, 1)["blocks"]

            def further() -> bool:
                servers = cluster.status().get("servers")
                if not servers or servers[1]["state"] == "down":
                    return False
                return servers[1]["blocks"] > most + 5000 or servers[1]["state"] == "serving"

            until(further, 600, "a rebuild that moves")
            cluster.kill(victim)
            if victim == "meta":
                cluster.start_meta()
            else:
                cluster.start_data(int(victim[-1]))
            cluster.wait_report(1)
        cluster.wait_serving(1800)
        stored = sum(path.stat().st_size for path in cluster.stores[1].glob("segment-*.log"))
        must = server(cluster, 1)["used_bytes"]
        assert 10 * 2**30 <= must <= stored <= 1.02 * must + 64 * KIB * KIB
        for number in range(160):
            assert files.get(mount / f"big-{number}")[:8] == number.to_bytes(8, "big")
        words = ("scrub", "--now", "--meta", cluster.meta_port)
        assert cluster.command("zdfs", *words, timeout=1800).returncode == 0
    finally:
        cluster.close()
