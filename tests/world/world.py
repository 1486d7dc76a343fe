"""A whole cluster in one process: virtual time, a network and crashes drawn from a seed.

The production rooms (`Meta`, `Data`, `Volume`) run here unchanged; only the driver and the stores
are the world's.  What it may do to them, and what they promise under it:

    a message is delayed, lost or doubled (both ways)    nothing is applied twice, nothing is lost
    two nodes don't hear one another, or one way only    the same; a session may die of it, and says
    a server is killed at any of its awaits, restarted   what was acknowledged is there
    a store loses what was not synced                    nothing that was acknowledged depends on it

    world     time, network, tasks       mounts    a mount: a session, a volume, its callers
    servers   a server, as `broker`      cluster   one metaserver, its dataservers, its mounts
                                         faults    what happens to them

Time passes only when nothing can run.  The same seed gives the same story.
"""

import contextlib
import functools
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from zdfs import wire
from zdfs.calls import Ask, CallAll, Now, Sleep, Spawn, Trap, Wait
from zdfs.errors import Failure, Unreachable
from zdfs.ids import Incarnation, Session

Frames = Sequence[Any]
Done = Callable[[Any, Failure | None], None]


class Node:
    """Where tasks run: a server or a mount."""

    def __init__(self, world: "World", address: str):
        self.world, self.address = world, address
        self.session = Session(0)
        self.tasks: set[Task] = set()

    def alive(self, task: "Task") -> bool:
        """Whether the task belongs to this life of the node."""
        return task in self.tasks

    def settle(self) -> None:
        """Something ran here."""

    def request(self, frames: Frames, back: Callable[[Frames], None]) -> None:
        """What arrives; nobody answers unless a server runs here."""

    def push(self, session: Session, message: wire.Reply) -> None:
        """What a server says unasked; only a mount listens."""

    def spawn(self, coroutine: Coroutine[Trap, Any, Any], done: Done = lambda *_: None) -> "Task":
        """Run a coroutine beside whatever runs here; `done` gets its result or failure."""
        task = Task(coroutine, self, done)
        self.tasks.add(task)
        self.world.wake(task)
        return task

    def do(self, coroutine: Coroutine[Trap, Any, Any], deadline_s: float = 300.0) -> Any:
        """Run a coroutine to its end, and the world with it: its result, or raises its failure."""
        ended: list[tuple[Any, Failure | None]] = []
        self.spawn(coroutine, lambda value, error: ended.append((value, error)))
        self.world.run(lambda: bool(ended), deadline_s)
        value, error = ended[0]
        if error is not None:
            raise error
        return value


class Task:
    """A coroutine that the world drives."""

    def __init__(self, coroutine: Coroutine[Trap, Any, Any], node: Node, done: Done):
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
        self.cuts: set[tuple[str, str]] = set()  # what the first says does not reach the second

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

    def push(self, source: str, session: Session, message: wire.Reply) -> None:
        """Send to a mount what it has not asked for."""
        for node in list(self.nodes.values()):
            if node.session == session != 0 and (source, node.address) not in self.cuts:
                self.send(functools.partial(node.push, session, message))

    def ask(self, source: str, ask: Ask, session: Session, answer: Callable[[Any], None]) -> None:
        """Send a request; `answer` gets each reply that arrives."""
        slot, sequence = ask.slot or (wire.NO_SLOT, next(self.numbers))
        head = wire.RequestHead(session, slot, sequence, int(ask.timeout_s * 1000), Incarnation(0))
        frames = [bytes(frame) for frame in wire.encode_request(head, ask.request)]

        def back(reply: Frames) -> None:
            if (ask.peer, source) not in self.cuts:
                _, message = wire.decode_reply(reply)
                answer(wire.judged(ask.request, message))

        def arrive() -> None:
            if (source, ask.peer) not in self.cuts and ask.peer in self.nodes:
                self.nodes[ask.peer].request(frames, back)

        self.send(arrive)

    # --- driving -------------------------------------------------------------------------------

    def step(self, task: Task, value: Any, error: Failure | None) -> None:
        """Resume until it parks or ends."""
        if not task.node.alive(task):
            return
        task.turn += 1
        while True:
            try:
                trap = task.coroutine.throw(error) if error else task.coroutine.send(value)
            except StopIteration as end:
                self._end(task, end.value, None)
                return
            except Failure as failure:
                self._end(task, None, failure)
                return
            value, error = None, None
            if isinstance(trap, Now):
                value = int(self.now * 1e9) if trap.wall else self.now
            elif isinstance(trap, Spawn):
                task.node.spawn(trap.coroutine)
            else:
                self._park(task, trap)
                return

    def _end(self, task: Task, value: Any, error: Failure | None) -> None:
        task.done(value, error)
        task.node.tasks.discard(task)

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
        task.node.settle()

    def _call(self, task: Task, trap: CallAll, resume: Callable[[Any], None]) -> None:
        answers: list[Any] = [None] * len(trap.asks)

        def answer(place: int, reply: Any) -> None:
            if answers[place] is None:
                answers[place] = reply
                if all(one is not None for one in answers):
                    resume(answers)

        node = task.node
        for place, ask in enumerate(trap.asks):
            got = functools.partial(answer, place)
            self.ask(node.address, ask, node.session, got)
            late = functools.partial(got, Unreachable(f"{ask.peer}: timeout"))
            self.after(ask.timeout_s, late)
        if not trap.asks:
            resume([])


@contextlib.contextmanager
def told(world: World, test: str, seed: int) -> Iterator[None]:
    """What fails inside prints the end of its story and the command that repeats it."""
    try:
        yield
    except BaseException:
        print(*world.story[-80:], sep="\n")
        print(f"again: .venv/bin/python -m pytest '{test}' --seed {seed}")
        raise
