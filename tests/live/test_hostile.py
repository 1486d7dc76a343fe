"""Whatever comes to a port is counted, logged now and then, refused; the others notice nothing.

Each attack of `strangers` goes to the metaserver and to a dataserver at once, while a program works
on a mount.  Judged are the others: every one of the program's operations succeeds, and the mount
keeps its session; no node ends, logs without bound, keeps descriptors, or grows beyond what
`broker` allows and one look of its watch lets through.  `pytest -s` prints what was measured.
"""

import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest


from tests.conftest import until
from tests.live import churn, strangers
from tests.live.cluster import Cluster
from tests.live.strangers import MIB, Attack, Target
from zdfs import broker, limits, records, wire
from zdfs.ids import Incarnation, Ino, Session

PATIENCE_S = 3 * limits.SESSION_S  # it hangs
RESTING_BYTES = broker.MEMORY_BYTES + 44 * MIB  # a node whose strangers are gone
PEAK_BYTES = 3 * broker.MEMORY_BYTES  # while one sends as fast as loopback can between two looks
ATTACKED = ("meta", "data-0")
LOG_BYTES = 256 * 1024  # of one attack; a session that is opened is a line, and its end
FILES = 12  # descriptors: pyzmq starts a thread with its first large reply; connections come and go

pytestmark = pytest.mark.shared


def rss_anon(pid: int) -> int:
    """A process's anonymous memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def sessions(cluster: Cluster) -> int:
    """How many the mount has had."""
    mount = re.escape(str(cluster.folder / "mnt"))
    return len(re.findall(rf" session \d+: \S+:{mount}$", cluster.log("meta"), re.MULTILINE))


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


class Worker:
    """A program at work on the mount."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.folder = cluster, cluster.folder / "mnt" / "work"
        self.journal = cluster.folder / "work.journal"
        self.stop_file = cluster.folder / "work.stop"
        subprocess.run(["mkdir", self.folder], check=True, timeout=30)
        words = [self.folder, self.journal, "7", self.stop_file]
        self.program = subprocess.Popen([sys.executable, churn.__file__, *words])

    def done(self) -> int:
        """Changes that were acknowledged."""
        return churn.expected(self.journal).acknowledged

    def gets_on(self) -> None:
        """Changes go on being acknowledged."""
        since = self.done()
        until(lambda: self.done() >= since + 5, PATIENCE_S, "it gets on")

    def stop(self) -> None:
        """Everything was applied, and rightly."""
        self.stop_file.touch()
        assert self.program.wait(60) == 0, self.journal.read_text()[-500:]
        assert churn.check(self.folder) == churn.expected(self.journal).names


class Watch:
    """The most memory that a process has while it is watched."""

    def __init__(self, pid: int):
        self.pid, self.before, self.peak = pid, rss_anon(pid), 0
        self.before_fds = descriptors(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.peak = max(self.peak, rss_anon(self.pid))

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("hostile"), 3)
    try:
        made.start().mount()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def worker(cluster: Cluster) -> Iterator[Worker]:
    """At work from the first attack to the last; then everything it did must be there."""
    made = Worker(cluster)
    try:
        made.gets_on()
        yield made
        made.stop()
    finally:
        made.program.kill()
        made.program.wait(30)


def targets(cluster: Cluster) -> list[Target]:
    """The ports of those that are attacked."""
    return [Target(cluster.meta_port), Target(cluster.ports[0])]


