"""A mount of the simulated world: a production volume, and what `link` does for it."""

from collections.abc import Coroutine
from typing import Any

from tests.world.world import Node, Task, World
from zdfs import limits, wire
from zdfs.calls import Ask, Condition, Peer, Trap, notify, wait
from zdfs.errors import Failure, NoSession, Unreachable
from zdfs.ids import Session
from zdfs.volume import Volume


class Mount(Node):
    """A session of its own, and a volume."""

    def __init__(self, world: World, name: str, meta: str):
        super().__init__(world, name)
        self.meta = Peer(meta)
        self.volume = Volume(meta, f"/{name}", self)
        world.nodes[name] = self

    def alive(self, task: Task) -> bool:
        """It is never killed."""
        return True

    def near(self, peer: Peer) -> None:
        """Everything is as near."""

    def monotonic(self) -> float:
        """Virtual."""
        return self.world.now

    def mount(self) -> None:
        """Open the session and keep it alive."""
        self.do(self.volume.start())
        self.beat()

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
        session = self.session
        beat = self.volume.heartbeat()

        def heard(message: Any) -> None:
            if session == self.session and not isinstance(message, Unreachable):
                if not isinstance(message, Failure) or isinstance(message, NoSession):
                    self.hear(message)

        self.world.ask(self.address, Ask(self.meta, beat), session, heard)
        self.world.after(limits.BEAT_S, self.beat)

    async def call(self, coroutine: Coroutine[Trap, Any, Any]) -> Any:
        """A call of this volume for a process that runs wherever: as through the kernel."""
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
