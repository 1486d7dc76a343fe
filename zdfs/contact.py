"""A mount's contact with its servers: the session, changes applied exactly once, the cluster map.

Every failure that means "later" (no answer, not granted yet) is retried here, once a second, under
the same request id; every other failure is an answer.  Silence of a dataserver makes it a suspect
for a while, so that an outage costs one timeout in all and not one per block.
"""

import contextlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from zdfs import addresses, limits, placement, wire
from zdfs.calls import Ask, Condition, Peer, call, call_all, notify, now, sleep, wait
from zdfs.checksum import Seal
from zdfs.errors import Damaged, Failure, Interrupted, NoPass, NoSession, Posix
from zdfs.errors import Refused, Unavailable, Unreachable
from zdfs.ids import NOTHING, ROOT, BlockNo, Epoch, Incarnation, Ino, PageNo, Policy, Session, Slot

from zdfs.permits import Permits
from zdfs.wire import State

log = logging.getLogger("zdfs.mount")
R = TypeVar("R", bound=wire.Reply)

# Answered only once another mount has given something back, which takes a commit of that mount:
# were all slots held by these, two mounts could wait for one another for ever.
WAITING = (wire.Grant, wire.Open, wire.Create, wire.Lock)

PASSES = 3  # so often a server is shown a new pass, before its refusal counts
WHETHER = wire.Wanted(NOTHING, Seal(0, 0), Epoch(0), Slot(0), 0)  # ... a server serves