@pytest.mark.parametrize("attack", strangers.ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack(attack: Attack, cluster: Cluster, worker: Worker, seed: int) -> None:
    begun, logged = worker.done(), {name: len(cluster.log(name)) for name in ATTACKED}
    watches = {name: Watch(cluster.nodes[name].pid) for name in ATTACKED}
    try:
        with ThreadPoolExecutor() as pool:
            some = [
                pool.submit(attack, one, random.Random(f"{seed} {one.port}"), worker.gets_on)
                for one in targets(cluster)
            ]
            for one in some:
                one.result(120)
        worker.gets_on()
    finally:
        for watch in watches.values():
            watch.end()
    slowest = max(churn.expected(worker.journal).seconds[begun:])
    print(f"\n| `{attack.__name__}` | {slowest:.2f} |", end="")
    for name, watch in watches.items():
        node = cluster.nodes[name]
        assert node.poll() is None, cluster.log(name)[-2000:]
        most = watch.before_fds + FILES
        until(lambda: descriptors(watch.pid) <= most, 30, f"{name} lets go")
        until(lambda: rss_anon(watch.pid) < RESTING_BYTES, 10, f"{name} is small again")
        print(f" {watch.before >> 20} / {watch.peak >> 20} / {rss_anon(watch.pid) >> 20} |", end="")
        assert watch.peak < PEAK_BYTES
        log = cluster.log(name)[logged[name] :]
        assert len(log) < LOG_BYTES and "Traceback" not in log, log[-LOG_BYTES:]
    assert sessions(cluster) == 1, "the mount could always say that it lives"


# --- replays -----------------------------------------------------------------------------------


class Client:
    """A mount by hand, that keeps each message that it sent."""

    def __init__(self, target: Target):
        self.socket = strangers.plain_dealer(target)
        self.sent: list[list[bytes]] = []
        self.session, self.incarnation, self.sequence = Session(0), Incarnation(0), 0

    def ask(self, request: wire.Request[Any], slot: int = wire.NO_SLOT) -> wire.Reply:
        """Its answer."""
        self.sequence += 1
        head = wire.RequestHead(self.session, slot, self.sequence, 5000, self.incarnation)
        self.sent.append([bytes(one) for one in wire.encode_request(head, request)])
        self.socket.send_multipart(self.sent[-1])
        while self.socket.poll(30_000):
            told, reply = wire.decode_reply(self.socket.recv_multipart())
            if told.sequence == self.sequence and told.answers:
                self.incarnation = told.incarnation
                return reply
        raise AssertionError(f"no answer to {request}")

    def names(self, ino: Ino) -> list[bytes]:
        """What stands in a directory."""
        listing = self.ask(wire.ReadDirectory(ino, b"", limits.LISTING_ENTRIES))
        assert isinstance(listing, wire.Listing)
        return [one.name for one in listing.entries]


def made(reply: wire.Reply) -> Ino:
    """The inode of a reply to Make."""
    assert isinstance(reply, wire.Found), reply
    return reply.attributes.ino


def test_replays(cluster: Cluster, worker: Worker, dice: random.Random) -> None:
    """All that a client ever sent is sent again, by somebody else, often, in any order: with old
    sequences, in its session while that lives and when it is over, to an incarnation that is not
    its own.  Each change was made once."""
    target = targets(cluster)[0]
    client = Client(target)
    opened = client.ask(wire.OpenSession(dice.randbytes(16), "h", "m"))
    assert isinstance(opened, wire.SessionOpened), opened
    client.session = opened.session
    path, kind = b"/r", 0o40755
    ino = made(client.ask(wire.Make(Ino(1), b"r", path, kind, 0, 0, 0, b"", 0), 0))
    expected = []
    for number in range(20):
        name = b"%d" % number
        made(client.ask(wire.Make(ino, name, path, kind, 0, 0, 0, b"", 0), number % 4))
        if number % 3 == 0:
            client.ask(wire.Rename(ino, name, ino, b"moved" + name, 0), number % 4)
            expected.append(b"moved" + name)
        elif number % 3 == 1:
            client.ask(wire.RemoveDirectory(ino, name), number % 4)
        else:
            expected.append(name)
    with strangers.dealer(target) as bad:
        for again in _replayed(client.sent, dice):
            bad.send_multipart(again)
        worker.gets_on()
        assert client.names(ino) == sorted(expected)
        made(client.ask(wire.Make(ino, b"z", path, kind, 0, 0, 0, b"", 0), 0))  # its slots go on
        client.ask(wire.CloseSession())
        for again in _replayed(client.sent, dice):
            bad.send_multipart(again)
        worker.gets_on()
        assert client.names(ino) == sorted([*expected, b"z"])
    client.socket.close()
    for name in [*expected, b"z"]:
        (cluster.folder / "mnt" / "r" / name.decode()).rmdir()
    (cluster.folder / "mnt" / "r").rmdir()


def _replayed(sent: list[list[bytes]], dice: random.Random) -> Iterator[list[bytes]]:
    """What was recorded, in its order, backwards, shuffled; and as if sent to another life of the
    metaserver.  Not CloseSession: that ends the session, whoever sends it."""
    kept = [one for one in sent if wire.CloseSession.operation != records.loads(one[0])[1]]
    yield from kept
    yield from reversed(kept)
    for frames in dice.sample(kept * 5, len(kept) * 5):
        plain = records.loads(frames[0])
        plain[6] = dice.choice([plain[6], 0, plain[6] - 1, 2**64 - 1])
        yield [records.dumps(plain), *frames[1:]]


# --- and what is said of it --------------------------------------------------------------------


def test_what_was_refused_is_counted_and_logged_at_a_rate(cluster: Cluster) -> None:
    for target in targets(cluster):
        strangers.foreign(target, random.Random(1), lambda: None)
    until(lambda: cluster.status().get("refused", 0) > 0, 10)
    until(lambda: cluster.told()["servers"][0]["refused"] > 0, 10)
    assert cluster.told()["servers"][1]["refused"] == 0
    for name in ATTACKED:
        lines = [line for line in cluster.log(name).splitlines() if "refused" in line]
        assert 1 <= len(lines) < 60, lines
    until(lambda: len(cluster.told()["mounts"]) == 1, 30, "unkept sessions are gone")
