"""fcntl and flock: on one mount, between two, with processes, mounts and a metaserver that die."""

import select
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from errno import EAGAIN, EDEADLK, EIO
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.cluster import Cluster
from tests.live.files import do, get, put
from tests.live.locker import end, start, tell


class Site:
    """A cluster, two mounts of it, programs on them."""

    def __init__(self, folder: Path):
        self.cluster = Cluster(folder, 3, block_size=4096).start()
        self.one, self.two = self.cluster.mount("one"), self.cluster.mount("two")
        self.programs: list[subprocess.Popen[str]] = []

    def obey(self, path: Path) -> "subprocess.Popen[str]":
        """A program that does as it is told with a file."""
        self.programs.append(start("obey", path))
        return self.programs[-1]

    def rest(self) -> None:
        """End all programs."""
        end(*self.programs)
        self.programs.clear()

    def close(self) -> None:
        """End everything."""
        for process in [*self.cluster.nodes.values(), *self.cluster.mounts.values()]:
            process.send_signal(signal.SIGCONT)
        self.rest()
        self.cluster.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("locks"))
    yield site
    site.close()


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """The module's cluster; nobody has a lock there."""
    yield shared
    shared.rest()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    """A cluster of the test's own, to break."""
    site = Site(tmp_path)
    yield site
    site.close()


def says(program: "subprocess.Popen[str]", text: str) -> None:
    """Tell a program without waiting for its answer."""
    assert program.stdin is not None
    program.stdin.write(f"{text}\n")
    program.stdin.flush()


def answer(program: "subprocess.Popen[str]") -> str:
    """The answer to `says`."""
    assert program.stdout is not None
    return program.stdout.readline().strip()


def blocked(program: "subprocess.Popen[str]") -> bool:
    """Whether it is in fcntl(2) or flock(2)."""
    stack = Path(f"/proc/{program.pid}/stack").read_text()
    return "fcntl_setlk" in stack or "sys_flock" in stack


def waits(program: "subprocess.Popen[str]", text: str) -> None:
    """Tell it to take a lock that somebody has, and see that it waits."""
    says(program, text)
    until(lambda: blocked(program), 30, f"{text} waits")
    # The metaserver, too, is to know of it before the next one asks; and no answer comes.
    assert not select.select([program.stdout], [], [], 0.3)[0]


def known(site: Site, program: "subprocess.Popen[str]") -> bool:
    """Whether the metaserver knows that it waits for a lock."""
    told = [one["what"] for one in site.cluster.why()["reasons"] if one["kind"] == "lock"]
    return any(one.startswith(f"process {program.pid} ") for one in told)


def pairs(site: Site, name: str) -> "list[tuple[subprocess.Popen[str], subprocess.Popen[str]]]":
    """Two programs on one mount, and on two."""
    return [
        (site.obey(site.one / f"{name}-same"), site.obey(site.one / f"{name}-same")),
        (site.obey(site.one / f"{name}-other"), site.obey(site.two / f"{name}-other")),
    ]


# --- fcntl ---------------------------------------------------------------------------------------


@pytest.mark.shared
def test_ranges(site: Site) -> None:
    for a, b in pairs(site, "ranges"):
        assert tell(a, "try w 10 10") == "ok"
        assert tell(b, "try r 19 1") == str(EAGAIN)
        assert tell(b, "try w 20 0") == "ok"  # to the end, however far
        assert tell(a, "try w 1000000000000 1") == str(EAGAIN)
        assert tell(a, "try u 12 2") == "ok"  # splits
        assert tell(b, "try w 12 2") == "ok"
        assert tell(b, "try w 11 1") == str(EAGAIN)
        assert tell(a, "try r 10 2") == "ok"  # weaker
        assert tell(b, "try r 10 2") == "ok"
        assert tell(a, "try w 10 2") == str(EAGAIN)  # can't be made stronger again


@pytest.mark.shared
def test_who_has_it(site: Site) -> None:
    (a, b), (c, d) = pairs(site, "who")
    assert [tell(one, "test w 0 0") for one in (a, c)] == ["free", "free"]
    assert [tell(one, "try w 5 10") for one in (a, c)] == ["ok", "ok"]
    assert tell(b, "test r 0 0") == f"exclusive 5 10 {a.pid}"
    assert tell(d, "test r 0 0") == "exclusive 5 10 0", "another mount's process has no number here"
    assert tell(d, "test w 15 0") == "free"
    assert tell(c, "test w 0 0") == "free", "one's own is not in the way"
    assert tell(c, "try r 7 0") == "ok"
    assert tell(d, "test w 100 1") == "shared 7 0 0"


