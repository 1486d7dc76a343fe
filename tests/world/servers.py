"""A server of the simulated world: a production room, and what `broker` does for it."""

from collections.abc import Callable
from typing import Any

from tests.world.world import Frames, Node, Task, World
from zdfs import limits, wire
from zdfs.errors import BadMessage, Failure, StoreError, Unavailable
from zdfs.ids import Round
from zdfs.ports import Caller, Room, RoundStore

Make = Callable[[Any, Room | None], tuple[Room, RoundStore]]  # from its store, and who was before
Key = tuple[bytes, int, int, int]
CLIENT = b"client"  # any of the world's own nodes: they number their requests together


def _key(caller: Caller) -> Key:
    """As in `broker`: a slot has one request underway; other numbers are the sender's own."""
    head = caller.head
    address = caller.address if head.slot == wire.NO_SLOT else b""
    return address, head.session, head.slot, head.sequence


class Server(Node):
    """What `broker` does, without sockets."""

    def __init__(self, world: World, address: str, store: Any, make: Make):
        super().__init__(world, address)
        self.store, self.make = store, make
        self.live: RoundStore = store  # what the room writes to
        self.room: Room | None = None
        self.running: dict[Key, list[Callable[[Frames], None]]] = {}
        self.waiting: list[tuple[int, bool, bool, Callable[[], None]]] = []
        self.die: Callable[[], None] = self.crash
        self.started: Callable[["Server"], None] = lambda server: None  # told before it runs again
        self.stopped: Callable[[], None] = lambda: None  # its store failed: told to who watches
        world.nodes[address] = self
        self.boot()

    def boot(self) -> None:
        """Start; runs the room's tasks."""
        self.room, self.live = self.make(self.store, None)
        for _, coroutine in self.room.tasks():
            self.spawn(coroutine)

    def _succeed(self) -> None:
        """The room has ended: the next one takes over, in the same process."""
        assert self.room is not None
        self._clear()
        self.world.say(f"{self.address}: another room takes over")
        self.room, self.live = self.make(self.store, self.room)
        for _, coroutine in self.room.tasks():
            self.spawn(coroutine)

    def crash(self) -> None:
        """The power goes: what was not synced is gone, or some of it."""
        self.world.say(f"{self.address} loses its power")
        self._end()
        self.store = self.store.crash(self.world.random)

    def kill(self) -> None:
        """kill -9: what was written is there."""
        self.world.say(f"{self.address} is killed")
        self._end()
        self.store = self.store.kill()

    def failed(self, error: StoreError) -> None:
        """The node says so and stops; nothing that waits is sent."""
        self.world.say(f"{self.address} stops: {error}")
        self._end()
        self.store = self.store.kill()
        self.stopped()

    def _end(self) -> None:
        self._clear()
        self.room = None
        self.doom = None

    def _clear(self) -> None:
        for task in self.tasks:
            task.end()
        self.tasks.clear()
        self.running.clear()
        self.waiting.clear()

    def restart(self) -> None:
        """The same command line again."""
        if self.room is None:
            self.world.say(f"{self.address} starts")
            self.started(self)
            self.boot()

    def request(
        self, frames: Frames, back: Callable[[Frames], None], address: bytes = CLIENT
    ) -> None:
        """What arrives at the ROUTER, from a node of the world or from a stranger."""
        if self.room is None:
            return
        try:
            head, message = wire.decode_request(frames)
        except BadMessage:
            self.room.counts["refused"] += 1
            return
        caller = Caller(address, head)
        key = _key(caller)
        if key in self.running:
            self.running[key] = [back]
            return
        self.running[key] = [back]
        try:
            handler = self.room.handlers.get(type(message))
            if handler is None:
                raise BadMessage(f"{type(message).__name__} is not served here")
            if len(self.running) > limits.PARKED:
                raise Unavailable("too many requests are waiting here")
            kept = self.room.admit(head, message) if head.slot != wire.NO_SLOT else None
        except Failure as error:
            self.room.counts["refused"] += isinstance(error, BadMessage)
            kept = wire.Failed.of(error)
        if kept is not None:
            self._reply(caller, message, kept)
        else:
            assert handler is not None
            running = handler(message, caller)
            task = Task(
                running, self, lambda value, error: self._done(caller, message, value, error)
            )
            self.tasks.add(task)
            self.world.step(task, None, None)
        self.settle()

    def _done(
        self, caller: Caller, message: wire.Message, value: Any, error: Failure | None
    ) -> None:
        """A handler has ended: keep the reply to a change in its own round."""
        assert self.room is not None
        result = wire.Failed.of(error) if error else value
        if caller.head.slot != wire.NO_SLOT:
            try:
                self.room.keep(caller.head, result)
            except Failure as failure:
                result = wire.Failed.of(failure)
        self._reply(caller, message, result)

    def _reply(self, caller: Caller, message: wire.Message, answer: wire.Reply) -> None:
        """Answer the newest sender, once the round is synced."""
        assert self.room is not None
        head = caller.head
        answered = wire.ReplyHead(
            *head[:3], message.operation, self.room.incarnation, self.live.synced, head.protocol
        )
        packed = [bytes(frame) for frame in wire.encode_reply(answered, answer)]
        needed = self.live.round if self.live.dirty else Round(max(0, self.live.round - 1))
        synced, change = answer.durability is wire.Durability.SYNCED, head.slot != wire.NO_SLOT
        if synced:
            self.live.promise(needed)
        for sender in self.running.pop(_key(caller)):
            self.waiting.append((needed, synced, change, self._sending(sender, packed)))

    def _sending(self, to: Callable[[Frames], None], packed: Frames) -> Callable[[], None]:
        return lambda: to(packed)

    def settle(self) -> None:
        """End the round, let replies go."""
        if self.room is None:
            return
        try:
            if self.room.ended:
                self._succeed()
            if self.live.dirty:
                self.live.end_round()
        except StoreError as error:
            self.failed(error)
            return
        if getattr(self.store, "lazy_sync", False) and self.store.synced < self.store.round - 1:
            self.world.after(self.world.random.expovariate(1 / self.world.sync_s), self._sync)
        before, self.waiting = self.waiting, []
        for one in before:
            needed, synced, change, act = one
            if needed <= self.live.safe(synced, change):
                act()
            else:
                self.waiting.append(one)
        pushes, self.room.pushes[:] = list(self.room.pushes), []
        for one in pushes:
            self.world.push(self.address, one)

    def catch_up(self) -> None:
        """All that was written is on the disk."""
        if getattr(self.store, "lazy_sync", False):
            self._sync()

    def _sync(self) -> None:
        """The disk has caught up."""
        if self.room is None or self.store.synced >= self.store.round - 1:
            return
        try:
            self.store.sync()
        except StoreError as error:
            self.failed(error)
        self.settle()
