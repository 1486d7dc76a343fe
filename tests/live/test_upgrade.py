"""A rolling upgrade: nodes and mounts of both protocols in one cluster, while programs work.

Nodes of the version before are ours, told to know nothing newer (`--speak`); what these say and
hear, byte by byte, is what that version did (`tests/unit/protocol-4.json`).
"""

import hashlib
import json
import random
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import until
from tests.live.cluster import Cluster, started
from tests.live.files import get, put
from zdfs import schema, wire
from zdfs.tools import admin

OLD = ("--speak", "4")
KIB = 1024
STORES = Path(__file__).parents[1] / "contract" / "stores-4.tar.xz"  # see test_upgrading there
HOME = "127.83.19.4"  # where the cluster that made them stood
TRUTH = {  # SHA-256 of what its files hold
    "d/e0/f0": "444074d5328d52b4e0036d37b1b6ea0a9fe3b0c96872d1157fbf01b6fdb2ce8d",
    "d/e1/f1": "2f528d15e00a7de3a65f79677fe2a748f261c3f8c8d112cdcf96c2b3802e65e9",
    "d/e2/f2": "e72a0a59c037fe56d6adca89f137eb20b2d8413158edc9fda39f77653c1552ab",
    "d/e3/f3": "e7ae68a5c5d0f0db16cbb6661d1e1cb46d3bc5c0e4eb9725136162ea28eb870d",
    "d/e4/f4": "73666ce3a89d2ffad03a7e88a8088180b735358146e9f270efbc43b882f6cde8",
    "over": "a2e472a76aa84a5581c3017acb5df6e846e6a944a128e9d51fbe2cd15501068c",
    "linked": "a2e472a76aa84a5581c3017acb5df6e846e6a944a128e9d51fbe2cd15501068c",
    "holes": "483b18061054ba8817ab7ea31b54a053fb1d43e6f7b9a93d63e8d86b256ca4e7",
}


class Writer:
    """Writes files through one mount and reads them through another, until it is told to stop."""

    def __init__(self, by: Path, through: Path):
        self.by, self.through = by, through
        self.count = 0
        self.failure: Exception | None = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.ended.is_set():
                data = b"%d of %s " % (self.count, self.by.name.encode()) * (4 * KIB)
                name = f"{self.by.name}-{self.count % 7}"
                put(self.by / name, data, 120)
                found = get(self.through / name, 120)
                assert found == data, f"{name}: {len(found)} bytes, not what was written"
                self.count += 1
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            self.failure = error

    def went_on(self) -> None:
        """It gets something done from now on."""
        before = self.count
        until(lambda: self.failure or self.count > before + 1, 60, "the writer goes on")
        assert self.failure is None, self.failure

    def end(self) -> None:
        self.ended.set()
        self.thread.join(120)
        assert not self.thread.is_alive() and self.failure is None, self.failure


def identity(cluster: Cluster) -> wire.Identity:
    return cluster._ask(admin.find_meta(cluster.meta_address))


def health(cluster: Cluster, text: str) -> dict[str, Any]:
    """What it says of releases, as soon as it says this: who is busy may not have told his."""
    newest: dict[str, Any] = {}

    def told() -> bool:
        newest.update(_releases(cluster))
        return text in newest["text"] + newest["advice"]

    until(told, 30, f"health says {text!r}")
    return newest


def _releases(cluster: Cluster) -> dict[str, Any]:
    done = cluster.command("zdfs", "health", "--over", "0", "--json", "--meta", cluster.meta_port)
    (one,) = [one for one in json.loads(done.stdout)["checks"] if one["name"] == "releases"]
    return dict(one)


def again(cluster: Cluster, name: str) -> None:
    """Stop a node and start it as the new version."""
    cluster.kill(name, number=15)
    cluster.more = cluster.meta_more = ()
    if name == "meta":
        cluster.start_meta()
    else:
        cluster.start_data(int(name.partition("-")[2]))
    cluster.wait_serving()


