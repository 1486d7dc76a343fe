"""Programs without a mount while servers die: what waits, what is told, what is stored."""

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import zdfs
from tests.conftest import until
from tests.live.cluster import BIN, Cluster, started
from tests.live.programs import python
from zdfs.api import FileSystem

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("api-failures")
    with started(folder, 3, meta_more=["--session-life", "3"]) as one:
        yield one


@pytest.fixture(scope="module")
def fs(cluster: Cluster) -> Iterator[FileSystem]:
    one = zdfs.connect(cluster.meta_address)
    try:
        yield one
    finally:
        one.abandon()


def test_writes_wait_and_say_for_whom(cluster: Cluster, fs: FileSystem) -> None:
    fs.write_bytes("/before", b"stored")
    cluster.kill("data-1")
    file = fs.open("/w", "wb")
    file.write(b"accepted")
    with pytest.raises(TimeoutError) as caught, fs.within(1.5):
        file.close()
    assert caught.value.errno == errno.ETIMEDOUT and caught.value.filename == "/w"
    until(lambda: "down" in cluster.states(), what="the server is down")
    with pytest.raises(TimeoutError, match=f"dataserver {cluster.ports[1]}.*start it again"):
        with fs.within(8):  # this client hears of it a moment later
            fs.write_bytes("/x", b"x")
    assert fs.read_bytes("/before") == b"stored", "reads go on"
    raw = fs.open("/appended", "ab", buffering=0)
    with pytest.raises(TimeoutError), fs.within(1.5):
        raw.write(b"refused")
    done = threading.Event()

    def patient() -> None:
        fs.write_bytes("/patient", b"waited")
        done.set()

    thread = threading.Thread(target=patient)
    thread.start()
    cluster.start_data(1)
    cluster.wait_serving()
    thread.join(30)
    assert done.is_set(), "without a limit it waits, and goes through"
    until(lambda: fs.read_bytes("/w") == b"accepted", 20, "what was accepted is stored")
    raw.write(b"once")
    raw.close()
    assert fs.read_bytes("/appended") == b"once", "what ran out of time was not accepted"


def test_ctrl_c_ends_a_wait(cluster: Cluster, fs: FileSystem) -> None:
    program = """
import sys, zdfs
fs = zdfs.connect(sys.argv[1])
file = fs.open("/interrupted", "wb")
file.write(b"x")
print("ready", flush=True)
sys.stdin.readline()
try:
    file.close()
except KeyboardInterrupt:
    print("interrupted", file.closed, flush=True)
    fs.abandon()
"""
    with python(program, cluster.meta_address) as child:
        assert _line(child) == "ready"
        cluster.kill("data-2")
        _say(child)
        until(lambda: cluster.told()["writes_blocked"], 20, "it is blocked")
        child.send_signal(signal.SIGINT)
        assert _line(child) == "interrupted True"
        assert child.wait(20) == 0
        cluster.start_data(2)
        cluster.wait_serving()


def test_a_silent_metaserver_is_named(cluster: Cluster, fs: FileSystem) -> None:
    other = zdfs.connect(cluster.meta_address)
    other.write_bytes("/m", b"open")
    file = other.open("/m", "rb", buffering=0)
    port = cluster.meta_port
    cluster.kill("meta")
    with pytest.raises(TimeoutError, match=f"the metaserver at {port} does not answer: start it"):
        with other.within(2.5):
            other.mkdir("/never")
    assert file.readall() == b"open", "what is open goes on being read"
    with pytest.raises(ConnectionError, match=f"no metaserver answers at {port}"):
        zdfs.connect(cluster.meta_address, connect_timeout_s=0.1)
    file.close()
    other.close()  # nothing is left to be stored: it need not be there
    assert other.closed
    cluster.start_meta()
    cluster.wait_serving()
    fs.write_bytes("/m", b"again")
    assert fs.read_bytes("/m") == b"again", "a connection outlives its metaserver"


