"""A whole cluster in one process: virtual time, a network and crashes drawn from a seed.

The production rooms (`Meta`, `Data`, `Volume`) run here unchanged; only the driver and the stores
are the world's.  What may happen to them, how often, and what they promise under it is a table:
`faults.MODEL`.

    world     time, tasks                faults    the fault model, and which faults a life has
    network   when a message arrives     nemesis   strikes, as drawn from the seed
    clocks    a node's own time          stores    both stores in memory
    servers   a server, as `broker`      platter   a directory whose power can be cut: real stores
    mounts    a mount, its callers       linear    can a history have happened one by one?
    cluster   one metaserver, its dataservers, its mounts

Time passes only when nothing can run.  The same seed gives the same story.
"""

import contextlib
import functools
import heapq
import inspect
import itertools
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from tests.world.clocks import Clock
from tests.world.network import Link, Network
from zdfs import wire
from zdfs.calls import Ask, CallAll, Now, Sleep, Spawn, Trap, Wait
from zdfs.errors import Failure, Outdated, StoreError, Unreachable
from zdfs.ids import Incarnation, Round, Session
from zdfs.ports import Push

SYNCS_S = (0.004, 0.004, 0.05, 0.3)  # means of a disk's sync, one a life: rounds wait for it
TICK_S = 1e-9  # the shortest time: below a float's grain, `now` would never move on
WORDS = 300  # characters of a message in a story
Frames = Sequence[Any]
Done = Callable[[Any, Failure | None], None]


class Node:
    """Where tasks run: a server or a mount."""

    def __init__(self, world: "World", address: str):
        self.world, self.address = world, address
        self.session = Session(0)
        self.speaks = wire.PROTOCOL  # the newest version of the protocol that it knows
        self.incarnation = Incarnation(0)  # of the metaserver, as far as it knows
        self.tasks: set[Task] = set()
        self.clock = Clock()
        self.doom: int | None = None  # so many steps from now it dies

    def alive(self, task: "Task") -> bool:
        """Whether the task belongs to this life of the node."""
        return task in self.tasks

    def settle(self) -> None:
        """Something ran here."""

    def die(self) -> None:
        """The doom has come."""

    def failed(self, error: StoreError) -> None:
        """The store under this node has failed."""
        raise error

    def stepping(self) -> None:
        """A task is about to be resumed: perhaps the last thing that happens here."""
        if self.doom is not None:
            self.doom -= 1
            if self.doom <= 0:
                self.doom = None
                self.die()

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
        self.number = next(node.world.births)
        _unbegun.add(self)

    def begin(self) -> None:
        """It is resumed, for the first time or again."""
        self.turn += 1
        _unbegun.discard(self)

    def end(self) -> None:
        """Its node is gone: it is never resumed, nor begun."""
        self.begin()
        if inspect.getcoroutinestate(self.coroutine) == inspect.CORO_CREATED:
            self.coroutine.close()


_unbegun: set[Task] = set()


def leave() -> None:
    """Worlds that were left, as at the end of a test: what had yet to begin there never does."""
    for task in list(_unbegun):
        task.end()


