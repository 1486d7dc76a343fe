"""The metaserver's copies: each round is sent to the dataservers of the journal set.

    a round is sealed -> Append to every member -> enough answered -> its replies may leave
                      `-> committed here meanwhile

One task per dataserver (`follow`) sends what that one lacks: rounds from the outbox, or, when it is
new, broken or too far behind, all records page by page (Fill) and then the rounds since.  `steer`
looks after the set: a member that is down for long is replaced by a dataserver that was filled
beforehand.  While a new set is being told, rounds need enough members of both.

When too few members are up, nothing can be changed (`note` says who is missing); reads go on.
"""

import itertools
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from zdfs import addresses, chain, copies, limits, records, schema, wire
from zdfs.calls import Peer, Trap, call, notify, now, sleep, spawn, wait
from zdfs.chain import GENESIS, NO_COPIES, CopySet, Head
from zdfs.cluster import Heard, trusted
from zdfs.copied import CopiedStore, Sealed
from zdfs.errors import Damaged, Failure, Foreign, NoSpace
from zdfs.ids import Slot, compose
from zdfs.ledger import Ledger
from zdfs.proof import Proof
from zdfs.tables import decode

log = logging.getLogger("zdfs.meta")

UNPROVEN = 8  # a copy that was filled and isn't whole after so many looks is filled again
STEER_S = 0.25
REAR_S = 0.02  # a member that no reply need wait for gets several rounds at once
SLOW_S = 0.1  # a member that doesn't answer for so long is not waited for, if another one can be


class Follower:
    """What is known of one dataserver's copy."""

    def __init__(self) -> None:
        self.life: tuple[bytes, int, int] = (b"", 0, 0)  # uuid, life, boot
        self.head: Head | None = None  # None: ask
        self.whole = False
        self.round = 0  # of our chain: it has all up to here
        self.synced = 0
        self.cursor = b""  # of a Fill underway: the first key that it lacks; BEYOND: none
        self.unproven = 0  # times that it was looked at since then
        self.asked: float | None = None  # when it was sent what it has yet to answer
        self.tried = False  # the newest rounds were sent, and it is still on another chain
        self.trouble = ""  # why it takes nothing

    def forget(self) -> None:
        """It may be another one by now."""
        self.head, self.cursor = None, b""
        self.whole = self.tried = False
        self.round = self.synced = 0


