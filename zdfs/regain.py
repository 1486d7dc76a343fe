"""A metaserver whose store can't be used gets it back from the copies on dataservers.

A room for `broker` that stands where the metaserver will stand: its store is empty, was damaged, or
is older than what a dataserver has seen.

    the dataservers report -> each promises itself to us: no other metaserver may add any more
      -> enough copies are known (`copies.judge`) -> the newest is read -> the metaserver starts

When no dataserver belongs to a cluster there is nothing to get back: the metaserver founds one.
Nothing is ever started from less than what is needed; `note` says whom we wait for.

Two rules see that the metaserver after us is not behind again, by what we could have known: what
the metaserver before us had heard is not forgotten, so that we claim more than any promise that it
saw; and whoever is alive and has more than we would start from is waited for.
"""

import collections
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from zdfs import addresses, chain, cluster, copies, limits, schema, wire
from zdfs.admission import allowed
from zdfs.calls import Ask, Peer, Trap, call, call_all, clock, now, sleep
from zdfs.chain import NO_COPIES, Change, Head
from zdfs.copied import CopiedStore, Tally
from zdfs.copies import elected
from zdfs.errors import Damaged, Failure, Unavailable
from zdfs.ids import Epoch, Incarnation, Policy, Slot
from zdfs.measures import Meter, Role
from zdfs.ports import Caller, Handler, Push
from zdfs.wire import State

log = logging.getLogger("zdfs.meta")


class Reading:
    """All records of a copy, or of several as of one round: what one lost, another may have.
    Whoever has read to the end proves it by `head`."""

    def __init__(self, peers: Sequence[Peer], cluster: bytes, head: Head):
        self.peers, self.cluster, self.head = list(peers), cluster, head

    async def pages(self) -> AsyncIterator[tuple[list[Change], bytes]]:
        """Records in the order of keys; each time all up to a key."""
        first, heads = b"", collections.Counter[Head]()
        while first < schema.BEYOND:
            pages = await self._ask(first)
            heads.update(page.head for page in pages)
            end = min(schema.BEYOND if page.end else page.following for page in pages)
            told = [_below(page, end) for page in pages]
            found = {key: [one[key] for one in told if key in one] for one in told for key in one}
            yield [(key, elected(Damaged(), found[key])) for key in sorted(found)], end
            first = end
        self.head = heads.most_common(1)[0][0]  # of those that lost something, some count it still

    async def prove(self) -> None:
        """Read to the end once.  Failure: they can't be, or are not whole."""
        tally = Tally()
        async for changes, end in self.pages():
            tally.page(changes, end)
        if not tally.proves(self.head):
            raise Damaged(f"{tally.count} records where the newest round left {self.head.records}")

    async def _ask(self, first: bytes) -> list[wire.CopyPage]:
        """A page of each; who doesn't answer is not asked again."""
        request = wire.ReadCopy(self.cluster, first, b"")
        answers = await call_all([Ask(one, request, limits.BULK_TIMEOUT_S) for one in self.peers])
        good: dict[Peer, wire.CopyPage] = {}
        why: Failure = Damaged("the copy has changed while it was read")
        for peer, answer in zip(self.peers, answers, strict=True):
            if isinstance(answer, Failure):
                why = answer
            elif isinstance(answer, wire.CopyPage) and answer.head.hash == self.head.hash:
                good[peer] = answer
        if not good:
            raise why
        self.peers = list(good)
        return list(good.values())


def _below(page: wire.CopyPage, end: bytes) -> dict[bytes, bytes | None]:
    changes = chain.unpack_changes(b"".join(bytes(one) for one in page.data))
    return {key: payload for key, payload in changes if key < end}


class Past(NamedTuple):
    """What the metaserver before us in this process knew."""

    incarnation: Incarnation = Incarnation(0)
    reports: Mapping[Slot, cluster.Heard] = {}


