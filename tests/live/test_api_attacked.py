"""What a user met who took docs/API.md at its word: bytes that were accepted and gone, calls that
no time limit ended, directories that a walk left out, copies that wrote over what they must not."""

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

import zdfs
from tests.conftest import until
from tests.live.cluster import Cluster, started
from tests.live.programs import python
from zdfs.api import Copied, FileSystem

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("api-attacked"), 3) as one:
        yield one


@pytest.fixture(scope="module")
def fs(cluster: Cluster) -> Iterator[FileSystem]:
    one = zdfs.connect(cluster.meta_address, umask=0o022)
    try:
        yield one
    finally:
        one.abandon()


# --- what was accepted is stored ---------------------------------------------------------------


def test_the_end_of_a_program_stores_large_blocks(cluster: Cluster, fs: FileSystem) -> None:
    """The messaging library's own end came first, once something large had been sent before."""
    text = """
import sys, zdfs
fs = zdfs.connect(sys.argv[1])
fs.write_bytes("/before", bytes(300_000))
file = fs.open("/at-exit", "wb")
file.write(b"x" * 100_000)
"""
    with python(text, cluster.meta_address) as child:
        assert child.wait(60) == 0
    assert fs.read_bytes("/at-exit") == b"x" * 100_000


@contextlib.contextmanager
def blocked(cluster: Cluster, fs: FileSystem, server: int = 1) -> Iterator[None]:
    """A server is down, and this client knows that writes wait for it; in the end it is back."""
    cluster.kill(f"data-{server}")
    try:
        until(lambda: "down" in cluster.states(), what="the server is down")
        with contextlib.suppress(TimeoutError), fs.within(0.1):
            fs.write_bytes("/asks", b"x" * 100_000)
        until(lambda: fs._connection.volume.contact.blocked, what="the client knows")
        yield
    finally:
        cluster.start_data(server)
        cluster.wait_serving()


@pytest.mark.parametrize("mode", ["wb", "ab", "rb+", "w", "a"])
def test_a_close_that_ran_out_of_time_has_lost_nothing(
    cluster: Cluster, fs: FileSystem, mode: str
) -> None:
    """Writes waited for a server already, so the buffer was thrown away with what it held."""
    path = f"/late-{mode}"
    fs.write_bytes(path, b"")
    with zdfs.connect(cluster.meta_address, timeout_s=5) as other:
        file = other.open(path, mode)
        with blocked(cluster, other):
            file.write(b"hello, accepted" if "b" in mode else "hello, accepted")
            with pytest.raises(TimeoutError, match="start it again") as caught, other.within(0.5):
                file.close()
            assert file.closed and caught.value.filename == path
            file.close()
            with pytest.raises(TimeoutError), other.within(0.5):
                other.close()  # it waits for what was put off
        until(lambda: fs.read_bytes(path) == b"hello, accepted", what="it is stored")


def test_the_end_of_a_connection_waits_for_what_a_close_put_off(
    cluster: Cluster, fs: FileSystem
) -> None:
    with zdfs.connect(cluster.meta_address) as other:
        file = other.open("/put-off", "w")
        with blocked(cluster, other):
            file.write("text")
            with pytest.raises(TimeoutError), other.within(0.5):
                file.close()
    assert fs.read_bytes("/put-off") == b"text"


# --- an end comes ------------------------------------------------------------------------------


def test_two_threads_may_end_a_connection(cluster: Cluster) -> None:
    """One of them never came back; whoever is in a call meanwhile is told."""
    for _ in range(4):
        one = zdfs.connect(cluster.meta_address)
        file = one.open("/ended-twice", "wb")
        file.write(b"x" * 300_000)
        told: list[str] = []

        def use(one: FileSystem = one, told: list[str] = told) -> None:
            try:
                while True:
                    one.write_bytes("/used", b"x" * 100_000)
            except ValueError as error:
                told.append(str(error))

        users = [threading.Thread(target=use, daemon=True) for _ in range(2)]
        enders = [threading.Thread(target=one.close, daemon=True) for _ in range(3)]
        for thread in users + enders:
            thread.start()
        until(lambda: not any(one.is_alive() for one in users + enders), what="all have ended")
        assert one.closed and len(told) == 2 and all("closed" in text for text in told)
        one.close()


