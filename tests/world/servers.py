"""A server of the simulated world: a production room, and what `broker` does for it."""

from collections.abc import Callable
from typing import Any

from tests.world.world import Frames, Node, Task, World
from zdfs import wire
from zdfs.errors import Failure
from zdfs.ports import Caller, Room


class Server(Node):
    """What `broker` does, without sockets."""

    def __init__(self, world: World, address: str, store: Any, make: Callable[[Any], Room]):
        super().__init__(world, address)
        self.store, self.make = store, make
        self.room: Room | None = None
        self.running: dict[tuple[int, int, int], list[Callable[[Frames], None]]] = {}
        self.waiting: list[tuple[int, Callable[[], None]]] = []
        world.nodes[address] = self
        self.boot()

    def boot(self) -> None:
        """Start; runs the room's tasks."""
        self.room = self.make(self.store)
        for _, coroutine in self.room.tasks():
            self.spawn(coroutine)

    def crash(self) -> None:
        """kill -9, and the power with it: what was not synced is gone."""
        self.world.say(f"{self.address} crashes")
        for task in self.tasks:
            task.turn += 1
        self.tasks.clear()
        self.running.clear()
        self.waiting.clear()
        self.room = None
        self.store = self.store.crash()

    def restart(self) -> None:
        """The same command line again."""
        if self.room is None:
            self.world.say(f"{self.address} starts")
            self.boot()

    def request(self, frames: Frames, back: Callable[[Frames], None]) -> None:
        """What arrives at the ROUTER."""
        if self.room is None:
            return
        head, message = wire.decode_request(frames)
        key = (head.session, head.slot, head.sequence)
        if key in self.running:
            self.running[key] = [back]
            return
        self.running[key] = [back]
        try:
            kept = self.room.admit(head, message) if head.slot != wire.NO_SLOT else None
        except Failure as error:
            kept = wire.Failed.of(error)
        if kept is not None:
            self._reply(head, message, kept)
        else:
            handler = self.room.handlers[type(message)](message, Caller(b"client", head))
            task = Task(handler, self, lambda value, error: self._done(head, message, value, error))
            self.tasks.add(task)
            self.world.step(task, None, None)
        self.settle()

    def _done(
        self, head: wire.RequestHead, message: wire.Message, value: Any, error: Failure | None
    ) -> None:
        """A handler has ended: keep the reply to a change in its own round."""
        assert self.room is not None
        result = wire.Failed.of(error) if error else value
        if head.slot != wire.NO_SLOT:
            try:
                self.room.keep(head, result)
            except Failure as failure:
                result = wire.Failed.of(failure)
        self._reply(head, message, result)

    def _reply(self, head: wire.RequestHead, message: wire.Message, answer: wire.Reply) -> None:
        """Answer the newest sender, once the round is synced."""
        assert self.room is not None
        answered = wire.ReplyHead(
            *head[:3], message.operation, self.room.incarnation, self.store.synced
        )
        packed = [bytes(frame) for frame in wire.encode_reply(answered, answer)]
        needed = self.store.round if self.store.dirty else max(0, self.store.round - 1)
        for sender in self.running.pop((head.session, head.slot, head.sequence)):
            self.waiting.append((needed, self._sending(sender, packed)))

    def _sending(self, to: Callable[[Frames], None], packed: Frames) -> Callable[[], None]:
        return lambda: self.world.send(lambda: to(packed))

    def settle(self) -> None:
        """End the round, let replies go."""
        if self.room is None:
            return
        if self.store.dirty:
            self.store.end_round()
        if getattr(self.store, "lazy_sync", False) and self.store.synced < self.store.round - 1:
            self.world.after(self.world.random.expovariate(1 / 0.004), self._sync)
        ready = [act for needed, act in self.waiting if needed <= self.store.synced]
        self.waiting = [one for one in self.waiting if one[0] > self.store.synced]
        for act in ready:
            act()
        pushes, self.room.pushes[:] = list(self.room.pushes), []
        for _, session, push in pushes:
            self.world.push(self.address, session, push)

    def _sync(self) -> None:
        """The disk has caught up."""
        if self.room is not None and self.store.synced < self.store.round - 1:
            self.store.sync()
            self.settle()
