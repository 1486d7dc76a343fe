"""`zdfs why`: each way to be blocked or to fail, made on a real cluster, and what it says of it."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import Cluster, started
from tests.live.hands import Hand
from zdfs.tools import why

WAIT_S = 30.0
pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four servers for all tests of this file: each leaves them whole."""
    with started(
        tmp_path_factory.mktemp("why"), 4, block_size=4096, more=("--scrub-rate", "1")
    ) as made:
        yield made


@pytest.fixture
def cluster(house: Cluster) -> Iterator[Cluster]:
    """The same, without the mounts of the test before."""
    yield house
    for mount in list(house.mounts):
        house.unmount(mount)


def reason(facts: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """Of a kind."""
    found: dict[str, Any] | None = next(
        (one for one in facts["reasons"] if one["kind"] == kind), None
    )
    return found


def since(facts: dict[str, Any]) -> float | None:
    """For how long the metaserver has been silent, if that is known."""
    silent = reason(facts, "metaserver")
    return None if silent is None else silent["since_s"]


def until_told(
    cluster: Cluster, subject: object, good: Callable[[dict[str, Any]], Any], what: str
) -> dict[str, Any]:
    """Ask until the answer is this."""
    newest: list[dict[str, Any]] = []

    def asked() -> bool:
        newest[:] = [cluster.why(subject)]
        return bool(good(newest[0]))

    try:
        until(asked, WAIT_S, what)
    except pytest.fail.Exception:
        print(json.dumps(newest, indent=1))
        raise
    return newest[0]


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does not run for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_server_that_is_down(cluster: Cluster) -> None:
    mount = cluster.mount()
    with Hand(mount) as hand, Hand(mount) as other:
        hand("fd = os.open('f', os.O_RDWR | os.O_CREAT)")
        other("fd = os.open('f', os.O_RDWR)")
        cluster.kill("data-2")
        cluster.wait_serving(down=[2])
        hand.start("os.write(fd, b'x' * 100)")
        facts = until_told(cluster, hand.pid, lambda f: f["calls"], "the call is seen")
        (call,) = facts["calls"]
        assert call["operation"] == "write" and call["path"] == "/f" and call["pid"] == hand.pid
        down = reason(facts, "down")
        assert down is not None and str(cluster.ports[2]) in down["what"] and down["since_s"] > 0
        assert "zdfs-node data 2" in down["unblock"]
        (thread,) = facts["threads"]
        assert thread["call"] == "write" and thread["inode"] == call["inode"]
        assert thread["mount"] == str(mount)
        # By the file, inside and on the mount; and a second writer, whom the kernel holds back.
        for path in ("/f", mount / "f"):
            by_path = cluster.why(path)
            assert by_path["calls"] and reason(by_path, "down") and by_path["inode"]
        other.start("os.write(fd, b'y')")
        seen = until_told(
            cluster, other.pid, lambda f: "is before it" in str(f["notes"]), "the kernel's queue"
        )
        assert not seen["calls"] and str(hand.pid) in seen["notes"][0]
        done = cluster.command("zdfs", "why", hand.pid, "--meta", cluster.meta_port)
        assert done.returncode == 0 and "  because   dataserver" in done.stdout
        assert "unblock   start it again" in done.stdout and "write of /f" in done.stdout
        cluster.start_data(2)
        assert hand.end() == 100 and other.end() == 1
        cluster.wait_serving()
        after = until_told(cluster, "/f", lambda f: not f["reasons"], "nothing is in the way")
        assert not after["calls"] and "nothing is in the way" in why.text(after)


def test_the_metaserver_is_down(cluster: Cluster) -> None:
    mount = cluster.mount()
    files.put(mount / "f", b"x")
    with Hand(mount) as hand:
        cluster.kill("meta")
        try:
            hand.start("os.mkdir('d')")
            facts = until_told(  # the mount notices after a timeout
                cluster, hand.pid, lambda f: f["calls"] and since(f), "the call is seen"
            )
            (call,) = facts["calls"]
            assert call["path"].startswith("/") and call["asked"][0]["address"].endswith(
                str(cluster.meta_port)
            )
            silent = reason(facts, "metaserver")
            assert silent is not None and "does not answer" in silent["what"]
            by_path = cluster.why(f"{mount}{call['path']}")
            assert by_path["calls"] and reason(by_path, "metaserver")
            assert "can't be told" in str(cluster.why("/nowhere")["notes"])
        finally:  # whoever looks at the mount waits for it
            cluster.start_meta()
        hand.end()
    cluster.wait_serving()


def test_another_mount_holds_the_grant_and_is_stopped(cluster: Cluster) -> None:
    first, second = cluster.mount("first"), cluster.mount("second")
    with Hand(first) as a, Hand(second) as b:
        a("fd = os.open('f', os.O_RDWR | os.O_CREAT)")
        a("os.write(fd, b'mine')")
        a("os.fsync(fd)")
        with stopped(cluster.mounts[first].pid):
            b.start("os.open('f', os.O_RDWR)")
            facts = until_told(cluster, b.pid, lambda f: reason(f, "grant"), "the grant is named")
            (call,) = facts["calls"]
            assert call["operation"] == "open" and call["asked"][0]["request"] == "Open"
            held = reason(facts, "grant")
            assert held is not None and str(first) in held["what"] and str(second) in held["what"]
            stuck = reason(facts, "mount")
            assert stuck is not None and str(first) in stuck["what"]
        b.end()


def test_a_lock(cluster: Cluster) -> None:
    first, second = cluster.mount("first"), cluster.mount("second")
    with Hand(first) as a, Hand(second) as b:
        a("fd = os.open('f', os.O_RDWR | os.O_CREAT)")
        a("fcntl.lockf(fd, fcntl.LOCK_EX, 10, 5)")
        b("fd = os.open('f', os.O_RDWR)")
        b.start("fcntl.lockf(fd, fcntl.LOCK_EX)")
        facts = until_told(cluster, b.pid, lambda f: reason(f, "lock"), "the lock is named")
        lock = reason(facts, "lock")
        assert lock is not None and f"process {a.pid}" in lock["what"]
        assert f"process {b.pid}" in lock["what"] and f"process {a.pid}" in lock["unblock"]
        assert reason(cluster.why(), "lock"), "also among all that waits"
        a("fcntl.lockf(fd, fcntl.LOCK_UN)")
        b.end()


def harm_all(cluster: Cluster, name: str) -> None:
    """Every replica of a file of one block."""
    (block,) = cluster.where(f"/{name}")["blocks"]
    for one in block["replicas"]:
        port = cluster.ports[one["slot"]]
        assert not cluster.command("zdfs-corrupt", port, f"/{name}", one["replica"]).returncode


def test_what_failed(cluster: Cluster) -> None:
    mount, fresh = cluster.mount(), cluster.mount("fresh")
    with Hand(fresh) as hand:
        for number in range(5):  # a server may heal a copy before the next one is harmed
            bad = f"bad{number}"
            files.put(mount / bad, b"x" * 4096)
            harm_all(cluster, bad)
            with contextlib.suppress(OSError):
                hand(f"open('{bad}').read()")
                continue
            break
        for subject in (f"/{bad}", hand.pid):
            failed = [f for f in cluster.why(subject)["failures"] if f["mount"] == str(fresh)]
            assert failed and failed[0]["errno"] == 5 and failed[0]["path"] == f"/{bad}"
            assert failed[0]["pid"] == hand.pid
            assert "no replica has its current version intact" in failed[0]["reason"]
        hand("[os.unlink(name) for name in os.listdir() if name.startswith('bad')]")
    with contextlib.suppress(OSError):
        os.listxattr(fresh)
        assert "zdfs" not in str(os.listxattr(fresh)), "programs don't see the way to ask"
    outside = cluster.why(os.getpid())
    assert not outside["reasons"] and "no mount of this machine has a call" in outside["notes"][0]


def test_a_slow_server(cluster: Cluster) -> None:
    mount = cluster.mount()
    ended = threading.Event()
    victim = cluster.nodes["data-1"].pid

    def slow() -> None:  # it runs one moment in eight
        while not ended.wait(0.02):
            with stopped(victim):
                ended.wait(0.14)

    beside = threading.Thread(target=slow)
    beside.start()
    try:
        with Hand(mount) as hand:

            def named() -> bool:
                hand("fd = os.open('f', os.O_RDWR | os.O_CREAT)")
                hand("[(os.pwrite(fd, b'x' * 16384, 0), os.fsync(fd)) for _ in range(4)]")
                hand("os.close(fd)")
                found = reason(cluster.why("/f"), "slow")
                return found is not None and str(cluster.ports[1]) in found["what"]

            until(named, WAIT_S, "the slow server is named")
    finally:
        ended.set()
        beside.join()