def test_an_end_does_not_wait_behind_another_threads_close(
    cluster: Cluster, fs: FileSystem
) -> None:
    """That thread had the lock of Python's buffer, which knows no time limit."""
    with zdfs.connect(cluster.meta_address) as other:
        file = other.open("/slow", "wb")
        with blocked(cluster, other):
            file.write(b"x" * 200_000)
            thread = threading.Thread(target=file.close)
            thread.start()
            raw = file.raw
            until(raw.used_elsewhere, what="it is being closed")
            with pytest.raises(TimeoutError, match="start it again"), other.within(0.5):
                other.close()
            assert not other.closed
        other.close()
        thread.join()
    assert fs.stat("/slow").st_size == 200_000


def test_the_end_of_a_program_does_not_wait_behind_one(cluster: Cluster, fs: FileSystem) -> None:
    text = """
import atexit, sys, threading, zdfs
fs = zdfs.connect(sys.argv[1])
file = fs.open("/slower", "wb")
print("ready", flush=True)
sys.stdin.readline()
file.write(bytes(200_000))
threading.Thread(target=file.close, daemon=True).start()
moment = threading.Event()
while not file.raw.used_elsewhere():
    moment.wait(0.001)
atexit.register(print, "ends", flush=True)  # it runs before those that came before it
"""
    with python(text, cluster.meta_address) as child, python(text, cluster.meta_address) as other:
        for one in (child, other):
            assert one.stdout is not None and one.stdout.readline() == "ready\n"
        with blocked(cluster, fs):
            for one in (child, other):
                assert one.stdin is not None and one.stdout is not None
                print("go", file=one.stdin, flush=True)
                assert one.stdout.readline() == "ends\n"
            other.send_signal(signal.SIGINT)
            assert other.wait(8) is not None, "^C ends it at once"
            assert child.wait(60) == 0, "and by itself it ends, too"


def test_a_time_limit_bounds_trees(cluster: Cluster, fs: FileSystem, tmp_path: Path) -> None:
    """It was the calling thread's alone, and the copy's threads waited for ever."""
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / "in" / f"{number}").write_bytes(b"x" * 1000)
    fs.copy_in(tmp_path / "in", "/bounded-out")
    with zdfs.connect(cluster.meta_address) as other:
        other.copy_in(tmp_path / "in", "/bounded-rm")
        with blocked(cluster, other):
            with pytest.raises(TimeoutError, match="start it again"), other.within(1):
                other.copy_in(tmp_path / "in", "/bounded-in")
        with pytest.raises(TimeoutError), other.within(0):  # nothing waits, but it takes too long
            other.copy_out("/bounded-out", tmp_path / "out")
        with pytest.raises(TimeoutError), other.within(0):
            other.copy_out("/bounded-out/1", tmp_path / "one")
        cluster.kill("meta")
        try:
            with pytest.raises(TimeoutError), other.within(1):
                other.rmtree("/bounded-rm")
            with pytest.raises(TimeoutError), other.within(1):
                list(other.walk("/bounded-out"))  # empty, a mirror would remove its copy
            with pytest.raises(TimeoutError), other.within(1):
                other.exists("/never-asked")
        finally:
            cluster.start_meta()
            cluster.wait_serving()


# --- trees -------------------------------------------------------------------------------------


