"""The ROUTER endpoint against real sockets: exactly once, whatever comes, in whatever order.

A Broker runs in a thread with a tiny room over a store in memory; a raw DEALER says exactly what a
test wants, our own Link says what a mount would.
"""

import collections
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.conftest import until
from tests.live.cluster import free_ports
from tests.world import zmtp
from tests.world.stores import MemoryMetaStore
from zdfs import records, wire
from zdfs.broker import Broker
from zdfs.calls import Condition, Peer, call, notify, wait
from zdfs.errors import BadMessage, Failure, Posix, StartError, StoreError, Unavailable
from zdfs.ids import Epoch, Incarnation, Ino, Session, Slot
from zdfs.link import Link
from zdfs.listener import anonymous_bytes
from zdfs.measures import Meter, Role
from zdfs.ports import Caller, Handler, Push
from zdfs.schema import SessionRecord
from zdfs.sessions import Sessions

US = Session(7)
DONE = wire.Found(
    wire.Attributes(Ino(1), 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, Epoch(0), Slot(0), 0)
)  # whatever is done


def identity(version: int) -> wire.Identity:
    """Who is here, as a version of the protocol can say it."""
    return wire.Identity(
        wire.Role.META, wire.released(version), b"", bytes(16), Slot(0), wire.State.SERVING, False,
        b"", "", "", 0, wire.spoken(),
    )  # fmt: skip


