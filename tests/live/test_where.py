"""`zdfs where`: the seed's arrangement, on a real cluster, and what the servers say of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import Cluster, started
from zdfs import checksum
from zdfs.ids import BlockNo, Ino, Name, Token, Version

SEED = b"11111111222222223333333344444444"
# DESIGN 3's table for start 0: replica number -> blocks, by slot
TABLE = [
    {0: [0, 3], 1: [2], 2: [1]},
    {0: [1], 1: [0, 3], 2: [2]},
    {0: [2], 1: [1], 2: [0, 3]},
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three servers, blocks of 8 bytes, a scrub that is too slow to matter."""
    with started(tmp_path, 3, block_size=8, more=("--scrub-rate", "1")) as made:
        made.damaged = "replicas are harmed, and the scrub is too slow to heal them"
        yield made


def arrangement(facts: dict[str, Any]) -> list[dict[int, list[int]]]:
    """Blocks by replica number, by slot."""
    found: list[dict[int, list[int]]] = [{}, {}, {}]
    for block in facts["blocks"]:
        for one in block["replicas"]:
            found[one["slot"]].setdefault(one["replica"], []).append(block["block"])
    return found


def rotated(start: int) -> list[dict[int, list[int]]]:
    """The table as it stands for another start slot."""
    return [TABLE[(slot - start) % 3] for slot in range(3)]


def test_the_seeds_arrangement(cluster: Cluster) -> None:
    mount = cluster.mount()
    starts = set()
    for name in ("a", "b", "c", "d", "e", "f"):
        files.put(mount / name, SEED)
        facts = cluster.where(f"/{name}")
        assert {"path", "inode", "start", "blocks"} <= set(facts)
        assert facts["path"] == f"/{name}"
        assert arrangement(facts) == rotated(facts["start"])
        starts.add(facts["start"])
        check_blocks(cluster, facts)
        check_text(cluster, facts)
    assert len(starts) > 1, "six paths on one start slot: is it hashed?"
    assert cluster.command("zdfs", "where", "--json", mount / "a").stdout.count('"block"') == 4


def check_blocks(cluster: Cluster, facts: dict[str, Any]) -> None:
    """Every key of every block says what is so."""
    for number, block in enumerate(facts["blocks"]):
        assert set(block) == {"block", "version", "length", "crc16", "crc32c", "replicas"}
        assert (block["block"], block["length"]) == (number, 8)
        token, _, sequence = block["version"].partition(".")
        version = Version(Token(int(token, 16)), int(sequence))
        name = Name(Ino(facts["inode"]), BlockNo(number), version)
        seal = checksum.seal(name, SEED[number * 8 : number * 8 + 8])
        assert (block["crc16"], block["crc32c"]) == tuple(seal)
        for one in block["replicas"]:
            assert set(one) == {"replica", "slot", "address", "state"}
            assert one["address"] == str(cluster.ports[one["slot"]])
            assert one["state"] == "ok"


def check_text(cluster: Cluster, facts: dict[str, Any]) -> None:
    """The table for people, line by line."""
    shown = cluster.command("zdfs", "where", "--meta", cluster.meta_port, facts["path"]).stdout
    wanted = []
    for slot, table in enumerate(rotated(facts["start"])):
        wanted.append(f"slot {slot} ({cluster.ports[slot]})")
        for replica, blocks in table.items():
            wanted.append(f"    replica {replica}: block {', '.join(map(str, blocks))}")
    assert shown.splitlines()[1:] == wanted


def test_states_are_what_the_servers_say_now(cluster: Cluster) -> None:
    mount = cluster.mount()
    files.put(mount / "f", SEED)

    def state(replica: int) -> set[str]:
        blocks = cluster.where("/f")["blocks"]
        return {one["state"] for block in blocks for one in block["replicas"][replica:][:1]}

    def harmed(how: str, port: int, replica: int) -> bool:
        """The replica shows it, unless the scrub was just there."""
        done = cluster.command("zdfs-corrupt", "--how", how, port, "/f", replica)
        assert done.returncode == 0, done.stderr
        return {"lose": "missing"}.get(how, "damaged") in state(replica)

    start = cluster.where("/f")["start"]
    assert until(lambda: harmed("flip", cluster.ports[start], 0), 30)
    assert until(lambda: harmed("lose", cluster.ports[start], 1), 30)
    shown = cluster.command("zdfs", "where", "--meta", cluster.meta_port, "/f").stdout
    assert " missing" in shown
    cluster.kill(f"data-{(start + 2) % 3}")
    facts = cluster.where("/f")
    for block in facts["blocks"]:
        for one in block["replicas"]:
            assert (one["state"] == "down") == (one["slot"] == (start + 2) % 3)
    shown = cluster.command("zdfs", "where", "--meta", cluster.meta_port, "/f").stdout
    assert "?: its server does not answer" in shown


def test_what_cannot_be_shown_is_one_clear_line(cluster: Cluster) -> None:
    cluster.mount()
    done = cluster.command("zdfs", "where", "--meta", cluster.meta_port, "/nothing")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.count("\n") == 1 and "/nothing" in done.stderr, done.stderr
    done = cluster.command("zdfs-corrupt", cluster.ports[0], "/nothing", 0)
    assert done.returncode == 1 and "/nothing" in done.stderr, done.stderr
    done = cluster.command("zdfs-corrupt", cluster.ports[0], "/nothing", 3)
    assert done.returncode == 1 and "replica 3" in done.stderr, done.stderr
