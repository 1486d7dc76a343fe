"""A keyed cluster on real processes: strangers stay out and hear why, keys end, keys are changed.

Every node has a key and a key directory of its own, as on machines of their own; what an admin
would carry from one to the other is copied.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import Cluster
from tests.live.test_crashes import Writers
from zdfs import addresses
from zdfs.keys import Role
from zdfs.tools import keymaking

pytestmark = pytest.mark.shared
NOT_ALLOWED = "Permission denied"


class Keyed(Cluster):
    """A cluster, and what its admin does about keys."""

    def __init__(self, folder: Path, **more: Any):
        super().__init__(folder, 3, keys=folder / "keys", **more)
        self.places: dict[str, Path] = {"node": folder / "keys"}  # where each key is used
        done = self.command("zdfs", "keys", "init", folder / "keys")
        assert done.returncode == 0 and "given/admin" in done.stdout, done
        for index, port in enumerate(self.ports):
            own = (addresses.parse(str(port)),) if index else ()  # else: as good as any node's
            self.keys_of[f"data-{index}"] = self.give(f"data-{index}", role=Role.NODE, at=own)
        self.spread()

    def give(self, name: str, **how: Any) -> Path:
        """A key for somebody, carried to where it is used."""
        _, given = keymaking.give(self.folder / "keys", name, **how)
        self.places[name] = self.folder / f"keys-of-{name}"
        shutil.rmtree(self.places[name], ignore_errors=True)
        given.rename(self.places[name])
        return self.places[name]

    def spread(self) -> None:
        """Carry the list of keys to everybody who has one, as rsync does: whole."""
        for place in self.places.values():
            if place != self.folder / "keys":
                shutil.copy(self.folder / "keys" / "cluster", place / ".cluster.new")
                (place / ".cluster.new").rename(place / "cluster")

    def renew(self, name: str) -> None:
        """A second key, known to everybody before it is used."""
        _, given = keymaking.give(self.folder / "keys", name, another=True)
        self.spread()
        (given / "own").rename(self.places[name] / "own")
        shutil.rmtree(given)

    def retire(self, name: str) -> None:
        """The older key counts no more."""
        keymaking.end(self.folder / "keys", name, old=True)
        self.spread()

    def ask(self, *words: Any) -> str:
        """What a command that can't do it prints."""
        done = self.command("zdfs", *words, "--meta", self.meta_port)
        assert done.returncode == 1 and not done.stdout, done
        return done.stderr


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    made = Keyed(tmp_path_factory.mktemp("keys"))
    try:
        made.start()
        yield made
    finally:
        made.close()


def refused(cluster: Keyed, whom: str) -> list[str]:
    """What the metaserver's log says of messages and connections of somebody."""
    lines = cluster.log("meta").splitlines()
    return [line for line in lines if "zdfs.broker" in line and whom in line]


def denied(path: Path) -> bool:
    """Whether nothing is said of a name, once what the mount remembers of it has aged."""
    try:
        path.stat()
    except PermissionError:
        return True
    except FileNotFoundError:
        return False
    return False


def text(path: Path) -> str:
    """What programs read, or why they can't."""
    done = subprocess.run(["cat", path], capture_output=True, text=True, timeout=30)
    return done.stdout or done.stderr


def test_strangers_stay_out_and_hear_why(cluster: Keyed, tmp_path: Path) -> None:
    status = cluster.command("zdfs", "status", "--meta", cluster.meta_port)
    assert status.returncode == 1 and status.stderr.count("wants keys: give --keys DIR") == 1
    health = cluster.command("zdfs", "health", "--meta", cluster.meta_port, "--over", "0")
    assert health.returncode == 2 and "wants keys: give --keys DIR" in health.stdout
    assert "does not answer" not in health.stdout and "what to do:" in health.stdout
    (tmp_path / "mnt").mkdir()
    done = cluster.command("zdfs-mount", tmp_path / "mnt", cluster.meta_port)
    assert done.returncode == 1 and "wants keys: give --keys DIR" in done.stderr
    assert not os.path.ismount(tmp_path / "mnt")
    done = cluster.command("zdfs-corrupt", cluster.ports[0], "/a", 0)
    assert done.returncode == 1 and "wants keys: give --keys DIR" in done.stderr

    other = tmp_path / "other"
    assert cluster.command("zdfs", "keys", "init", other).returncode == 0
    assert "has another key than those that are pinned" in cluster.ask("status", "--keys", other)
    shutil.copy(cluster.folder / "keys" / "cluster", other / "cluster")
    assert "refused our key node (" in cluster.ask("status", "--keys", other)
    (other / "own").chmod(0o640)
    assert "others may read or write" in cluster.ask("status", "--keys", other)
    assert "is not there" in cluster.ask("status", "--keys", tmp_path / "nowhere")

    assert cluster.told()["refused"] > 0
    assert "refused" in cluster.log("meta") and "zdfs.broker" in cluster.log("meta")


