"""A dataserver: keeps block versions, heals itself (DESIGN 4, 8).

    joining --accepted by the metaserver--> recovering --nothing missing--> serving
       ^                                        |
       `------- every start reconciles ---------'

It stores what it is told to (a version never changes: the same name with another seal is refused),
and answers a read only with bytes that match the seal the reader quotes.  It never decides what
counts: the metaserver's maps do.  Beside the requests run: the report each second, the reconcile
after each start, repairs, drops, the scrub, and the store's upkeep.
"""

import collections
import itertools
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any

from zdfs import __version__, addresses, checksum, limits, recovery, wire
from zdfs.admission import Admission
from zdfs.calls import Peer, Trap, call, clock, notify, now, sleep, wait
from zdfs.collecting import Collector
from zdfs.doubts import Doubts
from zdfs.errors import BadMessage, Failure, FaultsForbidden, Foreign, NoSpace, StartError
from zdfs.errors import Outdated, Unavailable
from zdfs.gauges import DataParts, of_data
from zdfs.healing import Healer
from zdfs.ids import EPOCH, Incarnation, Round, Slot
from zdfs.lineage import Writer, signed
from zdfs.measures import Meter, Role
from zdfs.mirror import Mirror
from zdfs.ports import BlockStore, Caller, Handler, MetaStore, Push
from zdfs.schema import DataState
from zdfs.scrubbing import Scrubber
from zdfs.upkeep import Upkeep
from zdfs.wire import Held, State

log = logging.getLogger("zdfs.data")

HEADERS_BYTES = limits.KIB  # what a block costs beside its bytes: a header, entries of the index