def test_a_walk_leaves_nothing_out_for_a_bad_symlink(cluster: Cluster, fs: FileSystem) -> None:
    fs.makedirs("/bad/private/sub")
    fs.makedirs("/bad/d")
    fs.write_bytes("/bad/f", b"")
    fs.chmod("/bad/private", 0o700)
    targets = {"loop": "loop", "through": "f/x", "barred": "private/sub", "long": "n" * 300}
    for name, target in targets.items():
        fs.symlink(target, f"/bad/{name}")
    with zdfs.connect(cluster.meta_address, uid=1000, gid=1000) as user:
        top, directories, others = next(user.walk("/bad"))
        assert (top, directories) == ("/bad", ["d", "private"])
        assert others == sorted(["f", *targets])
        for name in targets:
            path = f"/bad/{name}"
            assert user.lexists(path) and user.islink(path)
            assert not user.exists(path) and not user.isdir(path) and not user.isfile(path)
            assert not user.access(path, 0)
        assert not user.exists("/bad/private/sub") and not user.exists("/bad/" + "n" * 300)
        assert list(user.glob("/bad/*/*")) == [] and list(user.glob("/bad/loop/*")) == []


def test_a_copy_writes_over_nothing_unless_it_may(fs: FileSystem, tmp_path: Path) -> None:
    local = tmp_path / "new"
    local.write_bytes(b"new")
    (tmp_path / "link").symlink_to("new")
    fs.write_bytes("/there", b"precious")
    for source in (local, tmp_path / "link"):
        with pytest.raises(FileExistsError):
            fs.copy_in(source, "/there")
    (tmp_path / "there").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        fs.copy_out("/there", tmp_path / "there")
    assert fs.read_bytes("/there") == (tmp_path / "there").read_bytes() == b"precious"
    fs.copy_in(local, "/there", exist_ok=True)
    fs.copy_out("/there", tmp_path / "there", exist_ok=True)
    assert fs.read_bytes("/there") == (tmp_path / "there").read_bytes() == b"new"


def test_a_tree_may_be_copied_again(fs: FileSystem, tmp_path: Path) -> None:
    """Each symlink failed at the second time."""
    (tmp_path / "in" / "d").mkdir(parents=True)
    (tmp_path / "in" / "link").symlink_to("one")
    (tmp_path / "in" / "d" / "f").write_bytes(b"1")
    for target in ("one", "two"):
        (tmp_path / "in" / "link").unlink()
        (tmp_path / "in" / "link").symlink_to(target)
        assert fs.copy_in(tmp_path / "in", "/again", exist_ok=True).files == 2
        assert fs.copy_out("/again", tmp_path / "out", exist_ok=True).files == 2
        assert fs.readlink("/again/link") == os.readlink(tmp_path / "out" / "link") == target
    (tmp_path / "in" / "d" / "f").unlink()
    (tmp_path / "in" / "d" / "f").symlink_to("g")
    fs.mkdir("/again/d/g")
    fs.copy_in(tmp_path / "in", "/again", exist_ok=True)
    assert fs.islink("/again/d/f"), "in place of a file"


def test_what_progress_raises_ends_a_copy(fs: FileSystem, tmp_path: Path) -> None:
    """An OSError was taken for the file's, and the copy went on."""
    (tmp_path / "in").mkdir()
    for number in range(200):
        (tmp_path / "in" / f"{number}").write_bytes(b"")
    told = []

    def progress(done: Copied, path: object) -> None:
        told.append(path)
        raise BrokenPipeError(errno.EPIPE, "nobody listens")

    with pytest.raises(BrokenPipeError):
        fs.copy_in(tmp_path / "in", "/ended", progress=progress)
    assert len(told) < 200
    with pytest.raises(BrokenPipeError):
        fs.copy_in(tmp_path / "in" / "1", "/ended-too", progress=progress)


def test_a_user_gives_no_files_away(cluster: Cluster, fs: FileSystem, tmp_path: Path) -> None:
    """Half of the copy was there before it was refused."""
    (tmp_path / "f").write_bytes(b"")
    fs.mkdir("/users")
    fs.chmod("/users", 0o777)
    with zdfs.connect(cluster.meta_address, uid=1000, gid=1000) as user:
        for source in (tmp_path, tmp_path / "f"):
            with pytest.raises(PermissionError, match="leave out owners"):
                user.copy_in(source, "/users/x", owners=True)
    assert fs.listdir("/users") == []


