"""A whole cluster in one process: virtual time, a network and crashes drawn from a seed.

The production rooms (`Meta`, `Data`, `Volume`) run here unchanged; only the driver and the stores
are the world's.  What it may do to them, and what they promise under it:

    a message is delayed, lost or doubled (both ways)    nothing is applied twice, nothing is lost
    a server is killed at any of its awaits, restarted   what was acknowledged is there
    a store loses what was not synced                    nothing that was acknowledged depends on it

Time passes only when nothing can run.  The same seed gives the same story.
"""

import functools
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tests.world.stores import MemoryBlockStore, MemoryMetaStore
from zdfs import limits, wire
from zdfs.calls import Ask, CallAll, Now, Peer, Sleep, Spawn, Trap, Wait
from zdfs.data import Data
from zdfs.errors import Failure, NoSession, Unreachable
from zdfs.ids import Incarnation, Session, Slot
from zdfs.ledger import Ledger
from zdfs.meta import Meta
from zdfs.ports import Caller, Room
from zdfs.volume import Volume

Frames = Sequence[Any]
META = "meta:1"


class Task:
    """A coroutine that the world drives; `node` None: a client's."""

    def __init__(
        self,
        coroutine: Coroutine[Trap, Any, Any],
        node: "Node | None",
        done: Callable[[Any, Failure | None], None],
    ):
        self.coroutine, self.node, self.done = coroutine, node, done
        self.turn = 0


class World:
    """Time, network, everything that runs."""

    def __init__(self, seed: int, loss: float = 0.0, doubling: float = 0.0):
        self.random = random.Random(seed)
        self.loss, self.doubling = loss, doubling
        self.now = 1000.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.nodes: dict[str, Node] = {}
        self.story: list[str] = []
        self.numbers = itertools.count(1)

    def say(self, text: str) -> None:
        """A line of the story."""
        self.story.append(f"{self.now:10.4f}  {text}")

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do it later."""
        heapq.heappush(self._heap, (self.now + seconds, next(self._order), act))

    def run(self, done: Callable[[], bool], deadline_s: float) -> None:
        """Let time pass until `done`; fails when virtual `deadline_s` have gone by."""
        end = self.now + deadline_s
        while not done():
            assert self._heap and self.now <= end, "\n".join(["not in time:", *self.story[-60:]])
            self.now, _, act = heapq.heappop(self._heap)
            act()

    # --- the network ---------------------------------------------------------------------------

    def send(self, act: Callable[[], None]) -> None:
        """Deliver a message: some time, once; or never; or twice."""
        if self.random.random() < self.loss:
            return
        self.after(self.random.expovariate(1 / 0.0005), act)
        if self.random.random() < self.doubling:  # the second one may be late by seconds
            self.after(self.random.expovariate(1 / self.random.choice([0.001, 0.1, 2.0])), act)

    # --- driving -------------------------------------------------------------------------------

    def start(
        self,
        coroutine: Coroutine[Trap, Any, Any],
        node: "Node | None",
        done: Callable[[Any, Failure | None], None],
    ) -> Task:
        """Run a coroutine; `done` gets its result or failure."""
        task = Task(coroutine, node, done)
        self.step(task, None, None)
        return task

    def step(self, task: Task, value: Any, error: Failure | None) -> None:
        """Resume until it parks or ends."""
        if task.node is not None and not task.node.alive(task):
            return
        task.turn += 1
        while True:
            try:
                trap = task.coroutine.throw(error) if error else task.coroutine.send(value)
            except StopIteration as end:
                task.done(end.value, None)
                return
            except Failure as failure:
                task.done(None, failure)
                return
            value, error = None, None
            if isinstance(trap, Now):
                value = int(self.now * 1e9) if trap.wall else self.now
            elif isinstance(trap, Spawn):
                beside = Task(trap.coroutine, task.node, lambda *_: None)
                if task.node is not None:
                    task.node.tasks.add(beside)
                self.wake(beside)
            else:
                self._park(task, trap)
                return

    def _park(self, task: Task, trap: Trap) -> None:
        turn = task.turn

        def resume(value: Any) -> None:
            if task.turn == turn:
                task.turn += 1
                self.after(0, lambda: self._resume(task, value))

        if isinstance(trap, Sleep):
            self.after(trap.seconds, lambda: resume(None))
        elif isinstance(trap, Wait):
            wake = functools.partial(resume, True)
            trap.condition.waiters.append(wake)
            if trap.seconds is not None:
                self.after(trap.seconds, lambda: self._tire(trap, wake, resume))
        else:
            assert isinstance(trap, CallAll), trap
            self._call(task, trap, resume)

    def _tire(self, trap: Wait, wake: Callable[[], None], resume: Callable[[Any], None]) -> None:
        if wake in trap.condition.waiters:
            trap.condition.waiters.remove(wake)
        resume(False)

    def wake(self, task: Task) -> None:
        """Start a task as soon as nothing else runs."""
        self.after(0, lambda: self._resume(task, None))

    def _resume(self, task: Task, value: Any) -> None:
        self.step(task, value, None)
        if task.node is not None:
            task.node.settle()

    def _call(self, task: Task, trap: CallAll, resume: Callable[[Any], None]) -> None:
        answers: list[Any] = [None] * len(trap.asks)

        def answer(place: int, reply: Any) -> None:
            if answers[place] is None:
                answers[place] = reply
                if all(one is not None for one in answers):
                    resume(answers)

        session = task.node.session if task.node else self.client_session()
        for place, ask in enumerate(trap.asks):
            self._ask(ask, session, lambda reply, place=place: answer(place, reply))
            self.after(
                ask.timeout_s,
                lambda place=place, ask=ask: answer(place, Unreachable(f"{ask.peer}: timeout")),
            )
        if not trap.asks:
            resume([])

    def client_session(self) -> Session:
        """The session of the client; worlds with more than one override it."""
        return self.driver.session

    driver: "Driver"

    def _ask(self, ask: Ask, session: Session, answer: Callable[[Any], None]) -> None:
        slot, sequence = ask.slot or (wire.NO_SLOT, next(self.numbers))
        head = wire.RequestHead(session, slot, sequence, int(ask.timeout_s * 1000), Incarnation(0))
        frames = [bytes(frame) for frame in wire.encode_request(head, ask.request)]

        def back(reply: Frames) -> None:
            _, message = wire.decode_reply(reply)
            answer(wire.judged(ask.request, message))

        def arrive() -> None:
            node = self.nodes.get(ask.peer)
            if node is not None and node.room is not None:
                node.request(frames, back)

        self.send(arrive)


class Node:
    """A server: what `broker` does, without sockets."""

    session = Session(0)

    def __init__(self, world: World, address: str, store: Any, make: Callable[[Any], Room]):
        self.world, self.address, self.store, self.make = world, address, store, make
        self.room: Room | None = None
        self.tasks: set[Task] = set()
        self.running: dict[tuple[int, int, int], list[Callable[[Frames], None]]] = {}
        self.waiting: list[tuple[int, Callable[[], None]]] = []
        world.nodes[address] = self
        self.boot()

    def alive(self, task: Task) -> bool:
        """Whether the task belongs to this life of the node."""
        return task in self.tasks

    def boot(self) -> None:
        """Start; runs the room's tasks."""
        self.room = self.make(self.store)
        for _, coroutine in self.room.tasks():
            task = Task(coroutine, self, lambda *_: None)
            self.tasks.add(task)
            self.world.wake(task)

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
        assert self.room is not None
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
            if session == self.world.driver.session:
                self.world.send(lambda push=push: self.world.driver.hear(push))  # type: ignore

    def _sync(self) -> None:
        """The disk has caught up."""
        if self.room is not None and self.store.synced < self.store.round - 1:
            self.store.sync()
            self.settle()


