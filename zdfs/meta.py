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
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any

from zdfs import __version__, addresses, extents, limits, metacheck, namespace
from zdfs import records, schema, wire, xattrs
from zdfs.calls import Trap, clock, now, sleep
from zdfs.contents import Contents, newborn_of
from zdfs.errors import Damaged, Unavailable
from zdfs.ids import Incarnation, Ino, Session, Slot, Token
from zdfs.ledger import Ledger
from zdfs.membership import Membership, space
from zdfs.ports import Caller, Handler
from zdfs.schema import KeptReply, SessionRecord
from zdfs.sessions import Kept, Sessions
from zdfs.wire import State

log = logging.getLogger("zdfs.meta")

SHOWN = 128  # characters of a mount's host and directory: they are only shown
WALK_RECORDS = 512  # records the background walk looks at between two rounds


class Meta:
    """The metaserver."""

    def __init__(self, ledger: Ledger, block_bytes: int, faults: bool = False):
        self.ledger, self.faults = ledger, faults
        self.sessions = Sessions()
        self.members = Membership(ledger, self.sessions, block_bytes, faults, self.broadcast)
        self.contents = Contents(ledger, self.sessions, self.members)
        self.pushes = self.contents.pushes
        self.counts: collections.Counter[str] = collections.Counter()
        self.handlers: Mapping[type[wire.Message], Handler] = {
            wire.Identify: self.identify,
            wire.OpenSession: self.open_session,
            wire.CloseSession: self.close_session,
            wire.Beat: self.beat,
            wire.Announce: self.announce,
            wire.Lookup: self.lookup,
            wire.GetAttributes: self.get_attributes,
            wire.SetAttributes: self.set_attributes,
            wire.Make: self.make,
            wire.Create: self.contents.create,
            wire.Open: self.contents.open,
            wire.Unlink: self.unlink,
            wire.RemoveDirectory: self.remove_directory,
            wire.Rename: self.rename,
            wire.Link: self.link,
            wire.ReadLink: self.read_link,
            wire.ReadDirectory: self.read_directory,
            wire.GetXattr: self.get_xattr,
            wire.ListXattr: self.list_xattr,
            wire.SetXattr: self.set_xattr,
            wire.RemoveXattr: self.remove_xattr,
            wire.StatFs: self.stat_fs,
            wire.Grant: self.contents.grant,
            wire.ReturnGrant: self.contents.return_grant,
            wire.ReadMap: self.contents.read_map,
            wire.Commit: self.contents.commit,
            wire.Truncate: self.contents.truncate,
            wire.Report: self.members.report,
            wire.Inventory: self.members.inventory,
            wire.TakeDrops: self.members.take_drops,
            wire.Judge: self.members.judge,
            wire.GetStatus: self.status,
            wire.Skip: self.members.skip,
        }
        self._remember()

    @property
    def incarnation(self) -> Incarnation:
        """This life of the metaserver."""
        return self.ledger.incarnation

    def _remember(self) -> None:
        """What the records say of the life before: sessions, kept replies, orphans."""
        for session, record in self.ledger.sessions():
            self.sessions.born(session, record, float("inf"), announced=False)
        with self.ledger.store.read() as read:
            for key, payload in read.scan(b"k", schema.after(b"k")):
                session, slot = schema.kept_of_key(key)
                mount = self.sessions.mounts.get(session)
                if mount is not None:
                    kept = records.unpack(KeptReply, payload)
                    mount.slots[slot] = Kept(kept.sequence, _revive(kept))
            for key, _ in read.scan(b"o", schema.after(b"o")):
                self.contents.orphans[Ino(schema.number_of_key(key))] = None

    def tasks(self) -> list[tuple[str, Coroutine[Trap, Any, None]]]:
        """What runs beside the requests."""
        return [
            *self.members.tasks(),
            ("sessions", self.watch_sessions()),
            ("reaper", self.contents.reap()),
            ("walk", self.walk()),
        ]

    # --- exactly once --------------------------------------------------------------------------

    def admit(self, head: wire.RequestHead, request: wire.Message) -> wire.Reply | None:
        """The kept reply of a repeated change.  What it grants and opens is soft: if we restarted
        since, the mount could not announce what it had not heard of yet."""
        kept = self.sessions.admit(head)
        if isinstance(kept, (wire.Opened, wire.Granted)):
            ino = kept.attributes.ino
            if isinstance(request, (wire.Create, wire.Open)):
                self.sessions.opened(head.session, ino, request.opening)
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
            inode = view.find(ino)
        if inode is not None and inode.token == token:
            self.sessions.grant(ino, session, token)

    def keep(self, head: wire.RequestHead, reply: wire.Reply) -> None:
        """Remember a change's reply, in its own round.  A failure changed nothing: a repeat may run
        again, so it is forgotten; memory still refuses what comes later than its successor."""
        if isinstance(reply, wire.Failed):
            self.sessions.keep(head, reply if reply.failure().definite else None)
            return
        kept = KeptReply(head.sequence, reply.operation, records.pack(reply))
        if self.sessions.keep(head, reply):
            with self.ledger.raw() as txn:
                txn.put(schema.kept_key(head.session, head.slot), records.pack(kept))

    # --- sessions ------------------------------------------------------------------------------

    def broadcast(self, message: wire.Reply) -> None:
        """Push to every mount."""
        for mount in self.sessions.mounts.values():
            if mount.address:
                self.pushes.append((mount.address, mount.session, message))

    async def identify(self, request: wire.Identify, caller: Caller) -> wire.Identity:
        """Who is here."""
        ours = self.ledger.cluster
        return wire.Identity(
            wire.Role.META, __version__, ours.uuid if ours else b"", self.ledger.uuid, Slot(0),
            State.SERVING if self.members.granted else State.JOINING, self.faults,
            addresses.host_id(), "", self.members.note,
        )  # fmt: skip

    async def status(self, request: wire.GetStatus, caller: Caller) -> wire.Status:
        """All of `zdfs status`."""
        found = await self.members.status(request, caller)
        return replace(found, refused=self.counts["refused"])

    async def open_session(self, request: wire.OpenSession, caller: Caller) -> wire.SessionOpened:
        """A mount starts."""
        at, at_ns = await now(), await clock()
        self.members.may_change()
        mount = self.sessions.by_nonce(request.nonce)
        if mount is None:
            if len(self.sessions.mounts) >= limits.SESSIONS:
                raise Unavailable(f"{limits.SESSIONS} mounts are here: no more")
            host, mounted = request.host[:SHOWN], request.mount[:SHOWN]
            record = SessionRecord(request.nonce, host, mounted, at_ns)
            session = self.ledger.new_session()
            with self.ledger.change() as tables:
                tables.txn.put(schema.number_key(b"n", session), records.pack(record))
            mount = self.sessions.born(session, record, at, announced=True)
            log.info("session %d: %s:%s", session, request.host, request.mount)
        assert self.ledger.cluster is not None
        return wire.SessionOpened(
            mount.session, self.ledger.cluster.uuid, self.ledger.cluster.block_bytes,
            self.members.shown_map(), at_ns,
        )  # fmt: skip

    async def close_session(self, request: wire.CloseSession, caller: Caller) -> wire.Done:
        """A mount ends."""
        self.members.may_change()
        if caller.head.session in self.sessions.mounts:
            self._bury(caller.head.session)
        return wire.Done()

    def _bury(self, session: Session) -> None:
        with self.ledger.change(grows=False) as tables:
            tables.txn.delete(schema.number_key(b"n", session))
            first = schema.kept_key(session, 0)
            keys = [key for key, _ in tables.txn.scan(first, schema.after(first[:9]))]
            for key in keys:
                tables.txn.delete(key)
            for ino in self.sessions.held_by(session):  # a later token: what it left is garbage
                try:
                    if tables.find(ino) is not None:
                        extents.grant(tables, ino, self.ledger.new_token())
                except Damaged as error:  # a mount must be able to end all the same
                    log.error("inode %d keeps the token of a mount that ended: %s", ino, error)
        self.sessions.died(session)

    async def beat(self, request: wire.Beat, caller: Caller) -> wire.Beaten:
        """A mount lives."""
        session = caller.head.session
        mount = self.sessions.heard(session, await now())
        mount.address, mount.blocked = caller.address, request.blocked
        for ino, opening in request.closed:
            self.sessions.closed(session, ino, opening)
        for ino, token in request.returned:
            self.contents.returned(session, ino, token)
        shown = self.members.shown_map()
        return wire.Beaten(
            shown if shown.version != request.map_version else None,
            self.sessions.recalls(session),
            not mount.announced,
        )

    async def announce(self, request: wire.Announce, caller: Caller) -> wire.Done:
        """Soft state, said again after a restart."""
        session = caller.head.session
        mount = self.sessions.heard(session, await now())
        for ino, opening in request.openings:
            self.sessions.opened(session, ino, opening)
        for ino, token, _ in request.holdings:
            self._hold_again(session, ino, token)
        if request.last:
            mount.announced = True
            self.sessions.settle()
        return wire.Done()

    async def watch_sessions(self) -> None:
        """Bury mounts that fell silent.  After a start or a stall everybody gets a full life."""
        for mount in self.sessions.mounts.values():
            mount.heard = await now()
        last = await now()
        while True:
            await sleep(limits.BEAT_S / 2)
            at, at_ns = await now(), await clock()
            stalled, last = at - last > limits.SESSION_S / 4, at
            if stalled or not self.members.granted:
                for mount in self.sessions.mounts.values():
                    mount.heard = at
                continue
            for session in self.sessions.silent(at):
                record = self.sessions.mount(session).record
                where = f"{record.host}:{record.mount}"
                self._bury(session)
                self.ledger.event(at_ns, "session", f"the mount {where} fell silent: it has ended")

    # --- names ---------------------------------------------------------------------------------

    async def _reading(self) -> None:
        self.members.may_read(await now())

    async def _changing(self) -> int:
        """May we?  And what time is it?"""
        at_ns = await clock()
        self.members.may_change()
        return at_ns

    async def lookup(self, request: wire.Lookup, caller: Caller) -> wire.Walked:
        """Walk names."""
        await self._reading()
        with self.ledger.view() as view:
            steps, number = namespace.lookup(view, request.parent, request.names)
        return wire.Walked(tuple(steps), number)

    async def get_attributes(self, request: wire.GetAttributes, caller: Caller) -> wire.Found:
        """stat."""
        await self._reading()
        with self.ledger.view() as view:
            return wire.Found(namespace.stat_inode(view, request.ino))

    async def set_attributes(self, request: wire.SetAttributes, caller: Caller) -> wire.Found:
        """chmod, chown, utimens."""
        at_ns = await self._changing()
        atime, mtime = request.atime_ns, request.mtime_ns
        if request.now:  # UTIME_NOW: by this clock, like every other time
            atime, mtime = (None if t is None else at_ns if t == 0 else t for t in (atime, mtime))
        with self.ledger.change(grows=False) as tables:
            return wire.Found(
                namespace.set_attributes(
                    tables, at_ns, request.ino, request.mode, request.uid, request.gid, atime, mtime
                )
            )

    async def make(self, request: wire.Make, caller: Caller) -> wire.Found:
        """mkdir, mknod, symlink."""
        at_ns = await self._changing()
        with self.ledger.change() as tables:
            newborn = newborn_of(self.ledger, request, request.mode)
            made = namespace.make(tables, at_ns, request.parent, request.name, newborn)
        return wire.Found(made)

    async def unlink(self, request: wire.Unlink, caller: Caller) -> wire.Done:
        """unlink."""
        at_ns = await self._changing()
        with self.ledger.change(grows=False) as tables:
            ino, orphaned = namespace.unlink(tables, at_ns, request.parent, request.name)
        if orphaned:
            self.contents.orphans[ino] = None
        return wire.Done()

    async def remove_directory(self, request: wire.RemoveDirectory, caller: Caller) -> wire.Done:
        """rmdir."""
        at_ns = await self._changing()
        with self.ledger.change(grows=False) as tables:
            ino = namespace.rmdir(tables, at_ns, request.parent, request.name)
        self.contents.orphans[ino] = None
        return wire.Done()

    async def rename(self, request: wire.Rename, caller: Caller) -> wire.Done:
        """rename."""
        at_ns = await self._changing()
        with self.ledger.change(grows=False) as tables:
            orphan = namespace.rename(
                tables, at_ns, request.parent, request.name, request.new_parent,
                request.new_name, request.flags,
            )  # fmt: skip
        if orphan is not None:
            self.contents.orphans[orphan] = None
        return wire.Done()

    async def link(self, request: wire.Link, caller: Caller) -> wire.Found:
        """link."""
        at_ns = await self._changing()
        with self.ledger.change() as tables:
            return wire.Found(
                namespace.link(tables, at_ns, request.ino, request.parent, request.name)
            )

    async def read_link(self, request: wire.ReadLink, caller: Caller) -> wire.Target:
        """readlink."""
        await self._reading()
        with self.ledger.view() as view:
            return wire.Target(namespace.read_link(view, request.ino))

    async def read_directory(self, request: wire.ReadDirectory, caller: Caller) -> wire.Listing:
        """A page of a directory."""
        await self._reading()
        with self.ledger.view() as view:
            return namespace.listing(view, request.ino, request.after)

    async def get_xattr(self, request: wire.GetXattr, caller: Caller) -> wire.Value:
        """getxattr."""
        await self._reading()
        with self.ledger.view() as view:
            return wire.Value(xattrs.get(view, request.ino, request.name))

    async def list_xattr(self, request: wire.ListXattr, caller: Caller) -> wire.Names:
        """listxattr."""
        await self._reading()
        with self.ledger.view() as view:
            return wire.Names(tuple(xattrs.names(view, request.ino)))

    async def set_xattr(self, request: wire.SetXattr, caller: Caller) -> wire.Done:
        """setxattr."""
        at_ns = await self._changing()
        with self.ledger.change() as tables:
            xattrs.put(tables, at_ns, request.ino, request.name, request.value, request.flags)
        return wire.Done()

    async def remove_xattr(self, request: wire.RemoveXattr, caller: Caller) -> wire.Done:
        """removexattr."""
        at_ns = await self._changing()
        with self.ledger.change(grows=False) as tables:
            xattrs.remove(tables, at_ns, request.ino, request.name)
        return wire.Done()

    async def stat_fs(self, request: wire.StatFs, caller: Caller) -> wire.Space:
        """statfs."""
        await self._reading()
        with self.ledger.view() as view:
            totals = view.totals()
        return space(self.ledger, self.members.reports, totals.inodes, totals.stored_bytes)

    # --- beside the requests -------------------------------------------------------------------

    async def walk(self) -> None:
        """Look at every record once after a start: what is damaged is known before it is needed."""
        while self.ledger.cluster is None:
            await sleep(limits.BEAT_S)
        cursor: metacheck.Cursor | None = None
        while True:
            at_ns = await clock()
            with self.ledger.store.read() as read:
                findings, cursor = metacheck.walk(read, cursor, WALK_RECORDS)
            for finding in findings:
                text = f"{schema.describe(finding.key)}: {finding.what}"
                self.ledger.event(at_ns, "metadata damage", text)
            if cursor is None:
                break
            await sleep(0.02)
        log.info("the walk over all metadata is done")


def _revive(kept: KeptReply) -> wire.Reply | None:
    """A kept reply from its record."""
    kind = wire.BY_OPERATION.get(kept.operation)
    if kind is None or not issubclass(kind, wire.Reply):
        return None
    return records.unpack(kind, kept.body)