class Driver(Protocol):
    """What contact tells its driver (`link`)."""

    session: Session
    incarnation: Incarnation  # of the metaserver, as far as we know

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
        self.life_s = 0.0  # of a session that is not heard of
        self.map = wire.ClusterMap(0, Epoch(0), ())
        self.map_changed = Condition()
        self.suspects: dict[Slot, float] = {}  # until when
        self.silent: set[Slot] = set()  # the log has said so
        self.answered: dict[Slot, float] = {}  # when it did last
        self.blocked: dict[Slot, float] = {}  # writes wait for these, since when
        self.wanted: dict[Slot, float] = {}  # ... and when one last did
        self.scarce: set[Slot] = set()  # ... also by policy quorum
        self.missed: dict[Slot, float] = {}  # had no answer to a Put, and gave none since; when
        self.without: set[Slot] = set()  # the log has said that writes go on without them
        self.permits = Permits()
        self.policies: dict[Ino, tuple[Policy, float]] = {}  # when it was heard
        self.waiting_writers = 0
        self.retried: Counter[str] = Counter()  # requests that were sent again, by kind
        self.meta_silent = False  # it did not answer the last time
        self.meta_silent_since = 0.0  # when that began; 0.0: it answers
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
        request = wire.OpenSession(os.urandom(16), socket.gethostname(), self.mount, wire.spoken())
        opened: wire.SessionOpened = await self._until_answered(request)
        if self.cluster and opened.cluster != self.cluster:
            raise Failure("the metaserver now serves another cluster: mount again")
        self.driver.session = opened.session
        self.cluster, self.block_bytes = opened.cluster, opened.block_bytes
        self.life_s = opened.life_ms / 1000
        self._sequences = [0] * limits.SLOTS
        self.take_map(opened.map)
        notify(self.born)

    async def _until_answered(self, request: wire.Request[R]) -> R:
        while True:
            try:
                answer = await call(self.meta, request)
            except (Unreachable, Unavailable) as error:
                self.retried[type(request).__name__] += 1
                self._meta_is_silent(error)
                await self._meta_pause(error)
                continue
            self.meta_answers()
            assert isinstance(answer, wire.Reply)
            self.permits.take(answer)
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
        self.permits.take(answer)
        return answer  # type: ignore[return-value]

    async def watch_meta(self) -> None:
        """The task that sees a silent metaserver come back when nobody waits for it."""
        while True:
            await sleep(limits.RETRY_S)
            if self.meta_silent:
                try:
                    await call(self.meta, wire.GetAttributes(ROOT))
                except (Unreachable, Unavailable, Refused):
                    continue
                self.meta_answers()

    async def _before_the_next(self, request: wire.Message, error: Failure) -> None:
        """A pause, unless the metaserver is not silent at all but waits for another mount."""
        if isinstance(error, Unreachable) and isinstance(request, WAITING):
            with contextlib.suppress(Unreachable, Unavailable):
                await call(self.meta, wire.Identify())
                return
        self._meta_is_silent(error)
        await self._meta_pause(error)

    def _meta_is_silent(self, error: Failure) -> None:
        if not self.meta_silent:
            self.meta_silent = True
            self.meta_silent_since = self.driver.monotonic()
            log.warning(
                "waiting for the metaserver at %s: %s", addresses.short(self.meta), error.text
            )

    async def _meta_pause(self, error: Failure) -> None:
        await sleep(0.05 if isinstance(error, Unreachable) else limits.RETRY_S / 4)

    def meta_answers(self) -> None:
        """The metaserver has answered something."""
        if self.meta_silent:
            self.meta_silent, self.meta_silent_since = False, 0.0
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

    async def change(self, request: wire.Request[R], only: Session | None = None) -> R:
        """A change on the metaserver, applied exactly once, until it is answered.  `only`: in this
        session, or not at all.

        NoSession: the session died meanwhile, and nobody knows whether it was applied.
        """
        kept = limits.SLOTS_KEPT if isinstance(request, WAITING) else 0
        while len(self._free) <= kept:
            await wait(self._freed)
        slot = self._free.pop()
        try:
            while True:
                session = self.driver.session
                answer = await self._change(request, slot, only or session)
                if answer is not None:
                    return answer
                await self._reborn(session)
        finally:
            self._free.append(slot)
            notify(self._freed)

    async def close(self) -> None:
        """End the session.  Nothing of ours depends on it: a metaserver that is silent will end it
        by itself, so nobody waits for one for long."""
        self.closed = True  # the heartbeat may still be told that it ended
        end = await now() + limits.GOODBYE_S
        while not self._free and await now() < end:
            await wait(self._freed, limits.RETRY_S)
        slot = self._free.pop() if self._free else 0
        place = slot, self._sequences[slot] + 1
        while await now() < end:
            try:
                with contextlib.suppress(NoSession):  # the answer that said so was lost
                    await call(self.meta, wire.CloseSession(), limits.TIMEOUT_S, place)
                return
            except (Unreachable, Unavailable):
                await sleep(limits.RETRY_S)
        log.warning(
            "the metaserver does not hear that this mount ends; it will miss it, and end it"
        )

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
                self.retried[type(request).__name__] += 1
                try:
                    await self._before_the_next(request, error)
                except Interrupted:
                    if not unsure:
                        raise
                # What may have happened is asked for until we know: a caller that lives on would
                # do it twice.  For one that is about to die the next call gives up.
                continue
            self.meta_answers()
            assert isinstance(answer, wire.Reply)
            self.permits.take(answer)
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
        slots = [member.slot for member in self.map.members if not member.skipped]
        return [slot for slot in slots if self.away(slot)]

    def away(self, slot: Slot) -> bool:
        """Whether a server is down: by the cluster map, or a write had no answer, and nobody since.
        So an outage costs one timeout in all, whatever is written until it ends."""
        down = self.map.members[slot].state is State.DOWN
        return down or slot in self.blocked or slot in self.missed

    async def policy(self, ino: Ino) -> Policy:
        """What a write to a file does while a server is down; ALL as long as nobody can say."""
        known, heard = self.policies.get(ino, (Policy.ALL, float("-inf")))
        if await now() - heard <= limits.CACHE_S:
            return known
        try:
            found = await self.ask_briefly(wire.GetPolicy(ino))
        except (Damaged, Posix) as error:
            log.warning("inode %d: its policy can't be told: %s", ino, error)
            found = None
        if found is None:
            return known
        if len(self.policies) >= limits.NAMES_CACHED:
            self.policies.clear()
        self.policies[ino] = (found.policy, await now())
        return found.policy

    async def spared(
        self, ino: Ino, start: Slot, blocks: Iterable[BlockNo], slots: Collection[Slot]
    ) -> frozenset[Slot]:
        """Those of some servers that a write of these blocks goes without: policy quorum, they are
        away, and two others have each block."""
        away = frozenset(slot for slot in slots if self.away(slot))
        if not away or await self.policy(ino) is not Policy.QUORUM:
            return frozenset()
        gone = away.union(member.slot for member in self.map.members if member.skipped)
        return away - placement.lacking(start, blocks, self.servers, gone)

    async def wait_for_ring(self, ino: Ino, start: Slot, blocks: range) -> None:
        """Until no server is down that a write of these blocks waits for; at once when none is.
        May raise Interrupted."""
        some = [BlockNo(block) for block in blocks[: self.servers]]  # then the same servers come
        while self.down():
            at = await now()
            down = frozenset(self.down())
            spared = await self.spared(ino, start, some, down)
            if spared == down:
                return
            for slot in down - spared:
                await self.wait_for(slot, ino, at)
            if not self.down():  # whoever was is back since: nobody would wake us
                return
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
            known = {**self.blocked, **self.missed}
            slots = [s for s in known if self.map.members[s].state is not State.DOWN]
            if not slots:
                continue
            check = wire.Check(self.cluster, (WHETHER,))
            asks: list[tuple[Slot, wire.Request[Any]]] = [(slot, check) for slot in slots]
            for (slot, _), answer in zip(asks, await self.ask_servers(asks, limits.TIMEOUT_S)):
                if isinstance(answer, wire.Checked):
                    self.unblock(slot)

    async def wait_for(self, slot: Slot, ino: Ino, at: float) -> None:
        """A write of a file waits for this server, which was asked at that time."""
        self.block(slot, at, await self.policy(ino) is Policy.QUORUM)

    def block(self, slot: Slot, at: float, scarce: bool = False) -> None:
        """Writes wait for this server, which was asked at that time; `scarce`: by policy quorum,
        since of some block fewer than two servers are left.  The log says so once."""
        if self.answered.get(slot, 0.0) > at:
            return
        self.wanted[slot] = at
        if slot in self.blocked and (slot in self.scarce or not scarce):
            return
        self.blocked.setdefault(slot, at)
        if scarce:
            self.scarce.add(slot)
        log.warning(
            "writes wait for dataserver %s (slot %d): no answer%s; retrying every second",
            addresses.short(self.peer(slot)), slot,
            ", and of some block fewer than two of its three servers are left (policy quorum)"
            if scarce else "",
        )  # fmt: skip

    def miss(self, slot: Slot, at: float) -> None:
        """A Put of that time had no answer from this server."""
        if self.answered.get(slot, 0.0) <= at:
            self.missed.setdefault(slot, at)

    def go_without(self, slots: Iterable[Slot]) -> None:
        """Writes go on without these servers; the log says so once."""
        for slot in sorted(set(slots) - self.without):
            self.without.add(slot)
            log.warning(
                "writes go on without dataserver %s (slot %d), which is owed its copies "
                "(policy quorum)", addresses.short(self.peer(slot)), slot,
            )  # fmt: skip

    def unblock(self, slot: Slot) -> None:
        """They need not wait for it, or go on without it, any more."""
        blocked = self.blocked.pop(slot, None) is not None
        self.scarce.discard(slot)
        self.without.discard(slot)
        if self.missed.pop(slot, None) is not None or blocked:
            if blocked:
                log.warning("dataserver %s answers: writes go on", addresses.short(self.peer(slot)))
            notify(self.map_changed)

    def shown_blocked(self, at: float) -> tuple[wire.Blocked, ...]:
        """For the heartbeat."""
        return tuple(
            wire.Blocked(
                slot, int((at - since) * 1000), self.waiting_writers, slot in self.scarce
            )  # fmt: skip
            for slot, since in self.blocked.items()
            if at - self.wanted[slot] < limits.BULK_TIMEOUT_S + 2 * limits.RETRY_S
        )

    async def ask_servers(
        self,
        asks: Sequence[tuple[Slot, wire.Request[Any]]],
        timeout_s: float = limits.BULK_TIMEOUT_S,
    ) -> list[wire.Message | Failure]:
        """Ask several dataservers at once; silence makes suspects, an answer clears them.  Who is
        shown a pass that has ended is asked again with a new one.  Who refuses the pass for all
        files that the metaserver gives us has heard less or more than that: they will agree."""
        answers = await self._ask_servers(asks, timeout_s)
        for _ in range(PASSES):
            again = [place for place, answer in enumerate(answers) if isinstance(answer, NoPass)]
            if not again:
                break
            renewed = [(asks[place][0], await self._renewed(asks[place][1])) for place in again]
            for place, answer in zip(again, await self._ask_servers(renewed, timeout_s)):
                answers[place] = answer
        return [
            (
                Unavailable(answer.text)
                if isinstance(answer, NoPass) and self.permits.whole
                else answer
            )
            for answer in answers
        ]

    async def _renewed(self, request: wire.Request[Any]) -> wire.Request[Any]:
        """With a pass as the metaserver gives it now."""
        assert isinstance(request, (wire.Get, wire.Put))
        ino = request.blocks[0].name.ino
        if self.permits.of(ino) == request.permit:
            with contextlib.suppress(Posix):  # then the dataserver's word stands
                await self.ask_briefly(wire.ReadMap(ino, PageNo(0), 1))
        if self.permits.of(ino) == request.permit:
            await wait(self.permits.moved, limits.RETRY_S)  # or heartbeats bring one
        return replace(request, permit=self.permits.of(ino))

    async def _ask_servers(
        self, asks: Sequence[tuple[Slot, wire.Request[Any]]], timeout_s: float
    ) -> list[wire.Message | Failure]:
        asked = await now()
        answers = await call_all([Ask(self.peer(s), request, timeout_s) for s, request in asks])
        at = await now()
        for (slot, _), answer in zip(asks, answers):
            if isinstance(answer, Unreachable):
                self.suspect(slot, asked, at)
            else:
                self.trust(slot, at)
        return answers