class Driver:
    """What `link` is to a volume."""

    def __init__(self, world: World):
        self.world = world
        self.session = Session(0)
        self.volume: Volume | None = None
        world.driver = self

    def near(self, peer: Peer) -> None:
        """Everything is as near."""

    def monotonic(self) -> float:
        """Virtual."""
        return self.world.now

    def hear(self, message: Any) -> None:
        """A push, or the answer to a heartbeat."""
        assert self.volume is not None
        for job in self.volume.heard(message):
            self.world.start(job, None, lambda *_: None)

    def beat(self) -> None:
        """Each second."""
        assert self.volume is not None
        session = self.session
        beat = self.volume.heartbeat()

        def heard(message: Any) -> None:
            if session == self.session and not isinstance(message, Unreachable):
                if not isinstance(message, Failure) or isinstance(message, NoSession):
                    self.hear(message)

        self.world._ask(Ask(Peer(META), beat), session, heard)
        self.world.after(limits.BEAT_S, self.beat)


class Cluster:
    """A metaserver, dataservers and one volume in a world."""

    def __init__(self, world: World, servers: int = 4, block_bytes: int = 64):
        self.world = world
        ring = tuple(f"data:{index}" for index in range(servers))
        uuids = itertools.count(1)

        def meta(store: Any) -> Room:
            return Meta(Ledger(store, next(uuids).to_bytes(16, "big")), block_bytes, faults=True)

        self.meta = Node(world, META, MemoryMetaStore(), meta)
        self.data = [
            Node(
                world,
                address,
                MemoryBlockStore(Slot(index), lazy_sync=True),
                lambda store, slot=index: Data(store, Slot(slot), ring, META, faults=True),
            )
            for index, address in enumerate(ring)
        ]
        self.driver = Driver(world)
        self.volume = Volume(META, "/sim", self.driver)
        self.driver.volume = self.volume

    def do(self, coroutine: Coroutine[Trap, Any, Any], deadline_s: float = 120.0) -> Any:
        """Run a call of the volume to its end: its result, or raises its failure."""
        ended: list[tuple[Any, Failure | None]] = []
        self.world.start(coroutine, None, lambda value, error: ended.append((value, error)))
        self.world.run(lambda: bool(ended), deadline_s)
        value, error = ended[0]
        if error is not None:
            raise error
        return value

    def mount(self) -> None:
        """Open the session and keep it alive."""
        self.do(self.volume.start())
        self.driver.beat()
