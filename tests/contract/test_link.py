"""What lies between two sockets: late answers, dead peers, rounds that are not synced, clocks.

A bare ROUTER plays the server where a mount's `link` is looked at, a bare DEALER the mount where it
is a server's `broker`.
"""

import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.conftest import until
from tests.contract.test_broker import DONE, Counters, answer, change, identity
from tests.live.cluster import free_ports
from tests.world import zmtp
from tests.world.stores import MemoryMetaStore
from zdfs import limits, wire
from zdfs.broker import Broker
from zdfs.calls import Condition, Peer, call, now, wait
from zdfs.errors import Failure, Unreachable
from zdfs.ids import Incarnation, Ino, Round, Session
from zdfs.link import Link
from zdfs.ports import Caller

SOON_S = 0.2
ENOUGH_MS = 10_000


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    yield made
    made.close()


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    made: zmq.Context[Any] = zmq.Context()
    yield made
    made.destroy(0)


@pytest.fixture
def peer() -> Peer:
    (port,) = free_ports(1)
    return Peer(f"127.0.0.1:{port}")


def bound(context: zmq.Context[Any], peer: Peer) -> zmq.Socket[bytes]:
    """A server that does what the test says."""
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.bind(f"tcp://{peer}")
    return router


def heard(router: zmq.Socket[bytes]) -> tuple[bytes, wire.RequestHead, Any]:
    """The next request; who asks who we are is told."""
    while True:
        assert router.poll(ENOUGH_MS), "no request"
        address, *frames = router.recv_multipart()
        head, asked = wire.decode_request(frames)
        if not isinstance(asked, wire.Identify):
            return address, head, asked
        router.send_multipart([address, *said(head, asked, identity(head.protocol))])


def said(head: wire.RequestHead, asked: wire.Message, reply: wire.Reply) -> list[Any]:
    """An answer."""
    answers = wire.ReplyHead(*head[:3], asked.operation, Incarnation(1), Round(0), head.protocol)
    return wire.encode_reply(answers, reply)


@contextmanager
def beside(act: Callable[[], None]) -> Iterator[None]:
    """In a thread, to its end."""
    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join(ENOUGH_MS / 1000)
    assert not thread.is_alive()


# --- answers that come late ----------------------------------------------------------------------


def test_a_late_answer_is_not_taken_for_the_next_ones(
    link: Link, context: zmq.Context[Any], peer: Peer
) -> None:
    router = bound(context, peer)

    def serve() -> None:
        address, head, asked = heard(router)
        late = head._replace(sequence=head.sequence - 1)
        elsewhere = head._replace(session=Session(9))
        for one, text in ((late, b"late"), (elsewhere, b"another's"), (head, b"mine")):
            router.send_multipart([address, *said(one, asked, wire.Target(text))])

    with beside(serve):
        reply = link.run(call(peer, wire.ReadLink(Ino(1)), 5.0))
    assert reply == wire.Target(b"mine") and link.late == 2


class Told:
    """What a volume would hear."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.beats = 0
        self.beat_s = limits.BEAT_S

    def heartbeat(self) -> wire.Beat:
        self.beats += 1
        return wire.Beat(1, 0, 0, (), (), ())

    def heard(self, message: wire.Reply | Failure) -> list[Coroutine[Any, Any, None]]:
        self.messages.append(message)
        return []


def test_a_push_to_a_session_that_ended_is_not_heard(
    link: Link, context: zmq.Context[Any], peer: Peer
) -> None:
    router, volume = bound(context, peer), Told()
    link.session = Session(2)
    link.attend(volume, peer)
    address, _, _ = heard(router)
    for session in (1, 2):
        head = wire.ReplyHead(Session(session), wire.NO_SLOT, 0, 0, Incarnation(1), Round(0))
        push = wire.Changed(1, (Ino(session),))
        router.send_multipart([address, *wire.encode_reply(head, push)])
    until(lambda: volume.messages)
    assert volume.messages == [wire.Changed(1, (Ino(2),))]


# --- peers that are dead -------------------------------------------------------------------------


def known(link: Link, context: zmq.Context[Any], peer: Peer) -> None:
    """A server that says who it is, answers once, and dies: whoever isn't known is only greeted."""
    router = bound(context, peer)

    def serve() -> None:
        address, head, asked = heard(router)
        router.send_multipart([address, *said(head, asked, wire.Target(b""))])

    with beside(serve):
        link.run(call(peer, wire.ReadLink(Ino(0)), 5.0))
    router.close()
    until(lambda: not zmtp.connections(peer))


def test_what_a_mount_asked_of_a_dead_server_never_arrives(
    link: Link, context: zmq.Context[Any], peer: Peer
) -> None:
    known(link, context, peer)
    with pytest.raises(Unreachable):
        link.run(call(peer, wire.ReadLink(Ino(1)), SOON_S))
    router = bound(context, peer)

    def serve() -> None:
        address, head, asked = heard(router)
        assert asked == wire.ReadLink(Ino(2)), "what was queued for the dead was delivered"
        router.send_multipart([address, *said(head, asked, wire.Target(b""))])

    failures: list[BaseException] = []

    def watched() -> None:
        try:
            serve()
        except AssertionError as error:
            failures.append(error)

    with beside(watched):
        try:
            link.run(call(peer, wire.ReadLink(Ino(2)), 5.0))
        except Unreachable as error:
            failures.append(error)
    assert not failures