def test_a_lost_session_is_told(cluster: Cluster) -> None:
    program = """
import sys, zdfs
fs = zdfs.connect(sys.argv[1], name="sleeper")
file = fs.open("/slept", "wb", buffering=0)
file.write(b"x" * 10)
file.fsync()
file.write(b"y" * 10)
print("ready", flush=True)
sys.stdin.readline()
try:
    file.close()
    print("stored", flush=True)
except OSError as error:
    print("lost", error.errno, error.filename, flush=True)
with fs.open("/slept", "ab") as file:
    file.write(b"again")
print(fs.read_bytes("/slept")[-5:].decode(), flush=True)
fs.close()
"""
    with python(program, cluster.meta_address) as child:
        assert _line(child) == "ready"
        child.send_signal(signal.SIGSTOP)

        def gone() -> bool:
            return not any("sleeper" in str(mount) for mount in cluster.told()["mounts"])

        until(gone, 20, "the session has ended")
        with zdfs.connect(cluster.meta_address) as other:
            assert other.read_bytes("/slept")[:10] == b"x" * 10
            other.write_bytes("/slept", b"others may write")
        child.send_signal(signal.SIGCONT)
        _say(child)
        said = _line(child)
        assert said in (f"lost {errno.EIO} /slept", "stored"), said
        assert _line(child) == "again"
        assert child.wait(20) == 0
        with zdfs.connect(cluster.meta_address) as other:
            assert other.read_bytes("/slept").startswith(
                b"others may write"
            ), "no stale bytes over it"


def test_a_copy_survives_a_server(cluster: Cluster, fs: FileSystem, tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / "in" / f"{number % 7}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / f"{number % 7}" / f"{number}").write_bytes(os.urandom(3000))
    threads = threading.active_count()
    killed = False

    def progress(done: zdfs.api.Copied, path: object) -> None:
        nonlocal killed
        if done.files >= 40 and not killed:
            killed = True
            cluster.kill("data-0")
            cluster.start_data(0)

    assert fs.copy_in(tmp_path / "in", "/copied", progress=progress).files == 150
    assert killed
    cluster.wait_serving()
    fs.copy_out("/copied", tmp_path / "out")
    assert not subprocess.run(["diff", "-r", tmp_path / "in", tmp_path / "out"]).returncode
    until(lambda: threading.active_count() <= threads + 16, what="the copy's threads ended")


def test_what_is_open_at_the_end_of_a_program_is_stored(cluster: Cluster, fs: FileSystem) -> None:
    program = """
import sys, zdfs
fs = zdfs.connect(sys.argv[1])
file = fs.open("/at-exit", "w")
file.write("never closed")
"""
    with python(program, cluster.meta_address) as child:
        assert child.wait(30) == 0
        assert fs.read_bytes("/at-exit") == b"never closed"


def test_keys_decide(tmp_path: Path) -> None:
    for words in (["init"], ["add", "reader", "--rights", "ro"], ["add", "writer"]):
        done = [BIN / "zdfs", "keys", words[0], tmp_path / "keys", *words[1:]]
        subprocess.run(done, check=True, capture_output=True)
    with started(tmp_path, 3, keys=tmp_path / "keys") as cluster:
        given = tmp_path / "keys" / "given"
        with zdfs.connect(cluster.meta_address, keys=given / "writer") as fs:
            fs.write_bytes("/f", b"secret")
        with zdfs.connect(cluster.meta_address, keys=str(given / "reader")) as fs:
            assert fs.read_bytes("/f") == b"secret"
            with pytest.raises(OSError, match="may only read") as caught:
                fs.remove("/f")
            assert caught.value.errno == errno.EROFS
        until(lambda: "wants keys" in _refusal(cluster.meta_address), 60, "it says so")
        with pytest.raises(ValueError, match="zdfs keys"):
            zdfs.connect(cluster.meta_address, keys=tmp_path)


def _refusal(address: str) -> str:
    with pytest.raises(ConnectionError) as caught:
        zdfs.connect(address)
    return str(caught.value)


def _line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def _say(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()