class World:
    """Time, network, everything that runs."""

    def __init__(self, seed: int, loss: float = 0.0, doubling: float = 0.0):
        self.random = random.Random(seed)
        self.network = Network(self.random, loss, doubling)
        self.sync_s = self.random.choice(SYNCS_S)
        self.now = self.began = 1000.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.nodes: dict[str, Node] = {}
        self.story: list[str] = []
        self.numbers = itertools.count(1)
        self.births = itertools.count()  # of tasks
        self.wordy = False  # each message is a line of the story, too

    @property
    def cuts(self) -> set[Link]:
        """What the first says does not reach the second."""
        return self.network.cuts

    def say(self, text: str) -> None:
        """A line of the story."""
        self.story.append(f"{self.now - self.began:10.4f}  {text}")

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do it later."""
        moment = self.now + (max(seconds, TICK_S) if seconds > 0 else 0)
        heapq.heappush(self._heap, (moment, next(self._order), act))

    def run(self, done: Callable[[], bool], deadline_s: float) -> None:
        """Let time pass until `done`; fails when virtual `deadline_s` have gone by."""
        end = self.now + deadline_s
        while not done():
            assert self._heap and self.now <= end, "\n".join(["not in time:", *self.story[-60:]])
            self.now, _, act = heapq.heappop(self._heap)
            act()

    # --- the network ---------------------------------------------------------------------------

    def send(self, link: Link, act: Callable[[], None], what: object = None) -> None:
        """Deliver a message: some time, once; or never; or twice."""
        arrivals = self.network.arrivals(self.now, link)
        if self.wordy and what is not None:
            how = "".join(f" +{seconds:.4f}" for seconds in arrivals) or " lost"
            self.say(f"  {link[0]} -> {link[1]}  {str(what)[:WORDS]}{how}")

        def arrive() -> None:
            if self.network.passes(link):
                act()

        for seconds in arrivals:
            self.after(seconds, arrive)

    def push(self, source: str, push: Push) -> None:
        """Send to a mount what it has not asked for, in the version of its heartbeats."""
        _, session, message, version = push
        if message.since > version:
            return
        numbers = wire.NO_SLOT, 0, 0, Incarnation(0), Round(0), version
        frames = wire.encode_reply(wire.ReplyHead(session, *numbers), message)
        _, message = wire.decode_reply([bytes(frame) for frame in frames])
        for node in list(self.nodes.values()):
            if node.session == session != 0:
                act = functools.partial(node.push, session, message)
                self.send((source, node.address), act, message)

    def _speaks(self, address: str) -> int:
        node = self.nodes.get(address)
        return wire.PROTOCOL if node is None else node.speaks

    def ask(self, source: str, ask: Ask, session: Session, answer: Callable[[Any], None]) -> None:
        """Send a request; `answer` gets each reply that arrives."""
        slot, sequence = ask.slot or (wire.NO_SLOT, next(self.numbers))
        asking = self.nodes.get(source)
        knows = asking.incarnation if asking else Incarnation(0)
        version = min(self._speaks(source), self._speaks(ask.peer))
        head = wire.RequestHead(session, slot, sequence, int(ask.timeout_s * 1000), knows, version)
        try:
            frames = [bytes(frame) for frame in wire.encode_request(head, ask.request)]
        except Outdated as error:
            self.after(0, functools.partial(answer, error))
            return

        def back(reply: Frames) -> None:
            said, message = wire.decode_reply(reply)

            def arrive() -> None:
                if asking:
                    asking.incarnation = max(asking.incarnation, said.incarnation)
                answer(wire.judged(ask.request, message))

            self.send((ask.peer, source), arrive, message)

        def arrive() -> None:
            if ask.peer in self.nodes:
                self.nodes[ask.peer].request(frames, back)

        self.send((source, ask.peer), arrive, ask.request)

    # --- driving -------------------------------------------------------------------------------

    def step(self, task: Task, value: Any, error: Failure | None) -> None:
        """Resume until it parks or ends."""
        if task.node.alive(task):
            task.node.stepping()
        if not task.node.alive(task):
            task.end()
            return
        task.begin()
        while True:
            try:
                trap = task.coroutine.throw(error) if error else task.coroutine.send(value)
            except StopIteration as end:
                self._end(task, end.value, None)
                return
            except Failure as failure:
                self._end(task, None, failure)
                return
            except StoreError as failure:
                task.node.failed(failure)
                return
            value, error = None, None
            if isinstance(trap, Now):
                clock = task.node.clock
                value = clock.wall_ns(self.now) if trap.wall else clock.read(self.now)
            elif isinstance(trap, Spawn):
                task.node.spawn(trap.coroutine)
            else:
                self._park(task, trap)
                return

    def _end(self, task: Task, value: Any, error: Failure | None) -> None:
        task.done(value, error)
        task.node.tasks.discard(task)

    def _park(self, task: Task, trap: Trap) -> None:
        turn, clock = task.turn, task.node.clock

        def resume(value: Any) -> None:
            if task.turn == turn:
                task.turn += 1
                self.after(0, lambda: self._resume(task, value))

        if isinstance(trap, Sleep):
            self.after(clock.lasts(trap.seconds), lambda: resume(None))
        elif isinstance(trap, Wait):
            wake = functools.partial(resume, True)
            trap.condition.waiters.append(wake)
            if trap.seconds is not None:
                patience_s = clock.lasts(trap.seconds)
                self.after(patience_s, lambda: self._tire(trap, wake, resume))
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
            self.after(node.clock.lasts(ask.timeout_s), late)
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
