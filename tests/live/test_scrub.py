"""`zdfs scrub`: everything now, one place now, or how far it is; over restarts."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import Cluster, started

BLOCK = 4096


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four servers whose own passes are too slow to matter."""
    with started(tmp_path, 4, block_size=BLOCK, more=("--scrub-rate", "1")) as made:
        yield made


def scrub(cluster: Cluster, *words: Any) -> tuple[int, dict[str, Any]]:
    """Exit status and facts."""
    done = cluster.command(
        "zdfs", "scrub", *words, "--meta", cluster.meta_port, "--json", timeout=90
    )
    assert done.stdout, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, facts


def harm(cluster: Cluster, path: str, number: int, replica: int, how: str) -> None:
    """Damage a copy of some block, on the server that has such a copy of a certain block."""
    block = cluster.where(path)["blocks"][number]
    port = block["replicas"][replica]["address"].rpartition(":")[2]
    done = cluster.command("zdfs-corrupt", port, path, replica, "--how", how)
    assert done.returncode == 0, done.stderr


def test_now_and_a_path(cluster: Cluster, dice: random.Random) -> None:
    """What is bad, missing or gone with the index is found and healed, by everybody at once."""
    mount = cluster.mount()
    (mount / "d" / "e").mkdir(parents=True)
    for name in ("d/a", "d/e/b", "c"):
        files.put(mount / name, dice.randbytes(40 * BLOCK))
    assert scrub(cluster, "--now")[0] == 0
    for number, how in enumerate(("flip", "truncate", "lose")):  # of blocks that are not the same
        harm(cluster, "/c", number, 0, how)
        harm(cluster, "/d/e/b", number, 0, how)
    status, facts = scrub(cluster, mount / "d")
    assert status == 1 and facts["status"] == 1 and facts["finished"]
    assert facts["healed"] == sum(facts["counts"].values()) == len(facts["findings"]) == 3
    assert {one["path"] for one in facts["findings"]} == {"/d/e/b"}
    assert facts["replicas"] == 2 * 40 * 3
    assert files.whole(cluster.where("/d/e/b"))
    status, facts = scrub(cluster, "--now")
    scrubs = [one["scrub"] for one in facts["servers"]]
    assert status == facts["status"] == 1 and all(one["finished"] for one in facts["servers"])
    assert sum(one["damaged"] for one in scrubs) == 2 and sum(one["missing"] for one in scrubs) == 1
    assert sum(one["healed"] for one in scrubs) == 3
    assert all(one["done_bytes"] == one["total_bytes"] for one in scrubs)
    assert files.whole(cluster.where("/c"))
    assert scrub(cluster, "--now")[0] == 0 and scrub(cluster, "/")[0] == 0
    shown = cluster.command("zdfs", "scrub", "--meta", cluster.meta_port)
    assert shown.returncode == 0 and "last full pass" in shown.stdout
    none = cluster.command("zdfs", "scrub", "/nothing", "--meta", cluster.meta_port)
    assert none.returncode == 2 and "/nothing" in none.stderr


def test_what_is_down_or_lost_is_said(cluster: Cluster, dice: random.Random) -> None:
    mount = cluster.mount()
    files.put(mount / "before", dice.randbytes(4 * BLOCK))  # where a slow pass stands still
    files.put(mount / "f", dice.randbytes(BLOCK))
    for replica in range(3):
        harm(cluster, "/f", 0, replica, "flip")
    status, facts = scrub(cluster, "/f")
    assert status == 2 and facts["healed"] == 0 and facts["counts"] == {"lost": 3}
    cluster.damaged = "the only block of a file has no good copy"
    status, facts = scrub(cluster, "--now")
    assert status == 2 and sum(one["not_healed"] for one in facts["servers"]) == 3
    (cluster.folder / "mnt" / "f").unlink()
    cluster.kill("data-3")
    until(lambda: cluster.states()[3:] == ["down"], 30)
    status, facts = scrub(cluster, "--now")
    assert status == 2 and facts["servers"][3]["why"] == "it is down"
    assert facts["servers"][0]["finished"]
