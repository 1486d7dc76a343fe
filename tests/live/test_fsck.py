"""`zdfs fsck` on real stores: what it says, its exit status, its JSON, what it mends."""

import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import Cluster, started
from zdfs import records, schema
from zdfs.findings import SORTS
from zdfs.ids import Ino
from zdfs.schema import Dirent, Inode
from zdfs.store import LmdbStore
from zdfs.tables import Tables, decode

BLOCK = 4096


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four servers whose scrub is too slow to matter."""
    alone = ("--meta-copies", "0")  # else what is planted in the metadata comes back by itself
    with started(
        tmp_path, 4, block_size=BLOCK, more=("--scrub-rate", "1"), meta_more=alone
    ) as made:
        yield made


def run(cluster: Cluster, *words: str, status: int) -> str:
    """zdfs fsck; what it printed."""
    done = cluster.command("zdfs", "fsck", "--meta", cluster.meta_port, *words, timeout=100)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def run_json(cluster: Cluster, *words: str, status: int) -> dict[str, Any]:
    """Its document."""
    found: dict[str, Any] = json.loads(run(cluster, "--json", *words, status=status))
    assert found["status"] == status
    return found


def test_a_sound_cluster(cluster: Cluster, dice: random.Random) -> None:
    mount = cluster.mount()
    files.put(mount / "f", dice.randbytes(10 * BLOCK))
    assert "everything is in its place" in run(cluster, status=0)
    shown = run_json(cluster, status=0)
    assert set(shown) == {
        "status", "finished", "unfinished", "records", "replicas", "versions", "counts",
        "findings", "repaired",
    }  # fmt: skip
    assert shown["finished"] and shown["replicas"] == 30 and shown["repaired"] is None
    assert shown["counts"] == {} and shown["findings"] == [] and shown["records"] > 5
    assert run_json(cluster, "--repair", status=0)["repaired"]["mended"] == 0
    with_help = cluster.command("zdfs", "fsck", "--help").stdout
    assert "exit status" in with_help and "--repair" in with_help


def test_damage_of_every_store(cluster: Cluster, dice: random.Random) -> None:
    mount = cluster.mount()
    data = dice.randbytes(BLOCK)
    (mount / "d").mkdir()
    files.put(mount / "first", dice.randbytes(4 * BLOCK))  # all that the scrub has time to read
    for name in ("flipped", "nameless", "linked"):
        files.put(mount / "d" / name, data)
    inos = {name: (mount / "d" / name).stat().st_ino for name in ("nameless", "linked")}
    inos["d"] = (mount / "d").stat().st_ino
    cluster.unmount(mount)
    plant(cluster, inos)
    server = cluster.where("/d/flipped")["blocks"][0]["replicas"][1]
    done = cluster.command("zdfs-corrupt", cluster.ports[server["slot"]], "/d/flipped", 1)
    assert done.returncode == 0, done.stderr

    shown = run_json(cluster, status=2)
    assert shown["counts"] == {"damaged": 1, "nameless": 1, "links": 1, "dangling": 1}
    by_kind = {one["kind"]: one for one in shown["findings"]}
    for kind, one in by_kind.items():
        assert set(one) == {
            "kind", "severity", "path", "inode", "block", "version", "slot", "address", "text",
            "mended",
        }  # fmt: skip
        assert one["severity"] == SORTS[kind].severity and one["mended"] is None
    paths = {kind: one["path"] for kind, one in by_kind.items()}
    assert paths == {
        "damaged": "/d/flipped", "nameless": None, "links": "/d/linked", "dangling": "/d/ghost",
    }  # fmt: skip
    assert by_kind["damaged"]["slot"] == server["slot"]
    text = run(cluster, status=2)
    for part in ("/d/flipped block 0 on", "/d/ghost:", "next: --repair names it in /lost+found"):
        assert part in text

    shown = run_json(cluster, "--repair", status=0)
    before = shown["repaired"]["counts"]
    assert before.keys() | {"damaged"} == by_kind.keys()  # a server may have repaired that itself
    assert shown["repaired"]["mended"] == sum(before.values()) and shown["counts"] == {}
    kinds = [event["kind"] for event in cluster.told()["events"]]
    assert kinds.count("mended") == 3
    again = cluster.mount("again")
    assert sorted(os.listdir(again / "d")) == ["flipped", "linked"]
    assert files.get(again / "lost+found" / f"#{inos['nameless']}") == data
    assert (again / "d" / "linked").stat().st_nlink == 1
    assert files.whole(cluster.where("/d/flipped"))


def plant(cluster: Cluster, inos: dict[str, int]) -> None:
    """A file without a name, a wrong link count, a name without a file: while nobody serves."""
    until(lambda: run(cluster, status=0), 30)
    cluster.kill("meta")
    with closing(LmdbStore(cluster.meta_store)) as store:
        with store.write() as txn:
            tables = Tables(txn)
            tables.set_entry(Ino(inos["d"]), b"nameless", None)
            tables.set_entry(Ino(inos["d"]), b"ghost", Dirent(Ino(4444), stat.S_IFREG))
            tables.save()
            key = schema.inode_key(Ino(inos["linked"]))
            inode = decode(Inode, key, txn.get(key) or b"")
            txn.put(key, records.pack(replace(inode, nlink=5)))
        store.end_round()
    cluster.start_meta()
    cluster.wait_serving()


def test_what_is_lost_stays_lost(cluster: Cluster, dice: random.Random) -> None:
    files.put(cluster.mount() / "f", dice.randbytes(BLOCK))
    for one in cluster.where("/f")["blocks"][0]["replicas"]:
        port = cluster.ports[one["slot"]]
        done = cluster.command("zdfs-corrupt", port, "/f", one["replica"], "--how", "lose")
        assert done.returncode == 0, done.stderr
    assert run_json(cluster, status=2)["counts"] == {"lost": 3}
    text = run(cluster, "--repair", status=2)
    assert "mended: 0 of 3" in text and "left: 3 lost" in text
    cluster.unchecked = "a block is lost on purpose"


def test_what_can_not_be_looked_at_is_said(cluster: Cluster, dice: random.Random) -> None:
    files.put(cluster.mount() / "f", dice.randbytes(4 * BLOCK))
    cluster.kill("data-2")
    text = run(cluster, status=2)
    assert f"not finished: the dataserver {cluster.ports[2]} (slot 2)" in text
    cluster.wait_serving(down=[2])
    shown = run_json(cluster, status=2)
    assert not shown["finished"] and shown["unfinished"] and shown["counts"] == {}
    cluster.kill("meta")
    assert "no metaserver answers" in run(cluster, status=2)


WORK = """
import os, random, sys
where, dice, turn = sys.argv[1], random.Random(int(sys.argv[2])), 0
while not os.path.exists(sys.argv[3]):
    turn += 1
    name = os.path.join(where, f"f{dice.randrange(12)}")
    doing = dice.randrange(6)
    try:
        if doing < 3:
            with open(name, "r+b" if os.path.exists(name) else "wb") as file:
                file.seek(dice.randrange(60000))
                file.write(dice.randbytes(dice.randrange(1, 30000)))
        elif doing == 3:
            os.unlink(name)
        elif doing == 4:
            os.rename(name, os.path.join(where, f"f{dice.randrange(12)}"))
        else:
            os.truncate(name, dice.randrange(60000))
    except FileNotFoundError:
        pass
print(turn)
"""


@pytest.mark.timeout(300)  # each check waits for what was dropped meanwhile
def test_no_false_alarm_while_programs_work(cluster: Cluster, seed: int, tmp_path: Path) -> None:
    mount, end = cluster.mount(), tmp_path / "end"
    workers = []
    for number in range(3):
        below = mount / f"w{number}"
        below.mkdir()
        words = [sys.executable, "-c", WORK, str(below), str(seed + number), str(end)]
        workers.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
    try:
        for words in ([], ["--repair"], []):
            shown = run_json(cluster, *words, status=0)
            assert shown["records"] > 5
    finally:
        end.touch()
        turns = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    assert min(turns) > 5