def test_a_store_of_a_keyed_cluster_is_not_served_without_keys(cluster: Keyed) -> None:
    for words in (cluster.meta_words(), cluster.data_words(0)):
        place = words.index("--keys")
        words[place : place + 2] = []
        done = cluster.command("zdfs-node", *words[1:])
        assert done.returncode == 1
        assert "belongs to a cluster with keys: start this node with --keys" in done.stderr


def test_a_node_that_nobody_knows_is_told_so(cluster: Keyed, tmp_path: Path) -> None:
    """A dataserver whose key is on no list: its log says it, in the time of a call."""
    cluster.kill("data-2")
    lost = tmp_path / "lost"
    assert cluster.command("zdfs", "keys", "init", lost).returncode == 0
    shutil.copy(cluster.folder / "keys" / "cluster", lost / "cluster")
    kept, cluster.keys_of["data-2"] = cluster.keys_of["data-2"], lost
    cluster.start_data(2)
    until(lambda: "refused our key node (" in cluster.log("data-2"), 20)
    cluster.kill("data-2")
    cluster.keys_of["data-2"] = kept
    cluster.start_data(2)
    cluster.wait_serving()


def test_a_key_that_is_revoked_ends_an_open_mount(cluster: Keyed) -> None:
    given = cluster.give("visitor")
    cluster.spread()
    mount = cluster.mount("visited", "--keys", str(given))
    (mount / "file").write_text("hello")
    with open(mount / "file", "rb") as held:
        assert held.read() == b"hello"
        revoked = cluster.command("zdfs", "keys", "revoke", cluster.folder / "keys", "visitor")
        assert revoked.returncode == 0 and "visitor (" in revoked.stdout, revoked
        cluster.spread()
        until(lambda: NOT_ALLOWED in text(mount / "file"), 10, "the mount is refused")
        until(lambda: denied(mount / "nothing"), 10, "names are refused, too")
    assert "refused our key visitor (" in cluster.log("visited")
    until(lambda: refused(cluster, "visitor ("), 15, "the metaserver's log says whom it refused")
    listed = cluster.command("zdfs", "keys", "list", cluster.folder / "keys").stdout
    assert "visitor  client" in listed and "  revoked 2" in listed

    cluster.give("visitor")  # forgiven: the mount goes on under its next key
    cluster.spread()
    until(lambda: text(mount / "file") == "hello", 30, "the mount works again")
    cluster.unmount(mount)


def test_keys_are_changed_while_a_program_writes(cluster: Keyed) -> None:
    given = cluster.give("laptop")
    cluster.spread()
    mount = cluster.mount("mnt", "--keys", str(given))
    writers = Writers(cluster, mount, 1, "keys")
    cluster.renew("laptop")
    writers.wait_for_progress(writers.acknowledged())
    until(lambda: cluster.log("mnt").count(": our key is laptop (") == 1)
    cluster.retire("laptop")
    writers.wait_for_progress(writers.acknowledged(), 20)
    for name, start in [("data-1", lambda: cluster.start_data(1)), ("node", cluster.start_meta)]:
        cluster.renew(name)
        cluster.kill("meta" if name == "node" else name, number=signal.SIGTERM)
        start()
        writers.wait_for_progress(writers.acknowledged())
        cluster.retire(name)
    writers.wait_for_progress(writers.acknowledged(), 20)
    writers.stop()
    writers.compare(mount)
    assert "refused our key" not in cluster.log("mnt")
    cluster.unmount(mount)


def test_a_client_has_the_rights_of_its_key(cluster: Keyed) -> None:
    mine = cluster.mount("mine")
    (mine / "public").mkdir(exist_ok=True)
    (mine / "public" / "file").write_text("shown")
    given = cluster.give("guest", may="ro root=/public")
    cluster.spread()
    mount = cluster.mount("guest", "--keys", str(given))
    assert text(mount / "file") == "shown" and os.listdir(mount) == ["file"]
    with pytest.raises(OSError, match="Read-only file system"):
        (mount / "other").touch()
    asked = ("health", "--meta", cluster.meta_port, "--over", "0", "--keys", given)
    health = cluster.command("zdfs", *asked)
    assert health.returncode == 2 and "may not ask" in health.stdout, health.stdout
    assert "does not answer" not in health.stdout
    profile = cluster.command("zdfs", "profile", mount, "--over", "0.5", "--keys", given)
    assert profile.returncode == 0 and "operations" in profile.stdout, profile
    cluster.unmount(mount)
    cluster.unmount(mine)


def test_the_largest_blocks_under_keys(tmp_path: Path) -> None:
    """CURVE makes frames a little longer, which ZeroMQ counts: full blocks of 1 MiB never came."""
    made = Keyed(tmp_path, block_size=1 << 20)
    try:
        mount = made.start().mount()
        data = os.urandom(3 << 20)
        files.put(mount / "f", data)
        made.unmount(mount)
        assert files.get(made.mount("again") / "f") == data
    finally:
        made.close()
