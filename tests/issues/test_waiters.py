"""A wait that times out leaves nothing behind: a task that looks once a second ran for weeks."""

import collections
import threading
from collections.abc import Coroutine, Mapping
from typing import Any

from tests.conftest import until
from tests.live.cluster import free_ports
from tests.world.stores import MemoryMetaStore
from zdfs import wire
from zdfs.broker import Broker
from zdfs.calls import Condition, Trap, wait
from zdfs.ids import Incarnation
from zdfs.measures import Meter, Role
from zdfs.ports import Handler, Push


class Waiting:
    """A room whose one task waits again and again for what never comes."""

    incarnation = Incarnation(1)
    ended = False
    handlers: Mapping[type[wire.Message], Handler] = {}

    def __init__(self) -> None:
        self.pushes: list[Push] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.meter = Meter(Role.META)
        self.never = Condition()
        self.waits = 0

    def admit(self, head: wire.RequestHead, request: wire.Message) -> wire.Reply | None:
        return None

    def keep(self, head: wire.RequestHead, reply: wire.Reply) -> None:
        raise AssertionError

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        return [("waiting", self.forever())]

    async def forever(self) -> None:
        while True:
            assert not await wait(self.never, 0.001)
            self.waits += 1


def test_a_wait_that_times_out_leaves_no_waiter() -> None:
    room = Waiting()
    (port,) = free_ports(1)
    broker = Broker(f"127.0.0.1:{port}")
    thread = threading.Thread(target=broker.serve, args=(room, MemoryMetaStore()))
    thread.start()
    try:
        until(lambda: room.waits > 50, what="fifty waits")
        assert len(room.never.waiters) <= 1
    finally:
        broker.stop()
        thread.join(30)
        broker.close()
    assert not thread.is_alive()
