"""A mount of the simulated world: a production volume, and what `link` does for it."""

import os
from collections.abc import Callable, Coroutine
from typing import Any

from tests.world.world import Node, Task, World
from zdfs import limits, wire
from zdfs.calls import Ask, Condition, Peer, Trap, notify, wait
from zdfs.errors import Failure, NoSession, Unreachable
from zdfs.ids import Session
from zdfs.paths import PathVolume


class Died(Failure):
    """The mount was killed: nobody knows what became of a call."""

    definite = False


class Mount(Node):
    """A session of its own, and a volume.  One that died is never used again: another one, a new
    process, stands at its address."""

    def __init__(
        self, world: World, name: str, meta: str, cache_s: float = limits.CACHE_S,
        writeback: bool = False,
    ):  # fmt: skip
        super().__init__(world, name)
        self.meta, self.cache_s, self.writeback = Peer(meta), cache_s, writeback
        self.volume = PathVolume(meta, f"/{name}", self, cache_s, cache_s, writeback)
        self.dead = self.ready = False
        self.beaten = 0.0
        self.die: Callable[[], None] = self.kill
        world.nodes[name] = self

    def alive(self, task: Task) -> bool:
        """Until it is killed."""
        return not self.dead

    def near(self, peer: Peer) -> None:
        """Everything is as near."""

    def monotonic(self) -> float:
        """By its own clock."""
        return self.clock.read(self.world.now)

    def mount(self) -> None:
        """Open the session and keep it alive."""
        self.do(self.start())

    def put(self, path: bytes, data: bytes) -> None:
        """Write a new file, or the start of one that is there, and close it."""
        handle = self.do(self.volume.create(path, 0o644, 0, 0, os.O_RDWR))
        self.do(self.volume.write(handle, memoryview(data), 0))
        self.do(self.volume.flush(handle))
        self.do(self.volume.release(handle))

    def get(self, path: bytes) -> bytes:
        """All of a file, as a program that opens it now reads it."""
        handle, _ = self.do(self.volume.open(path, os.O_RDONLY))
        data = bytes(self.do(self.volume.read(handle, 1 << 20, 0)))
        self.do(self.volume.release(handle))
        return data

    async def start(self) -> None:
        """The same as `mount`, for who is inside the world."""
        await self.volume.start()
        self.ready = True
        self.beat()

    def kill(self) -> None:
        """kill -9: without a word to anybody; its callers hear of it."""
        self.world.say(f"{self.address} is killed")
        self.dead, self.ready, self.session = True, False, Session(0)
        tasks, self.tasks = self.tasks, set()
        for task in sorted(tasks, key=lambda task: task.number):
            task.end()
            task.done(None, Died(f"the mount {self.address} was killed"))

    def push(self, session: Session, message: wire.Reply) -> None:
        """For a session that may have ended meanwhile."""
        if session == self.session:
            self.hear(message)

    def hear(self, message: Any) -> None:
        """A push, or the answer to a heartbeat."""
        for job in self.volume.heard(message):
            self.spawn(job)

    def beat(self) -> None:
        """Each second."""
        if self.dead:
            return
        session = self.session
        beat = self.volume.heartbeat()

        def heard(message: Any) -> None:
            if session == self.session and not isinstance(message, Unreachable):
                if not isinstance(message, Failure) or isinstance(message, NoSession):
                    self.hear(message)

        self.world.ask(self.address, Ask(self.meta, beat), session, heard)
        self.beaten = self.world.now
        self.world.after(self.clock.lasts(limits.BEAT_S / 4), self.next_beat)

    def next_beat(self) -> None:
        """As soon as the volume wants it."""
        if self.world.now >= self.beaten + self.clock.lasts(self.volume.beat_s) - 1e-6:
            self.beat()
        elif not self.dead:
            self.world.after(self.clock.lasts(limits.BEAT_S / 4), self.next_beat)

    async def call(self, coroutine: Coroutine[Trap, Any, Any]) -> Any:
        """A call of this volume for a process that runs wherever: as through the kernel."""
        if self.dead:
            coroutine.close()
            raise Died(f"the mount {self.address} was killed")
        ended: list[tuple[Any, Failure | None]] = []
        returned = Condition()

        def done(value: Any, error: Failure | None) -> None:
            ended.append((value, error))
            notify(returned)

        self.spawn(coroutine, done)
        while not ended:
            await wait(returned)
        value, error = ended[0]
        if error is not None:
            raise error
        return value