@pytest.mark.shared
def test_any_close_of_the_file_unlocks_it(site: Site) -> None:
    for a, b in pairs(site, "close"):
        assert tell(a, "try w 0 0") == "ok"
        assert tell(a, "open") == "ok"
        assert tell(b, "try w 0 0") == str(EAGAIN)
        assert tell(a, "close 1") == "ok"
        assert tell(b, "try w 0 0") == "ok"


@pytest.mark.shared
def test_a_waiter_is_woken_and_reads_what_was_written(site: Site) -> None:
    for number, (a, b) in enumerate(pairs(site, "wait")):
        assert tell(b, "read") == "nothing"
        assert tell(a, "try w 0 0") == "ok"
        waits(b, "wait w 0 0")
        assert tell(a, f"write text{number}") == "ok"
        assert tell(a, "try u 0 0") == "ok"
        assert answer(b) == "ok"
        assert tell(b, "read") == f"text{number}"


@pytest.mark.shared
def test_open_file_descriptions_have_locks_too(site: Site) -> None:
    for a, b in pairs(site, "ofd"):
        assert tell(a, "ofd-try w 0 10") == "ok"
        assert tell(a, "open") == "ok" and tell(a, "close 1") == "ok"  # is no close of that one
        assert tell(b, "try w 0 1") == str(EAGAIN)
        waits(b, "ofd-wait w 0 1")
        assert tell(a, "close 0") == "ok"
        assert answer(b) == "ok"


@pytest.mark.shared
@pytest.mark.parametrize("members", [2, 3])
def test_a_circle_is_edeadlk_for_its_last_member(site: Site, members: int) -> None:
    where = [site.one, site.two]
    ring = [site.obey(where[i % 2] / f"ring{members}") for i in range(members)]
    for number, program in enumerate(ring):
        assert tell(program, f"try w {number} 1") == "ok"
    for number, program in enumerate(ring[:-1]):
        waits(program, f"wait w {number + 1} 1")
        until(lambda: known(site, program), 30, "the metaserver knows of it")
    until(lambda: tell(ring[-1], "wait w 0 1") == str(EDEADLK), 5, "EDEADLK")
    assert tell(ring[-1], f"try u {members - 1} 1") == "ok"
    for number in reversed(range(members - 1)):
        assert answer(ring[number]) == "ok"
        assert tell(ring[number], "try u 0 0") == "ok"


@pytest.mark.shared
def test_a_caught_signal_ends_the_wait_and_nothing_is_left(site: Site) -> None:
    a, b = pairs(site, "signal")[1]
    assert tell(a, "try w 0 0") == "ok"
    waits(b, "wait w 0 0")
    b.send_signal(signal.SIGALRM)
    assert answer(b) == "caught"
    assert tell(a, "try u 0 0") == "ok"
    until(lambda: tell(a, "test w 0 0") == "free", 30, "the interrupted one does not get it")


# --- flock ---------------------------------------------------------------------------------------


@pytest.mark.shared
def test_flock(site: Site) -> None:
    for a, b in pairs(site, "flock"):
        assert tell(a, "flock r") == "ok" and tell(b, "flock r") == "ok"
        assert tell(a, "flock-try w") == str(EAGAIN)
        assert tell(b, "flock-try w") == "ok", "what was refused had been given back first"
        assert tell(a, "flock-try r") == str(EAGAIN)
        waits(a, "flock r")
        assert tell(b, "flock u") == "ok"
        assert answer(a) == "ok"
        assert tell(b, "try w 0 0") == "ok", "fcntl's locks are others"
        assert tell(b, "flock-try w") == str(EAGAIN)
        waits(b, "flock w")
        assert tell(a, "close 0") == "ok"
        assert answer(b) == "ok"


# --- what is built on it -------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["fcntl", "flock"])
def test_no_increment_is_lost(site: Site, kind: str) -> None:
    name, mounts, times = f"count-{kind}", (site.one, site.one, site.two, site.two), 40
    site.programs += [start("count", mount / name, times, kind) for mount in mounts]
    assert [answer(program) for program in site.programs] == ["done"] * 4
    assert int(get(site.one / name)) == int(get(site.two / name)) == 4 * times