class Data:
    """One dataserver; a room for `broker`."""

    def __init__(
        self,
        store: BlockStore,
        slot: Slot,
        ring: tuple[str, ...],
        meta: str,
        faults: bool = False,
        rates: recovery.Rates = recovery.Rates(),
        copy: MetaStore | None = None,
        meter: Meter | None = None,
    ):
        """`copy`: where a copy of the metadata may stand."""
        self.store, self.slot, self.meta = store, slot, Peer(meta)
        self.ring, self.faults = ring, faults
        self.meter = meter or Meter(Role.DATA)
        self.healer = Healer(store, slot, ring, self.meta, rates)
        self.scrubber = Scrubber(self.healer)
        self.mirror = None if copy is None else Mirror(store, copy)
        self.doubts = Doubts(self.healer)
        self.collector = Collector(self.healer)
        self.upkeep = Upkeep(self.healer)
        self.admission = Admission()
        parts = DataParts(store, self.healer, self.scrubber, self.collector, self.mirror)
        self.meter.sources["room"] = lambda: of_data(parts)
        self.note = "waiting for the metaserver"
        self.welcomed = False  # since this start
        self.met: float | None = None  # when what the metaserver last answered was asked
        self.stated = Round(0)  # a vote is reported once this round is synced, never before
        self.ticket = 0  # of the newest answer to a report: proof that the next one is no late one
        self.pushes: list[Push] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.handlers: Mapping[type[wire.Message], Handler] = {
            wire.Identify: self.identify,
            wire.Put: self.put,
            wire.Get: self.get,
            wire.Fetch: self.fetch,
            wire.Check: self.check,
            wire.Corrupt: self.corrupt,
            wire.ListVersions: self.list_versions,
            wire.Discard: self.discard,
            wire.Recollect: self.recollect,
            wire.Append: self.append,
            wire.AppendSynced: self.append_synced,
            wire.AppendPiece: self.append_piece,
            wire.Fill: self.fill,
            wire.ReadCopy: self.read_copy,
            wire.ReadRounds: self.read_rounds,
            wire.Scrub: self.scrub,
            wire.GetMeasures: self.meter.tell,
        }

    incarnation = Incarnation(0)
    ended = False

    def welcome(self, caller: Caller, request: wire.Message) -> None:
        """Where there are keys: not everybody, not for everything."""
        self.admission.welcome(caller, request)

    def admit(self, head: wire.RequestHead, request: wire.Message) -> wire.Reply | None:
        """Nothing here needs a slot: every request is idempotent by name."""
        raise BadMessage("a dataserver has no slots")

    def keep(self, head: wire.RequestHead, reply: wire.Reply) -> None:
        """Never called: nothing is admitted with a slot."""
        raise AssertionError("a dataserver keeps no replies")

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [
            ("report", self.report()),
            ("sign", self.sign()),
            *self.healer.tasks(),
            *self.doubts.tasks(),
            *(self.mirror.tasks() if self.mirror else ()),
            ("collect", self.collector.collect()),
            *self.scrubber.tasks(),
            *self.upkeep.tasks(),
        ]

    # --- requests ------------------------------------------------------------------------------

    async def identify(self, request: wire.Identify, caller: Caller) -> wire.Identity:
        """Who is here."""
        state = self.store.state
        return wire.Identity(
            wire.Role.DATA, wire.released(caller.head.protocol), state.cluster, state.uuid,
            self.slot, self.healer.state, self.faults, addresses.host_id(), self.meta, self.note,
            await clock(), wire.spoken(), state.format, state.lineage,
        )  # fmt: skip

    def _ours(self, cluster: bytes) -> None:
        if not self.store.state.cluster:
            raise Unavailable(self.note)
        if cluster != self.store.state.cluster:
            raise Foreign("this server belongs to another cluster")

    async def put(self, request: wire.Put, caller: Caller) -> wire.Stored:
        """Store versions; acknowledged when they are synced."""
        self.healer.used_at = await now()
        self._ours(request.cluster)
        if len(request.data) != len(request.blocks):
            raise BadMessage(f"{len(request.data)} frames for {len(request.blocks)} blocks")
        for block in request.blocks:
            self._possible(block)
        needed, refused = sum(len(data) + HEADERS_BYTES for data in request.data), False
        while True:
            await self.upkeep.room_for(needed, refused)
            try:
                self._store(request)
                break
            except NoSpace:  # the disk's file system has taken some for itself meanwhile
                refused = True
        state = self.store.state
        return wire.Stored(state.uuid, state.life, self.store.boot, self.store.round)

    def _possible(self, block: wire.Put1) -> None:
        """What no map can name would only be in the way of who makes the metadata anew."""
        size, name = self.store.state.block_bytes, block.name
        if size and block.length > size:
            raise BadMessage(f"{name} has {block.length} bytes, more than a block of {size}")
        if name.block * size + block.length > limits.FILE_BYTES:
            raise BadMessage(f"{name} is behind the end of the longest file")
        if block.epoch < EPOCH:
            raise BadMessage(f"{name} is of ring {block.epoch}, which there never was")
        if block.epoch > max(self.healer.rings, default=EPOCH):  # a mount may be told of it first
            raise Unavailable(f"{name} is of ring {block.epoch}, of which we were not told yet")
        if block.start >= len(self.healer.rings.get(block.epoch, self.ring)):
            raise BadMessage(f"{name}: its file begins on slot {block.start}, of a smaller ring")

    def _store(self, request: wire.Put) -> None:
        """What is here already is left as it is."""
        for block, data in zip(request.blocks, request.data):
            if len(data) != block.length or checksum.seal(block.name, data) != block.seal:
                raise BadMessage(f"{block.name} arrived damaged: its seal does not match")
            entry = self.healer.find(block.name)
            if entry is not None and (entry.crc16, entry.crc32c) != tuple(block.seal):
                log.error("refused another content under the name of %s", block.name)
                raise BadMessage(f"{block.name} stands here with other content")
            if entry is None or not self.healer.whole(block.name):
                self.store.append(block.name, block.seal, block.epoch, block.start, data)

    async def get(self, request: wire.Get, caller: Caller) -> wire.Got:
        """Read versions; what isn't whole is looked at if the reader wants that, and repaired."""
        self.healer.used_at = await now()
        held, data = self._read(request.cluster, request.blocks)
        for want, state in zip(request.blocks, held):
            if state is not Held.OK and request.repair:
                self.doubts.told(want, state)
        return wire.Got(held, data)

    async def fetch(self, request: wire.Fetch, caller: Caller) -> wire.Fetched:
        """Read versions for a server that heals itself."""
        busy = self.healer.busy(await now())
        held, data = self._read(request.cluster, request.blocks)
        return wire.Fetched(held, busy, data)

    def _read(
        self, cluster: bytes, blocks: tuple[wire.Wanted, ...]
    ) -> tuple[tuple[Held, ...], tuple[checksum.Buffer, ...]]:
        self._ours(cluster)
        if sum(want.length for want in blocks) > limits.MESSAGE_BYTES - limits.HEAD_BYTES:
            raise BadMessage("more bytes than one reply may carry")
        held, data = [], []
        if len(blocks) > 1:
            self.store.expect([want.name for want in blocks])
        for want in blocks:
            state, found = self.healer.held(want)
            held.append(state)
            data.append(found)
        return tuple(held), tuple(data)

    async def check(self, request: wire.Check, caller: Caller) -> wire.Checked:
        """Like get, for people: the answer only."""
        self._ours(request.cluster)
        return wire.Checked(tuple(self.healer.held(want)[0] for want in request.blocks))

    async def corrupt(self, request: wire.Corrupt, caller: Caller) -> wire.Harmed:
        """Damage a version on purpose."""
        if not self.faults:
            raise FaultsForbidden(
                f"the dataserver at {self.healer.here} refuses faults: start it with --faults"
            )
        if self.store.find(request.name) is None:
            raise Failure(f"{self.healer.here} does not have that block")
        log.warning("%s of %s, on purpose", request.harm.name.lower(), request.name)
        return wire.Harmed(*self.store.harm(request.name, request.harm, request.seed))

    async def recollect(self, request: wire.Recollect, caller: Caller) -> wire.Recollection:
        """What this store knows, for when there is no metaserver to ask."""
        state, store, met = self.store.state, self.store, self.met
        silent_ms = 2**63 if met is None else int((await now() - met) * 1000)
        return wire.Recollection(
            slot=self.slot, addresses=self.ring, meta=self.meta, silent_ms=silent_ms,
            cluster=state.cluster, uuid=state.uuid, life=state.life, boot=store.boot,
            opened_round=store.opened_round, synced_round=store.synced, promised=state.promised,
            served_incarnation=state.served_incarnation, block_bytes=state.block_bytes,
            whole=bool(state.cluster) and state.reconciled >= state.wanted,
            reconcile=max(state.wanted, state.reconciled), dropped=state.dropped,
            blocks=store.space().blocks, heard=self.healer.first_event - 1,
            copy=self.mirror.report() if self.mirror else wire.NO_COPY,
        )  # fmt: skip

    # --- fsck ----------------------------------------------------------------------------------

    async def list_versions(self, request: wire.ListVersions, caller: Caller) -> wire.Versions:
        """What the index names."""
        self._ours(request.cluster)
        found = self.healer.listed(request.after, limits.VERSIONS)
        items = tuple(
            wire.Version1(name, entry.crc16, entry.crc32c, entry.length, entry.epoch, entry.start)
            for name, entry in found
        )
        return wire.Versions(items, len(items) < limits.VERSIONS, self.store.state.dropped)

    async def discard(self, request: wire.Discard, caller: Caller) -> wire.Done:
        """Drop what is garbage or surplus: as the sweep does, by the metaserver's word."""
        self._ours(request.cluster)
        judged = await call(self.meta, wire.Judge(request.names))
        self.healer.discard(request.names, judged.keep, request.surplus)
        return wire.Done()

    # --- the copy of the metadata --------------------------------------------------------------

    def _mirror(self) -> Mirror:
        if self.mirror is None:
            raise BadMessage("this dataserver keeps no copy of the metadata")
        return self.mirror

    async def append(self, request: wire.Append, caller: Caller) -> wire.CopyState:
        """The metaserver's newest rounds."""
        mirror = self._mirror()
        mirror.may_write(request.cluster, request.incarnation)
        mirror.append(request.parts, request.data)
        return mirror.state()

    async def append_synced(self, request: wire.AppendSynced, caller: Caller) -> wire.CopySynced:
        """Likewise, for replies that promise disks."""
        mirror = self._mirror()
        mirror.may_write(request.cluster, request.incarnation)
        mirror.append(request.parts, request.data)
        return wire.CopySynced(mirror.head, mirror.whole, mirror.cursor)

    async def append_piece(self, request: wire.AppendPiece, caller: Caller) -> wire.CopyState:
        """A piece of a large round."""
        mirror = self._mirror()
        mirror.may_write(request.cluster, request.incarnation)
        mirror.append_piece(request)
        return mirror.state()

    async def fill(self, request: wire.Fill, caller: Caller) -> wire.CopyState:
        """A page of all metadata."""
        mirror = self._mirror()
        mirror.may_write(request.cluster, request.incarnation)
        mirror.fill(request)
        return mirror.state()

    async def read_copy(self, request: wire.ReadCopy, caller: Caller) -> wire.CopyPage:
        """A metaserver that lost its store reads this one."""
        self._ours(request.cluster)
        return self._mirror().read(request)

    async def read_rounds(self, request: wire.ReadRounds, caller: Caller) -> wire.CopyRounds:
        """Likewise one that lacks the last rounds only."""
        self._ours(request.cluster)
        return self._mirror().read_rounds(request.after)

    # --- scrub ---------------------------------------------------------------------------------

    async def scrub(self, request: wire.Scrub, caller: Caller) -> wire.Scrubbing:
        """A full pass for somebody."""
        self._ours(request.cluster)
        return self.scrubber.asked(request.run)

    # --- the report ----------------------------------------------------------------------------

    async def report(self) -> None:
        """Each second, and at once when there is news."""
        while True:
            self.store.promise(self.stated)
            while self.store.synced < self.stated:
                if self.store.oldest_unsynced_s() > limits.DOWN_S:
                    break
                await sleep(0.002)
            stuck = self.store.oldest_unsynced_s()
            if stuck > limits.DOWN_S:
                log.error("a sync of the disk takes %.0f s: not reporting as alive", stuck)
            else:
                await self._report_once()
            joining = self.healer.state is State.JOINING  # nobody wants to wait for that
            await wait(self.healer.wake, limits.JOIN_S if joining else limits.BEAT_S)

    async def sign(self) -> None:
        """Record that this release writes here."""
        at_ns = await clock()
        state = self.store.state
        writer = Writer(__version__, wire.spoken().newest, state.format, at_ns)
        lineage = signed(state.lineage, writer)
        if lineage != state.lineage:
            self.store.set_state(replace(state, lineage=lineage))

    async def _report_once(self) -> None:
        at, asked = await clock(), await now()
        events = self._news(at)
        state = self.store.state
        request = wire.Report(
            slot=self.slot, addresses=self.ring, host=addresses.host_id(), cluster=state.cluster,
            uuid=state.uuid, life=state.life, boot=self.store.boot,
            opened_round=self.store.opened_round, synced_round=self.store.synced,
            health=self.health(asked), promised=state.promised,
            served_incarnation=state.served_incarnation, served_round=state.served_round,
            reconciled=state.reconciled, events=events, first_event=self.healer.first_event,
            ticket=self.ticket, copy=self.mirror.report() if self.mirror else wire.NO_COPY,
            protocols=wire.spoken(),
        )  # fmt: skip
        try:
            told = await call(self.meta, request)
        except Failure as error:
            shown = addresses.short(self.meta)
            if isinstance(error, Outdated) and not self.welcomed:
                raise StartError(f"dataserver {self.healer.here} can't join: {error}")
            if isinstance(error, BadMessage) and not self.welcomed:
                raise StartError(f"{shown} is not the metaserver, name it with --meta: {error}")
            note = f"the metaserver at {shown} does not answer"
            if error.definite or self.note != note:
                log.error("the metaserver at %s: %s", shown, error)
            self.note = note
            self._tended(False)
            return
        self.met = self.healer.heard_at = asked
        self.ticket = told.ticket
        self.admission.secrets.heard(told.secrets, asked)
        if told.granted and not told.refused:  # recorded
            while self.healer.first_event < request.first_event + len(events):
                self.healer.events.popleft()
        self.told(told)

    def _news(self, at_ns: int) -> tuple[wire.Event, ...]:
        """The next events, the same at each repeat of a report that was not answered."""
        events = self.healer.events
        for place in range(min(len(events), 64)):
            if not events[place].at_ns:
                events[place] = events[place]._replace(at_ns=at_ns)
        return tuple(itertools.islice(events, 64))

    def health(self, at: float) -> wire.Health:
        """What people want to know."""
        space, state = self.store.space(), self.store.state
        free = space.free_bytes + self.store.reclaimable_bytes()
        progress = self.healer.progress
        rounds, round_bytes = self.mirror.logged() if self.mirror else (0, 0)
        return wire.Health(
            self.healer.state, space.total_bytes, free,
            max(0, space.blocks - rounds), max(0, space.used_bytes - round_bytes),
            progress.shown(at) if progress else None, state.damaged, state.repaired,
            self.counts["refused"], checksum.engine(), self.scrubber.shown(),
        )  # fmt: skip

    def _tended(self, on: bool) -> None:
        if self.mirror is not None:
            self.mirror.tended = on

    def told(self, told: wire.Instructions) -> None:
        """Take in what the metaserver says."""
        self._tended(told.granted and not told.refused)
        if told.refused:
            self.note = told.refused
            if not self.welcomed:
                raise StartError(f"dataserver {self.healer.here} may not join: {told.refused}")
            log.error("refused by the metaserver: %s", told.refused)
            return
        old = state = self.store.state
        claim = told.claim
        if claim.incarnation > state.promised:
            if (claim.served_incarnation, claim.served_round) >= (
                state.served_incarnation,
                state.served_round,
            ):
                state = replace(state, promised=claim.incarnation)
        if not told.cluster and state.cluster:
            self.note = "waiting for the metaserver: it gets the metadata back from its copies"
        elif not told.cluster:
            self.note = "waiting for the cluster to be founded"
        elif claim.incarnation == state.promised:
            state = self._joined(state, told)
        if state != old:
            self.store.set_state(state)
            self.stated = self.store.round
            notify(self.healer.wake)

    def _joined(self, state: DataState, told: wire.Instructions) -> DataState:
        self.welcomed = True
        self.note = ""
        self.healer.rings[told.epoch] = told.addresses
        if state.cluster not in (b"", told.cluster):
            raise StartError(
                f"dataserver {self.healer.here}: the metaserver now serves another cluster"
            )
        if not told.granted:  # an empty store stays empty until somebody vouches for the cluster
            return state
        state = replace(state, cluster=told.cluster, slot=self.slot, block_bytes=told.block_bytes)
        if told.life != state.life:
            state = replace(state, life=told.life)
        if told.copies.number > state.copies.number:
            state = replace(state, copies=told.copies)
        served = (state.served_incarnation, state.served_round)
        # Only with data's own rounds: an idle cluster must not write because it wrote.
        if (told.claim.served_incarnation, told.claim.served_round) > served:
            state = replace(
                state,
                served_incarnation=told.claim.served_incarnation,
                served_round=told.claim.served_round,
            )
        if told.reconcile > max(self.healer.reconcile_wanted, state.reconciled):
            self.healer.reconcile_wanted = told.reconcile
            state = replace(state, wanted=told.reconcile)
            notify(self.healer.work)
        elif self.healer.state is State.JOINING and told.reconcile <= state.reconciled:
            self.healer.state = State.SERVING
        if told.drops > self.healer.drops_ready:
            self.healer.drops_ready = told.drops
            notify(self.healer.work)
        self.collector.told(told.owed)
        return state
