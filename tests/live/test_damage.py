"""Damage on purpose: detected by checksum, repaired from a replica, never read (P1)."""

import os
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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four servers whose scrub is too slow to matter."""
    with started(tmp_path, 4, block_size=BLOCK, more=("--scrub-rate", "1")) as made:
        made.damaged = "replicas are harmed, and the scrub is too slow to heal them"
        yield made


def fill(mount: Path, dice: random.Random, count: int = 4) -> dict[str, bytes]:
    """Some files; the truth about them."""
    truth = {f"f{number}": dice.randbytes(dice.randrange(1, 200 * KIB)) for number in range(count)}
    for name, data in truth.items():
        files.put(mount / name, data)
    return truth


def harm(cluster: Cluster, index: int, path: str, replica: int, *more: str) -> str:
    """zdfs-corrupt; what it printed."""
    done = cluster.command("zdfs-corrupt", *more, cluster.ports[index], path, replica)
    assert done.returncode == 0, done.stderr
    return done.stdout


def harm_block(cluster: Cluster, facts: dict[str, Any], replica: int, how: str = "flip") -> None:
    """Damage one replica of the only block of a file."""
    (block,) = facts["blocks"]
    harm(cluster, block["replicas"][replica]["slot"], facts["path"], replica, f"--{how}")


def restart(cluster: Cluster, index: int) -> None:
    """End a dataserver, however it ended, and start it again."""
    node = cluster.nodes.pop(f"data-{index}")
    node.kill()
    node.wait(timeout=30)
    cluster.start_data(index)


def test_the_tool_says_what_it_did(cluster: Cluster, dice: random.Random) -> None:
    mount = cluster.mount()
    data = dice.randbytes(BLOCK)
    files.put(mount / "one", data)
    facts = cluster.where("/one")
    slot = facts["blocks"][0]["replicas"][1]["slot"]
    shown = harm(cluster, slot, "/one", 1)
    assert f"block 0 of /one, replica 1 on {cluster.ports[slot]}" in shown
    found = re.findall(r"(before|after), +at byte (\d+): ([0-9a-f ]+)", shown)
    (_, at, before), (_, again, after) = found
    first = int(at)
    assert at == again and before != after
    assert data[first:].startswith(bytes.fromhex(before))
    states = [one["state"] for one in cluster.where("/one")["blocks"][0]["replicas"]]
    assert states == ["ok", "damaged", "ok"]
    stored = b"".join(p.read_bytes() for p in cluster.stores[slot].glob("segment-*.log"))
    assert data[:first] + bytes.fromhex(after) in stored


def test_the_tool_needs_leave(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 3, faults=False)
    try:
        cluster.start()
        files.put(cluster.mount() / "f", b"x" * 100)
        slot = cluster.where("/f")["start"]
        done = cluster.command("zdfs-corrupt", cluster.ports[slot], "/f", 0)
        assert done.returncode == 1 and "--faults" in done.stderr and not done.stdout
        assert files.whole(cluster.where("/f"))
    finally:
        cluster.close()


@pytest.mark.parametrize("how", ["flip", "truncate", "lose", "stale"])
def test_two_of_three_replicas_heal_by_reading(
    cluster: Cluster, dice: random.Random, how: str
) -> None:
    mount = cluster.mount()
    truth = {f"g{number}": dice.randbytes(BLOCK - number) for number in range(3)}
    for spared, (name, data) in enumerate(truth.items()):
        files.put(mount / name, data[::-1])
        files.put(mount / name, data)
        facts = cluster.where(f"/{name}")
        for replica in {0, 1, 2} - {spared}:
            harm_block(cluster, facts, replica, how)
    files.verify(cluster, truth, "fresh")
    # A reader stops at the first good copy: only what it met on the way is healed for sure.
    for name in ("g1", "g2"):
        until(lambda: _state(cluster, name, 0) == "ok", 20, f"{name} heals")
    if how != "lose":
        until(lambda: _repaired(cluster) >= 3, 10, "the repairs are reported")
        assert "repaired" in [event["kind"] for event in cluster.told()["events"]]


def _repaired(cluster: Cluster) -> int:
    return sum(one["repaired"] for one in cluster.told()["servers"])


def _state(cluster: Cluster, name: str, replica: int) -> str:
    state: str = cluster.where(f"/{name}")["blocks"][0]["replicas"][replica]["state"]
    return state


def test_stale_needs_something_older(cluster: Cluster, dice: random.Random) -> None:
    files.put(cluster.mount() / "once", dice.randbytes(BLOCK))
    slot = cluster.where("/once")["blocks"][0]["replicas"][0]["slot"]
    done = cluster.command("zdfs-corrupt", cluster.ports[slot], "/once", 0, "--stale")
    assert done.returncode == 1 and "write over it first" in done.stderr
    assert files.whole(cluster.where("/once"))


def test_without_a_good_copy_it_is_eio(cluster: Cluster, dice: random.Random) -> None:
    mount = cluster.mount()
    data = dice.randbytes(BLOCK)
    files.put(mount / "before", dice.randbytes(4 * BLOCK))  # where a slow pass stands still
    files.put(mount / "bad", data)
    files.put(mount / "good", data)
    for replica in range(3):
        harm_block(cluster, cluster.where("/bad"), replica)
    fresh = cluster.mount("fresh")
    found, error = files.attempt(fresh / "bad", 20)
    assert found == b"" and "Input/output error" in error
    log = cluster.log("fresh")
    assert "read error" in log and "no replica has its current version intact" in log
    assert files.get(fresh / "good") == data
    for _ in range(3):  # nobody talks nonsense into anybody
        assert files.attempt(fresh / "bad", 20)[0] == b""
    files.put(fresh / "bad", b"new")  # and writing it anew heals it
    assert files.get(fresh / "bad") == b"new"


def test_the_scrub_finds_and_heals(tmp_path: Path, dice: random.Random) -> None:
    cluster = Cluster(tmp_path, 4, block_size=BLOCK, more=("--scrub-rate", "100000000"))
    try:
        cluster.start()
        mount = cluster.mount()
        truth = {"f": dice.randbytes(40 * BLOCK)}
        files.put(mount / "f", truth["f"][::-1])
        files.put(mount / "f", truth["f"])
        for how in ("flip", "truncate", "stale", "lose"):
            for index in range(4):
                harm(cluster, index, "/f", 0, "--how", how)
        until(lambda: files.all_whole(cluster, truth), 60, "the scrub heals all")
        files.verify(cluster, truth, "fresh")
    finally:
        cluster.close()


def flip_bytes(path: Path, dice: random.Random, count: int, low: int = 0) -> None:
    """Other bytes at random places of a file."""
    size = path.stat().st_size
    with path.open("r+b", buffering=0) as file:
        for _ in range(count):
            at = dice.randrange(min(low, size - 1), size)
            file.seek(at)
            old = file.read(1)
            file.seek(at)
            file.write(bytes([old[0] ^ 1 << dice.randrange(8)]))


def newest_segments(store: Path) -> list[Path]:
    """The segments with most in them."""
    return [path for path in sorted(store.glob("segment-*.log")) if path.stat().st_size > 10_000]


@pytest.mark.parametrize("running", [True, False])
def test_flipped_bytes_in_the_log(cluster: Cluster, dice: random.Random, running: bool) -> None:
    truth = fill(cluster.mount(), dice)
    for index in (0, 2):
        if not running:
            cluster.kill(f"data-{index}")
        for segment in newest_segments(cluster.stores[index]):
            flip_bytes(segment, dice, 40)
        if running:
            files.verify(cluster, truth, f"while-{index}")
            restart(cluster, index)
        else:
            cluster.start_data(index)
        cluster.wait_serving()
    files.verify(cluster, truth, "fresh")
    for path in truth:  # what still is damaged is seen, and heals by a read of everybody's copy
        states = {one["state"] for one in files.replicas(cluster.where(f"/{path}"))}
        assert states <= {"ok", "damaged"}, states


@pytest.mark.parametrize("running", [True, False])
def test_flipped_bytes_in_the_index(cluster: Cluster, dice: random.Random, running: bool) -> None:
    truth = fill(cluster.mount(), dice)
    index = dice.randrange(4)
    if not running:
        cluster.kill(f"data-{index}")
    flip_bytes(cluster.stores[index] / "index" / "data.mdb", dice, 60)
    if running:
        files.verify(cluster, truth, "while")  # the process may die of it
    else:
        cluster.start_data(index)
    if running:
        restart(cluster, index)
    cluster.wait_serving()
    assert files.all_whole(cluster, truth)
    files.verify(cluster, truth, "fresh")


def test_an_index_cut_short_under_a_running_server(cluster: Cluster, dice: random.Random) -> None:
    truth = fill(cluster.mount(), dice)
    data = cluster.stores[1] / "index" / "data.mdb"
    os.truncate(data, dice.randrange(0, data.stat().st_size // 2))
    files.verify(cluster, truth, "while")
    restart(cluster, 1)
    cluster.wait_serving()
    assert list(cluster.stores[1].glob("index.damaged-*")), "it is set aside, never deleted"
    assert "made anew from the log" in cluster.log("data-1")
    assert files.all_whole(cluster, truth)
    files.verify(cluster, truth, "fresh")


def test_the_whole_store_smashed(cluster: Cluster, dice: random.Random) -> None:
    """Log and index: what can't be recovered is set aside, the neighbours give it back."""
    truth = fill(cluster.mount(), dice)
    cluster.kill("data-3")
    for path in [*cluster.stores[3].glob("segment-*.log"), cluster.stores[3] / "index/data.mdb"]:
        path.write_bytes(dice.randbytes(path.stat().st_size))
    cluster.start_data(3)
    cluster.wait_serving()
    assert list(cluster.stores[3].glob("set-aside-*"))
    assert files.all_whole(cluster, truth)
    files.verify(cluster, truth, "fresh")


