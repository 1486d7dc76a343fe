"""The metaserver's disk is lost, and so is each copy: files come back by inode number."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import Cluster, started

KIB = 1024
BLOCK = 4 * KIB


@pytest.fixture(params=[pytest.param("--meta-copies=0", marks=pytest.mark.soak), "--meta-copies=2"])
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Four servers with small blocks: a file of 300 KiB has more than one map page."""
    with started(tmp_path, 4, block_size=BLOCK, meta_more=[request.param]) as made:
        yield made


def rebuild(cluster: Cluster, *words: Any) -> Any:
    """`zdfs meta rebuild` into the cluster's (new) store."""
    return cluster.command(
        "zdfs", "meta", "rebuild", "--meta", cluster.meta_port, "--store", cluster.meta_store,
        *words, *cluster.ports,
    )  # fmt: skip


def fill(mount: Path, dice: random.Random) -> tuple[dict[int, bytes], int]:
    """Files of all sizes at all depths, some of them changed later: contents by inode number, and
    which of them was removed at last."""
    os.makedirs(mount / "a" / "b")
    truth = {}
    for number, size in enumerate(
        [1, BLOCK, 300 * KIB, *(dice.randrange(1, 90_000) for _ in "12345")]
    ):
        path = mount / ("a/b" if number % 2 else "a") / f"f{number}"
        data = dice.randbytes(size)
        files.put(path, data)
        if number % 3 == 0:
            data = dice.randbytes(size + 1000)
            files.put(path, data)
        truth[os.stat(path).st_ino] = data
    with open(mount / "sparse", "wb") as sparse:
        sparse.seek(70 * BLOCK)
        sparse.write(b"end")
    truth[os.stat(mount / "sparse").st_ino] = bytes(70 * BLOCK) + b"end"
    os.rename(mount / "a" / "f0", mount / "elsewhere")
    removed = os.stat(mount / "a" / "f2").st_ino
    os.unlink(mount / "a" / "f2")
    return truth, removed


def lose_copies(cluster: Cluster) -> None:
    """As long as they are there, names can be had; then somebody removes them."""
    refused = rebuild(cluster)
    assert refused.returncode == 1 and "copies of the metadata are whole on" in refused.stderr
    assert not cluster.meta_store.exists()
    cluster.kill(*(f"data-{index}" for index in range(4)))
    for store in cluster.stores.values():
        shutil.rmtree(store / "copy")
    cluster.start_data(*range(4))
    heard(cluster, *range(4))


def heard(cluster: Cluster, *slots: int) -> None:
    """Wait until servers that were started answer."""
    for slot in slots:
        address = f"127.0.0.1:{cluster.ports[slot]}"
        until(lambda: cluster.answers(address), 30, f"{address} answers")


def test_a_lost_metaserver_disk(cluster: Cluster, dice: random.Random) -> None:
    mount = cluster.mount()
    truth, removed = fill(mount, dice)
    cluster.unmount(mount)
    refused = rebuild(cluster)
    assert refused.returncode == 1 and "is not empty" in refused.stderr, refused
    shutil.move(cluster.meta_store, cluster.folder / "aside")
    refused = rebuild(cluster)
    assert refused.returncode == 1 and "a metaserver answers at" in refused.stderr, refused
    assert not cluster.meta_store.exists()

    cluster.kill("meta", *(f"data-{index}" for index in range(4)))  # all at once
    cluster.start_data(0, 1, 3)
    heard(cluster, 0, 1, 3)
    silent = rebuild(cluster)
    assert silent.returncode == 1 and f"{cluster.ports[2]} is silent" in silent.stderr, silent
    cluster.start_data(2)
    heard(cluster, 2)
    if cluster.meta_more == ["--meta-copies=2"]:
        lose_copies(cluster)
    done = rebuild(cluster, "--json")
    assert done.returncode == 0, done
    facts = json.loads(done.stdout)
    assert facts["block_size"] == BLOCK and facts["without"] == facts["empty"] == []
    # What was removed a moment before the end may be there again; nothing is ever missing.
    assert len(truth) - 1 <= facts["files"] <= len(truth)

    cluster.start_meta()
    cluster.wait_serving()
    mount = cluster.mount("again")
    assert [path.name for path in mount.iterdir()] == ["lost+found"]
    found = {path.name: path for path in (mount / "lost+found").iterdir()}
    assert len(found) == facts["files"] + facts["extra_files"]
    gone = truth.pop(removed)
    back = files.get(found[str(removed)]) if str(removed) in found else b""
    for at in range(0, len(back), BLOCK):  # some blocks of it had been dropped already
        assert back[at : at + BLOCK] in (bytes(BLOCK), gone[at : at + BLOCK])
    for ino, data in truth.items():
        about = os.stat(found[str(ino)])
        assert (about.st_ino, about.st_uid, about.st_mode) == (ino, 0, 0o100600)
        assert files.get(found[str(ino)]) == data, ino
    os.rename(found[str(max(truth))], mount / "named")
    files.put(mount / "new", b"and on it goes")
    assert any(event["kind"] == "rebuilt" for event in cluster.told()["events"])
    # At the end fsck finds nothing.
