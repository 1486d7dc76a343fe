"""Whatever comes to a port is counted, logged now and then, refused; the others notice nothing.

Each attack goes to the metaserver and to a dataserver while a program works on a mount; the
program must get on during and after it, no node may end, none may grow.
"""

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.conftest import until
from tests.live import churn
from tests.live.cluster import Cluster
from tests.world import zmtp
from zdfs import checksum, records, wire
from zdfs.ids import BlockNo, Epoch, Incarnation, Ino, Name, Round, Session, Slot, Token, Version

MIB = 1 << 20
MOST_BYTES = 300 * MIB
ATTACK_S = 2.0

Attack = Callable[[int, random.Random], None]
pytestmark = pytest.mark.shared


def rss_anon(pid: int) -> int:
    """A process's anonymous memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("hostile"), 3)
    try:
        made.start().mount()
        yield made
    finally:
        made.close()


# --- attacks -----------------------------------------------------------------------------------


def dealer(port: int) -> zmq.Socket[bytes]:
    """A socket of the library's."""
    made = zmq.Context.instance().socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 500)
    made.connect(f"tcp://127.0.0.1:{port}")
    return made


def raw_bytes(port: int, dice: random.Random) -> None:
    """No ZeroMQ at all."""
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            raw.sendall(dice.choice([b"GET / HTTP/1.0\r\n\r\n", dice.randbytes(500), b"\xff" * 99]))


def half_handshakes(port: int, dice: random.Random) -> None:
    """Begin and fall silent."""
    kept = []
    for _ in range(100):
        raw = socket.create_connection(("127.0.0.1", port), 10)
        raw.sendall(zmtp.GREETING[: dice.randrange(64)])
        kept.append(raw)
    for raw in kept:
        raw.close()


