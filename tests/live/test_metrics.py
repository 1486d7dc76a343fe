"""Measures on a real cluster: over HTTP, over our wire, `zdfs top`, `zdfs profile`."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import until
from tests.live.cluster import BIN, Cluster, free_ports
from zdfs.link import Link
from zdfs.measures import CATALOGUE, Kind, Role
from zdfs.tools import gathering, top

RARE = {"zdfs_mount_retries_total"}  # no samples before there is something to tell


def scraped(port: int) -> dict[str, bool]:
    """What Prometheus gets: every metric, and whether it has a value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = {line.split()[2]: False for line in text.splitlines() if line.startswith("# TYPE")}
    for line in text.splitlines():
        name = re.match(r"[a-z_]+", line)
        if name:
            whole = name[0] if name[0] in found else re.sub("_(bucket|sum|count)$", "", name[0])
            found[whole] = True
    return {name: told for name, told in found.items() if name.startswith("zdfs_")}


def of(role: Role) -> set[str]:
    return {one.name for one in CATALOGUE if role in one.roles}


@contextmanager
def working(mount: Path) -> Iterator[None]:
    """A program that is busy on a mount, for a while."""
    ended = threading.Event()

    def work() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            (mount / f"d{number}").mkdir()
            (mount / f"f{number}").write_bytes(b"x" * 9000)
            (mount / f"f{number}").read_bytes()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_measures_from_every_side(tmp_path: Path) -> None:
    meta, data, mount = ports = free_ports(3)
    cluster = Cluster(tmp_path, 3, meta_more=["--metrics", str(meta)])
    try:
        cluster.start_meta()
        cluster.more = ["--metrics", str(data)]
        cluster.start_data(0)
        cluster.more = []
        cluster.start_data(1, 2)
        cluster.wait_serving()
        where = cluster.mount("mnt", "--metrics", str(mount))
        with working(where):
            _profiled(cluster, where)
            _shown(cluster, where)
            _on_a_terminal(cluster)
        _exported(cluster, where, ports)
        _taken(cluster, meta)
        _without_a_metaserver(cluster, where)
    finally:
        cluster.close()


def _exported(cluster: Cluster, where: Path, ports: list[int]) -> None:
    """Each role's whole catalogue, and the same names over the wire."""
    (where / "f1").read_bytes()
    link = Link()
    try:
        address = f"127.0.0.1:{cluster.ports[0]}"
        servers = gathering.of_servers(link, [cluster.meta_address, address])
    finally:
        link.close()
    looks = [servers[cluster.meta_address], servers[address]]
    looks.append(gathering.of_mounts([str(where)])[str(where)])
    for role, port, seen in zip(Role, ports, looks, strict=True):
        found = scraped(port)
        assert set(found) == of(role)
        live = {one.name for one in CATALOGUE if one.live and one.labels}  # perhaps none happened
        assert {name for name, told in found.items() if not told} <= live | RARE, role
        told = {re.sub("_(bucket|sum|count)$", "", name) for name, _ in seen.values}
        told = {name for name in told if name.startswith("zdfs_")}
        has = {name for name, has in found.items() if has}
        assert told ^ has <= live | RARE, role  # which may have happened between the two looks
    histograms = {one.name for one in CATALOGUE if one.kind is Kind.HISTOGRAM}
    assert histograms <= {name for port in ports for name, has in scraped(port).items() if has}
    assert looks[0].value("zdfs_server_up") == 3
    assert looks[1].value("zdfs_stored_blocks") and looks[2].value("zdfs_mount_written_bytes_total")


def _profiled(cluster: Cluster, where: Path) -> None:
    done = cluster.command("zdfs", "profile", where / "d1", "--over", "4", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = {one["operation"]: one for one in found["operations"]}
    assert found["servers_that_answer"] == 4 and {"mkdir", "create", "write", "flush"} <= set(names)
    for one in found["operations"]:
        assert sum(one["parts_s"].values()) <= one["total_s"] * 1.01 + 1e-4, one
    parts = names["mkdir"]["parts_s"]
    assert min(parts[part] for part in ("client", "server", "disk")) > 0, parts
    assert found["background"]["disk"] > 0, "blocks that were flushed waited for disks"
    done = cluster.command("zdfs", "profile", where, "--over", "0.3")
    assert done.returncode == 0 and "where the time of the calls went" in done.stdout
    done = cluster.command("zdfs", "profile", "/proc")
    assert done.returncode == 1 and "is on no zdfs mount" in done.stderr


def _shown(cluster: Cluster, where: Path) -> None:
    words = ("zdfs", "top", "--meta", cluster.meta_port, "--every", "2")
    found = json.loads(cluster.command(*words, "--json").stdout)
    assert found["metaserver"]["answers"] and found["metaserver"]["requests_per_s"] > 0
    assert [one["state"] for one in found["servers"]] == ["serving"] * 3
    assert sum(one["in_bytes_per_s"] for one in found["servers"]) > 0
    (mount,) = found["mounts"]
    assert mount["directory"] == str(where) and mount["operations_per_s"] > 0
    done = cluster.command(*words, "--once")
    assert done.returncode == 0 and "\x1b" not in done.stdout
    assert str(where) in done.stdout and "newest events" in done.stdout


def _on_a_terminal(cluster: Cluster) -> None:
    """A small one: it is drawn, and q ends it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 40, 0, 0))
    before = termios.tcgetattr(theirs)
    words = [BIN / "zdfs", "top", "--meta", cluster.meta_port, "--every", "0.3"]
    process = subprocess.Popen([str(w) for w in words], stdin=theirs, stdout=theirs, stderr=theirs)
    shown = b""

    def drawn() -> bool:
        nonlocal shown
        if select.select([ours], [], [], 0.1)[0]:
            shown += os.read(ours, 65536)
        return b"serving" in shown

    try:
        until(drawn, 20, "a frame")
        os.write(ours, b"q")
        until(lambda: drawn() and process.poll() is not None, 10, "the end")
    finally:
        process.kill()
        process.wait()
        after = termios.tcgetattr(theirs)
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0 and after == before


def _taken(cluster: Cluster, port: int) -> None:
    store = ("--store", cluster.folder / "another")
    done = cluster.command("zdfs-node", "meta", *free_ports(1), "--metrics", port, *store)
    assert done.returncode == 1
    assert done.stderr == f"zdfs-node: --metrics {port}: can't listen there: it is in use; " + (
        "choose another\n"
    )
    assert not (cluster.folder / "another").exists(), "no store is made in vain"


def _without_a_metaserver(cluster: Cluster, where: Path) -> None:
    """Who watched goes on with the ring that was known; who comes anew has it from a mount."""
    link = Link()
    try:
        watched = top.Watched(link, cluster.meta_address)
        watched.look()
        cluster.kill("meta")
        found: dict[str, Any] = top.facts(watched)
    finally:
        link.close()
    assert not found["metaserver"]["answers"]
    assert [one["slot"] for one in found["servers"]] == [0, 1, 2]
    assert all(one["requests_per_s"] is not None for one in found["servers"])
    done = cluster.command("zdfs", "top", "--once", "--meta", cluster.meta_port, "--every", "0.2")
    assert done.returncode == 0 and "it does not answer" in done.stdout
    assert all(str(port) in done.stdout for port in cluster.ports)
    done = cluster.command("zdfs", "top", "--json", "--meta", *free_ports(1), "--every", "0.2")
    assert done.returncode == 1 and json.loads(done.stdout)["servers"] == []
    cluster.start_meta()
    cluster.wait_serving()
