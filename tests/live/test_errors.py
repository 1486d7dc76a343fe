"""What can't be done is said in one clear line, with exit status 1 or 2, and changes nothing."""

import concurrent.futures
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live.cluster import BIN, Cluster, free_ports, started

LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:")
FEW_S = 25.0


def refused(words: Sequence[Any], *wanted: str, within_s: float = FEW_S, **more: Any) -> str:
    """Run a command that must fail: one line that says `wanted`, no traceback."""
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=within_s,
        stdin=subprocess.DEVNULL,
        **more,
    )
    assert done.returncode in (1, 2), (done.returncode, done.stdout, done.stderr)
    own = [line for line in done.stderr.splitlines() if not line.startswith("fuse: ")]  # libfuse's
    lines = [line for line in own if not LOG_LINE.match(line)]
    assert len(lines) == 1, done.stderr
    for text in wanted:
        assert text in lines[0], lines[0]
    assert "Traceback" not in done.stderr and "bug" not in lines[0], done.stderr
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store that says something (locks name processes)."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "lock" not in path.name
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster without faults that no test changes."""
    with started(tmp_path_factory.mktemp("errors"), 3, faults=False) as made:
        yield made


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, 3, faults=False)
    yield made
    made.close()


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, wanted",
    [
        (["zdfs-node", "meta"], "port"),
        (["zdfs-node", "meta", "nonsense"], "no address"),
        (["zdfs-node", "meta", "70000"], "no address"),
        (["zdfs-node", "meta", ":22"], "no host"),
        (["zdfs-node", "meta", "a b:22"], "no host name"),
        (["zdfs-node", "meta", "2222", "--block-size", "1000"], "power of two"),
        (["zdfs-node", "meta", "2222", "--block-size", "x"], "--block-size"),
        (["zdfs-node", "meta", "2222", "--replicas", "2"], "keeps 3"),
        (["zdfs-node", "data", "0", "3333", "4444"], "3 or more"),
        (["zdfs-node", "data", "3", "3333", "4444", "5555"], "places 0 to 2"),
        (["zdfs-node", "data", "-1", "3333", "4444", "5555"], "places 0 to 2"),
        (["zdfs-node", "data", "0", "3333", "3333", "5555"], "twice"),
        (["zdfs-node", "data", "0", "3333", "4444", "5555", "--meta", "4444"], "too"),
        (["zdfs-node", "data", "zero", "3333", "4444", "5555"], "index"),
        (["zdfs-node", "data", "0", "3333", "4444", "5555", "--scrub-rate", "0"], "1 or more"),
        (["zdfs-node", "cook", "2222"], "cook"),
        (["zdfs-node"], "meta|data"),
        (["zdfs"], "COMMAND"),
        (["zdfs", "cook"], "cook"),
        (["zdfs", "status", "--cook"], "--cook"),
        (["zdfs", "faults", "skip", "3333", "maybe"], "maybe"),
        (["zdfs-mount"], "directory"),
        (["zdfs-mount", "/tmp", "x"], "no address"),
        (["zdfs-corrupt", "3333", "/a"], "replica"),
    ],
)  # fmt: skip
def test_words_that_make_no_sense(words: list[str], wanted: str, tmp_path: Path) -> None:
    refused([BIN / words[0], *words[1:]], wanted, cwd=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["zdfs", "zdfs-node", "zdfs-mount", "zdfs-corrupt"])
def test_help_and_version(name: str) -> None:
    for option in ("--help", "--version"):
        done = subprocess.run([BIN / name, option], capture_output=True, text=True, timeout=FEW_S)
        assert done.returncode == 0 and name in done.stdout


# --- ports and addresses -----------------------------------------------------------------------


@pytest.mark.shared
def test_a_port_in_use_leaves_no_store(running: Cluster, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for kind in (["meta", running.ports[0]], ["data", 0, running.meta_port, *free_ports(2)]):
        refused([BIN / "zdfs-node", *kind, "--store", store], "is in use")
    with socket.create_server(("127.0.0.1", 0)) as other:  # not one of ours
        port = other.getsockname()[1]
        refused([BIN / "zdfs-node", "meta", port, "--store", store], f"port {port} is in use")
    assert not store.exists()


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    for host in ("192.0.2.1", "no-such-host.invalid", "10.0.0.256"):
        store = tmp_path / "store"
        refused(
            [BIN / "zdfs-node", "meta", f"{host}:4444", "--store", store],
            f"{host}:4444", "does not have that address",
        )  # fmt: skip
        assert not store.exists()


def test_a_low_port_belongs_to_root(tmp_path: Path) -> None:
    floor = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    if int(floor) <= 81:
        pytest.skip("every port is everybody's here")
    words = ["setpriv", "--bounding-set=-net_bind_service"] if os.geteuid() == 0 else []
    line = [*words, BIN / "zdfs-node", "meta", 81, "--store", tmp_path / "store"]
    refused(line, "81", "root's")
    assert not (tmp_path / "store").exists()


# --- stores ------------------------------------------------------------------------------------


@pytest.mark.shared
def test_a_second_process_on_a_store(running: Cluster) -> None:
    (port,) = free_ports(1)
    refused([BIN / "zdfs-node", "meta", port, "--store", running.meta_store], "in use by process")
    ports = free_ports(3)
    refused(
        [BIN / "zdfs-node", "data", 0, *ports, "--store", running.stores[0]], "in use by process"
    )


def test_stores_of_another_role_slot_or_cluster(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start()
    cluster.kill("meta", "data-0", "data-1", "data-2")
    (port,) = free_ports(1)
    before = contents(cluster.meta_store), contents(cluster.stores[0])
    refused([BIN / "zdfs-node", "meta", port, "--store", cluster.stores[0]], "dataserver's store")
    words = [BIN / "zdfs-node", "data", 0, *cluster.ports, "--meta", cluster.meta_port]
    refused([*words, "--store", cluster.meta_store], "metaserver's store")
    words[2] = 1
    refused([*words, "--store", cluster.stores[0]], "store of dataserver 0, not 1")
    refused([*cluster.meta_words(), "--block-size", 4096], "was founded with 65536")
    assert before == (contents(cluster.meta_store), contents(cluster.stores[0]))
    (tmp_path / "other").mkdir()
    other = Cluster(tmp_path / "other", 3, faults=False)
    other.start()
    try:
        other.kill("data-0")
        words = other.data_words(0)
        words[words.index("--store") + 1] = str(cluster.stores[0])
        refused(words, "belongs to cluster")
    finally:
        other.close()


def test_an_empty_metaserver_among_dataservers_without_copies(
    cluster: Cluster, tmp_path: Path
) -> None:
    """With copies it gets everything back (test_copies.py)."""
    cluster.meta_more = ("--meta-copies", "0")
    cluster.start()
    cluster.kill("meta")
    words = cluster.meta_words()
    words[words.index("--store") + 1] = str(tmp_path / "empty")
    cluster._start("meta", words)
    until(lambda: "start it with the store it had" in cluster.log("meta"), 30)
    refused([BIN / "zdfs", "where", "/", "--meta", cluster.meta_port], "the store it had")
    cluster.kill("meta")  # at the end it is started with the store it had


def test_a_file_where_a_store_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (port,) = free_ports(1)
    words = [BIN / "zdfs-node", "meta", port, "--store"]
    refused([*words, tmp_path / "file"], "file")
    refused([*words, tmp_path / "file" / "below"], "can't be made")
    refused([BIN / "zdfs-node", "meta", port, "--log", "/proc/nowhere/log"], "log", cwd=tmp_path)


# --- lists -------------------------------------------------------------------------------------


@pytest.mark.shared
def test_dataservers_with_another_list(running: Cluster, tmp_path: Path) -> None:
    for ports in (free_ports(3), [*free_ports(1), *running.ports[1:], *free_ports(1)]):
        refused(
            [BIN / "zdfs-node", "data", 0, *ports, "--meta", running.meta_port, "--store",
             tmp_path / "store"],
            "list of ports differs", " ".join(map(str, running.ports)),
        )  # fmt: skip
        shutil.rmtree(tmp_path / "store")


def test_differing_lists_before_the_founding(cluster: Cluster) -> None:
    cluster.start_meta()
    cluster.start_data(0)
    until(lambda: f"dataservers at {cluster.ports[1]}" in cluster.status().get("note", ""), 30)
    words = cluster.data_words(1)
    place = words.index(str(cluster.ports[0]))
    words[place : place + 3] = [str(cluster.ports[n]) for n in (2, 1, 0)]
    refused(words, "list of ports differs")
    shutil.rmtree(cluster.stores[1])
    cluster.start_data(1, 2)
    cluster.wait_serving()


def test_a_list_that_was_mistyped_at_first_is_forgotten_with_its_server(cluster: Cluster) -> None:
    cluster.start_meta()
    words = cluster.data_words(0)
    words[words.index(str(cluster.ports[2]))] = str(free_ports(1)[0])
    cluster._start("data-0", words)
    until(lambda: "waiting for the dataservers at" in cluster.status().get("note", ""), 30)
    cluster.kill("data-0")
    until(lambda: "none has reported" in cluster.status().get("note", ""), 30)
    cluster.start_data(1, 2, 0)
    cluster.wait_serving()


# --- nobody there ------------------------------------------------------------------------------


def test_no_metaserver(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    said, nameless = "no metaserver answers", "this machine knows no address of it"
    cases = [(["zdfs", "status", "--meta", port], said, f"{port}")]
    cases += [
        (["zdfs", "status", "--meta", f"{host}:{port}"], nameless, host)
        for host in ("no-such-host.invalid", "10.0.0.256")
    ]
    cases += [
        (["zdfs", *words, "--meta", port], said, f"{port}")
        for words in (["where", "/f"], ["faults", "skip", free_ports(1)[0], "on"])
    ]
    cases += [(["zdfs-corrupt", port, "/f", 0], "no dataserver answers", f"{port}")]
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:  # each waits for a timeout
        jobs = [pool.submit(refused, [BIN / name, *more], *wanted)
                for (name, *more), *wanted in cases]  # fmt: skip
        for job in jobs:
            job.result()
    refused([BIN / "zdfs-mount", tmp_path, port], "no metaserver answers", str(port))
    refused(
        [BIN / "zdfs-mount", tmp_path, f"no-such-host.invalid:{port}"], nameless, "no-such-host"
    )
    assert not os.path.ismount(tmp_path)


def test_a_metaserver_that_waits_says_for_whom(cluster: Cluster) -> None:
    cluster.start_meta()
    cluster.start_data(0, 1)
    mount = cluster.folder / "mnt"
    mount.mkdir()
    until(lambda: f"dataservers at {cluster.ports[2]}" in cluster.status().get("note", ""), 30)
    refused(
        [BIN / "zdfs-mount", mount, cluster.meta_port], "can't serve yet", str(cluster.ports[2])
    )
    refused([BIN / "zdfs", "where", "/f", "--meta", cluster.meta_port], str(cluster.ports[2]))


@pytest.mark.shared
def test_the_wrong_kind_of_server(running: Cluster, tmp_path: Path) -> None:
    meta, data = running.meta_port, running.ports[1]
    for words in (["status"], ["where", "/f"], ["faults", "skip", data, "on"]):
        refused([BIN / "zdfs", *words, "--meta", data], f"{data} is a dataserver")
    refused([BIN / "zdfs-mount", tmp_path, data], f"{data} is a dataserver")
    refused([BIN / "zdfs-mount", "-f", tmp_path, data], f"{data} is a dataserver")
    refused([BIN / "zdfs-corrupt", meta, "/f", 0], f"{meta} is a metaserver")
    ports = free_ports(3)
    words = [BIN / "zdfs-node", "data", 0, *ports, "--meta", data, "--store", tmp_path / "store"]
    refused(words, f"{data}", "is not the metaserver")


@pytest.mark.shared
def test_faults_are_refused(running: Cluster) -> None:
    mount = running.mount()
    (mount / "f").write_text("content")
    words = [BIN / "zdfs", "faults", "skip", running.ports[0], "on", "--meta", running.meta_port]
    refused(words, "--faults")
    port = running.where("/f")["blocks"][0]["replicas"][0]["address"]
    refused([BIN / "zdfs-corrupt", port, "/f", 0], "--faults")
    assert (mount / "f").read_text() == "content"
    running.unmount(mount)


@pytest.mark.shared
def test_things_that_are_not_there(running: Cluster) -> None:
    meta = ["--meta", running.meta_port]
    refused([BIN / "zdfs", "where", "/nothing", *meta], "/nothing", "No such file")
    refused([BIN / "zdfs", "where", "/", *meta], "irectory")
    refused([BIN / "zdfs", "faults", "skip", 1, "on", *meta], "no dataserver has port 1")
    refused([BIN / "zdfs-corrupt", running.ports[0], "/nothing", 0], "No such file")
    refused([BIN / "zdfs-corrupt", running.ports[0], "/nothing", 3], "0 to 2")


# --- mount points ------------------------------------------------------------------------------


@pytest.mark.shared
def test_mount_points(running: Cluster, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("mine")
    for words in ([], ["-f"]):
        command = [BIN / "zdfs-mount", *words]
        refused([*command, full, running.meta_port], "not empty")
        refused([*command, full / "file", running.meta_port], "no directory")
        refused([*command, tmp_path / "none", running.meta_port], "make it first")
    assert (full / "file").read_text() == "mine"
    mount = running.mount()
    refused([BIN / "zdfs-mount", mount, running.meta_port], "already a mount")
    running.unmount(mount)
    empty = tmp_path / "empty"
    empty.mkdir()
    wrong = [BIN / "zdfs-mount", empty, running.meta_port, *running.ports[::-1]]
    refused(wrong, "dataservers are", " ".join(map(str, running.ports)))
    refused([BIN / "zdfs-mount", "-o", "no_such_option", empty, running.meta_port], "option")


@pytest.mark.shared
def test_a_missing_libfuse(running: Cluster, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can hide a library")
    found = [
        path
        for folder in ("/lib", "/usr/lib", "/usr/local/lib")
        for path in Path(folder).rglob("libfuse*.so*")
    ]
    assert found
    hide = "; ".join(f"mount --bind /dev/null {path}" for path in {p.resolve() for p in found})
    line = f"{hide}; exec {BIN}/zdfs-mount {tmp_path} {running.meta_port}"
    refused(["unshare", "--mount", "sh", "-c", line], "libfuse", "apt-get install fuse3")


@pytest.mark.shared
def test_a_mount_point_whose_name_is_no_text(running: Cluster, tmp_path: Path) -> None:
    mount = os.fsencode(tmp_path) + b"/\xff name"
    os.mkdir(mount)
    words = [str(BIN / "zdfs-mount"), os.fsdecode(mount), str(running.meta_port)]
    done = subprocess.run(words, capture_output=True, timeout=FEW_S)
    assert done.returncode == 0, done.stderr
    shown = running.status()["mounts"]
    subprocess.run(["umount", mount], check=True, timeout=FEW_S)
    assert any(one.endswith("\ufffd name") for one in shown)
