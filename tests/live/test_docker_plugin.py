"""`zdfs docker-plugin` over its socket, on a real cluster, as Docker talks to it."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live.cluster import BIN, Cluster, started

pytestmark = pytest.mark.shared


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path):
        super().__init__("docker", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self.path))


class Docker:
    """Its daemon's side."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder = cluster, folder
        self.socket, self.state = folder / "plugins" / "zdfs.sock", folder / "state"
        self.start()

    def start(self) -> None:
        words = [BIN / "zdfs", "docker-plugin", "--socket", self.socket, "--state", self.state]
        words += ["--meta", self.cluster.meta_port, "--below", "/docker/volumes"]
        with open(self.folder / "plugin.log", "ab") as log:
            self.plugin = subprocess.Popen([str(word) for word in words], stdout=log, stderr=log)
        until(self.listens, 20, "the plugin listens")

    def listens(self) -> bool:
        with contextlib.suppress(OSError):
            return self.post("/Plugin.Activate", b"")[0] == 200
        return False

    def end(self, number: int = signal.SIGTERM) -> None:
        self.plugin.send_signal(number)
        self.plugin.wait(30)

    def post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        connection = Unix(self.socket)
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def ask(self, verb: str, **asked: Any) -> dict[str, Any]:
        return self.post(f"/VolumeDriver.{verb}", json.dumps(asked).encode())[1]

    def does(self, verb: str, **asked: Any) -> dict[str, Any]:
        found = self.ask(verb, **asked)
        assert not found["Err"], found
        return found


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    with started(tmp_path_factory.mktemp("docker-cluster"), 3) as cluster:
        one = Docker(cluster, tmp_path_factory.mktemp("docker"))
        try:
            yield one
        finally:
            one.end()
            if os.path.ismount(one.state / "mnt"):
                subprocess.run(["umount", one.state / "mnt"], timeout=30)


def test_the_life_of_a_volume(docker: Docker) -> None:
    assert docker.post("/Plugin.Activate", b"") == (200, {"Implements": ["VolumeDriver"]})
    assert docker.does("Capabilities")["Capabilities"] == {"Scope": "global"}
    assert docker.does("List")["Volumes"] == []
    docker.does("Create", Name="data", Opts={"mode": "1770", "uid": "33"})
    docker.does("Create", Name="data")
    docker.does("Create", Name="other", Opts=None)
    assert [one["Name"] for one in docker.does("List")["Volumes"]] == ["data", "other"]
    assert docker.does("Get", Name="data")["Volume"]["Mountpoint"] == ""
    assert docker.does("Path", Name="data")["Mountpoint"] == ""

    where = Path(docker.does("Mount", Name="data", ID="c1")["Mountpoint"])
    assert Path(docker.does("Mount", Name="data", ID="c2")["Mountpoint"]) == where
    found = where.stat()
    assert (found.st_mode & 0o7777, found.st_uid) == (0o1770, 33)
    (where / "file").write_text("content")
    assert docker.does("Get", Name="data")["Volume"]["Status"] == {"users": 2}
    assert "in use by c1, c2" in docker.ask("Remove", Name="data")["Err"]

    docker.end()  # containers go on without it
    assert (where / "file").read_text() == "content" and not docker.socket.exists()
    docker.start()
    assert docker.does("Path", Name="data")["Mountpoint"] == str(where)
    docker.end(signal.SIGKILL)
    docker.start()  # in place of the socket that was left
    docker.does("Unmount", Name="data", ID="c1")
    assert (where / "file").exists()
    assert "not used by 'c1'" in docker.ask("Unmount", Name="data", ID="c1")["Err"]
    docker.does("Unmount", Name="data", ID="c2")
    assert not os.path.ismount(docker.state / "mnt"), "nobody needs it"
    docker.does("Remove", Name="data")
    assert [one["Name"] for one in docker.does("List")["Volumes"]] == ["other"]


def test_what_cant_be_done_is_told(docker: Docker) -> None:
    assert "no volume 'none'" in docker.ask("Mount", Name="none", ID="x")["Err"]
    assert "no volume's name" in docker.ask("Create", Name="../up")["Err"]
    assert "unknown option 'size'" in docker.ask("Create", Name="x", Opts={"size": "1G"})["Err"]
    assert docker.post("/VolumeDriver.Shrink", b"{}")[0] == 404
    assert docker.post("/VolumeDriver.List", b"nonsense")[0] == 400
    assert docker.post("/VolumeDriver.List", b"[]")[0] == 400
    second = docker.cluster.command("zdfs", "docker-plugin", "--socket", docker.socket,
                                    "--state", docker.state, "--meta", "1")  # fmt: skip
    assert second.returncode == 1 and "served already" in second.stderr


def test_a_mount_that_died_is_made_anew(docker: Docker) -> None:
    docker.does("Create", Name="v")
    where = Path(docker.does("Mount", Name="v", ID="c1")["Mountpoint"])
    (where / "file").write_text("content")
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        words: list[bytes] = []
        with contextlib.suppress(OSError):  # it has ended meanwhile
            words = process.read_bytes().split(b"\0")
        if os.fsencode(docker.state / "mnt") in words and b"--herald" in words:
            os.kill(int(process.parent.name), signal.SIGKILL)
    assert Path(docker.does("Mount", Name="v", ID="c2")["Mountpoint"]) == where
    assert (where / "file").read_text() == "content"
    for user in ("c1", "c2"):
        docker.does("Unmount", Name="v", ID=user)


def test_a_cluster_that_is_away_is_told(docker: Docker) -> None:
    docker.does("Create", Name="away")
    docker.cluster.kill("meta")
    said = docker.ask("Create", Name="more")["Err"]
    assert "does not answer" in said and str(docker.cluster.meta_port) in said
    docker.cluster.start_meta()
    docker.cluster.wait_serving()
    docker.does("Create", Name="more")
