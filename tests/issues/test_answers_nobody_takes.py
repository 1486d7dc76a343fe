"""Questions of peers that were gone were all worked out, and a program on a mount waited for each.

Fifty connections that asked for the cluster's state, took no answer and left were served for
seconds more.  While 300 sessions made that state long, a turn of the server's loop, whatever its
handlers take, was so long that the mount sent its own requests again: up to 10 s for a rename.
"""

from collections.abc import Iterator

import pytest
import zmq

from tests.conftest import until
from tests.contract.test_broker import Counters, SlowStore, answer, change, question
from tests.live.cluster import free_ports
from tests.world import zmtp
from zdfs import broker as brokers
from zdfs.broker import BUDGET, Broker
from zdfs.ports import Caller
from zdfs.wire import ReadLink, Reply

ASKED = 8 * BUDGET


class Asked(Counters):
    """Counts the questions that were worked out."""

    def __init__(self, store: SlowStore) -> None:
        super().__init__(store)
        self.reads = 0
        self.ended = True  # `serve` returns at once: each turn of the loop is the test's

    async def read(self, request: ReadLink, caller: Caller) -> Reply:
        self.reads += 1
        return await super().read(request, caller)


@pytest.fixture
def served() -> Iterator[tuple[Broker, Asked]]:
    store = SlowStore()
    room = Asked(store)
    made = Broker(f"127.0.0.1:{free_ports(1)[0]}")
    made.serve(room, store)
    yield made, room
    made.close()


def peer(broker: Broker, linger: int = 0) -> "zmq.Socket[bytes]":
    """Somebody who asks."""
    made = zmq.Context.instance().socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, linger)
    made.setsockopt(zmq.SNDHWM, 0)
    made.connect(f"tcp://{broker.address}")
    return made


def has_come(broker: Broker) -> bool:
    """Whether a message waits."""
    return bool(broker.listener.router.getsockopt(zmq.EVENTS) & zmq.POLLIN)


def test_who_is_gone_is_not_worked_for(
    served: tuple[Broker, Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, room = served
    monkeypatch.setattr(brokers, "WATCH_S", 3600.0)
    broker.turn(0)  # the first watch of this hour
    gone = peer(broker, linger=10_000)
    for number in range(ASKED):
        gone.send_multipart(question(number))
    gone.send_multipart(change(1))
    until(lambda: has_come(broker), 10)
    gone.close()
    until(lambda: not zmtp.connections(broker.address, both=False), 30, "all has come, and its end")
    while has_come(broker):
        broker.turn(0)
    assert 0 < room.reads <= BUDGET, "those of the first turn"
    assert room.counts["unsent (not even begun)"] == ASKED + 1 - room.reads and not room.started
    lasting = peer(broker)
    lasting.send_multipart(change(1))
    until(lambda: has_come(broker), 10)
    broker.turn(0)
    assert answer(lasting)[1].target == b"1", "it had not happened, and the others are served"


def test_a_turn_ends_in_time_whatever_its_requests_take(
    served: tuple[Broker, Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, room = served
    monkeypatch.setattr(brokers, "BUDGET_S", 0.0)  # each takes longer than that
    one = peer(broker)
    for number in range(3):
        one.send_multipart(question(number))
    until(lambda: has_come(broker), 10)
    for turn in range(1, 4):
        broker.turn(5)
        assert room.reads == turn
        assert answer(one)[1].target == b"0 of 1"