class Copying:
    """Who has which rounds."""

    def __init__(self, ledger: Ledger, store: CopiedStore, reports: dict[Slot, Heard], needed: int):
        self.ledger, self.store, self.reports = ledger, store, reports
        self.wanted = needed  # by whoever started us, for the first set
        self.copies = NO_COPIES  # in force
        self.proposed: CopySet | None = None
        self.target: tuple[Slot, ...] = ()  # the set to strive for
        self.followers: dict[Slot, Follower] = {}
        self.note = ""  # why nothing may be changed
        self.allowed = False  # this metaserver was granted: it may write to copies (`allow`)
        self.down_since: dict[Slot, float] = {}
        self._taken: dict[Slot, tuple[object, float]] = {}  # how far each came, and since when
        self._failed: dict[Slot, float] = {}  # when it could last not take over
        self._numbers = itertools.count(1)  # of sets: no other incarnation makes the same
        self._unsettled = ""  # why the set that all know can't be recorded
        self.damaged = False  # a record of ours can't be read, so no copy can be filled
        self.proof = Proof(ledger, store, self._sources, self._first)
        self.news = store.news  # also: a server is back, the set changed
        self._still = (0, 0.0)  # how far rounds had come, and since when they stand there
        # Up to where replies may have left, with members' logs and with their disks behind them.
        self._answered: int = store.synced
        self._promised: int = store.synced
        store.promise(store.synced)  # a metaserver before us may have told somebody so
        self._load()

    def _load(self) -> None:
        with self.store.read() as read:
            payload = read.get(schema.COPY_SET)
        if payload is not None:
            self.copies = decode(CopySet, schema.COPY_SET, payload)
        self.store.copies = self.copies

    @property
    def told(self) -> CopySet:
        """What dataservers are to know."""
        return self.proposed or self.copies

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests; the followers are started by `steer`."""
        return [("copies", self.steer()), ("proof", self.proof.prove())]

    # --- may we? -------------------------------------------------------------------------------

    def ready(self) -> str:
        """Why nothing may be changed; empty: it may."""
        if not self.wanted and not self.copies.needed:
            return ""
        if not self.copies.needed:  # what can't be filled is no reason: fsck must be able to mend
            return "" if self.damaged else "waiting for the first copies of the metadata"
        return self.note

    def judge(self, own: Head | None, at: float) -> copies.Verdict:
        """Whether our store is the newest there is."""
        return copies.judge(
            own, self.copies, copies.alive(self.reports, at), self.ledger.ring,
            self.ledger.incarnation,
        )  # fmt: skip

    # --- how far they are ----------------------------------------------------------------------

    def _count(self) -> None:
        """What the members have, for the replies that wait."""
        store = self.store
        appended, synced = [], []
        for one in [self.copies] + ([self.proposed] if self.proposed else []):
            members = [self.followers[s] for s in one.slots if s in self.followers]
            whole = [member for member in members if member.whole]
            appended.append(copies.reached([m.round for m in whole], one.needed))
            synced.append(copies.reached([m.synced for m in whole], one.needed))
        if self.copies.needed:
            store.appended, store.synced_there = min(appended), min(synced)
            self._answered = max(self._answered, min(store.appended, store.synced))
            safe = min(store.synced_there, store.synced, store.wants_sync)
            self._promised = max(self._promised, safe)
            following = {*self.copies.slots, *self.target, *self.told.slots}
            store.heard_by_all(min(self._has(slot) for slot in following))

    def _has(self, slot: Slot) -> int:
        """Up to which round a copy needs nothing from the outbox any more."""
        one = self.followers.get(slot) or Follower()
        return one.head.round if one.cursor and one.head else one.round

    def _heard(self, slot: Slot, state: wire.CopyState | wire.CopySynced, synced: bool) -> None:
        """A copy answered."""
        one = self.followers[slot]
        one.head, one.whole, one.cursor = state.head, state.whole, state.cursor
        if one.whole and self.store.behind(state.head) is not None:
            one.tried = False
            one.round = max(one.round, state.head.round)
            if synced:
                one.synced = max(one.synced, state.head.round)
        self._count()

    # --- one copy ------------------------------------------------------------------------------

    async def follow(self, slot: Slot) -> None:
        """Bring a dataserver's copy up to our newest round, and keep it there."""
        one = self.followers[slot]
        while True:
            if not self._may_follow(slot):
                await wait(self.news, limits.BEAT_S)
                continue
            if await self._may_lag(slot, one):
                await sleep(REAR_S)
            try:
                busy = await self._follow_once(slot, one)
            except Failure as error:
                one.head = None
                if isinstance(error, Foreign | Damaged):
                    log.error("the copy on %s: %s", self._shown(slot), error)
                if isinstance(error, Damaged | NoSpace):
                    one.trouble = f"; {error}"
                if isinstance(error, Damaged):  # a record of ours, most likely: not soon better
                    await sleep(limits.DOWN_S)
                await wait(self.news, limits.RETRY_S / 4)
                continue
            if not busy:
                one.trouble = ""
                await wait(self.news, limits.BEAT_S)

    def _may_follow(self, slot: Slot) -> bool:
        heard, server = self.reports.get(slot), self.ledger.servers.get(slot)
        if not self.allowed or heard is None or server is None or slot in self.down_since:
            return False
        if slot not in {*self.copies.slots, *self.target, *self.told.slots}:
            return False
        one, report = self.followers[slot], heard.report
        if not trusted(server, report) or report.promised != self.ledger.incarnation:
            return False
        life = (report.uuid, report.life, report.boot)
        if life != one.life:
            one.forget()
            one.life = life
        return True

    async def _may_lag(self, slot: Slot, one: Follower) -> bool:
        """Whether enough others are quicker: each Append costs a server as much as a small write,
        however many rounds it has."""
        if self.proposed is not None or one.head is None or slot not in self.copies.slots:
            return False
        at, near = await now(), self.store.head.round - limits.COPY_ROUNDS
        quick = [
            other
            for other in map(self.followers.get, self.copies.slots)
            if other and other.whole and other.round >= near
            if other.asked is None or at - other.asked < SLOW_S
        ]
        return one.whole and one not in quick[: self.copies.needed]

    async def _follow_once(self, slot: Slot, one: Follower) -> bool:
        """One step; False: there is nothing to do."""
        store = self.store
        if one.head is None:
            await self._append(slot, [], synced=False)
            return True
        behind = store.behind(one.head)
        if behind is None and one.whole and not one.tried:
            one.tried = True  # it may have rounds of a metaserver that was passed over
            await self._append(slot, list(store.outbox), synced=False)
            return True
        if behind is None or (not one.whole and (not one.cursor or one.unproven > UNPROVEN)):
            log.info("filling the copy of the metadata on %s", self._shown(slot))
            if one.unproven > UNPROVEN:
                notify(self.proof.doubt)
            one.unproven = 0
            await self._fill(slot, b"", store.head)
            return True
        # Rounds that somebody waits for are sent to be synced at once, with all before them.
        reaches = behind[-1].head.round if behind else store.synced
        wants_sync = one.whole and min(store.wants_sync, reaches) > one.synced
        if behind or wants_sync:
            await self._append(slot, behind, wants_sync)
            return True
        if one.whole:
            return False
        if one.cursor != schema.BEYOND:
            await self._fill(slot, one.cursor, one.head)
            return True
        one.unproven += 1  # a round was underway when the last page was read: it proves them all
        return False

    async def _append(self, slot: Slot, rounds: Sequence[Sealed], synced: bool) -> None:
        if rounds and len(rounds[0].packed) > limits.MESSAGE_BYTES // 2:
            await self._append_pieces(slot, rounds[0])
            return
        parts, frames = chain.batch(one.packed for one in rounds)
        kind = wire.AppendSynced if synced else wire.Append
        request = kind(self.store.cluster, self.ledger.incarnation, tuple(parts), tuple(frames))
        one = self.followers[slot]
        one.asked = await now()
        try:
            state = await call(Peer(self.ledger.ring[slot]), request, limits.BULK_TIMEOUT_S)
        finally:
            one.asked = None
        self._heard(slot, state, synced)

    async def _append_pieces(self, slot: Slot, one: Sealed) -> None:
        """A round that is too large for one message."""
        frames, each = chain.cut(one.packed), limits.BATCH_BYTES // limits.FRAME_BYTES
        for at in range(0, len(frames), each):
            request = wire.AppendPiece(
                self.store.cluster, self.ledger.incarnation, one.head.round, at, len(frames),
                tuple(frames[at : at + each]),
            )  # fmt: skip
            state = await call(Peer(self.ledger.ring[slot]), request, limits.BULK_TIMEOUT_S)
        self._heard(slot, state, synced=False)

    async def _fill(self, slot: Slot, first: bytes, head: Head) -> None:
        """The next page of all records, as they are now."""
        try:
            changes, end = self.proof.records(first)
        except Damaged:
            self.damaged = True
            notify(self.proof.doubt)
            raise
        one = self.followers[slot]
        frames = tuple(chain.cut(chain.pack_changes(changes)))
        over = one.head or GENESIS
        request = wire.Fill(
            self.store.cluster, self.ledger.incarnation, head, over, one.whole, first, end, frames
        )
        state = await call(Peer(self.ledger.ring[slot]), request, limits.BULK_TIMEOUT_S)
        self._heard(slot, state, synced=False)

    # --- our own store -------------------------------------------------------------------------

    async def heal(self, key: bytes) -> int:
        """As `Proof.heal`."""
        return await self.proof.heal(key)

    def _sources(self) -> list[Slot]:
        """Whose copies can be asked: the members' that are up and whole."""
        if not self.allowed:
            return []
        found = [(slot, self.followers.get(slot)) for slot in self.copies.slots]
        return [slot for slot, one in found if one and one.whole and slot not in self.down_since]

    def _first(self) -> bool:
        """Whether there are no copies yet, and there are to be some."""
        return self.allowed and self.wanted > 0 and not self.copies.needed

    # --- the set -------------------------------------------------------------------------------

    async def steer(self) -> None:
        """Who is down, who takes over, whether rounds still move."""
        spawned: set[Slot] = set()
        while True:
            at = await now()
            for number in range(len(self.ledger.ring)):
                slot = Slot(number)
                if slot not in spawned:
                    spawned.add(slot)
                    self.followers[slot] = Follower()
                    await spawn(self.follow(slot), f"copy to {slot}")
            self._look(at)
            await sleep(STEER_S)

    def _look(self, at: float) -> None:
        living = copies.alive(self.reports, at)
        for number in range(len(self.ledger.ring)):
            slot = Slot(number)
            if slot in living:
                self.down_since.pop(slot, None)
            else:
                self.down_since.setdefault(slot, at)
        if not self.allowed or self.ledger.cluster is None:
            return
        try:
            self._strive(at)
            self._unsettled = ""
        except Failure as error:  # no room, or a page that can't be read: at the next look
            if str(error) != self._unsettled:
                log.error("the set of copies can't be changed, tried again: %s", error)
            self._unsettled = str(error)
        self._stand(at)
        members = [living[slot] for slot in self.copies.slots if slot in living]
        if not all(heard.report.copy.agrees for heard in members):
            notify(self.proof.doubt)
        notify(self.news)

    def _strive(self, at: float) -> None:
        """Towards a set whose members are up."""
        if self.proposed is not None and not self._passed_by(self.proposed, at):
            told = [heard.report.copy.copies for heard in self.reports.values()]
            known = sum(one == self.proposed for one in told)
            if known >= copies.to_know(len(self.ledger.ring)) and self._holds(self.proposed):
                self._settle(self.proposed)
            return
        first = not self.copies.needed
        idle_s = {slot: self._idle_s(slot, at) for slot in self.followers}
        if first:
            if not self.wanted:
                return
            needed = min(self.wanted, len(self.ledger.ring))
            up_first = sorted(idle_s, key=lambda slot: (idle_s[slot] > limits.DOWN_S, slot))
            self.target = copies.first_set(needed, up_first)
        else:
            needed, patience_s = self.copies.needed, limits.REPLACE_S
            if self.note or self.proposed is not None:
                patience_s = limits.DOWN_S
            spares = self._spares(idle_s, patience_s, at)
            self.target = copies.successor(self.copies, idle_s, spares, patience_s)
            if self.target == self.told.slots:
                return
        have = [slot for slot in self.target if self._up_to_date(slot)]
        new = [slot for slot in self.target if slot not in self.copies.slots]
        if first:  # whoever is down is filled when it is back
            new = [slot for slot in new if idle_s[slot] <= limits.DOWN_S]
        if len(have) >= needed and all(slot in have for slot in new):
            number = compose(self.ledger.incarnation, next(self._numbers))
            self.proposed = CopySet(number, self.target, needed)
            log.info("copies of the metadata: %s", self._names(self.target))

    def _passed_by(self, one: CopySet, at: float) -> bool:
        """Whether a set that was proposed can't count, since too few of its members are up.  A
        start asks for enough of each set that it hears of, so another one may be proposed."""
        up = sum(self._idle_s(slot, at) < limits.DOWN_S for slot in one.slots)
        return self.copies.needed > 0 and up < one.needed

    def _idle_s(self, slot: Slot, at: float) -> float:
        """How long a member of the set, or of the one to be, has been down or took nothing."""
        if slot in self.down_since:
            return at - self.down_since[slot]
        one = self.followers[slot]
        came = (one.round, one.cursor)
        done = one.whole and one.round >= self.store.synced
        concerned = slot in {*self.copies.slots, *self.target, *self.told.slots}
        if done or not concerned or self._taken.get(slot, (None, at))[0] != came:
            self._taken[slot] = (came, at)
        return at - self._taken[slot][1]

    def _spares(self, idle_s: dict[Slot, float], patience_s: float, at: float) -> list[Slot]:
        """Who could take over: whoever is underway to it, then who failed longest ago."""
        spares = [slot for slot in idle_s if slot not in {*self.copies.slots, *self.down_since}]
        failed = [slot for slot in spares if slot in self.target and idle_s[slot] >= patience_s]
        self._failed.update((slot, at) for slot in failed)
        return sorted(
            (slot for slot in spares if slot not in failed),
            key=lambda slot: (slot not in self.target, self._failed.get(slot, 0.0), slot),
        )

    def _up_to_date(self, slot: Slot) -> bool:
        one = self.followers.get(slot)
        return one is not None and one.whole and one.round >= self.store.appended and one.round > 0

    def _holds(self, one: CopySet) -> bool:
        """Whether enough of a set have what was answered before it counted, where it was told."""
        members = [self.followers[slot] for slot in one.slots if slot in self.followers]
        whole = [member for member in members if member.whole]
        return (
            copies.reached([member.round for member in whole], one.needed) >= self._answered
            and copies.reached([member.synced for member in whole], one.needed) >= self._promised
        )

    def _settle(self, found: CopySet) -> None:
        """Enough servers know of it: it counts."""
        with self.store.write() as txn:
            txn.put(schema.COPY_SET, records.pack(found))
        self.copies = self.store.copies = found
        self.proposed, self.damaged = None, False
        self._count()

    def allow(self, on: bool) -> None:
        """This metaserver is the only one, or isn't any more."""
        self.allowed = on
        self.store.alone = self.store.alone or not on
        notify(self.news)

    def adopt(self, found: CopySet) -> None:
        """A set that some dataserver knows, and our store doesn't: it is told to the others."""
        if found.number > self.told.number:
            self.proposed = found

    def _stand(self, at: float) -> None:
        """Whether rounds move; when not for long, reads no longer wait for them."""
        if not self.copies.needed:
            return
        if self.store.appended >= self.store.synced or self.store.appended != self._still[0]:
            self._still = (self.store.appended, at)
        up = [s for s in self.copies.slots if s not in self.down_since]
        late = at - self._still[1] > limits.DOWN_S
        self.store.alone = len(up) < self.copies.needed or late
        missing = [s for s in self.copies.slots if s not in up] or [
            slot for slot, whole, lag in self.facts() if lag or not whole
        ]
        concerned = {*self.copies.slots, *self.target}
        troubles = dict.fromkeys(self.followers[slot].trouble for slot in sorted(concerned))
        self.note = (
            f"a change needs a copy on {self.copies.needed} dataservers of "
            f"{self._names(self.copies.slots)}; waiting for {self._names(missing)}"
            + "".join(troubles)
            if self.store.alone
            else ""
        )

    def _shown(self, slot: Slot) -> str:
        return addresses.short(self.ledger.ring[slot])

    def _names(self, slots: Sequence[Slot]) -> str:
        return ", ".join(self._shown(slot) for slot in slots)

    def complete(self) -> bool:
        """Whether every member of the set has a whole copy."""
        return not self.ready() and all(whole for _, whole, _ in self.facts())

    def facts(self) -> list[tuple[Slot, bool, int]]:
        """For people: of each member whether its copy is whole, and by how many rounds it lags."""
        found = []
        for slot in self.copies.slots:
            one = self.followers.get(slot) or Follower()
            found.append((slot, one.whole, max(0, self.store.synced - one.round)))
        return found
