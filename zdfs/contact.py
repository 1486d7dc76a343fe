"""A mount's contact with its servers: the session, changes applied exactly once, the cluster map.

Every failure that means "later" (no answer, not granted yet) is retried here, once a second, under
the same request id; every other failure is an answer.  Silence of a dataserver makes it a suspect
for a while, so that an outage costs one timeout in all and not one per block.
"""

import logging
import os
import socket
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from zdfs import addresses, limits, wire
from zdfs.calls import Ask, Condition, Peer, call, call_all, notify, now, sleep, wait
from zdfs.errors import Failure, NoSession, Unavailable, Unreachable
from zdfs.ids import Epoch, Session, Slot
from zdfs.wire import State

log = logging.getLogger("zdfs.mount")
R = TypeVar("R", bound=wire.Reply)


class Driver(Protocol):
    """What contact tells its driver (`link`)."""

    session: Session

    def near(self, peer: Peer) -> None:
        """This peer shares our machine and network namespace."""
        ...

    def monotonic(self) -> float:
        """The time, for code that can't wait for it."""
        ...


class Contact:
    """The servers, as this mount sees them."""

    def __init__(self, meta: str, mount: str, driver: Driver):
        self.meta, self.mount, self.driver = Peer(meta), mount, driver
        self.cluster = b""
        self.block_bytes = 0
        self.map = wire.ClusterMap(0, Epoch(0), ())
        self.map_changed = Condition()
        self.suspects: dict[Slot, float] = {}  # until when
        self.blocked: dict[Slot, float] = {}  # writes wait for these, since when
        self.waiting_writers = 0
        self.meta_silent_since: float | None = None
        self.born = Condition()
        self.lost_session = False  # being reopened
        self._sequences = [0] * limits.SLOTS
        self._free = list(range(limits.SLOTS))
        self._freed = Condition()

    # --- the session ---------------------------------------------------------------------------

    async def open(self) -> None:
        """Open a session; waits until the metaserver serves."""
        identity: wire.Identity = await self._until_answered(wire.Identify())
        if identity.role is not wire.Role.META:
            raise Failure(f"{addresses.short(self.meta)} is a dataserver, not a metaserver")
        if identity.host == addresses.host_id():
            self.driver.near(self.meta)
        request = wire.OpenSession(os.urandom(16), socket.gethostname(), self.mount)
        opened: wire.SessionOpened = await self._until_answered(request)
        if self.cluster and opened.cluster != self.cluster:
            raise Failure("the metaserver now serves another cluster: mount again")
        self.driver.session = opened.session
        self.cluster, self.block_bytes = opened.cluster, opened.block_bytes
        self._sequences = [0] * limits.SLOTS
        self.take_map(opened.map)

    async def _until_answered(self, request: wire.Request[R]) -> R:
        while True:
            try:
                answer = await call(self.meta, request)
            except (Unreachable, Unavailable) as error:
                await self._meta_waits(error)
                continue
            self._meta_answers()
            assert isinstance(answer, wire.Reply)
            return answer  # type: ignore[return-value]

    async def _meta_waits(self, error: Failure) -> None:
        if self.meta_silent_since is None:
            self.meta_silent_since = await now()
            log.warning(
                "waiting for the metaserver at %s: %s", addresses.short(self.meta), error.text
            )
        unreachable = isinstance(error, Unreachable)
        await sleep(0.05 if unreachable else limits.RETRY_S / 4)

    def _meta_answers(self) -> None:
        if self.meta_silent_since is not None:
            self.meta_silent_since = None
            log.warning("the metaserver at %s answers again", addresses.short(self.meta))

    async def ask(self, request: wire.Request[R]) -> R:
        """A question to the metaserver, until it is answered."""
        return await self._until_answered(request)

    async def change(self, request: wire.Request[R]) -> R:
        """A change on the metaserver, applied exactly once, until it is answered.

        Raises NoSession when the session died: the caller's state is void.
        """
        while not self._free:
            await wait(self._freed)
        slot = self._free.pop()
        session = self.driver.session
        try:
            self._sequences[slot] += 1
            sequence = self._sequences[slot]
            while True:
                if self.driver.session != session:
                    raise NoSession("this mount's session has ended")
                try:
                    answer = await call(self.meta, request, limits.TIMEOUT_S, (slot, sequence))
                except (Unreachable, Unavailable) as error:
                    await self._meta_waits(error)
                    continue
                self._meta_answers()
                assert isinstance(answer, wire.Reply)
                return answer  # type: ignore[return-value]
        finally:
            self._free.append(slot)
            notify(self._freed)

    # --- the map -------------------------------------------------------------------------------

    def take_map(self, news: wire.ClusterMap) -> None:
        """A newer cluster map."""
        if news.version <= self.map.version:
            return
        for old, new in zip(self.map.members, news.members):
            if new.state is State.DOWN and old.state is not State.DOWN:
                log.warning("dataserver %s is down", addresses.short(new.address))
            elif old.state is State.DOWN and new.state is not State.DOWN:
                log.warning("dataserver %s is back", addresses.short(new.address))
        for member in news.members:
            if member.host == addresses.host_id():
                self.driver.near(Peer(member.address))
        self.map = news
        notify(self.map_changed)

    def peer(self, slot: Slot) -> Peer:
        """A slot's address."""
        return Peer(self.map.members[slot].address)

    @property
    def servers(self) -> int:
        """Slots on the ring."""
        return len(self.map.members)

    def alive(self, slot: Slot, at: float) -> bool:
        """Whether a server is worth asking first."""
        if self.map.members[slot].state is State.DOWN:
            return False
        return self.suspects.get(slot, 0.0) <= at

    def skipped(self, slot: Slot) -> bool:
        """Whether commits go ahead without it."""
        return self.map.members[slot].skipped

    def suspect(self, slot: Slot, at: float) -> None:
        """It did not answer in time."""
        if self.suspects.get(slot, 0.0) <= at:
            name = addresses.short(self.peer(slot))
            log.warning("dataserver %s does not answer; asking the others first", name)
        self.suspects[slot] = at + limits.SUSPECT_S

    def trust(self, slot: Slot) -> None:
        """It answered."""
        self.suspects.pop(slot, None)

    # --- waiting for a server ------------------------------------------------------------------

    def down(self) -> list[Slot]:
        """Servers that writes must wait for (policy `all`)."""
        return [
            member.slot
            for member in self.map.members
            if not member.skipped and (member.state is State.DOWN or member.slot in self.blocked)
        ]

    async def wait_for_ring(self) -> None:
        """Until no server of the ring is down; at once when none is.  May raise Interrupted."""
        while down := self.down():
            at = await now()
            for slot in down:
                self.block(slot, at)
            self.waiting_writers += 1
            try:
                await wait(self.map_changed, limits.RETRY_S)
            finally:
                self.waiting_writers -= 1
            for slot in [s for s in self.blocked if not self._still_down(s)]:
                self.unblock(slot)

    def _still_down(self, slot: Slot) -> bool:
        return self.map.members[slot].state is State.DOWN or slot in self.suspects

    def block(self, slot: Slot, at: float) -> None:
        """Writes wait for this server from now on; the log says so once."""
        if slot not in self.blocked:
            self.blocked[slot] = at
            log.warning(
                "writes wait for dataserver %s (slot %d): no answer; retrying every second",
                addresses.short(self.peer(slot)), slot,
            )  # fmt: skip

    def unblock(self, slot: Slot) -> None:
        """They need not wait for it any more."""
        if self.blocked.pop(slot, None) is not None:
            log.warning("dataserver %s answers: writes go on", addresses.short(self.peer(slot)))
            notify(self.map_changed)

    def shown_blocked(self, at: float) -> tuple[wire.Blocked, ...]:
        """For the heartbeat."""
        return tuple(
            wire.Blocked(slot, int((at - since) * 1000), self.waiting_writers)
            for slot, since in self.blocked.items()
        )

    async def ask_servers(
        self,
        asks: Sequence[tuple[Slot, wire.Request[Any]]],
        timeout_s: float = limits.BULK_TIMEOUT_S,
    ) -> list[wire.Message | Failure]:
        """Ask several dataservers at once; silence makes suspects, an answer clears them."""
        answers = await call_all([Ask(self.peer(s), request, timeout_s) for s, request in asks])
        at = await now()
        for (slot, _), answer in zip(asks, answers):
            if isinstance(answer, Unreachable):
                self.suspect(slot, at)
            else:
                self.trust(slot)
        return answers