def test_a_copy_within_has_the_mode_and_the_holes(fs: FileSystem) -> None:
    fs.write_bytes("/from", b"content")
    fs.write_bytes("/onto", b"longer than that")
    fs.chmod("/from", 0o666)
    fs.chmod("/onto", 0o600)
    for target in ("/onto", "/fresh"):
        fs.copy("/from", target)
        assert fs.stat(target).st_mode & 0o7777 == 0o666 and fs.read_bytes(target) == b"content"
    with fs.open("/sparse", "wb", 0) as file:
        file.write(b"begin")
        file.seek(1 << 44)
        file.write(b"middle")
        file.truncate(1 << 45)
    fs.copy("/sparse", "/sparse-too")
    found = fs.stat("/sparse-too")
    assert found.st_size == 1 << 45 and found.st_blocks * 512 <= 2 * fs.block_size
    with fs.open("/sparse-too", "rb", 0) as file:
        assert file.pread(6, 0) == b"begin\0" and file.pread(6, 1 << 44) == b"middle"


# --- small things ------------------------------------------------------------------------------


def test_the_root_is_not_removed_by_another_name(fs: FileSystem) -> None:
    fs.makedirs("/kept/d")
    fs.symlink("/", "/kept/root")
    for path in ("/", "//", "/.", "/kept/..", "/kept/d/../../", "/kept/root/", "/kept/.", ".."):
        with pytest.raises((OSError, ValueError), match="rmtree of"):
            fs.rmtree(path, ignore_errors=True)
        with pytest.raises((OSError, ValueError), match="rmtree of"):
            fs.rmtree(path.encode())
    assert fs.listdir("/kept") == ["d", "root"]
    with pytest.raises(FileNotFoundError):
        fs.rmtree("/kept/none")
    fs.rmtree("/kept/none", ignore_errors=True)


def test_what_os_refuses_is_refused(fs: FileSystem) -> None:
    fs.write_bytes("/refusing", b"")
    for value in (5, "text", None, [1]):
        with pytest.raises(TypeError):
            fs.setxattr("/refusing", "user.i", value)  # type: ignore[arg-type]
    fs.setxattr("/refusing", "user.i", memoryview(b"bytes"))  # type: ignore[arg-type]
    assert fs.getxattr("/refusing", "user.i") == b"bytes"
    for owner in (1 << 33, -2, (1 << 32) - 1):
        with pytest.raises(OverflowError):
            fs.chown("/refusing", owner, 0)
        with pytest.raises(OverflowError):
            fs.chown("/refusing", 0, owner)
    fs.chown("/refusing", -1, (1 << 32) - 2)
    for device in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            fs.mknod("/device", 0o600, device)


def test_patterns_are_paths(fs: FileSystem) -> None:
    fs.makedirs("/patterns/d")
    fs.write_bytes(b"/patterns/\xff", b"")
    assert sorted(fs.glob(b"/patterns/*")) == [b"/patterns/d", b"/patterns/\xff"]
    assert list(fs.glob(PurePosixPath("/patterns/[d]"))) == ["/patterns/d"]
    assert list(fs.glob(b"patterns/**/d")) == [b"patterns/d"]


def test_times_are_cut_as_os_cuts_them(fs: FileSystem, tmp_path: Path) -> None:
    local = tmp_path / "f"
    local.write_bytes(b"")
    fs.write_bytes("/timed", b"")
    for seconds in (1.1, -1.5, -0.1, 1234567890.123456789, 5, 0.3, 1e9 + 0.7):
        os.utime(local, (seconds, seconds))
        fs.utime("/timed", (seconds, seconds))
        assert fs.stat("/timed").st_mtime_ns == os.stat(local).st_mtime_ns, seconds
    for bad, kind in ((float("nan"), ValueError), (float("inf"), OverflowError)):
        with pytest.raises(kind):
            fs.utime("/timed", (bad, bad))