# --- the metaserver's store ----------------------------------------------------------------------

LOOK = """
import os, sys
root = os.fsencode(sys.argv[1])
def look(path):
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        print("E", path.removeprefix(root), error.errno)
        return
    for name in names:
        full = os.path.join(path, name)
        try:
            stat = os.lstat(full)
        except OSError as error:
            print("E", full.removeprefix(root), error.errno)
            continue
        if os.path.isdir(full):
            print("D", full.removeprefix(root), oct(stat.st_mode))
            look(full)
            continue
        try:
            data = open(full, "rb").read()
        except OSError as error:
            print("E", full.removeprefix(root), error.errno)
            continue
        import hashlib
        print("F", full.removeprefix(root), oct(stat.st_mode), stat.st_size,
              hashlib.sha256(data).hexdigest())
look(root)
"""


def listed(mount: Path) -> list[str]:
    """The whole tree, a line for each name: kind, path, mode, size, digest; E: the error."""
    found = files.do("python3", "-c", LOOK, mount, patience_s=100).splitlines()
    return found


def test_flipped_bits_in_the_metaservers_store(cluster: Cluster, dice: random.Random) -> None:
    """It refuses to start, in a clear line, or every answer is the truth or EIO."""
    cluster.unchecked = "the metaserver's store stays damaged"
    mount = cluster.mount()
    for number in range(2):
        files.do("mkdir", mount / f"d{number}")
        fill(mount / f"d{number}", dice, 6)
    truth = set(listed(mount))
    cluster.unmount(mount)
    names = ["meta", *(f"data-{index}" for index in range(4))]
    stores = [cluster.meta_store, *cluster.stores.values()]
    cluster.kill(*names)
    for store in stores:
        shutil.copytree(store, store.with_name(f"{store.name}-good"))
    for number in range(3):
        cluster.kill(*[name for name in names if name in cluster.nodes])
        for store in stores:
            shutil.rmtree(store)
            shutil.copytree(store.with_name(f"{store.name}-good"), store)
        flip_bytes(cluster.meta_store / "meta" / "data.mdb", dice, dice.choice([1, 1, 3, 20]))
        before = len(cluster.log("meta"))
        cluster.start_data(0, 1, 2, 3)
        cluster.start_meta()
        if until(lambda: _started(cluster, before), 30) == "serves":
            look_at_damaged(cluster, truth, f"m{number}", before)


def _started(cluster: Cluster, before: int) -> str:
    node = cluster.nodes["meta"]
    if node.poll() is not None:
        cluster.nodes.pop("meta")
        lines = cluster.log("meta")[before:].strip().splitlines()
        assert node.returncode == 1 and "damaged" in lines[-1], lines
        assert "Traceback" not in cluster.log("meta")[before:]
        return "refused"
    return "serves" if "serving" in cluster.states() else ""


def look_at_damaged(cluster: Cluster, truth: set[str], name: str, before: int) -> None:
    """Compare everything that can be seen with the truth."""
    mount = cluster.mount(name)
    seen = listed(mount)
    wrong = [line for line in seen if not line.startswith("E") and line not in truth]
    assert not wrong, wrong
    errors = [line for line in seen if line.startswith("E")]
    assert all(line.endswith(" 5") for line in errors), errors
    if not errors:
        assert set(seen) == truth
    else:
        assert "damage" in cluster.log("meta")[before:] + cluster.log(name), errors
    subprocess.run(["umount", str(mount)], timeout=30, check=True)
    cluster.mounts.pop(mount).wait(timeout=30)
