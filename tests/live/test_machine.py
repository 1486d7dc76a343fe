"""zdfs as a part of the machine: its configuration file, mount(8) and fstab, a service manager.

mount(8) looks for its helpers in /sbin, so these mounts are made in a mount namespace of the test's
own, in which mount.zdfs stands there; the machine has none.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.cluster import BIN, Cluster, started

HELPER = f"""#!/bin/sh
PYTHONPATH={BIN.parent} exec {sys.executable} -P -c \
'import sys; from zdfs import cli; sys.exit(cli.helper())' "$@"
"""
SERVED_S = 30.0

pytestmark = pytest.mark.shared


class Inside:
    """A mount namespace whose /sbin has mount.zdfs."""

    def __init__(self, folder: Path):
        self.folder = folder
        kept = folder / "sbin"
        kept.mkdir()
        helper = folder / "mount.zdfs"
        helper.write_text(HELPER)
        helper.chmod(0o755)
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "cat"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        mine = os.readlink("/proc/self/ns/mnt")
        until(lambda: os.readlink(f"/proc/{self.holder.pid}/ns/mnt") != mine, what="a namespace")
        self.run("mount", "--bind", "/usr/sbin", kept)
        self.run("mount", "-t", "tmpfs", "sbin", "/usr/sbin")
        self.run("cp", "-as", f"{kept}/.", "/usr/sbin/")
        self.run("ln", "-sf", helper, "/usr/sbin/mount.zdfs")
        self.run("ln", "-sf", "mount.zdfs", "/usr/sbin/mount.fuse.zdfs")

    def run(self, *words: object, status: int = 0) -> str:
        """Run a command inside; what it printed."""
        done = subprocess.run(
            ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", "--", *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=60,
        )  # fmt: skip
        assert done.returncode == status, (words, done.returncode, done.stdout)
        return done.stdout

    def mounted(self, where: Path) -> list[str]:
        """Source, kind and flags of what is mounted there; empty: nothing is."""
        for line in Path(f"/proc/{self.holder.pid}/mounts").read_text().splitlines():
            source, there, kind, flags, *_ = line.split(" ")
            if there == str(where):
                return [source, kind, *flags.split(",")[:3]]
        return []

    def close(self) -> None:
        """End it, and so what is mounted in it."""
        for name in ("mnt", "fs", "cfg"):
            if self.mounted(self.folder / name):
                self.run("umount", "-l", self.folder / name)
        self.holder.stdin.close()  # type: ignore[union-attr]
        self.holder.wait(30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("machine"), 3) as made:
        yield made


def configure(cluster: Cluster, more: str = "") -> Path:
    """A configuration file that names the cluster."""
    path = cluster.folder / "cluster.toml"
    path.write_text(f"meta = {cluster.meta_port}\ndata = {json.dumps(cluster.ports)}\n{more}")
    return path


def processes_of(where: Path) -> list[str]:
    """The mounts' processes that run for a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it ended just now
                continue
            if str(where).encode() in words and b"--herald" in words:
                found.append(entry.name)
    return found


def test_mount_and_fstab(cluster: Cluster) -> None:
    if os.geteuid() != 0:
        pytest.skip("mount namespaces of one's own are root's")
    with closing(Inside(cluster.folder)) as inside:
        address = f"127.0.0.1:{cluster.meta_port}"
        _mount_by_hand(inside, address)
        _mount_by_fstab(inside, address)
        _refusals(inside, address)


def _mount_by_hand(inside: Inside, address: str) -> None:
    where = inside.folder / "mnt"
    where.mkdir()
    inside.run("mount", "-t", "zdfs", address, where)
    assert inside.mounted(where) == [address, "fuse.zdfs", "rw", "nosuid", "nodev"]
    inside.run("sh", "-c", f"echo hello >{where}/a; sync {where}/a")
    status = inside.run(BIN / "zdfs", "where", where / "a", "--json")  # which mount a path is on
    assert json.loads(status)["size"] == 6

    inside.run("mount", "-o", "remount,ro", where)
    assert inside.mounted(where)[2:] == ["ro", "nosuid", "nodev"]
    assert "Read-only file system" in inside.run("sh", "-c", f"echo x >{where}/a", status=2)
    inside.run("mount", "-o", "remount,rw", where)
    inside.run("sh", "-c", f"echo again >{where}/a")
    assert inside.run("cat", where / "a") == "again\n"

    inside.run("umount", where)
    assert inside.mounted(where) == []
    until(lambda: not processes_of(where), what="the mount's process is gone")


def _mount_by_fstab(inside: Inside, address: str) -> None:
    where, table = inside.folder / "fs", inside.folder / "fstab"
    where.mkdir()
    options = "ro,_netdev,nofail,x-systemd.requires=network-online.target,attr-timeout=0,noatime"
    table.write_text(f"{address} {where} zdfs {options} 0 0\n")
    inside.run("mount", "-T", table, "-a")
    assert inside.mounted(where)[:3] == [address, "fuse.zdfs", "ro"]
    inside.run("mount", "-T", table, "-a")  # is there already: nothing to do
    assert len(processes_of(where)) == 1
    assert inside.run("cat", where / "a") == "again\n"
    inside.run("mount", "-T", table, "-o", "remount,rw", where)
    inside.run("touch", where / "b")
    inside.run("umount", where)
    until(lambda: not processes_of(where), what="the mount's process is gone")

    table.write_text(f"{address} {where} zdfs noauto,nofail 0 0\n")
    inside.run("mount", "-T", table, "-a")
    assert inside.mounted(where) == []


