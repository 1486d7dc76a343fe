"""Writes wait while a server is down, and nothing else does (P4).  One cluster for the module."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live import programs
from tests.live.cluster import Cluster, started
from tests.live.programs import run

pytestmark = pytest.mark.shared

WRITERS = 100
SOON_S = 30.0  # what does not wait is done by then, however busy the machine


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four servers with small blocks."""
    with started(tmp_path_factory.mktemp("blocked"), block_size=16384) as cluster:
        yield cluster


@pytest.fixture
def mount(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A fresh mount; afterwards all servers are back."""
    where = cluster.mount(request.node.name)
    yield where
    cluster.start_data(*[i for i in range(4) if f"data-{i}" not in cluster.nodes])
    cluster.wait_serving()
    cluster.unmount(where)


def blocked(cluster: Cluster) -> int:
    """How many writers `zdfs status` says are waiting."""
    return sum(one["writers"] for one in cluster.told()["writes_blocked"])


def soon(*words: object) -> bytes:
    """A command that must not wait; its output."""
    done = run(*words, timeout=SOON_S)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def copy(source: Path, target: Path) -> "subprocess.Popen[bytes]":
    """A program that is about to be blocked."""
    return subprocess.Popen(
        ["dd", f"if={source}", f"of={target}", "bs=64k", "conv=notrunc", "status=none"],
        stderr=subprocess.DEVNULL,
    )


def test_everything_else_goes_on_beside_a_hundred_blocked_writers(
    cluster: Cluster, mount: Path, tmp_path: Path, dice: random.Random
) -> None:
    """Reads, opens, listings, creates, renames; ^C and kill; then every byte arrives."""
    big = dice.randbytes(1 << 20)
    (tmp_path / "big").write_bytes(big)
    before = cluster.mount("before")
    for name in ("other", "same"):
        soon("cp", tmp_path / "big", before / name)
    cluster.unmount(before)

    cluster.kill("data-1")
    cluster.wait_serving(down=[1])
    sources = [tmp_path / f"s{number}" for number in range(WRITERS)]
    for source in sources:
        source.write_bytes(dice.randbytes(dice.choice((100, 20_000, 100_000))))
    writers = [copy(source, mount / source.name) for source in sources]
    inside = copy(sources[0], mount / "same")
    until(lambda: blocked(cluster) >= WRITERS + 1, 60, "all writers are blocked")
    (shown,) = cluster.told()["writes_blocked"]
    assert shown["slot"] == 1 and str(cluster.ports[1]) in shown["address"]

    assert soon("cat", mount / "other") == big
    half = soon("dd", f"if={mount / 'same'}", "bs=64k", "skip=8", "status=none")
    assert half == big[8 * 65536 :]
    assert b"other" in soon("ls", "-la", mount)
    soon("touch", mount / "new")
    soon("sh", "-c", f": > {mount / 'empty'}")
    soon("mkdir", mount / "dir")
    soon("mv", mount / "empty", mount / "dir" / "renamed")
    soon("mv", mount / "other", mount / "dir" / "moved")
    soon("chmod", "600", mount / "dir" / "moved")
    # (What changes the very inode that is being written waits in the kernel, for the inode's lock.)
    soon("stat", mount / sources[7].name)
    soon("ln", mount / "new", mount / "linked")
    soon("rm", mount / "new")

    writers[0].send_signal(signal.SIGINT)
    writers[1].send_signal(signal.SIGKILL)
    assert writers[0].wait(timeout=SOON_S) == -signal.SIGINT
    assert writers[1].wait(timeout=SOON_S) == -signal.SIGKILL
    assert all(writer.poll() is None for writer in writers[2:])
    log = cluster.log(mount.name)
    assert log.count("writes wait for dataserver") == 1, log

    cluster.start_data(1)
    for number, writer in enumerate(writers[2:], 2):
        assert writer.wait(timeout=60) == 0
        assert soon("cat", mount / sources[number].name) == sources[number].read_bytes()
    assert inside.wait(timeout=60) == 0
    start = sources[0].read_bytes()
    assert soon("cat", mount / "same") == start + big[len(start) :]
    until(lambda: not cluster.told()["writes_blocked"], 20, "nothing is blocked any more")
    log = cluster.log(mount.name)  # a hundred at once may keep it busy: then that is said again
    assert log.count("writes go on") == log.count("writes wait for dataserver") >= 1
    cold = cluster.mount("after")
    for source in sources[2:]:
        assert soon("cat", cold / source.name) == source.read_bytes()
    cluster.unmount(cold)


def test_signals_end_whoever_is_blocked_in_close_and_fsync(cluster: Cluster, mount: Path) -> None:
    """And what write() had accepted is stored later."""
    cluster.kill("data-2")
    started = {
        (how, number): programs.start("accept", mount / f"{how}{number}", how, f"{how} {number}")
        for how in ("close", "fsync")
        for number in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM)
    }
    caught = programs.start("handler", mount / "caught")
    assert programs.line(caught) == "open"
    for process in started.values():
        assert programs.line(process) == "accepted"
    until(lambda: blocked(cluster) >= len(started), 30, "all are blocked")
    for (_, number), process in started.items():
        process.send_signal(number)
    for (_, number), process in started.items():
        assert "done" not in process.communicate(timeout=SOON_S)[0]
        # (Python turns SIGINT into an exception and then ends itself by it.)
        assert process.returncode == -number
    caught.send_signal(signal.SIGINT)
    assert caught.communicate(timeout=SOON_S)[0] == "caught\n" and caught.returncode == 0
    cluster.start_data(2)
    cold = cluster.mount("cold")
    for how, number in started:
        path = cold / f"{how}{number}"

        def there(path: Path = path, text: str = f"{how} {number}") -> bool:
            return run("cat", path).stdout == text.encode().ljust(programs.WIDE)

        until(there, 30, f"{path} has what was accepted")
    cluster.unmount(cold)


def test_nothing_is_lost_or_doubled(cluster: Cluster, mount: Path, dice: random.Random) -> None:
    """Appenders of numbered records, while servers are killed and come back."""
    count = 400
    names = [f"a{number}" for number in range(4)]
    appenders = [
        programs.start("append", mount / f"own-{name}", mount / "shared", name, count)
        for name in names
    ]
    for process in appenders:
        assert programs.line(process) == "0"
    for _ in range(2):
        victim = dice.randrange(4)
        cluster.kill(f"data-{victim}")
        until(lambda: cluster.told()["writes_blocked"], 30, "writes are blocked")
        cluster.start_data(victim)
        until(lambda: not cluster.told()["writes_blocked"], 30, "writes go on")
    for process in appenders:
        assert process.communicate(timeout=90)[0].endswith("done\n") and process.returncode == 0
    cold = cluster.mount("cold")
    for name in names:
        wanted = [b"%s %06d" % (name.encode(), number) for number in range(count)]
        assert soon("cat", cold / f"own-{name}").splitlines() == wanted
        shared = soon("cat", cold / "shared").splitlines()
        assert [record for record in shared if record.startswith(name.encode())] == wanted
    assert len(shared) == count * len(names)
    cluster.unmount(cold)


def test_a_signal_that_is_survived_breaks_nothing(cluster: Cluster, mount: Path) -> None:
    """A timer that goes off a hundred times a second: as on a local disk, no call fails."""
    done = run("timeout", "60", sys.executable, "-m", "tests.live.programs", "timer", mount / "f")
    assert (done.returncode, done.stdout) == (0, b"done\n"), done.stderr
