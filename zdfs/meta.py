"""The metaserver: names, maps, sessions, grants; a room for `broker` (DESIGN 4, 5, 6, 9).

POSIX semantics are functions on a transaction (`namespace`, `extents`, `xattrs`); here they meet
time, sessions and permission to serve.  The law of every handler: traps, then one write block, then
return; what was read before a trap is checked again inside the block.

    `ledger`      the store, numbers that never repeat
    `membership`  the dataservers: founding, votes, slots, drops
    `sessions`    the mounts: slots, open files, write grants (soft)
"""

import collections
import logging
import stat
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import replace
from typing import Any

from zdfs import addresses, events, extents, limits, metacheck
from zdfs import records, schema, wire
from zdfs.calls import Trap, clock, now, sleep
from zdfs.contents import Contents
from zdfs.errors import BadMessage, Damaged, NoSession, Unavailable
from zdfs.events import Chronicle
from zdfs.gauges import MetaParts, of_meta
from zdfs.guard import Guard
from zdfs.ids import ROOT, Incarnation, Ino, Session, Slot, Token
from zdfs.inspection import Inspection
from zdfs.interests import shown
from zdfs.ledger import Ledger, revive
from zdfs.locking import Locking
from zdfs.measures import Meter, Role
from zdfs.membership import Membership
from zdfs.names import Names
from zdfs.ports import Caller, Handler, Push, Reader
from zdfs.rights import Need, needed
from zdfs.schema import KeptReply, SessionRecord
from zdfs.sessions import Kept, Sessions
from zdfs.tables import View, decode, scan_past_damage
from zdfs.standing import Standing
from zdfs.usage import Usage
from zdfs.wire import State

log = logging.getLogger("zdfs.meta")

SHOWN = 128  # characters of a mount's host and directory: they are only shown
AGAIN = (wire.Open, wire.ReturnGrant, wire.Lock, wire.Unlock, wire.StopWaiting, wire.CloseSession)
"""What comes in a slot and changes nothing that is stored (an open that only reads): after a
restart a repeat may run again."""
HOLDING = (wire.Create, wire.Open, wire.Grant)
LATE = f"did not say within {limits.ANNOUNCE_S:.0f} s what it holds, and others wait for that"
WALK_RECORDS = 512  # records the background walk looks at between two rounds
WALK_RESTS = 9  # ... and then rests for so many times as long as that took: others are served


