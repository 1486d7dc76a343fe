"""The metaserver's side of the dataservers: founding, votes, slots, drops, inventory, status.

`cluster` decides, this room records and answers.  Nothing about a slot is changed before this
incarnation was granted by more than half of the servers: an old copy of the metaserver's store must
not be able to declare the others old.
"""

import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from zdfs import addresses, cluster, extents, limits, namespace, records, schema, wire
from zdfs.calls import Condition, Trap, clock, notify, now, sleep
from zdfs.chain import NO_COPIES
from zdfs.copying import Copying
from zdfs.errors import BadMessage, Damaged, Failure, FaultsForbidden, Foreign, Unavailable
from zdfs.ids import EPOCH, Epoch, Incarnation, Name, Round, Slot, incarnation_of
from zdfs.ledger import Ledger, log
from zdfs.ports import Caller
from zdfs.schema import Account, Cluster, DropRecord, Ring, Server
from zdfs.sessions import Sessions
from zdfs.tables import Tables, View, decode
from zdfs.wire import State

PERSIST_S = 5.0  # synced rounds of the servers are recorded so often, when they moved
DROPS = 256  # records of the drop queue in one answer


class Membership:
    """Who may store blocks, and whether this metaserver may serve."""

    def __init__(
        self, ledger: Ledger, sessions: Sessions, block_bytes: int, faults: bool,
        broadcast: Callable[[wire.Reply], None], meta_copies: int = 0,
    ):  # fmt: skip
        self.ledger, self.sessions, self.faults = ledger, sessions, faults
        self.block_bytes = ledger.cluster.block_bytes if ledger.cluster else block_bytes
        self.broadcast = broadcast
        self.reports: dict[Slot, cluster.Heard] = {}
        self.map = cluster.Map(ledger.incarnation << 40)
        self.granted = False
        self.behind = False  # some dataserver has newer metadata: get it before anything else
        self.copying: Copying | None = None
        if ledger.copied is not None:
            self.copying = Copying(ledger, ledger.copied, self.reports, meta_copies)
        self.note = ""
        self.changed = Condition()  # the map or the grant changed
        self.queued: list[tuple[float, int, Round]] = []  # drops too young to be taken
        self.droppable = 0
        self._persisted: dict[Slot, float] = {}
        self._ticket = ledger.incarnation << 40  # of the newest answer to a report
        self._quoted: dict[Slot, int] = {}  # no report that quotes these or less is news
        self._signed = False  # this release, in the newest format
        self._begun: float | None = None  # when `watch` first looked
        if ledger.cluster:
            self.note = "waiting for the votes of more than half of the dataservers"
            self.map.members = cluster.members(ledger.ring, ledger.servers, {}, 0.0)
            # What the life before queued is held until its newest round is on disks, as ever.
            before = (ledger.incarnation << 40) - 1
            self.queued.append((float("-inf"), before, ledger.store.synced))

    # --- may we? -------------------------------------------------------------------------------

    def may_change(self) -> None:
        """Raises Unavailable when names and maps must not change."""
        if not self.granted:
            raise Unavailable(self.note)
        why = self.copying.ready() if self.copying else ""
        if why:
            raise Unavailable(why)

    def may_read(self, at: float) -> None:
        """Raises Unavailable when not even reads may be answered: nobody vouches for this store."""
        if self.granted:
            return
        if self.ledger.cluster is None:
            raise Unavailable(self.note)
        alive = [h for h in self.reports.values() if at - h.at <= limits.DOWN_S]
        if not alive or self._outrun() is not None:
            raise Unavailable(self.note)

    def _outrun(self) -> wire.Report | None:
        served = (self.ledger.incarnation, 0) if self.granted else self.ledger.opened
        return cluster.newer(self.reports, self.ledger.incarnation, served)

    # --- reports -------------------------------------------------------------------------------

    async def report(self, request: wire.Report, caller: Caller) -> wire.Instructions:
        """A dataserver, each second."""
        at, at_ns = await now(), await clock()
        refused = self._refusal(request)
        if refused:
            return self._instructions(request, refused)
        if self._late(request):  # nothing is settled or recorded: ask again, with a ticket
            return replace(self._instructions(request), cluster=b"", granted=False)
        self.reports[request.slot] = cluster.Heard(at, request)
        self._give_way(request)
        if self.ledger.cluster is None:
            self._found(at, at_ns)
            return self._instructions(request)
        if not self.granted:
            self._vote(at, at_ns)
        if self.granted:
            self._record(request, at, at_ns)
            self._sign(at_ns)
        self._watch(at)
        return self._instructions(request)

    def _sign(self, at_ns: int) -> None:
        """The store gets our format once every dataserver can read that: each may keep a copy."""
        if not self._signed:
            heard = [self.reports.get(Slot(n)) for n in range(len(self.ledger.ring))]
            newest = [h.report.protocols.newest if h else 0 for h in heard]
            everywhere = all(one >= schema.META_FORMAT_SINCE for one in newest)
            self._signed = self.ledger.sign(at_ns, everywhere)

    def _late(self, report: wire.Report) -> bool:
        """Whether a report says that its store went back, or is another, and may itself be from
        before the newest one: the network may hold up what its sender has long given up.  What
        quotes a ticket that no report quoted yet was sent after all that were heard."""
        slot = report.slot
        quoted = self._quoted.get(slot, self.ledger.incarnation << 40)
        server = self.ledger.servers.get(slot)
        accuses = server and cluster.judge(server, self.ledger.servers, report).kind
        ticket = report.ticket if report.ticket <= self._ticket else 0  # else: not one of ours
        if accuses and ticket <= quoted:
            return True
        # A process that has no ticket yet: whatever was sent before it is late from here on.
        self._quoted[slot] = max(quoted, ticket or self._ticket)
        return False

    def _give_way(self, report: wire.Report) -> None:
        """A server is promised to a later metaserver: this one must not change anything more."""
        server = self.ledger.servers.get(report.slot)
        known = server is not None and server.uuid == report.uuid
        if self.granted and known and report.promised > self.ledger.incarnation:
            self._grant(False)
            log.error("dataserver %d serves a later metaserver: this one gives way", report.slot)
            notify(self.changed)

    def _grant(self, on: bool) -> None:
        if on and not self.granted and self.copying is not None:
            self.ledger.begin()
        self.granted = on
        if self.copying is not None:
            self.copying.allow(on)

    def _refusal(self, report: wire.Report) -> str:
        ours = self.ledger.cluster
        if unlikely := cluster.unlikely(report):
            return unlikely
        if report.slot >= len(report.addresses):
            return f"slot {report.slot} is not in its own list of {len(report.addresses)} ports"
        if ours is None:
            if report.cluster:
                self.behind = self.copying is not None
                self.note = cluster.founding({report.slot: cluster.Heard(0.0, report)}, 0.0)[1]
                log.error("%s", self.note)
                return self.note
            return cluster.mistyped(report, self.reports)
        if report.cluster and report.cluster != ours.uuid:
            return (
                f"its store belongs to cluster {report.cluster.hex()}, "
                f"this is cluster {ours.uuid.hex()}"
            )
        if report.addresses != self.ledger.ring:
            shown = " ".join(addresses.short(a) for a in self.ledger.ring)
            return f"its list of ports differs from the cluster's: {shown}"
        if self.granted:
            verdict = cluster.judge(self.ledger.servers[report.slot], self.ledger.servers, report)
            return verdict.text if verdict.server is None else ""
        return ""

    def _found(self, at: float, at_ns: int) -> None:
        ring, self.note = cluster.founding(self.reports, at)
        if ring is None:
            return
        founded = Cluster(os.urandom(16), self.block_bytes, limits.REPLICAS, EPOCH)
        if self.copying is not None:
            self.ledger.begin()
        self.ledger.founded_in = self.ledger.incarnation
        with self.ledger.raw() as txn:
            txn.put(schema.CLUSTER, records.pack(founded))
            txn.put(schema.number_key(b"r", EPOCH), records.pack(Ring(ring)))
            for slot, heard in self.reports.items():
                server = cluster.fresh(heard.report)
                txn.put(schema.number_key(b"s", slot), records.pack(server))
                txn.put(schema.number_key(b"a", slot), records.pack(Account(0, 0, 0, 0)))
            namespace.found(Tables(txn, self.ledger.proven, self.ledger.change_floor), at_ns)
        self.ledger.store.end_round()  # on disk before the first server hears of it
        self.ledger.load()
        self.note = "waiting for the votes of more than half of the dataservers"
        log.warning("founded cluster %s of %d dataservers", founded.uuid.hex(), len(ring))
        self._watch(at)

    def _vote(self, at: float, at_ns: int) -> None:
        outrun = self._outrun()
        if outrun is not None:
            self.behind = self.copying is not None
            self.note = (
                f"this metaserver's store is an old copy: the dataserver in slot {outrun.slot} has "
                f"seen incarnation {max(outrun.promised, outrun.served_incarnation)}: start the "
                "metaserver with its newest store"
            )
            return
        if self.copying is not None and not self._newest(at):
            return
        servers = self.ledger.servers
        self._grant(cluster.granted(servers, self.reports, self.ledger.incarnation, at))
        self.note = cluster.hoping(self.ledger.ring, servers, self.reports, at)
        if self.granted:
            self.note = ""
            log.info("granted by more than half of the dataservers: serving")
            text = f"incarnation {self.ledger.incarnation} serves"
            self.ledger.event(at_ns, "metaserver", text)
            notify(self.changed)

    def _newest(self, at: float) -> bool:
        """Whether enough copies say that nothing is newer than our store."""
        assert self.copying is not None and self.ledger.copied is not None
        verdict = self.copying.judge(self.ledger.copied.head, at)
        self.behind = verdict.source is not None
        self.note = verdict.text or self.note
        if verdict.settled:
            self.copying.adopt(verdict.copies)
        return verdict.settled

    def _served(self) -> tuple[int, Round]:
        """The newest round of ours that nobody can lose: what dataservers remember of us."""
        ledger = self.ledger
        safe = ledger.store.safe(synced=True, change=True)
        if not self.granted or safe < ledger.first_round:
            return ledger.opened
        return ledger.incarnation, safe

    def _record(self, report: wire.Report, at: float, at_ns: int) -> None:
        """What the report changes about its slot, and its events."""
        ledger, slot = self.ledger, report.slot
        server = ledger.servers[slot]
        verdict = cluster.judge(server, ledger.servers, report)
        assert verdict.server is not None, "refused above"
        news = verdict.server
        name = addresses.short(ledger.ring[slot])
        reconciled = min(report.reconciled, news.reconcile)  # it can't have done what comes yet
        if cluster.trusted(news, report) and reconciled > news.reconciled:
            news = replace(news, reconciled=reconciled)
        if not cluster.same_boot(server, report):
            news = replace(news, heard=0)
            if not verdict.kind:
                ledger.event(at_ns, "started", f"{name} started, boot {report.boot} of its store")
        if verdict.kind:
            ledger.event(at_ns, verdict.kind, f"{name} {verdict.text}")
        news = self._hear(news, name, report, at_ns)
        moved = replace(news, synced_round=server.synced_round) != server
        if moved or (news != server and at - self._persisted.get(slot, 0.0) > PERSIST_S):
            self._persisted[slot] = at
            ledger.set_server(slot, news)
        else:
            ledger.servers[slot] = news

    def _hear(self, news: Server, name: str, report: wire.Report, at_ns: int) -> Server:
        """Record what a server has to tell, each event once: their numbers are kept with them."""
        first = report.first_event
        if report.events and first > news.heard + 1:
            text = f"{name} had {first - news.heard - 1} more events to tell than it could keep"
            self.ledger.event(at_ns, "unheard", text)
        for number, event in enumerate(report.events, first):
            if number > news.heard:
                self.ledger.event(event.at_ns or at_ns, event.kind, event.text)
                news = replace(news, heard=number)
        return news

    def _instructions(self, report: wire.Report, refused: str = "") -> wire.Instructions:
        ledger, ours = self.ledger, self.ledger.cluster
        server = ledger.servers.get(report.slot)
        served = self._served()
        claim = wire.Claim(ledger.incarnation, Incarnation(served[0]), served[1])
        known = ours is not None and server is not None and server.uuid == report.uuid
        self._ticket += 1
        return wire.Instructions(
            cluster=ours.uuid if ours else b"",
            epoch=ours.epoch if ours else Epoch(0),
            addresses=ledger.ring,
            block_bytes=self.block_bytes,
            life=server.life if server and known else report.life,
            claim=claim,
            granted=self.granted,
            wiped=bool(server and server.reconciled < server.refill),
            reconcile=server.reconcile if server and known else 0,
            drops=self.droppable,
            copies=self.copying.told if self.copying else NO_COPIES,
            refused=refused,
            ticket=self._ticket,
            owed=self.account(report.slot).replicas if known else 0,
            protocols=wire.spoken(),
        )

    def account(self, slot: Slot) -> Account:
        """What a slot is owed; where damage hides that, nothing: the walk and fsck say so."""
        try:
            with self.ledger.view() as view:
                return view.account(slot)
        except Damaged:
            return Account(0, 0, 0, 0)

    # --- the map -------------------------------------------------------------------------------

    def _watch(self, at: float) -> None:
        """Recompute the cluster map; tell the mounts when it changed."""
        if self.ledger.cluster is None:
            silent = [slot for slot, h in self.reports.items() if at - h.at > limits.DOWN_S]
            for slot in silent:  # with its list of ports, which may have been mistyped
                del self.reports[slot]
            if silent:
                self.note = cluster.founding(self.reports, at)[1]
            return
        members = cluster.members(self.ledger.ring, self.ledger.servers, self.reports, at)
        if members == self.map.members:
            return
        for old, new in zip(self.map.members, members):
            if old.state is not new.state:
                name = addresses.short(new.address)
                log.info("dataserver %s: %s -> %s", name, old.state.name, new.state.name)
        self.map = cluster.Map(self.map.version + 1, members)
        self.broadcast(wire.MapChanged(self.shown_map()))
        notify(self.changed)

    def shown_map(self) -> wire.ClusterMap:
        """The cluster map for the wire."""
        ours = self.ledger.cluster
        copies = self.copying.told if self.copying else NO_COPIES
        return self.map.shown(ours.epoch if ours else Epoch(0), copies)

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [("watch", self.watch()), *(self.copying.tasks() if self.copying else ())]

    async def watch(self) -> None:
        """Silence makes a server down; drops ripen."""
        while True:
            await sleep(limits.BEAT_S / 4)
            at, at_ns = await now(), await clock()
            self._watch(at)
            try:
                self._tell_silence(at, at_ns)
            except Damaged as error:  # again at the next look
                await self.heal(error.key)
            self._ripen(at)

    def _ripen(self, at: float) -> None:
        while self.queued and self._ripe(at, *self.queued[0]):
            self.droppable = self.queued.pop(0)[1]

    async def heal(self, key: bytes) -> None:
        """For a task that met damage and goes on."""
        try:
            if self.copying is not None:
                await self.copying.heal(key)
        except Failure as error:
            log.error("%s is damaged, and not healed: %s", schema.describe(key), error)

    def _tell_silence(self, at: float, at_ns: int) -> None:
        """Events for who fell silent and who is back.  What was said stands in the records, so it
        is not said again by the next metaserver, which first waits to hear from everybody."""
        if self._begun is None:
            self._begun = at
        if not self.granted:
            return
        for member in self.map.members:
            server, down = self.ledger.servers[member.slot], member.state is State.DOWN
            early = at - self._begun < limits.DOWN_S + limits.BEAT_S
            if down == server.down or (down and early):
                continue
            name = addresses.short(member.address)
            kind, text = "up", f"{name} is back"
            if down:
                kind = "down"
                text = f"{name} is down: it said nothing for {limits.DOWN_S:g} s; writes wait"
            self.ledger.set_server(member.slot, replace(server, down=down))
            self.ledger.event(at_ns, kind, text)

    # --- drops ---------------------------------------------------------------------------------

    def _ripe(self, at: float, queued: float, number: int, round_: Round) -> bool:
        """No reader is underway to it, and no power cut brings back what let go of it."""
        store = self.ledger.store
        if at - queued < limits.KEEP_SUPERSEDED_S:
            return False
        if round_ > store.safe(synced=True, change=True):
            store.promise(round_)  # else its copies sync it when somebody asks: perhaps never
            return False
        return True

    def dropped(self, at: float, number: int) -> None:
        """The write block underway has queued drops up to `number`."""
        self.queued.append((at, number, self.ledger.store.round))

    async def take_drops(self, request: wire.TakeDrops, caller: Caller) -> wire.Drops:
        """The next of the queue for a slot; what all slots have done is forgotten."""
        self._ripen(await now())
        self.may_change()
        ledger = self.ledger
        server = ledger.servers.get(request.slot)
        if server is None or server.uuid != request.uuid:
            raise Foreign("not the store that this slot is known for")
        if incarnation_of(request.done) > ledger.incarnation:
            raise BadMessage(f"drop {request.done} was never queued")
        if request.done > server.dropped:
            ledger.set_server(request.slot, replace(server, dropped=request.done))
            done = min(server.dropped for server in ledger.servers.values())
            with ledger.raw() as txn:
                first, end = schema.number_key(b"d", 0), schema.number_key(b"d", done + 1)
                for key in [key for key, _ in txn.scan(first, end)]:
                    txn.delete(key)
        items: list[wire.DropItem] = []
        size, through = 0, self.droppable
        with ledger.store.read() as read:
            first = schema.number_key(b"d", request.done + 1)
            for key, payload in read.scan(first, schema.number_key(b"d", self.droppable + 1)):
                record = decode(DropRecord, key, payload)
                size += len(payload)
                if items and (size > limits.HEAD_BYTES // 2 or len(items) == DROPS):
                    through = items[-1].number
                    break
                items.append(wire.DropItem(schema.number_of_key(key), record.ino, record.versions))
        return wire.Drops(tuple(items), max(through, request.done))

    # --- what must be where --------------------------------------------------------------------

    async def inventory(self, request: wire.Inventory, caller: Caller) -> wire.Stock:
        """Map pages with blocks on a slot."""
        self.may_read(await now())
        servers = len(self.ledger.ring)
        with self.ledger.view() as view:
            return extents.inventory(
                view, request.slot, request.ino, request.page, lambda epoch: servers,
                request.most,
            )  # fmt: skip

    async def judge(self, request: wire.Judge, caller: Caller) -> wire.Judgement:
        """Which versions are named by a map, or may still be."""
        self.may_change()
        newest = self.queued[-1][1] if self.queued else self.droppable
        with self.ledger.view() as view:
            keep = bytes([self._keep(view, name) for name in request.names])
        return wire.Judgement(keep, newest)

    def _keep(self, view: View, name: Name) -> bool:
        """Damaged metadata proves nothing: then the version stays."""
        try:
            return self._may_count(view, name)
        except Damaged:
            return True

    def _may_count(self, view: View, name: Name) -> bool:
        inode = view.find(name.ino)
        if inode is None:
            prefix = schema.page_prefix(name.ino)
            return any(view.read.scan(prefix, schema.after(prefix)))  # then its inode was lost
        if extents.named(view, name):
            return True
        if name.version.token < inode.token:
            return False
        held = self.sessions.holder(name.ino)
        if held is None:  # its holder may not have heard of it yet: only a later token voids it
            return True
        return held.token != name.version.token or name.version.sequence >= held.floor

    # --- skip ---------------------------------------------------------------------------------

    async def skip(self, request: wire.Skip, caller: Caller) -> wire.Done:
        """Commits go ahead without a server, to test what it does when it is back."""
        if not self.faults:
            raise FaultsForbidden("the metaserver refuses faults: start it with --faults")
        self.may_change()
        server = self.ledger.servers.get(request.slot)
        if server is None:
            raise BadMessage(f"there is no slot {request.slot}")
        # Back in the ring it has to look for what it missed.
        again = server.reconcile + (1 if server.skipped and not request.on else 0)
        self.ledger.set_server(request.slot, replace(server, skipped=request.on, reconcile=again))
        self._watch(await now())
        return wire.Done()


def space(
    ledger: Ledger, reports: dict[Slot, cluster.Heard], inodes: int, stored: int
) -> wire.Space:
    """statfs: every block stands on three of N servers, and the fullest server decides."""
    healths = [reports[s].report.health for s in ledger.servers if s in reports]
    servers, copies = len(ledger.servers), limits.REPLICAS
    free = min((h.free_bytes for h in healths), default=0) * servers // copies
    free = min(free, max(0, ledger.store.free_bytes()) * 64)
    free_inodes = max(0, ledger.store.free_bytes()) // 512
    return wire.Space(free + stored, free, inodes + free_inodes, free_inodes)