class Asking(Counters):
    """A room that asks a peer again and again, another inode each time."""

    def __init__(self, store: MemoryMetaStore, peer: Peer) -> None:
        super().__init__(store)
        self.peer = peer
        self.gone = 0  # questions that nobody answered in time
        self.heard = 0
        self.rests = False

    def tasks(self) -> list[tuple[str, Any]]:
        return [("asking", self.asking())]

    async def asking(self) -> None:
        while True:
            try:
                await call(self.peer, wire.ReadLink(Ino(self.gone + 1)), SOON_S)
                self.heard += 1
                while self.rests:
                    await wait(Condition(), 0.01)
            except Unreachable:
                self.gone += 1


@contextmanager
def serving(room: Counters, store: MemoryMetaStore, keys: Path | None = None) -> Iterator[str]:
    """The address of a broker that serves this room in a thread."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    broker = Broker(address, keys)
    thread = threading.Thread(target=broker.serve, args=(room, store))
    thread.start()
    try:
        yield address
    finally:
        broker.stop()
        thread.join(30)
        broker.close()
        assert not thread.is_alive()


def test_what_a_server_asked_of_a_dead_peer_never_arrives(
    context: zmq.Context[Any], peer: Peer
) -> None:
    store = MemoryMetaStore()
    room = Asking(store, peer)
    room.rests, router = True, bound(context, peer)
    with serving(room, store):
        address, head, asked = heard(router)
        router.send_multipart([address, *said(head, asked, wire.Target(b""))])
        until(lambda: room.heard)
        router.close()  # known by now: whoever isn't is only greeted
        until(lambda: not zmtp.connections(peer))
        room.rests = False
        until(lambda: room.gone >= 2)
        gone = room.gone
        _, _, asked = heard(bound(context, peer))
    assert asked.ino > gone, "what was queued for the dead was delivered"


# --- rounds that are not synced ------------------------------------------------------------------


class LazyStore(MemoryMetaStore):
    """Rounds end at once and are synced when the test says so, as a dataserver's are."""

    def __init__(self) -> None:
        super().__init__()
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.on_disk = Round(0)

    @property
    def synced(self) -> Round:
        return self.on_disk

    def safe(self, synced: bool, change: bool) -> Round:
        return self.on_disk if synced or change else self.round

    def fileno(self) -> int:
        return self.event

    def woken(self) -> None:
        os.eventfd_read(self.event)

    def sync(self) -> None:
        self.on_disk = self._synced
        os.eventfd_write(self.event, 1)


@pytest.fixture
def lazy() -> Iterator[LazyStore]:
    made = LazyStore()
    yield made
    os.close(made.event)


def dealer(context: zmq.Context[Any], address: str) -> zmq.Socket[bytes]:
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 0)
    made.connect(f"tcp://{address}")
    return made


def test_a_change_is_answered_when_it_is_synced(lazy: LazyStore, context: zmq.Context[Any]) -> None:
    with serving(Counters(lazy), lazy) as address:
        one = dealer(context, address)
        one.send_multipart(change(1, b"done"))
        until(lambda: lazy.round > 1)
        assert not one.poll(100)
        lazy.sync()
        assert answer(one)[1] == DONE


def test_a_kept_reply_waits_for_its_round(lazy: LazyStore, context: zmq.Context[Any]) -> None:
    """Its sender would take for done what a power cut undoes."""
    room = Counters(lazy)
    with serving(room, lazy) as address:
        one, two = dealer(context, address), dealer(context, address)
        one.send_multipart(change(1, b"done"))
        until(lambda: lazy.round > 1)
        two.send_multipart(change(1, b"done"))
        assert not two.poll(100) and not one.poll(0)
        lazy.sync()
        assert answer(one)[1] == answer(two)[1] == DONE
    assert room.started == [b"done"]


# --- clocks --------------------------------------------------------------------------------------


class Telling(Counters):
    """A room that says what time it is."""

    async def read(self, request: wire.ReadLink, caller: Caller) -> wire.Reply:
        return wire.Target(b"%.6f" % await now())


def test_a_server_waits_by_the_monotonic_clock(link: Link) -> None:
    """The wall clock is set, and jumps: no lease and no silence is measured by it."""
    store = MemoryMetaStore()
    with serving(Telling(store), store) as address:
        before = time.monotonic()
        reply = link.run(call(Peer(address), wire.ReadLink(Ino(1)), 5.0))
        assert before - 0.001 <= float(reply.target) <= time.monotonic() + 0.001


def test_a_mount_waits_by_the_monotonic_clock(link: Link) -> None:
    before = time.monotonic()
    assert before <= link.run(now()) <= time.monotonic()
    assert before <= link.monotonic() <= time.monotonic()


# --- the background ------------------------------------------------------------------------------


def test_a_bug_in_the_background_is_said(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    async def flawed() -> None:
        raise ZeroDivisionError

    link.spawn(flawed(), "something flawed")
    until(lambda: "something flawed failed unexpectedly" in caplog.text)
    assert "ZeroDivisionError" in caplog.text
