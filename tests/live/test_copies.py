"""The metaserver's disk is lost, damaged or old: the same command line brings everything back.

Every round of the metaserver stands on dataservers before it is answered (`zdfs/copies.py`).
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.cluster import READY_S, Cluster

pytestmark = pytest.mark.timeout(180)


def shell(line: str, timeout: float = 60) -> str:
    """Run a line on a mount, apart from ourselves."""
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def whole(cluster: Cluster) -> bool:
    """Whether each member of the journal set has a whole copy."""
    shown = cluster.status() or {"note": "does not answer"}
    members = [] if shown["note"] else shown["meta_copies"]["members"]
    return bool(members) and all(one["whole"] for one in members)


def lose(cluster: Cluster) -> None:
    """The metaserver dies, and its disk with it; the same command line again."""
    cluster.kill("meta")
    shutil.rmtree(cluster.meta_store)
    cluster.start_meta()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Four servers."""
    return Cluster(tmp_path)


def test_lost_under_work(cluster: Cluster, tmp_path: Path) -> None:
    """Programs wait and go on; the mount is the same; every acknowledged name is there."""
    try:
        mount = cluster.start().mount()
        until(lambda: whole(cluster), READY_S, "copies")
        shell(f"mkdir {mount}/d && head -c 3000000 /dev/urandom > {tmp_path}/big")
        shell(f"cp {tmp_path}/big {mount}/big")
        work = subprocess.Popen(
            ["sh", "-c", f"for n in $(seq 400); do echo $n > {mount}/d/$n && echo $n; done"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        held = os.open(mount / "big", os.O_RDONLY)
        for _ in range(2):
            until(lambda: whole(cluster), READY_S, "copies again")
            lose(cluster)
        said, _ = work.communicate(timeout=120)
        assert work.returncode == 0 and said.split() == [str(n) for n in range(1, 401)]
        assert os.pread(held, 10, 0) == (tmp_path / "big").read_bytes()[:10]
        os.close(held)
        found = shell(f"cd {mount}/d && cat $(seq 400)").split()
        assert found == said.split()
        assert "reading all metadata from the copy" in cluster.log("meta")
        cold = cluster.mount("cold")
        shell(f"cmp {tmp_path}/big {cold}/big")
        cluster.unmount(mount)
        cluster.unmount(cold)
    finally:
        cluster.close()


def test_damaged_everywhere(cluster: Cluster, tmp_path: Path) -> None:
    """A page of zeros, and an empty file, where the metadata stood."""
    try:
        mount = cluster.start().mount()
        shell(f"mkdir -p {mount}/a/b && echo text > {mount}/a/b/c")
        file = cluster.meta_store / "meta" / "data.mdb"
        for harm in (lambda: file.write_bytes(b""), lambda: os.truncate(file, 8192)):
            until(lambda: whole(cluster), READY_S, "copies")
            cluster.kill("meta")
            harm()
            cluster.start_meta()
            assert shell(f"cat {mount}/a/b/c") == "text\n"
        assert "set aside as" in cluster.log("meta")
        assert list(cluster.meta_store.glob("meta.damaged-*"))
        cluster.unmount(mount)
    finally:
        cluster.close()


def test_with_two_of_three_servers_dead(tmp_path: Path) -> None:
    """Reads go on, also when the metaserver starts again; changes say what they wait for."""
    cluster = Cluster(tmp_path, 3)
    try:
        mount = cluster.start().mount()
        shell(f"echo text > {mount}/f")
        until(lambda: whole(cluster), READY_S, "copies")
        cluster.kill("data-0")
        cluster.kill("data-1")
        until(
            lambda: "a change needs a copy" in cluster.status().get("note", ""),
            READY_S,
            "it says so",
        )
        assert shell(f"cat {mount}/f") == "text\n"
        cluster.kill("meta")
        cluster.start_meta()
        assert shell(f"cat {mount}/f; ls {mount}") == "text\nf\n"
        cluster.start_data(0)
        cluster.start_data(1)
        shell(f"mkdir {mount}/d")
        cluster.unmount(mount)
    finally:
        cluster.close()