class SlowStore(MemoryMetaStore):
    """A store whose commits wait until they are let through, and remembers what they held."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()

    def end_round(self) -> None:
        if not self.gate.is_set():
            self.waiting.set()
            self.gate.wait(30)
            self.waiting.clear()
        super().end_round()


class Counters:
    """A tiny room: RemoveDirectory adds one to a counter, under the name's own rules.

    b"park" waits for `opened` first; b"refuse" writes and then fails; b"later" is Unavailable once;
    b"bug" writes and then breaks; b"unsayable" writes and answers what can't be encoded;
    b"done" answers what a mount expects.
    """

    incarnation = Incarnation(3)
    ended = False

    def __init__(self, store: MemoryMetaStore) -> None:
        self.store = store
        self.pushes: list[Push] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.meter = Meter(Role.META)
        self.sessions = Sessions()
        self.sessions.born(US, SessionRecord(bytes(16), "h", "m", 0), 0.0, announced=True)
        self.opened = Condition()
        self.started: list[bytes] = []
        self.callers: list[Caller] = []
        self.keeps = True
        self.unavailable = 1
        self.handlers: Mapping[type[wire.Message], Handler] = {
            wire.RemoveXattr: self.add,
            wire.ReadLink: self.read,
            wire.Identify: self.identify,
        }

    def welcome(self, caller: Caller, request: wire.Message) -> None:
        """Every key may do everything."""

    def admit(self, head: wire.RequestHead, request: wire.Message) -> wire.Reply | None:
        return self.sessions.admit(head)

    def keep(self, head: wire.RequestHead, reply: wire.Reply) -> None:
        if not self.keeps:
            raise Failure("no room for a reply")
        definite = not isinstance(reply, wire.Failed) or reply.failure().definite
        self.sessions.keep(head, reply if definite else None)

    def tasks(self) -> list[tuple[str, Any]]:
        return []

    async def identify(self, request: wire.Identify, caller: Caller) -> wire.Reply:
        return identity(caller.head.protocol)

    async def add(self, request: wire.RemoveXattr, caller: Caller) -> wire.Reply:
        self.started.append(request.name)
        self.callers.append(caller)
        if request.name == b"park":
            await wait(self.opened)
        if request.name == b"later" and self.unavailable:
            self.unavailable -= 1
            raise Unavailable("not yet")
        with self.store.write() as txn:
            count = int(txn.get(b"n") or b"0") + 1
            txn.put(b"n", b"%d" % count)
            if request.name == b"refuse":
                raise Posix(17)
            if request.name == b"bug":
                raise ZeroDivisionError
        if request.name == b"unsayable":
            return wire.Target(bytes(2**17))
        if request.name == b"done":
            return DONE
        return wire.Target(b"%d" % count)

    async def read(self, request: wire.ReadLink, caller: Caller) -> wire.Reply:
        if request.ino == 99:
            await wait(self.opened)
        with self.store.read() as read:
            return wire.Target(b"%d of %d" % (int(read.get(b"n") or b"0"), request.ino))


class Here:
    """A broker that serves a Counters room in a thread of its own."""

    def __init__(self, keys: Path | None = None, address: str = "") -> None:
        self.address = address or f"127.0.0.1:{free_ports(1)[0]}"
        self.store = SlowStore()
        self.room = Counters(self.store)
        self.broker = Broker(self.address, keys)
        self.failure: BaseException | None = None
        self.context: zmq.Context[Any] = zmq.Context()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        try:
            self.broker.serve(self.room, self.store)
        except (StoreError, StartError) as error:
            self.failure = error

    def dealer(self) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"tcp://{self.address}")
        return socket

    def close(self) -> None:
        self.store.gate.set()
        self.broker.stop()
        self.thread.join(30)
        self.broker.close()
        self.context.destroy(0)
        assert not self.thread.is_alive()


@pytest.fixture
def here() -> Iterator[Here]:
    made = Here()
    yield made
    made.close()


def change(sequence: int, name: bytes = b"x", slot: int = 0, ms: int = 5000) -> list[Any]:
    head = wire.RequestHead(US, slot, sequence, ms, Incarnation(0))
    return wire.encode_request(head, wire.RemoveXattr(Ino(1), name))


def question(sequence: int, ino: int = 1, ms: int = 5000) -> list[Any]:
    head = wire.RequestHead(Session(0), wire.NO_SLOT, sequence, ms, Incarnation(0))
    return wire.encode_request(head, wire.ReadLink(Ino(ino)))


def answer(socket: zmq.Socket[bytes], within_ms: int = 30_000) -> tuple[wire.ReplyHead, Any]:
    assert socket.poll(within_ms), "no answer"
    return wire.decode_reply(socket.recv_multipart())


def ask(socket: zmq.Socket[bytes], frames: list[Any]) -> Any:
    socket.send_multipart(frames)
    return answer(socket)[1]


def count(here: Here, socket: zmq.Socket[bytes]) -> int:
    reply = ask(socket, question(10_000))
    return int(reply.target.split(b" ")[0])


# --- exactly once ------------------------------------------------------------------------------


def test_a_repeat_gets_the_kept_reply(here: Here) -> None:
    one, two = here.dealer(), here.dealer()
    assert ask(one, change(1)).target == b"1"
    assert ask(two, change(1)).target == b"1"
    assert ask(two, change(2)).target == b"2"
    assert count(here, one) == 2


def test_an_older_sequence_is_refused(here: Here) -> None:
    dealer = here.dealer()
    ask(dealer, change(5))
    late = ask(dealer, change(4))
    assert isinstance(late.failure(), BadMessage)
    assert count(here, dealer) == 1
    assert here.room.counts["refused"] == 1


def test_doubles_in_one_round_are_applied_once_and_answered_each(here: Here) -> None:
    dealer = here.dealer()
    ask(dealer, question(1))
    for _ in range(5):
        dealer.send_multipart(change(1))
    replies = [answer(dealer)[1] for _ in range(5)]
    assert [reply.target for reply in replies] == [b"1"] * 5
    assert count(here, dealer) == 1


def test_no_reply_leaves_before_its_round_is_synced_kept_ones_neither(here: Here) -> None:
    one, two, three = here.dealer(), here.dealer(), here.dealer()
    for dealer in (one, two, three):
        ask(dealer, question(1))
    here.store.gate.clear()
    one.send_multipart(change(1))
    assert here.store.waiting.wait(30)
    two.send_multipart(change(1))  # arrives while its round is being committed
    three.send_multipart(question(2))  # reads what is not synced yet
    assert not one.poll(100) and not two.poll(50) and not three.poll(50)
    here.store.gate.set()
    assert answer(one)[1].target == answer(two)[1].target == b"1"
    assert answer(three)[1].target == b"1 of 1"


def test_a_parked_request_that_comes_again_has_one_handler(here: Here) -> None:
    one, two = here.dealer(), here.dealer()
    one.send_multipart(change(1, b"park"))
    until(lambda: here.room.started == [b"park"], 5)
    two.send_multipart(change(1, b"park"))
    ask(two, question(1))  # it has been taken in
    notify(here.room.opened)
    assert answer(two)[1].target == b"1"  # the newest sender
    assert not one.poll(100)
    assert here.room.started == [b"park"] and count(here, two) == 1


def test_a_slot_that_goes_on_ends_what_was_parked_in_it(here: Here) -> None:
    """The sender was killed in its wait; its slot is used again before the wait ends."""
    dealer = here.dealer()
    dealer.send_multipart(change(1, b"park"))
    until(lambda: here.room.started == [b"park"], 5)
    assert ask(dealer, change(2)).target == b"1"
    notify(here.room.opened)
    assert ask(dealer, change(2)).target == b"1"  # still the kept reply of 2
    assert count(here, dealer) == 1


def test_strangers_with_equal_numbers_are_not_taken_for_one_another(here: Here) -> None:
    """Commands and servers have no session: each counts its questions from 1."""
    one, two = here.dealer(), here.dealer()
    one.send_multipart(question(1, 99))
    ask(one, question(2))
    assert ask(two, question(1, 5)).target == b"0 of 5"
    notify(here.room.opened)
    assert answer(one)[1].target == b"0 of 99"


def test_a_parked_request_is_closed_when_its_sender_gave_up(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zdfs.broker.GRACE_S", 0.05)
    dealer = here.dealer()
    dealer.send_multipart(change(1, b"park", ms=50))
    until(lambda: here.room.started == [b"park"], 5)
    until(lambda: not here.broker.running, 5)
    notify(here.room.opened)
    assert count(here, dealer) == 0
    assert ask(dealer, change(1)).target == b"1"  # it never happened: so it may now


# --- failures ----------------------------------------------------------------------------------


def test_a_failure_undoes_its_write_block_and_is_kept(here: Here) -> None:
    dealer = here.dealer()
    for _ in range(2):
        assert ask(dealer, change(1, b"refuse")).failure().number == 17
    assert here.room.started == [b"refuse"]
    assert count(here, dealer) == 0


def test_what_was_not_yet_possible_runs_when_it_is_repeated(here: Here) -> None:
    dealer = here.dealer()
    assert isinstance(ask(dealer, change(1, b"later")).failure(), Unavailable)
    assert ask(dealer, change(1, b"later")).target == b"1"
    assert ask(dealer, change(1, b"later")).target == b"1"


def test_a_bug_in_a_handler_undoes_its_block_and_harms_nobody(here: Here) -> None:
    dealer = here.dealer()
    assert ask(dealer, change(1, b"bug")).failure().number == 5
    assert count(here, dealer) == 0
    assert ask(dealer, change(2)).target == b"1"


def test_an_answer_that_can_not_be_said_is_a_failure_and_the_node_lives(here: Here) -> None:
    dealer = here.dealer()
    assert ask(dealer, change(1, b"unsayable")).failure().number == 5
    assert ask(dealer, change(2)).target == b"2"


def test_a_change_whose_reply_can_not_be_kept_is_not_committed(here: Here) -> None:
    dealer = here.dealer()
    here.room.keeps = False
    dealer.send_multipart(change(1))
    here.thread.join(30)
    assert isinstance(here.failure, StoreError)
    assert here.store.synced == 0 and not dealer.poll(50)


def test_a_failed_commit_sends_nothing_and_stops_the_node(here: Here) -> None:
    dealer = here.dealer()
    ask(dealer, question(1))
    here.store.fail_next_commit = True
    dealer.send_multipart(change(1))
    here.thread.join(30)
    assert isinstance(here.failure, StoreError) and not dealer.poll(50)


def test_what_is_not_served_here_is_answered_so(here: Here) -> None:
    head = wire.RequestHead(Session(0), wire.NO_SLOT, 1, 1000, Incarnation(0))
    reply = ask(here.dealer(), wire.encode_request(head, wire.GetStatus()))
    assert "not served here" in reply.failure().text
    assert here.room.counts["refused"] == 1


def test_an_unknown_session_is_told_so(here: Here) -> None:
    head = wire.RequestHead(Session(8), 0, 1, 1000, Incarnation(0))
    reply = ask(here.dealer(), wire.encode_request(head, wire.RemoveXattr(Ino(1), b"x")))
    assert reply.code == 8


def test_too_many_parked_requests_are_put_off(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zdfs.limits.PARKED", 3)
    dealer = here.dealer()
    for slot in range(3):
        dealer.send_multipart(change(1, b"park", slot))
    until(lambda: len(here.room.started) == 3, 5)
    assert isinstance(ask(dealer, change(1, b"x", 3)).failure(), Unavailable)
    notify(here.room.opened)
    assert sorted(answer(dealer)[1].target for _ in range(3)) == [b"1", b"2", b"3"]
    assert ask(dealer, change(1, b"x", 3)).target == b"4"


# --- what is not ours --------------------------------------------------------------------------

HEAD = [1, 26, 0, 0xFFFF, 1, 1000, 0, []]


def test_garbage_is_counted_and_service_goes_on(here: Here) -> None:
    good = here.dealer()
    bad = here.dealer()
    reply = wire.encode_reply(
        wire.ReplyHead(US, 0, 1, 26, Incarnation(1), Ino(1)), DONE  # type: ignore[arg-type]
    )
    messages: list[list[Any]] = [
        [b""],
        [b"\xc1\xc1"],
        [b"\x91" * 70_000],
        [b"x" * 300_000],
        [b"\xdd\xff\xff\xff\xff"],
        [wire_head(HEAD, 0, 2)],
        [wire_head(HEAD, 1, 9999)],
        [wire_head(HEAD, 2, -1)],
        [wire_head(HEAD, 2, "x")],
        [wire_head(HEAD, 7, [1, 2, 3])],
        [*question(1), b"more"],
        [b"f"] * 5000,
        list(reply),
        [question(1)[0][:-1]],
    ]
    for message in messages:
        bad.send_multipart(message)
    until(lambda: here.room.counts["refused"] >= len(messages), 10)
    assert here.room.counts["refused"] == len(messages)
    assert count(here, good) == 0


def wire_head(head: list[Any], place: int, value: Any) -> bytes:
    """A head with one value replaced."""
    return records.dumps(head[:place] + [value] + head[place + 1 :])


def test_raw_bytes_are_counted(here: Here) -> None:
    host, port = here.address.split(":")
    half = socket.create_connection((host, int(port)))  # says nothing at all
    for noise in (
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(100),
        b"\xff" * 64,
        b"\xff" + bytes(8) + b"\x7f\x03",
    ):
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(noise)
    until(lambda: here.room.counts["refused"] >= 1, 10)
    assert count(here, here.dealer()) == 0
    half.close()


def test_a_port_in_use_and_an_address_elsewhere(here: Here) -> None:
    with pytest.raises(StartError, match="in use"):
        Broker(here.address)
    with pytest.raises(StartError, match="does not have that address"):
        Broker("192.0.2.1:4444")
    with pytest.raises(StartError, match="does not have that address"):
        Broker("no-such-host.invalid:4444")


def test_a_hoarder_loses_its_connection_and_others_go_on(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zdfs.broker.MEMORY_BYTES", anonymous_bytes() + (64 << 20))
    bad = zmtp.connect(int(here.address.split(":")[1]))
    frame = zmtp.frame(bytes(1 << 20), more=True)

    def hoard() -> bool:
        try:
            bad.sendall(frame)
        except OSError:
            return True
        return False

    until(hoard, 20)
    bad.close()
    until(lambda: here.room.counts["connections dropped"] == 1, 10)
    link = Link()
    reply = link.run(call(Peer(here.address), wire.ReadLink(Ino(4)), 10.0))
    assert reply.target == b"0 of 4"
    link.close()


# --- our own link ------------------------------------------------------------------------------


def test_the_link_retries_under_the_same_number(here: Here) -> None:
    link = Link()
    link.session = US
    peer = Peer(here.address)
    here.store.gate.clear()
    with pytest.raises(Failure):
        link.run(call(peer, wire.RemoveXattr(Ino(1), b"done"), 0.2, (3, 1)))
    here.store.gate.set()
    reply = link.run(call(peer, wire.RemoveXattr(Ino(1), b"done"), 5.0, (3, 1)))
    assert reply == DONE
    assert count(here, here.dealer()) == 1
    link.close()
