"""Strangers at a port with keys: the attacks of tests/live on a broker that lets only keys in.

What is made of bytes by hand gets as far as half of CURVE's handshake, and is let go of; a socket
of ZeroMQ's without a key, or with an unknown one, says nothing to anybody.  Who has one is served.
"""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.conftest import until
from tests.contract.test_broker import Counters, SlowStore
from tests.live import strangers
from tests.live.cluster import free_ports
from tests.live.strangers import Attack, Target
from zdfs import keys, wire
from zdfs.broker import Broker
from zdfs.calls import Peer, call
from zdfs.errors import Unreachable
from zdfs.ids import Ino
from zdfs.keys import Key, Role
from zdfs.link import Link
from zdfs.ports import Caller

CREATED = "2026-01-01T00:00:00Z"


def directory(path: Path) -> Path:
    """A key directory of one node, which is its own client."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    own = Key("node", Role.NODE, public, CREATED)
    path.mkdir(mode=0o700)
    keys.write(path / "cluster", [own], 0o600)
    with_secret = Key("node", Role.NODE, public, CREATED, secret=secret)
    keys.write(path / "own", [with_secret], 0o600)
    return path


class Open(Counters):
    """Whoever has a key may say anything here."""

    def welcome(self, caller: Caller, request: wire.Message) -> None:
        return


class Keyed:
    """A broker with keys, in a thread; somebody who has one, and asks."""

    def __init__(self, path: Path):
        (self.port,) = free_ports(1)
        store = SlowStore()
        self.keys, self.room = directory(path), Open(store)
        self.broker = Broker(f"127.0.0.1:{self.port}", self.keys)
        self.thread = threading.Thread(target=self.broker.serve, args=(self.room, store))
        self.thread.start()

    def serves(self) -> None:
        """Who has a key gets an answer; a link of its own for each of the attacks."""
        link = Link(keys=self.keys)
        try:
            until(lambda: self._answers(link), 30, "who has a key gets an answer")
        finally:
            link.close()

    def _answers(self, link: Link) -> bool:
        """Asked again as clients do: the memory of this process has grown with earlier tests, which
        the broker takes for a hoarder's doing, and drops all connections."""
        try:
            reply = link.run(call(Peer(f"127.0.0.1:{self.port}"), wire.ReadLink(Ino(4)), 5.0))
        except Unreachable:
            return False
        assert reply.target == b"0 of 4"
        return True

    def close(self) -> None:
        """End it."""
        self.broker.stop()
        self.thread.join(30)
        self.broker.close()


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Keyed]:
    made = Keyed(tmp_path / "keys")
    yield made
    made.close()


@pytest.mark.parametrize(
    "attack",
    [strangers.raw_bytes, strangers.half_handshakes, strangers.giant_frames, strangers.foreign],
    ids=lambda attack: attack.__name__,
)
def test_without_a_key(attack: Attack, keyed: Keyed, dice: random.Random) -> None:
    keyed.serves()
    attack(Target(keyed.port), dice, keyed.serves)
    keyed.serves()
    assert not keyed.room.started and keyed.thread.is_alive()


def test_with_an_unknown_key(keyed: Keyed, dice: random.Random) -> None:
    server = keys.load(keyed.keys).own.public.encode()
    target = Target(keyed.port, (server, *zmq.curve_keypair()))
    strangers.foreign(target, dice, keyed.serves)
    assert not keyed.room.started and keyed.thread.is_alive()


def test_nonsense_of_who_has_a_key(keyed: Keyed, dice: random.Random) -> None:
    """It is refused as anybody's is, and so is not said to be of no key."""
    own = keys.load(keyed.keys).own
    target = Target(keyed.port, (own.public.encode(), own.public.encode(), own.secret.encode()))
    strangers.bad_msgpack(target, dice, keyed.serves)
    keyed.serves()
    assert keyed.room.counts["refused"] > 100