def _refusals(inside: Inside, address: str) -> None:
    where = inside.folder / "mnt"
    said = inside.run("mount", "-t", "zdfs", f"{address}:/a", where, status=1)
    assert "only the root can be mounted" in said
    said = inside.run("mount", "-t", "zdfs", "-o", "colour=red", address, where, status=32)
    assert "colour=red" in said and "Traceback" not in said
    said = inside.run("mount", "-t", "zdfs", address, inside.folder / "nowhere", status=32)
    assert "does not exist" in said
    said = inside.run("mount", "-f", "-v", "-t", "zdfs", address, where)
    assert "zdfs-mount" in said and inside.mounted(where) == []


def test_a_configured_cluster_needs_no_ports(cluster: Cluster) -> None:
    folder = cluster.folder
    stores = f'[node]\nstores = "{folder}"\n'
    configured = {**os.environ, "ZDFS_CONFIG": str(configure(cluster, stores))}

    def run(*words: object, status: int = 0) -> str:
        done = subprocess.run(
            [str(BIN / str(words[0])), *map(str, words[1:])],
            capture_output=True, text=True, timeout=30, env=configured,
        )  # fmt: skip
        assert done.returncode == status, (words, done.stderr)
        return done.stdout + done.stderr

    assert str(cluster.ports[0]) in run("zdfs", "status")
    where = folder / "cfg"
    where.mkdir()
    run("zdfs-mount", where)
    (where / "a").write_text("by its name\n")
    run("zdfs", "where", "/a")
    subprocess.run(["umount", str(where)], check=True, timeout=30)

    cluster.kill("data-1", number=signal.SIGTERM)
    (folder / "data-1").rename(folder / f"data-{cluster.ports[1]}")  # as `stores` has it
    cluster.stores[1] = folder / f"data-{cluster.ports[1]}"
    with open(folder / "data-1.log", "ab") as out:
        again = [str(BIN / "zdfs-node"), "data", "1"]
        cluster.nodes["data-1"] = subprocess.Popen(again, env=configured, stdout=out, stderr=out)
    cluster.wait_serving()

    shown = run("zdfs", "config")
    assert f'meta = "{cluster.meta_port}"' in shown and "cluster.toml:1" in shown
    run("zdfs", "config", "check")
    (folder / "cluster.toml").write_text("[mount]\nattr-timeot = 1\n")
    assert "line 2: mount.attr-timeot" in run("zdfs", "config", "check", status=1)
    assert "'attr-timeout' perhaps?" in run("zdfs", "status", status=1)


# --- a service manager -------------------------------------------------------------------------


class Manager:
    """Stands in for systemd: starts a service and hears what it says."""

    def __init__(self, words: Sequence[str], log: Path):
        self.said: list[str] = []
        self._told = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(log.with_suffix(".notify")))
        # Always at the door, as systemd is: the queue holds ten words (unix(7), max_dgram_qlen),
        # a second's worth here, and a service that ends doesn't wait for room to say so.
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        told = {"NOTIFY_SOCKET": str(log.with_suffix(".notify")), "WATCHDOG_USEC": "200000"}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                words, env={**os.environ, **told}, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )

    def _listen(self) -> None:
        while datagram := self.socket.recv(4096):
            self.said += datagram.decode().splitlines()

    def hear(self) -> list[str]:
        """What was said since the last call."""
        found = self.said[self._told :]
        self._told += len(found)
        return found

    def wait_for(self, line: str) -> None:
        """Until it is said, and what follows it is heard next."""
        until(lambda: line in self.said[self._told :], SERVED_S, f"{line!r} among {self.said}")
        self._told = self.said.index(line, self._told) + 1

    def say(self, word: str) -> None:
        """Put a word of one's own behind what stands in the queue; an empty one is the end."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(word.encode(), self.socket.getsockname())

    def close(self) -> None:
        """Hear no more."""
        self.say("")
        self._listener.join()
        self.socket.close()


def test_a_service_manager_hears_that_a_node_serves_and_turns(cluster: Cluster) -> None:
    cluster.kill("data-0", number=signal.SIGTERM)
    manager = Manager(cluster.data_words(0), cluster.folder / "data-0.log")
    cluster.nodes["data-0"] = manager.process
    manager.wait_for("READY=1")
    manager.wait_for("STATUS=serving")
    cluster.wait_serving()

    manager.process.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{manager.process.pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", what="it is stopped")
    manager.say("it is stopped")
    manager.wait_for("it is stopped")
    # A loop that is stuck says nothing: the others beat on, so this much time has gone by.
    cluster.kill("meta", number=signal.SIGTERM)
    cluster.start_meta()
    until(lambda: len(cluster.states()) == 3, SERVED_S, "the metaserver, ten beats later")
    assert manager.hear() == []
    manager.process.send_signal(signal.SIGCONT)
    manager.wait_for("WATCHDOG=1")
    cluster.wait_serving()

    cluster.kill("data-0", number=signal.SIGTERM)
    manager.wait_for("STOPPING=1")
    manager.close()
    cluster.start_data(0)
    cluster.wait_serving()


def test_a_service_manager_hears_of_a_mount(cluster: Cluster) -> None:
    where = cluster.folder / "served"
    where.mkdir()
    words = [str(BIN / "zdfs-mount"), "-f", str(where), str(cluster.meta_port)]
    manager = Manager(words, cluster.folder / "served.log")
    cluster.mounts[where] = manager.process
    manager.wait_for("READY=1")
    manager.wait_for(f"STATUS=mounted on {where}")
    assert os.path.ismount(where)
    manager.wait_for("WATCHDOG=1")
    cluster.unmount(where)
    manager.wait_for("STOPPING=1")
    manager.close()