@contextmanager
def fsx(cluster: Cluster, *mounts: Path) -> Iterator[None]:
    """Every way to read and write one file, by its names on these mounts, beside what is done."""
    words = [sys.executable, "-m", "tests.live.fsx", "upgrade", "400"]
    root = Path(__file__).parents[2]
    running = subprocess.Popen(
        [*words, *(str(mount / "fsx") for mount in mounts)], cwd=root, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield
        said = running.communicate(timeout=120)[0].decode()
        assert running.returncode == 0, said
    finally:
        running.kill()
        running.wait()


def test_one_by_one_while_programs_work(tmp_path: Path) -> None:
    """All old; then one dataserver, the metaserver (too early: it keeps the old format), the other
    dataservers, the old mount: all new."""
    with started(tmp_path, 4, more=OLD, meta_more=OLD) as cluster:
        old, new = cluster.mount("old", *OLD), cluster.mount("new")
        writers = [Writer(old, new), Writer(new, old)]
        with fsx(cluster, old, new):
            _upgrade(cluster, writers)
        for one in writers:
            one.end()
        cluster.unmount(old)
        old = cluster.mount("old")
        put(old / "last", b"all are new")
        assert get(new / "last") == b"all are new"
        assert health(cluster, "protocol 5")["state"] == "ok"


def _upgrade(cluster: Cluster, writers: list[Writer]) -> None:
    def work() -> None:
        for one in writers:
            one.went_on()

    work()
    shown = ", ".join(map(str, cluster.ports))
    turn = f"upgrade the dataservers {shown} next, one at a time, then the metaserver"
    found = health(cluster, turn)
    assert found["state"] == "warning" and found["advice"].startswith(turn), found
    again(cluster, "data-0")
    work()
    again(cluster, "meta")
    work()
    assert identity(cluster).format == schema.META_FORMAT_MIN
    shown = ", ".join(map(str, cluster.ports[1:]))
    found = health(cluster, f"the dataservers {shown} next, one at a time, then the mounts")
    assert "stays in format 3 until every dataserver has reported" in found["text"], found
    for index in (1, 2, 3):
        again(cluster, f"data-{index}")
        work()
    until(lambda: identity(cluster).format == schema.META_FORMAT, 30, "the format of the metadata")
    assert identity(cluster).lineage[-1].format == schema.META_FORMAT


def test_a_server_put_back_to_the_version_before(tmp_path: Path) -> None:
    """Nobody has to be told: who spoke the newer version finds out by silence."""
    with started(tmp_path, 3) as cluster:
        mount = cluster.mount()
        put(mount / "one", b"1" * 100_000)
        cluster.kill("data-1", number=15)
        cluster.more = OLD
        cluster.start_data(1)
        cluster.wait_serving()
        put(mount / "two", b"2" * 100_000, 60)
        cluster.kill("meta", number=15)
        cluster.meta_more = OLD
        cluster.start_meta()
        cluster.wait_serving()
        put(mount / "three", b"3" * 100_000, 60)
        assert get(mount / "one", 60) == b"1" * 100_000


def test_the_way_back(tmp_path: Path) -> None:
    """--format 3 brings the metadata back; the version before goes on with it, and again the newer;
    a dataserver goes back with an empty store.  (The version before does not tell its format.)"""
    with started(tmp_path, 3) as cluster:
        mount = cluster.mount()
        put(mount / "one", b"1" * 100_000)
        until(lambda: identity(cluster).format == schema.META_FORMAT, 30, "the newer format")
        for more, format_ in ((("--format", "3"), 3), (OLD, 0), ((), schema.META_FORMAT)):
            cluster.kill("meta", number=15)
            cluster.meta_more = more
            cluster.start_meta()
            cluster.wait_serving()
            until(lambda: identity(cluster).format == format_, 30, f"format {format_}")
            put(mount / str(more), b"2" * 100_000, 60)
            if more == OLD:
                cluster.kill("data-1", number=15)
                shutil.move(cluster.stores[1], tmp_path / "newer")
                cluster.more = OLD
                cluster.start_data(1)
                cluster.wait_serving(60)
                cluster.kill("data-1", number=15)
                cluster.more = ()
                cluster.start_data(1)
                cluster.wait_serving(60)
        assert get(mount / "one", 60) == b"1" * 100_000
        kinds = [event["kind"] for event in cluster.told()["events"]]
        assert kinds.count("put back") == 1


def test_stores_of_the_release_before(tmp_path: Path, seed: int) -> None:
    """Made by that very release; the nodes are killed again and again while they upgrade them."""
    with tarfile.open(STORES) as tar:
        tar.extractall(tmp_path)  # of our own making: "filter" is younger than some Pythons
    cluster = Cluster(tmp_path, 3)
    cluster.meta_port, *cluster.ports = [f"{HOME}:{20_001 + n}" for n in range(4)]
    names = ["meta", "data-0", "data-1", "data-2"]
    dice = random.Random(seed)
    try:
        for _ in range(4):
            cluster.start_meta()
            cluster.start_data(0, 1, 2)
            threading.Event().wait(dice.uniform(0.2, 1.2))
            cluster.kill(*names)
        cluster.start()
        until(lambda: identity(cluster).format == schema.META_FORMAT, 30, "the new format")
        assert [one.release for one in identity(cluster).lineage][0] == "earlier"
        mount = cluster.mount()
        found = {name: hashlib.sha256(get(mount / name)).hexdigest() for name in TRUTH}
        assert found == TRUTH
        put(mount / "new", b"new")
    finally:
        cluster.close()