def bad_msgpack(port: int, dice: random.Random) -> None:
    """Well-formed ZeroMQ around nonsense."""
    with dealer(port) as bad:
        for _ in range(2000):
            bad.send_multipart([dice.randbytes(dice.randrange(200)) for _ in range(3)])
        for nest in (b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff", b"\xc1"):
            bad.send(nest)


def giant_frames(port: int, dice: random.Random) -> None:
    """Frames beyond the limit, said or sent; messages beyond the limit, frame by frame."""
    for length in (2 * MIB, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
        with zmtp.connect(port) as raw:
            try:
                raw.sendall(b"\x02" + length.to_bytes(8, "big"))
                raw.sendall(bytes(2 * MIB))
            except OSError:
                continue  # hung up, rightly
    with dealer(port) as bad:
        for _ in range(4):
            bad.send_multipart([bytes(MIB)] * 64)


def many_frames(port: int, dice: random.Random) -> None:
    """Tiny frames without number, in finished messages and in one that never ends."""
    with dealer(port) as bad:
        for _ in range(5):
            bad.send_multipart([b"x"] * 20_000)
    endless(port, zmtp.frame(b"x", more=True) * 5000)


def endless_message(port: int, dice: random.Random) -> None:
    """Frames at their limit, and never the last one."""
    endless(port, zmtp.frame(bytes(MIB), more=True))


def endless(port: int, piece: bytes) -> None:
    """Send until hung up on, or for a while."""
    end = time.monotonic() + ATTACK_S
    with zmtp.connect(port) as raw:
        while time.monotonic() < end:
            try:
                raw.sendall(piece)
            except OSError:
                return


def deaf(port: int, dice: random.Random) -> None:
    """Ask and never take the answers."""
    ask = wire.encode_request(head(Session(0), 1), wire.Identify())[0]
    with zmtp.connect(port) as raw:
        raw.settimeout(0.5)
        try:
            for _ in range(200):
                raw.sendall((zmtp.frame(bytes(ask)) * 200))
        except OSError:
            return


def head(session: Session, sequence: int, slot: int = wire.NO_SLOT) -> wire.RequestHead:
    return wire.RequestHead(session, slot, sequence, 2**32 - 1, Incarnation(9))


def foreign(port: int, dice: random.Random) -> None:
    """Our protocol, from somewhere else: other versions, clusters, sessions, roles."""
    name = Name(Ino(1), BlockNo(0), Version(Token(1), 1))
    block = wire.Put1(name, checksum.seal(name, b"evil"), Epoch(1), Slot(0), 4)
    wanted = wire.Wanted(name, block.seal, Epoch(1), Slot(0), 4)
    requests: list[wire.Request[Any]] = [
        wire.Put(bytes(16), (block,), (b"evil",)),
        wire.Get(bytes(16), (wanted,), True),
        wire.Check(bytes(16), (wanted,)),
        wire.Corrupt(name, wire.Harm.LOSE, 1),
        wire.TakeDrops(Slot(0), bytes(16), 2**64 - 1),
        wire.Inventory(Slot(9), Ino(2**63), -1),
        wire.Judge((name,)),
        wire.Unlink(Ino(1), b"w0"),
        wire.Grant(Ino(1)),
        wire.Beat(1, 0, 0, (), (), ()),
        wire.CloseSession(),
    ]
    with dealer(port) as bad:
        for number, request in enumerate(requests):
            for slot in (wire.NO_SLOT, 0, 300):
                for session in (Session(0), Session(2**64 - 1)):
                    if slot != wire.NO_SLOT or not isinstance(request, wire.Unlink):
                        bad.send_multipart(
                            wire.encode_request(head(session, number, slot), request)
                        )
        first = wire.encode_request(head(Session(0), 5), wire.Identify())[0]
        plain = records.loads(first)
        for version in (0, 2, 2**63, "1", None):
            bad.send(records.dumps([version, *plain[1:]]))
        for cut in range(0, len(first), 3):
            bad.send(bytes(first[:cut]))
        for _ in range(50):  # replayed
            bad.send(bytes(first))


def replies_as_requests(port: int, dice: random.Random) -> None:
    """Answers nobody asked for."""
    with dealer(port) as bad:
        for number in range(500):
            told = wire.ReplyHead(Session(0), wire.NO_SLOT, number, 71, Incarnation(1), Round(1))
            bad.send_multipart(wire.encode_reply(told, wire.Done()))


def sessions_without_end(port: int, dice: random.Random) -> None:
    """Open sessions that nobody keeps alive."""
    with dealer(port) as bad:
        for number in range(300):
            request = wire.OpenSession(dice.randbytes(16), "h" * 4096, "m" * 4096)
            bad.send_multipart(wire.encode_request(head(Session(0), number), request))


ATTACKS: list[Attack] = [
    raw_bytes,
    half_handshakes,
    bad_msgpack,
    giant_frames,
    many_frames,
    endless_message,
    deaf,
    foreign,
    replies_as_requests,
    sessions_without_end,
]


# --- and what comes of them --------------------------------------------------------------------


class Worker:
    """A program at work on the mount."""

    def __init__(self, cluster: Cluster, name: str):
        self.mount = cluster.folder / "mnt"
        self.folder = self.mount / name
        self.journal = cluster.folder / f"{name}.journal"
        self.stop_file = cluster.folder / f"{name}.stop"
        subprocess.run(["mkdir", self.folder], check=True, timeout=30)
        self.program = subprocess.Popen(
            [sys.executable, churn.__file__, self.folder, self.journal, name, self.stop_file]
        )

    def gets_on(self) -> None:
        """Changes go on being acknowledged."""
        since = churn.expected(self.journal).acknowledged
        until(lambda: churn.expected(self.journal).acknowledged >= since + 5, 30, "it gets on")

    def stop(self) -> None:
        """Everything was applied, and rightly."""
        self.stop_file.touch()
        assert self.program.wait(60) == 0, self.journal.read_text()[-500:]
        assert churn.check(self.folder) == churn.expected(self.journal).names


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack(attack: Attack, cluster: Cluster, dice: random.Random) -> None:
    worker = Worker(cluster, attack.__name__)
    try:
        worker.gets_on()
        for port in (cluster.meta_port, cluster.ports[0]):
            attack(port, dice)
            worker.gets_on()
        for name, node in cluster.nodes.items():
            assert node.poll() is None, cluster.log(name)[-2000:]
            until(lambda pid=node.pid: rss_anon(pid) < MOST_BYTES, 10, f"{name} is small again")
        worker.stop()
    finally:
        worker.program.kill()
        worker.program.wait(30)


def test_what_was_refused_is_counted_and_logged_at_a_rate(cluster: Cluster) -> None:
    foreign(cluster.meta_port, random.Random(1))
    foreign(cluster.ports[0], random.Random(1))
    until(lambda: cluster.status().get("refused", 0) > 0, 10)
    until(lambda: cluster.status()["servers"][0]["refused"] > 0, 10)
    assert cluster.status()["servers"][1]["refused"] == 0
    for name in ("meta", "data-0"):
        lines = [line for line in cluster.log(name).splitlines() if "refused" in line]
        assert 1 <= len(lines) < 40, lines[:50]
        assert "Traceback" not in cluster.log(name)
    until(lambda: len(cluster.status()["mounts"]) == 1, 30, "unkept sessions are gone")
