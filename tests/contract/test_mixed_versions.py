"""Two ends of different versions, on real sockets: each finds out, and the older one is told."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import zmq
from tests.contract.test_broker import Counters, Here, identity
from tests.contract.test_link import bound, said, serving
from tests.live.cluster import free_ports
from tests.world.stores import MemoryMetaStore

from zdfs import records, wire
from zdfs.calls import Peer, call
from zdfs.errors import Outdated, Unreachable
from zdfs.ids import Ino
from zdfs.link import Link


@pytest.fixture
def here() -> Iterator[Here]:
    made = Here()
    yield made
    made.close()


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    yield made
    made.close()


@pytest.fixture
def old() -> Iterator["Old"]:
    made = Old()
    yield made
    made.close()


class Old:
    """A peer that knows version 4 alone: to everything else it is silent, as that version was."""

    def __init__(self, newest: int = 4) -> None:
        (port,) = free_ports(1)
        self.peer = Peer(f"127.0.0.1:{port}")
        self.newest = newest
        self.heard: list[tuple[int, str]] = []
        self.context: zmq.Context[Any] = zmq.Context()
        self.router = bound(self.context, self.peer)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while not self.ended.is_set():
            if self.router.poll(50):
                address, *frames = self.router.recv_multipart()
                self._answer(address, frames)

    def _answer(self, address: bytes, frames: list[bytes]) -> None:
        head, asked = wire.decode_request(frames)
        self.heard.append((head.protocol, type(asked).__name__))
        if head.protocol <= self.newest:
            reply: wire.Reply = wire.Target(b"here")
            if isinstance(asked, wire.Identify):
                ours = wire.Protocols(4, self.newest)
                release = f"0.1.0 (speaks 4 to {self.newest})"
                reply = replace(identity(5), release=release, protocols=ours)
            self.router.send_multipart([address, *said(head, asked, reply)])

    def close(self) -> None:
        self.ended.set()
        self.thread.join(30)
        self.context.destroy(0)


def raw(here: Here, protocol: int, operation: int) -> Any:
    """What is answered to a question in some version."""
    dealer = here.dealer()
    dealer.send_multipart([records.dumps([protocol, operation, 0, 0xFFFF, 7, 1000, 0, []])])
    assert dealer.poll(30_000), "no answer"
    head, reply = wire.decode_reply(dealer.recv_multipart())
    assert (head.sequence, head.answers, head.protocol) == (7, operation, protocol)
    return reply.failure()  # type: ignore[attr-defined]


def test_who_can_not_be_spoken_with_is_told_who_is_older(here: Here) -> None:
    newer = raw(here, 9, 34)
    assert isinstance(newer, Outdated) and "it is the older end, upgrade it" in newer.text
    older = raw(here, 3, 34)
    assert isinstance(older, Outdated) and "who asks is the older end" in older.text
    unknown = raw(here, 5, 60_000)
    assert isinstance(unknown, Outdated) and "does not know operation 60000" in unknown.text
    assert here.room.counts["refused"] == 3


def test_a_question_in_version_4_is_answered_in_it(here: Here) -> None:
    dealer = here.dealer()
    head = wire.RequestHead(*[0, wire.NO_SLOT, 3, 1000, 0], 4)  # type: ignore[arg-type]
    dealer.send_multipart(wire.encode_request(head, wire.Identify()))
    assert dealer.poll(30_000)
    answered, reply = wire.decode_reply(dealer.recv_multipart())
    assert answered.protocol == 4 and isinstance(reply, wire.Identity)
    assert wire.protocols_of(reply) == wire.spoken()


def test_a_mount_speaks_the_newest_that_both_know(link: Link, here: Here, old: Old) -> None:
    assert link.run(call(Peer(here.address), wire.ReadLink(Ino(1)), 5.0))
    assert link.parley.surely(Peer(here.address)) == wire.PROTOCOL
    for _ in range(2):
        assert link.run(call(old.peer, wire.ReadLink(Ino(1)), 5.0)) == wire.Target(b"here")
    assert old.heard == [(4, "Identify"), (4, "ReadLink"), (4, "ReadLink")]


def test_a_mount_finds_out_that_a_server_was_put_back(link: Link, old: Old) -> None:
    old.newest = 5
    link.run(call(old.peer, wire.ReadLink(Ino(1)), 5.0))
    old.newest = 4
    with pytest.raises(Unreachable):
        link.run(call(old.peer, wire.ReadLink(Ino(1)), 0.2))
    assert link.run(call(old.peer, wire.ReadLink(Ino(1)), 5.0)) == wire.Target(b"here")
    assert old.heard[-1] == (4, "ReadLink")


def test_what_an_older_server_does_not_know_fails_at_once(
    link: Link, old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire.ReadLink, "since", 5)
    with pytest.raises(Outdated, match="speaks protocol 4, which has no ReadLink: upgrade it"):
        link.run(call(old.peer, wire.ReadLink(Ino(1)), 5.0))


class Asks(Counters):
    """A room that asks a peer, and tells what it heard."""

    def __init__(self, store: MemoryMetaStore, peer: Peer) -> None:
        super().__init__(store)
        self.peer = peer

    async def read(self, request: wire.ReadLink, caller: Any) -> wire.Reply:
        found: wire.Target = await call(self.peer, wire.ReadLink(request.ino), 2.0)
        return found


def test_a_server_speaks_the_newest_that_both_know(link: Link, old: Old) -> None:
    store = MemoryMetaStore()
    with serving(Asks(store, old.peer), store) as address:
        for _ in range(2):
            assert link.run(call(Peer(address), wire.ReadLink(Ino(1)), 5.0)) == wire.Target(b"here")
        old.newest = 5  # upgraded: it is asked again only after a while
        assert link.run(call(Peer(address), wire.ReadLink(Ino(1)), 5.0)) == wire.Target(b"here")
    assert [one for one in old.heard if one[1] == "Identify"] == [(4, "Identify")]
    assert {version for version, _ in old.heard} == {4}