class Meta:
    """The metaserver."""

    def __init__(
        self, ledger: Ledger, block_bytes: int, faults: bool = False,
        session_s: float = limits.SESSION_S, meta_copies: int = 0, meter: Meter | None = None,
    ):  # fmt: skip
        self.ledger, self.faults = ledger, faults
        self.meter = meter or Meter(Role.META)
        self.sessions = Sessions(session_s)
        self.members = Membership(
            ledger, self.sessions, block_bytes, faults, self.broadcast, meta_copies
        )
        self.guard = Guard(
            ledger, self.sessions, self.members.may_read, self._heal,
            lambda *words: self.locking.keep_only(*words),
        )  # fmt: skip
        self.contents = Contents(ledger, self.sessions, self.members)
        self.locking = Locking(ledger, self.sessions, self.members, self.contents)
        self.names = Names(ledger, self.members, self.contents.orphans)
        self.standing = Standing(self.members)
        self.usage = Usage(ledger, self.sessions, self.members, self.locking.locks)
        self.chronicle = Chronicle(self.members)
        self.pushes = self.contents.pushes
        self.inspection = Inspection(ledger, self.contents.orphans, self._may_be_open, self.members)
        self.counts: collections.Counter[str] = collections.Counter()
        handlers: Mapping[type[wire.Message], Handler] = {
            wire.Identify: self.identify,
            **self.names.handlers,
            wire.OpenSession: self.open_session,
            wire.CloseSession: self.close_session,
            wire.Beat: self.beat,
            wire.Announce: self.announce,
            wire.Create: self.contents.create,
            wire.Open: self.contents.open,
            wire.Grant: self.contents.grant,
            wire.ReturnGrant: self.contents.return_grant,
            wire.ReadMap: self.contents.read_map,
            wire.Seek: self.contents.seek,
            wire.Commit: self.contents.commit,
            wire.Sync: self.contents.sync,
            wire.Settle: self.contents.settle,
            wire.ListDebts: self.contents.list_debts,
            wire.GetPolicy: self.contents.get_policy,
            wire.SetPolicy: self.contents.set_policy,
            wire.Truncate: self.contents.truncate,
            wire.Lock: self.locking.lock,
            wire.Unlock: self.locking.unlock,
            wire.StopWaiting: self.locking.stop_waiting,
            wire.TestLock: self.locking.test,
            wire.Punch: self.contents.punch,
            wire.Dispute: self.locking.dispute,
            wire.Report: self.members.report,
            wire.Inventory: self.members.inventory,
            wire.TakeDrops: self.members.take_drops,
            wire.Judge: self.members.judge,
            wire.Foresee: self.standing.foresee,
            wire.SumDirectory: self.usage.sum_directory,
            wire.FindOpen: self.usage.find_open,
            wire.GetStatus: self.status,
            wire.GetEvents: self.chronicle.tell,
            wire.Skip: self.members.skip,
            wire.Examine: self.inspection.examine,
            wire.ListEntries: self.inspection.list_entries,
            wire.GetMeasures: self.meter.tell,
        }
        self.meter.sources["room"] = lambda: of_meta(MetaParts(self.members, self.locking.locks))
        self.handlers: Mapping[type[wire.Message], Handler] = {
            kind: self.guard.guarding(self._telling(handler)) for kind, handler in handlers.items()
        }
        self._remember()

    @property
    def incarnation(self) -> Incarnation:
        """This life of the metaserver."""
        return self.ledger.incarnation

    @property
    def ended(self) -> bool:
        """Somebody has newer metadata: `regain` has to get it first."""
        return self.members.behind

    def _remember(self) -> None:
        """What the records say of the life before: sessions, kept replies, orphans."""
        with self.ledger.store.read() as read:
            for key, payload in self._readable(read, b"n"):
                session = Session(schema.number_of_key(key))
                record = decode(SessionRecord, key, payload)
                self.sessions.born(session, record, float("inf"), announced=False)
            for key, payload in self._readable(read, b"k"):
                session, slot = schema.kept_of_key(key)
                mount = self.sessions.mounts.get(session)
                if mount is not None:
                    kept = records.unpack(KeptReply, payload)
                    mount.slots[slot] = Kept(kept.sequence, revive(kept))
            for key, _ in scan_past_damage(read, b"o", schema.after(b"o")):
                ino = Ino(schema.number_of_key(key))
                self.contents.orphans.add(ino, self._stood(View(read), ino))

    def _stood(self, view: View, ino: Ino) -> Ino:
        """Where an orphan stood.  Damaged: nobody can say, until it comes back from a copy."""
        try:
            inode = view.find(ino)
        except Damaged:
            return Ino(0)
        return Ino(0) if inode is None else inode.parent

    def _readable(self, read: Reader, table: bytes) -> Iterator[tuple[bytes, bytes]]:
        """A table's records.  Damaged: one that copies have, so all is got back from them; without
        copies, what can be read must do: whose record is lost begins anew."""
        copying = self.members.copying
        for key, payload in scan_past_damage(read, table, schema.after(table)):
            if not isinstance(payload, Damaged):
                yield key, payload
            elif copying is not None and copying.copies.needed:
                raise payload
            else:
                log.error("%s: nobody has a copy of it", payload)

    def _may_be_open(self, ino: Ino) -> bool:
        """Also while a mount has yet to say what it has open."""
        return self.sessions.is_open(ino) or not self.sessions.all_announced()

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [
            *self.members.tasks(),
            *self.chronicle.tasks(),
            ("sessions", self.watch_sessions()),
            ("reaper", self.contents.reap()),
            ("walk", self.walk()),
        ]

    # --- who may -------------------------------------------------------------------------------

    def welcome(self, caller: Caller, request: wire.Message) -> None:
        """Where there are keys: not everybody, not for everything."""
        self.guard.welcome(caller, request)

    # --- exactly once --------------------------------------------------------------------------

    def admit(self, head: wire.RequestHead, request: wire.Message) -> wire.Reply | None:
        """The kept reply of a repeated change.  What it grants and opens is soft: if we restarted
        since, the mount could not announce what it had not heard of yet."""
        need = needed(request)
        if need not in (Need.CHANGE, Need.ADMIN) and not isinstance(request, AGAIN):
            raise BadMessage(f"{type(request).__name__} changes nothing, and came in a slot")
        kept = self.sessions.admit(head, lasts=need is not Need.LOOK)
        if isinstance(kept, (wire.Opened, wire.Granted)):
            ino = kept.attributes.ino
            if isinstance(request, (wire.Create, wire.Open)):
                self.sessions.opened(head.session, ino, request.opening)
            mount = self.sessions.mount(head.session)
            if isinstance(request, HOLDING) and self.guard.may_hold(mount, ino):
                self._hold_again(head.session, ino, kept.token)
            held = self.sessions.holder(ino)
            if held is None or (held.session, held.token) != (head.session, kept.token):
                return replace(kept, token=Token(0))  # it has ended: nobody may write under it
        return kept

    def _hold_again(self, session: Session, ino: Ino, token: Token) -> None:
        """A grant from before a restart, if nobody was given a newer one."""
        if not token or self.sessions.holder(ino):
            return
        with self.ledger.view() as view:
            try:
                inode = view.find(ino)
                newest = inode is not None and inode.token == token
            except Damaged:  # what can't be read may come back; then each commit is judged by it
                newest = True
        if newest:
            self.sessions.grant(ino, session, token)

    def keep(self, head: wire.RequestHead, reply: wire.Reply) -> None:
        """Remember a change's reply, in its own round.  A failure changed nothing: a repeat may run
        again, so it is forgotten; memory still refuses what comes later than its successor."""
        if isinstance(reply, wire.Failed):
            self.sessions.keep(head, reply if reply.failure().definite else None)
            return
        # What is answered before the grant changes no record.
        if self.sessions.keep(head, reply) and self.ledger.begun:
            kept = KeptReply(head.sequence, reply.operation, self.ledger.pack_reply(reply))
            with self.ledger.raw() as txn:
                txn.put(schema.kept_key(head.session, head.slot), records.pack(kept))

    # --- sessions ------------------------------------------------------------------------------

    def broadcast(self, message: wire.Reply) -> None:
        """Push to every mount."""
        for session in self.sessions.mounts:
            self._push(session, message)

    def _telling(self, handler: Handler) -> Handler:
        """A handler, after which other mounts are told what it changed of what they looked at.

        Its write block is its last step before it returns, so what was changed since is its own;
        what tasks change beside the requests (orphans, tokens) nobody can see.
        """

        async def told(request: wire.Message, caller: Caller) -> wire.Reply:
            reply = await self._sound(handler, request, caller)
            session, changed = caller.head.session, self.ledger.take_changed()
            if isinstance(reply, wire.Renamed):
                both = [one for one in (reply.moved, reply.replaced) if one is not None]
                directory = any(stat.S_ISDIR(one.mode) for one in both)
                self.sessions.unnamed(None if directory else [one.ino for one in both])
            elif isinstance(request, wire.Unlink) and isinstance(reply, wire.Found):
                self.sessions.unnamed([reply.attributes.ino])
            if changed:
                for other, inos in self.sessions.interests.changed(changed, session).items():
                    self._tell(other, inos)
            if session in self.sessions.mounts:
                forgotten = self.sessions.interests.looked(session, shown(request, reply))
                self._tell(session, forgotten)
            return reply

        return told

    def _tell(self, session: Session, inos: list[Ino]) -> None:
        """A mount shall ask again for these."""
        mount = self.sessions.mounts.get(session)
        if mount is None:
            return
        for first in range(0, len(inos), limits.LIST_ITEMS):
            mount.told += 1
            news = tuple(
                ROOT if ino == mount.root else ino
                for ino in inos[first : first + limits.LIST_ITEMS]
            )
            self._push(session, wire.Changed(mount.told, news))

    async def _sound(self, handler: Handler, request: wire.Message, caller: Caller) -> wire.Reply:
        """A handler's reply; what it finds damaged (it changed nothing then) comes back first."""
        vain: set[bytes] = set()  # keys that were not healed: by another request meanwhile, perhaps
        while True:
            try:
                return await handler(request, caller)
            except Damaged as error:
                if not await self._heal(error.key):
                    if error.key in vain:
                        raise
                    vain.add(error.key)

    async def _heal(self, key: bytes) -> int:
        """How many records came back from a copy of the metadata."""
        copying = self.members.copying
        return await copying.heal(key) if copying is not None else 0

    def _push(self, session: Session, message: wire.Reply) -> None:
        mount = self.sessions.mounts.get(session)
        if mount is not None and mount.address:
            self.pushes.append(Push(mount.address, session, message, mount.protocol))

    @property
    def note(self) -> str:
        """Whom it waits for before it can serve."""
        return self.members.note

    async def identify(self, request: wire.Identify, caller: Caller) -> wire.Identity:
        """Who is here."""
        ours = self.ledger.cluster
        return wire.Identity(
            wire.Role.META, wire.released(caller.head.protocol), ours.uuid if ours else b"",
            self.ledger.uuid, Slot(0),
            State.SERVING if self.members.granted else State.JOINING, self.faults,
            addresses.host_id(), "", self.members.note, await clock(), wire.spoken(),
            self.ledger.format, self.ledger.lineage,
        )  # fmt: skip

    async def status(self, request: wire.GetStatus, caller: Caller) -> wire.Status:
        """All of `zdfs status`."""
        found = await self.standing.status(request, caller)
        return replace(found, refused=self.counts["refused"])

    async def open_session(self, request: wire.OpenSession, caller: Caller) -> wire.SessionOpened:
        """A mount starts."""
        at, at_ns = await now(), await clock()
        self.members.may_change()
        mount = self.sessions.by_nonce(request.nonce)
        if mount is None:
            if len(self.sessions.mounts) >= limits.SESSIONS:
                raise Unavailable(f"{limits.SESSIONS} mounts are here: no more")
            host, mounted = _shown(request.host), _shown(request.mount)
            record = SessionRecord(request.nonce, host, mounted, at_ns)
            session = self.ledger.new_session()
            with self.ledger.change(grows=False) as tables:
                tables.txn.put(schema.number_key(b"n", session), records.pack(record))
            mount = self.sessions.born(session, record, at, announced=True)
            mount.protocols = request.protocols
            log.info("session %d: %s:%s", session, host, mounted)
            self.chronicle.came(at_ns, mount)
        assert self.ledger.cluster is not None
        return wire.SessionOpened(
            mount.session, self.ledger.cluster.uuid, self.ledger.cluster.block_bytes,
            self.members.shown_map(), at_ns, int(self.sessions.life_s * 1000),
            protocols=wire.spoken(),
        )  # fmt: skip

    async def close_session(self, request: wire.CloseSession, caller: Caller) -> wire.Done:
        """A mount ends."""
        at, at_ns = await now(), await clock()
        self.members.may_change()
        if caller.head.session in self.sessions.mounts:
            self.chronicle.went(at_ns, self.sessions.mount(caller.head.session))
            self._bury(caller.head.session, at)
        return wire.Done()

    def _bury(self, session: Session, at: float) -> None:
        """It and what was kept for it go, whether that can be read or not."""
        with self.ledger.change(grows=False) as tables:
            tables.txn.delete(schema.number_key(b"n", session))
            first = schema.kept_key(session, 0)
            for key, _ in list(scan_past_damage(tables.txn, first, schema.after(first[:9]))):
                tables.txn.delete(key)
            for ino in self.sessions.held_by(session):  # a later token: what it left is garbage
                try:
                    if tables.find(ino) is not None:
                        extents.grant(tables, ino, self.ledger.new_token())
                except Damaged as error:  # a mount must be able to end all the same
                    log.error("inode %d keeps the token of a mount that ended: %s", ino, error)
        self.sessions.died(session)
        self.locking.ended(session, at)

    async def beat(self, request: wire.Beat, caller: Caller) -> wire.Beaten:
        """A mount lives."""
        session = caller.head.session
        at, at_ns = await now(), await clock()
        if self.sessions.beaten(session, request.number, request.heard, at):
            mount = self.sessions.mount(session)
            mount.address, mount.blocked = caller.address, request.blocked
            mount.protocol = caller.head.protocol
            self.chronicle.blocked(at_ns, mount, request.blocked)
        mount = self.sessions.mount(session)
        for ino, opening in request.closed:
            self.sessions.closed(session, ino, opening)
        for ino, token in request.returned:
            self.contents.returned(session, ino, token)
        shown = self.members.shown_map()
        return wire.Beaten(
            request.number,
            shown if shown.version != request.map_version else None,
            self.sessions.recalls(session),
            not mount.announced,
            mount.told,
        )

    async def announce(self, request: wire.Announce, caller: Caller) -> wire.Announced:
        """Soft state, said again after a restart."""
        session = caller.head.session
        at = await now()
        mount = self.sessions.heard(session, at)
        mount.protocols = request.protocols
        with self.ledger.view() as view:
            for ino, opening in request.openings:
                if _is_there(view, ino):
                    self.sessions.opened(session, ino, opening)
        if mount.announced or request.incarnation != self.incarnation:
            return wire.Announced(wire.spoken())  # late: it may have given back since what it had
        for ino, token, _ in request.holdings:
            self._hold_again(session, ino, token)
        try:
            self.locking.announced(session, request.locks)
        except NoSession:
            self._bury(session, at)
            raise
        if request.last:
            mount.announced = True
            self.sessions.settle()
        return wire.Announced(wire.spoken())

    async def watch_sessions(self) -> None:
        """Bury mounts that fell silent.  After a start or a stall everybody gets a full life."""
        last = await now()
        self.sessions.full_lives(last)
        while True:
            await sleep(limits.BEAT_S / 2)
            at, at_ns = await now(), await clock()
            stalled, last = at - last > self.sessions.life_s / 4, at
            if stalled or not self.members.granted:
                self.sessions.full_lives(at)
                continue
            ends = dict.fromkeys(self.sessions.silent(at), "fell silent")
            ends |= dict.fromkeys(self.sessions.late(), LATE)
            for session, why in ends.items():
                mount = self.sessions.mounts.get(session)
                if mount is None:  # it closed while another one's record was healed
                    continue
                try:
                    self._bury(session, at)
                except Damaged as error:  # again at the next look
                    await self.members.heal(error.key)
                    continue
                text = f"the mount {events.shown(mount)} {why}: it has ended"
                self.chronicle.went(at_ns, mount, "session", text)

    # --- beside the requests -------------------------------------------------------------------

    async def walk(self) -> None:
        """Look at every record once after a start: what is damaged is known before it is needed."""
        while not self.members.granted:  # what it finds is recorded
            await sleep(limits.BEAT_S)
        cursor: metacheck.Cursor | None = None
        while True:
            at_ns, began = await clock(), await now()
            with self.ledger.store.read() as read:
                findings, cursor = metacheck.walk(read, cursor, WALK_RECORDS)
            took = await now() - began
            for finding in findings:
                text = f"{schema.describe(finding.key)}: {finding.what}"
                self.ledger.event(at_ns, "metadata damage", text)
                await self.members.heal(finding.key)
            if cursor is None:
                break
            await sleep(max(0.02, WALK_RESTS * took))
        log.info("the walk over all metadata is done")


def _shown(text: str) -> str:
    """What a mount says of itself, as it may stand in a line of a log or of a terminal."""
    return "".join(one if one.isprintable() else "?" for one in text[:SHOWN])


def _is_there(view: View, ino: Ino) -> bool:
    """Whether there is such an inode, as far as one can say: what is damaged may come back."""
    try:
        return view.find(ino) is not None
    except Damaged:
        return True