class Regain:
    """Until it has `ended`."""

    def __init__(
        self, store: CopiedStore, uuid: bytes, own: Head | None, faults: bool = False,
        meter: Meter | None = None, past: Past = Past(),
    ):  # fmt: skip
        """`own`: the head of our store, if it can be vouched for."""
        self.store, self.uuid, self.own, self.faults = store, uuid, own, faults
        self.meter = meter or Meter(Role.META)
        self.meter.sources.pop("room", None)  # of the metaserver that was here
        self.ended = False
        self.note = "waiting for the dataservers: none has reported yet"
        self.reports = dict(past.reports)
        promised = [heard.report.promised for heard in self.reports.values()]
        self.claimed = Incarnation(max(past.incarnation, *promised, 0) + 1)
        self.asked: set[Slot] = set()  # who was told of this claim
        self.least = Incarnation(0)  # the metaserver's incarnation is to be larger
        self.failed: collections.Counter[Slot] = collections.Counter()  # copies: reads in vain
        self.pushes: list[Push] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.handlers: Mapping[type[wire.Message], Handler] = {
            kind: self.later
            for kind in wire.BY_OPERATION.values()
            if issubclass(kind, wire.Request)
        } | {
            wire.Identify: self.identify,
            wire.GetStatus: self.status,
            wire.Report: self.report,
            wire.GetMeasures: self.meter.tell,
        }

    @property
    def incarnation(self) -> Incarnation:
        """The one that is claimed."""
        return self.claimed

    def welcome(self, caller: Caller, request: wire.Message) -> None:
        """Where there are keys: not everybody, not for everything."""
        allowed(caller, request)

    def admit(self, head: wire.RequestHead, request: wire.Message) -> wire.Reply | None:
        """Nothing can be changed yet."""
        raise Unavailable(self.note)

    def keep(self, head: wire.RequestHead, reply: wire.Reply) -> None:
        """Nothing is admitted."""
        raise AssertionError("no change was admitted")

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [("regain", self.regain())]

    # --- requests ------------------------------------------------------------------------------

    async def later(self, request: wire.Message, caller: Caller) -> wire.Reply:
        """The metaserver can't answer yet."""
        raise Unavailable(self.note)

    async def identify(self, request: wire.Identify, caller: Caller) -> wire.Identity:
        """Who is here."""
        return wire.Identity(
            wire.Role.META, wire.released(caller.head.protocol), self._cluster(), self.uuid,
            Slot(0), State.JOINING, self.faults, addresses.host_id(), "", self.note, await clock(),
            wire.spoken(),
        )  # fmt: skip

    async def status(self, request: wire.GetStatus, caller: Caller) -> wire.Status:
        """What we wait for."""
        return wire.Status(
            self._cluster(), self.note, limits.BLOCK_BYTES, Policy.ALL, self.claimed, (), (), (), 0
        )

    async def report(self, request: wire.Report, caller: Caller) -> wire.Instructions:
        """A dataserver, each second: ask for its promise."""
        at = await now()
        # Of servers that belong to a cluster nobody knows which list is right: `_judge` waits.
        living = {} if request.cluster else copies.alive(self.reports, at)
        refused = cluster.unlikely(request) or cluster.mistyped(request, living)
        if not refused:
            self._outbid(request)
            self.reports[request.slot] = cluster.Heard(at, request)
            self.asked.add(request.slot)
        # What it has seen served doesn't matter yet: nothing is served before the newest is known.
        claim = wire.Claim(self.claimed, request.served_incarnation, request.served_round)
        return wire.Instructions(
            cluster=b"", epoch=Epoch(0), addresses=(), block_bytes=limits.BLOCK_BYTES,
            life=request.life, claim=claim, granted=False, wiped=False, reconcile=0, drops=0,
            copies=NO_COPIES, refused=refused, protocols=wire.spoken(),
        )  # fmt: skip

    def _outbid(self, report: wire.Report) -> None:
        """Claim more than it has promised to anybody else: also to one who chose our number."""
        others = bool(report.cluster) and report.slot not in self.asked
        if report.promised > self.claimed or (others and report.promised == self.claimed):
            self.claimed = Incarnation(report.promised + 1)
            self.asked.clear()

    def _cluster(self) -> bytes:
        found = {h.report.cluster for h in self.reports.values() if h.report.cluster}
        return found.pop() if len(found) == 1 else b""

    # --- the work ------------------------------------------------------------------------------

    async def regain(self) -> None:
        """Until the store is the newest there is, or there is none."""
        said = ""
        while not self.ended:
            await sleep(limits.BEAT_S / 8)
            living = copies.alive(self.reports, await now())
            verdict = self._judge(living)
            if verdict.settled:
                belongs = any(heard.report.cluster for heard in living.values())
                self.least = self.claimed if belongs else Incarnation(0)
                self.ended = True
                return
            if verdict.source is not None:
                self.note = "reading the metadata from its copies"
                sources = self._sources(verdict.source, living)
                try:
                    await self._read(sources, living)
                except Failure as error:
                    self.note = f"a copy of the metadata can't be read: {error}"
                    log.error("%s", self.note)
                    self.failed[sources[0]] += 1
                    await sleep(limits.RETRY_S)
                else:
                    self.least = self.claimed
                    self.ended = True
            else:
                self.note = verdict.text
                if self.note != said:
                    said = self.note
                    log.warning("%s", said)

    def _sources(self, best: Slot, living: Mapping[Slot, cluster.Heard]) -> list[Slot]:
        """The copy to read; once that was in vain, all that reach as far, to be read together."""
        if not self.failed:
            return [best]
        found = {slot: heard.report.copy for slot, heard in living.items()}
        head = found[best].head.hash
        same = [slot for slot, copy in found.items() if copy.whole and copy.head.hash == head]
        return sorted(same, key=lambda slot: self.failed[slot])

    def _judge(self, living: Mapping[Slot, cluster.Heard]) -> copies.Verdict:
        belongs = {s: h for s, h in living.items() if h.report.cluster}
        if not belongs:
            ring, text = cluster.founding(living, max((h.at for h in living.values()), default=0.0))
            return copies.Verdict(text) if ring is None else copies.Verdict()
        if len({h.report.cluster for h in belongs.values()}) > 1:
            return copies.Verdict("the dataservers belong to different clusters: mind their stores")
        if len({h.report.addresses for h in belongs.values()}) > 1:
            return copies.Verdict("the dataservers were started with differing lists of ports")
        ring = next(iter(belongs.values())).report.addresses
        votes = sum(h.report.promised == self.claimed for h in belongs.values())
        empty = len(living) - len(belongs)
        enough = len(ring) // 2 + 1
        if votes < enough and not (empty < enough and votes + empty == len(ring)):
            silent = [addresses.short(a) for n, a in enumerate(ring) if Slot(n) not in living]
            return copies.Verdict(
                "waiting for more than half of the dataservers"
                + (f"; silent: {', '.join(silent)}" if silent else "")
            )
        seen = max((h.report.served_incarnation, h.report.served_round) for h in belongs.values())
        counts = self.own is not None and copies.order(self.own) >= seen
        if not counts and not copies.newest_set(belongs, self.store.copies).needed:
            return copies.Verdict(
                f"this metaserver's store is empty, but the dataservers belong to cluster "
                f"{self._cluster().hex()} and have no copy of the metadata: start it with the "
                "store it had, or make files of what is left with 'zdfs meta rebuild'"
            )
        # A set that was only told is asked beside the one in force, never instead of it.
        own, force = self.own if counts else None, self.store.copies
        verdict = copies.judge(own, force, belongs, ring, self.claimed)
        known = own if verdict.source is None else belongs[verdict.source].report.copy.head
        late = [] if verdict.text or known is None else copies.ahead(known, belongs, self.claimed)
        if late:
            names = ", ".join(addresses.short(ring[slot]) for slot in late)
            return copies.Verdict(
                f"waiting for the promise of {names}: newer metadata stands there"
            )
        return verdict

    async def _read(self, slots: Sequence[Slot], living: Mapping[Slot, cluster.Heard]) -> None:
        """Make our store what these copies are.  Failure: it can't be."""
        report = living[slots[0]].report
        peers = [Peer(report.addresses[slot]) for slot in slots]
        uuid, head = report.cluster, report.copy.head
        self.store.cluster = uuid
        if self.own is not None and await self._replay(peers[0], uuid, head):
            return
        shown = ", ".join(addresses.short(peer) for peer in peers)
        log.warning("reading all metadata from the copy on %s", shown)
        found = Reading(peers, uuid, head)
        if not self.store.empty:  # what is here gives way to nothing less than what is whole
            await found.prove()
        self.own = None
        self.store.begin_fill()
        async for changes, end in found.pages():
            self.store.fill(changes, end)
        self.store.end_fill(found.head)
        log.warning("the metadata is back: %d records", head.records)

    async def _replay(self, peer: Peer, uuid: bytes, head: Head) -> bool:
        """The few rounds that our store lacks; False: it takes more than that."""
        while self.store.head.hash != head.hash:
            found = await call(
                peer, wire.ReadRounds(uuid, self.store.head.round), limits.BULK_TIMEOUT_S
            )
            if not found.parts:
                return False
            frames = iter(found.data)
            try:
                self.store.replay(
                    [b"".join(bytes(next(frames)) for _ in range(n)) for n in found.parts]
                )
            except Damaged as error:
                log.warning("our store is not what the copies grew from: %s", error)
                return False
        return True
