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
from zdfs.checksum import Seal
from zdfs.errors import Failure, Interrupted, NoSession, Unavailable, Unreachable
from zdfs.ids import ROOT, BlockNo, Epoch, Ino, Name, Session, Slot, Token, Version
from zdfs.wire import State

log = logging.getLogger("zdfs.mount")
R = TypeVar("R", bound=wire.Reply)

# A version that nobody has: to ask for it is to ask whether a server serves.
NOTHING = wire.Wanted(
    Name(Ino(0), BlockNo(0), Version(Token(0), 0)), Seal(0, 0), Epoch(0), Slot(0), 0
)


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
        self.silent: set[Slot] = set()  # the log has said so
        self.answered: dict[Slot, float] = {}  # when it did last
        self.blocked: dict[Slot, float] = {}  # writes wait for these, since when
        self.waiting_writers = 0
        self.meta_silent = False  # it did not answer the last time
        self.born = Condition()
        self.lost_session = False  # being reopened
        self.closed = False  # for good
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
        notify(self.born)

    async def _until_answered(self, request: wire.Request[R]) -> R:
        while True:
            try:
                answer = await call(self.meta, request)
            except (Unreachable, Unavailable) as error:
                self._meta_is_silent(error)
                await self._meta_pause(error)
                continue
            self.meta_answers()
            assert isinstance(answer, wire.Reply)
            return answer  # type: ignore[return-value]

    async def ask_briefly(self, request: wire.Request[R]) -> R | None:
        """A question for somebody who can go on without the answer; None: not now."""
        if self.meta_silent:
            return None
        try:
            answer = await call(self.meta, request)
        except (Unreachable, Unavailable) as error:
            self._meta_is_silent(error)
            return None
        assert isinstance(answer, wire.Reply)
        return answer  # type: ignore[return-value]

    async def watch_meta(self) -> None:
        """The task that sees a silent metaserver come back when nobody waits for it."""
        while True:
            await sleep(limits.RETRY_S)
            if self.meta_silent:
                try:
                    await call(self.meta, wire.GetAttributes(ROOT))
                except (Unreachable, Unavailable):
                    continue
                self.meta_answers()

    def _meta_is_silent(self, error: Failure) -> None:
        if not self.meta_silent:
            self.meta_silent = True
            log.warning(
                "waiting for the metaserver at %s: %s", addresses.short(self.meta), error.text
            )

    async def _meta_pause(self, error: Failure) -> None:
        await sleep(0.05 if isinstance(error, Unreachable) else limits.RETRY_S / 4)

    def meta_answers(self) -> None:
        """The metaserver has answered something."""
        if self.meta_silent:
            self.meta_silent = False
            log.warning("the metaserver at %s answers again", addresses.short(self.meta))

    async def ask(self, request: wire.Request[R]) -> R:
        """A question to the metaserver, until it is answered."""
        while True:
            session = self.driver.session
            try:
                return await self._until_answered(request)
            except NoSession:
                await self._reborn(session)

    async def _reborn(self, session: Session) -> None:
        """Until this mount, whose session died, has a new one."""
        while self.driver.session == session:
            await wait(self.born, limits.RETRY_S)

    async def change(self, request: wire.Request[R]) -> R:
        """A change on the metaserver, applied exactly once, until it is answered.

        NoSession: the session died meanwhile, and nobody knows whether it was applied.
        """
        while not self._free:
            await wait(self._freed)
        slot = self._free.pop()
        try:
            while True:
                session = self.driver.session
                answer = await self._change(request, slot, session)
                if answer is not None:
                    return answer
                await self._reborn(session)
        finally:
            self._free.append(slot)
            notify(self._freed)

    async def close(self) -> None:
        """End the session."""
        self.closed = True  # the heartbeat may still be told that it ended
        while not self._free:
            await wait(self._freed)
        await self._change(wire.CloseSession(), self._free.pop(), self.driver.session)

    async def _change(self, request: wire.Request[R], slot: int, session: Session) -> R | None:
        """In one session; None: it had ended before, nothing happened."""
        self._sequences[slot] += 1
        sequence = self._sequences[slot]
        unsure = False  # whether it happened
        while True:
            if self.driver.session != session:
                raise NoSession("this mount's session has ended")
            try:
                answer = await call(self.meta, request, limits.TIMEOUT_S, (slot, sequence))
            except NoSession:
                if unsure:
                    raise
                return None
            except (Unreachable, Unavailable) as error:
                unsure = unsure or isinstance(error, Unreachable)
                self._meta_is_silent(error)
                try:
                    await self._meta_pause(error)
                except Interrupted:
                    if not unsure:
                        raise
                # What may have happened is asked for until we know: a caller that lives on would
                # do it twice.  For one that is about to die the next call gives up.
                continue
            self.meta_answers()
            assert isinstance(answer, wire.Reply)
            return answer  # type: ignore[return-value]

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

    def suspect(self, slot: Slot, asked: float, at: float) -> None:
        """It did not answer in time; it is no news when it has answered somebody since."""
        if self.answered.get(slot, 0.0) > asked:
            return
        if slot not in self.silent:  # said once, however long it lasts
            self.silent.add(slot)
            name = addresses.short(self.peer(slot))
            log.warning("dataserver %s does not answer; asking the others first", name)
        self.suspects[slot] = at + limits.SUSPECT_S

    def trust(self, slot: Slot, at: float) -> None:
        """It answered."""
        self.answered[slot] = at
        self.suspects.pop(slot, None)
        if slot in self.silent:
            self.silent.discard(slot)
            log.info("dataserver %s answers again", addresses.short(self.peer(slot)))

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

    async def watch_blocked(self) -> None:
        """The task that asks the servers for which writes wait, each second: only an answer ends
        the wait, also when nobody has anything to put."""
        while True:
            await wait(self.map_changed, limits.RETRY_S)
            slots = [s for s in self.blocked if self.map.members[s].state is not State.DOWN]
            if not slots:
                continue
            check = wire.Check(self.cluster, (NOTHING,))
            asks: list[tuple[Slot, wire.Request[Any]]] = [(slot, check) for slot in slots]
            for (slot, _), answer in zip(asks, await self.ask_servers(asks, limits.TIMEOUT_S)):
                if isinstance(answer, wire.Checked):
                    self.unblock(slot)

    def block(self, slot: Slot, at: float) -> None:
        """Writes wait for this server, which was asked at that time; the log says so once."""
        if slot not in self.blocked and self.answered.get(slot, 0.0) <= at:
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
        asked = await now()
        answers = await call_all([Ask(self.peer(s), request, timeout_s) for s, request in asks])
        at = await now()
        for (slot, _), answer in zip(asks, answers):
            if isinstance(answer, Unreachable):
                self.suspect(slot, asked, at)
            else:
                self.trust(slot, at)
        return answers