@pytest.mark.shared
def test_sqlite_on_two_mounts(site: Site) -> None:
    times = 15
    connection = sqlite3.connect(site.one / "db")
    connection.execute("create table accounts (name, amount)")
    connection.execute("create table moves (who, number)")
    connection.execute("insert into accounts values ('a', 1000), ('b', 0)")
    connection.commit()
    connection.close()
    mounts = (site.one, site.two, site.two)
    site.programs += [start("database", mount / "db", times, me) for me, mount in enumerate(mounts)]
    assert [answer(program) for program in site.programs] == ["done"] * 3
    for mount in (site.one, site.two):
        connection = sqlite3.connect(mount / "db")
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        rows = connection.execute("select name, amount from accounts order by name").fetchall()
        assert rows == [("a", 1000 - 3 * times), ("b", 3 * times)]
        (moves,) = connection.execute("select count(distinct who || number) from moves").fetchone()
        assert moves == 3 * times
        connection.close()


@pytest.mark.shared
def test_a_hundred_wait_and_the_mount_answers(site: Site) -> None:
    a = site.obey(site.two / "crowd")
    assert tell(a, "try w 0 0") == "ok"
    crowd = [site.obey(site.one / "crowd") for _ in range(100)]
    for program in crowd:
        waits(program, "wait r 0 0")
    put(site.one / "beside", b"beside")
    assert get(site.two / "beside") == b"beside"
    assert do("mkdir", site.one / "directory") == ""
    assert tell(a, "close 0") == "ok"
    assert [answer(program) for program in crowd] == ["ok"] * 100


# --- who dies ------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("text", ["try w 0 0", "ofd-try w 0 0", "flock w"])
def test_a_killed_process_has_no_locks(site: Site, text: str) -> None:
    wait = {"try w 0 0": "wait w 0 0", "ofd-try w 0 0": "ofd-wait w 0 0", "flock w": "flock w"}
    for mount in (site.one, site.two):
        name = f"killed-{mount.name}-{text[:3]}"
        a, b = site.obey(site.one / name), site.obey(mount / name)
        waiting = site.obey(mount / name)
        assert tell(a, text) == "ok"
        waits(waiting, wait[text])
        waits(b, wait[text])
        waiting.kill()
        waiting.wait(timeout=20)
        a.kill()
        a.wait(timeout=20)
        assert answer(b) == "ok"


def test_mounts_and_a_metaserver_that_die(alone: Site) -> None:
    """Locks outlive the metaserver, and not their mount."""
    cluster = alone.cluster
    third = cluster.mount("third")
    a, b = alone.obey(third / "f"), alone.obey(alone.two / "f")
    assert tell(a, "try w 0 10") == "ok" and tell(b, "flock w") == "ok"
    waits(b, "wait w 0 0")
    cluster.kill("meta")
    says(a, "try w 20 10")  # before the others have announced nobody gets anything
    cluster.start_meta()
    assert answer(a) == "ok"
    c = alone.obey(alone.one / "f")
    assert tell(c, "try w 5 1") == str(EAGAIN) and tell(c, "flock-try r") == str(EAGAIN)
    assert tell(a, "try u 0 10") == "ok"
    assert tell(c, "try r 0 10") == "ok"
    assert tell(c, "try u 0 0") == "ok"
    cluster.mounts[third].kill()
    assert answer(b) == "ok", "its mount is dead, and its session soon was"
    assert tell(b, "try u 0 0") == "ok"
    b.kill()
    b.wait(timeout=20)
    until(lambda: tell(c, "flock-try w") == "ok", 30, "a killed process has no flock")


def test_a_mount_that_was_away_has_lost_its_locks(alone: Site) -> None:
    cluster = alone.cluster
    a, b = alone.obey(alone.one / "f"), alone.obey(alone.two / "f")
    beside = alone.obey(alone.one / "f")
    assert tell(a, "try w 0 0") == "ok" and tell(a, "write first") == "ok"
    waits(b, "wait w 0 0")
    cluster.mounts[alone.one].send_signal(signal.SIGSTOP)
    assert answer(b) == "ok"
    assert tell(b, "write other") == "ok"
    cluster.mounts[alone.one].send_signal(signal.SIGCONT)
    assert tell(a, "write stale") == str(EIO)
    assert tell(a, "try w 0 0") == str(EIO)
    assert tell(a, "try u 0 0") == "ok"
    assert "locks on 1 files are lost" in cluster.log("one")
    assert tell(a, "open") == "ok"
    assert tell(a, "close 0") in ("ok", str(EIO)), "as the first write had been flushed, or had not"
    waits(a, "wait w 0 0")
    assert tell(b, "try u 0 0") == "ok"
    assert answer(a) == "ok"
    assert tell(a, "read") == "other"
    assert tell(beside, "read") == "other", "who had no lock has lost none"
