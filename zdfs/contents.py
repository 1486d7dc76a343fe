"""Open files, write grants, commits: the content side of the metaserver (DESIGN 6).

One session at a time may write a file.  Its *token* is the fence: it only grows, the inode keeps
the highest, and a commit under any other is refused.  Whoever wants to write waits until the holder
has flushed and returned it, or has died.  An open for reading waits for that flush too, as long as
it can move.
"""

import logging
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from errno import EEXIST, EISDIR, ESTALE
from itertools import islice

from zdfs import addresses, cluster, debts, extents, holes, limits, namespace, placement, wire
from zdfs.calls import clock, now, sleep, wait
from zdfs.errors import Damaged, Failure, Fenced, Posix, Unavailable
from zdfs.ids import Ino, PageNo, Session, Slot, Token
from zdfs.ledger import Ledger
from zdfs.membership import Membership
from zdfs.namespace import Newborn
from zdfs.orphans import Orphans
from zdfs.ports import Caller, Push
from zdfs.sessions import Held, Sessions
from zdfs.tables import Tables, View

log = logging.getLogger("zdfs.meta")

REAP_PAGES = 64  # map pages let go in one write block
REAP_AGAIN_S = 60.0  # a damaged record may come back from a copy meanwhile
REAP_FILES = 64  # orphans looked at between two rounds


class Contents:
    """What files hold and who may change it."""

    def __init__(self, ledger: Ledger, sessions: Sessions, members: Membership):
        self.ledger, self.sessions, self.members = ledger, sessions, members
        self.pushes: list[Push] = []
        self.orphans = Orphans()
        self._later: dict[Ino, float] = {}  # damaged orphans, and when they are tried again

    async def _changing(self) -> int:
        """May we?  And what time is it?"""
        at_ns = await clock()
        self.members.may_change()
        return at_ns

    async def _reading(self) -> None:
        self.members.may_read(await now())

    # --- grants --------------------------------------------------------------------------------

    def _recall(self, ino: Ino, held: Held, session: Session, at: float) -> None:
        held.wanted.setdefault(session, at)
        mount = self.sessions.mounts.get(held.session)
        if mount is None or (
            held.recalled_at is not None and at - held.recalled_at < limits.RECALL_S
        ):
            return
        held.recalled_at = at
        if mount.address:
            recalled = wire.Recalled(ino, held.token)
            recall = wire.Recall(recalled)
            self.pushes.append(Push(mount.address, held.session, recall, mount.protocol))

    async def _alone(self, session: Session, ino: Ino) -> tuple[float, int]:
        """Wait until nobody else may write the file; what time it is then, by both clocks."""
        while True:
            at, at_ns = await now(), await self._changing()
            self.sessions.mount(session)
            if not self.sessions.all_announced():
                await wait(self.sessions.settled, limits.BEAT_S)
                continue
            held = self.sessions.holder(ino)
            if held is None or held.session == session:
                return at, at_ns
            self._recall(ino, held, session, at)
            await wait(held.freed, limits.RECALL_S)

    async def flushed(self, session: Session, ino: Ino) -> None:
        """Let another mount's unflushed writes come first, as long as they can move (P8)."""
        held = self.sessions.holder(ino)
        if held is None or held.session == session:
            return
        self._recall(ino, held, session, await now())
        if not await wait(held.freed, limits.FLUSH_WAIT_S):
            log.warning("inode %d: opened although its writer can't flush now", ino)

    def _granted(self, tables: Tables, ino: Ino, session: Session) -> Token:
        """The session's token, a new one if it held none.  Call inside a write block, alone."""
        held = self.sessions.holder(ino)
        if held is not None and held.session == session:
            return held.token
        token = self.ledger.new_token()
        extents.grant(tables, ino, token)
        return token

    def _hold(self, ino: Ino, session: Session, token: Token) -> None:
        held = self.sessions.holder(ino)
        if held is None:
            self.sessions.grant(ino, session, token)

    async def grant(self, request: wire.Grant, caller: Caller) -> wire.Granted:
        """Let a mount write a file."""
        session = caller.head.session
        await self._alone(session, request.ino)
        with self.ledger.change(grows=False) as tables:
            tables.regular(request.ino)
            token = self._granted(tables, request.ino, session)
            inode = tables.inode(request.ino)
            tables.save()
        self._hold(request.ino, session, token)
        return wire.Granted(token, inode.number, namespace.attributes(request.ino, inode))

    async def return_grant(self, request: wire.ReturnGrant, caller: Caller) -> wire.Done:
        """A mount has flushed."""
        self.returned(caller.head.session, request.ino, request.token)
        return wire.Done()

    def returned(self, session: Session, ino: Ino, token: Token) -> None:
        """A grant comes back; one that isn't this session's any more is passed over."""
        held = self.sessions.holder(ino)
        if held and (held.session, held.token) == (session, token):
            self.sessions.free(ino)

    # --- open files ----------------------------------------------------------------------------

    async def open(self, request: wire.Open, caller: Caller) -> wire.Opened:
        """open."""
        session, ino = caller.head.session, request.ino
        if not (request.write or request.truncate):
            await self._reading()
            await self.flushed(session, ino)
            with self.ledger.view() as view:
                _check_name(view, request)
                return self._opened(view, ino, session, request.opening)
        at, at_ns = await self._alone(session, ino)
        with self.ledger.change(grows=False) as tables, self._drops(at) as number:
            _check_name(tables, request)
            inode = tables.regular(ino)
            token = self._granted(tables, ino, session)
            if request.truncate and inode.size:
                extents.truncate(
                    tables, at_ns, ino, token, inode.number + 1, 0, self.members.block_bytes, number
                )
            tables.save()
            reply = self._opened(tables, ino, session, request.opening, token)
        self._hold(ino, session, token)
        return reply

    def _opened(
        self, view: View, ino: Ino, session: Session, opening: int,
        token: Token = Token(0), created: bool = False,
    ) -> wire.Opened:  # fmt: skip
        inode = view.regular(ino)
        if inode.nlink == 0 and not self.sessions.has_open(session, ino):
            raise Posix(ESTALE, "the file was removed: no name leads to it")  # look it up again
        page = extents.read_pages(view, ino, PageNo(0), 1, self.members.block_bytes).pages[0]
        self.sessions.opened(session, ino, opening)
        attributes = namespace.attributes(ino, inode)
        return wire.Opened(attributes, page, token, inode.number, created)

    async def create(self, request: wire.Create, caller: Caller) -> wire.Opened:
        """open(O_CREAT)."""
        session = caller.head.session
        at_ns = await self._changing()
        self.sessions.mount(session)
        with self.ledger.view() as view:
            steps, _ = namespace.lookup(view, request.parent, [request.name])
        if steps:
            if request.exclusive:
                raise Posix(EEXIST)
            if stat.S_ISDIR(steps[0].mode):
                raise Posix(EISDIR)
            opened = await self.open(
                wire.Open(steps[0].ino, request.opening, True, False, request.parent, b""), caller
            )
            return opened
        with self.ledger.change() as tables:
            mode = stat.S_IFREG | stat.S_IMODE(request.mode)
            newborn = newborn_of(self.ledger, request, mode)
            namespace.make(tables, at_ns, request.parent, request.name, newborn)
            ino = newborn.ino
            token = self._granted(tables, ino, session)
            tables.save()
            reply = self._opened(tables, ino, session, request.opening, token, created=True)
            reply = replace(reply, directory=namespace.stat_inode(tables, request.parent))
        self._hold(ino, session, token)
        return reply

    async def read_map(self, request: wire.ReadMap, caller: Caller) -> wire.MapPages:
        """Pages of a block map."""
        await self._reading()
        with self.ledger.view() as view:
            return extents.read_pages(
                view, request.ino, request.first, request.count, self.members.block_bytes
            )

    async def seek(self, request: wire.Seek, caller: Caller) -> wire.MapPages:
        """Where a block map has the next data or hole."""
        await self._reading()
        with self.ledger.view() as view:
            find = holes.next_data if request.data else holes.next_hole
            return find(view, request.ino, request.page, self.members.block_bytes)

    # --- commits -------------------------------------------------------------------------------

    @contextmanager
    def _drops(self, at: float) -> Iterator[Callable[[], int]]:
        """Numbers for the drop queue; what was queued ripens once the block is written."""
        given: list[int] = []

        def number() -> int:
            given.append(self.ledger.new_drop())
            return given[-1]

        yield number
        if given:
            self.members.dropped(at, given[-1])

    async def commit(self, request: wire.Commit, caller: Caller) -> wire.Committed:
        """Make versions count.  PutAgain: an acknowledgement has outlived its store, or one is
        missing that the policy asks for."""
        at, at_ns = await now(), await self._changing()
        self._check_holder(request.ino, request.token, caller)
        with self.ledger.change(grows=bool(request.blocks)) as tables, self._drops(at) as number:
            start = tables.regular(request.ino).start
            entries = extents.entries_of(request)
            owing = debts.judge(
                self.ledger.servers,
                start,
                entries,
                request,
                lambda: debts.policy_or_all(tables, request.ino),
            )
            first = {slot for _, _, slot in owing if not tables.account(slot).replicas}
            drawn = debts.drawn(tables, at_ns, request.ino, owing)
            made, _ = extents.commit(tables, at_ns, request, self.members.block_bytes, number)
            debts.owe(tables, request.ino, drawn)
        for slot in sorted(first):
            text = f"writes go on without dataserver {self._shown(slot)}, which is owed its copies"
            self.ledger.event(at_ns, "owed", text)
        held = self.sessions.holder(request.ino)
        if held is not None:
            held.floor = max(held.floor, request.floor)
        return (wire.CommittedSynced if request.synced else wire.Committed)(made)

    def _shown(self, slot: Slot) -> str:
        return addresses.short(self.ledger.ring[slot])

    async def sync(self, request: wire.Sync, caller: Caller) -> wire.Synced:
        """The reply leaves when all before it is on disks."""
        await self._changing()
        return wire.Synced()

    async def settle(self, request: wire.Settle, caller: Caller) -> wire.Done:
        """A dataserver has collected something that it was owed."""
        at_ns, slot = await self._changing(), request.ack.slot
        if cluster.stale(self.ledger.servers, {slot}, [request.ack]):
            raise Unavailable("this store has changed since: look at it again")
        with self.ledger.change(grows=False) as tables:
            ended = debts.settle(tables, slot, request.names)
            left = tables.account(slot).replicas
        if ended and not left:
            text = f"dataserver {self._shown(slot)} has collected all that it was owed"
            self.ledger.event(at_ns, "settled", text)
        return wire.Done()

    async def list_debts(self, request: wire.ListDebts, caller: Caller) -> wire.Debts:
        """Who is owed what."""
        await self._reading()
        with self.ledger.view() as view:
            return debts.listing(view, request.slot, request.ino, request.block)

    async def get_policy(self, request: wire.GetPolicy, caller: Caller) -> wire.PolicyFound:
        """What a write waits for."""
        await self._reading()
        with self.ledger.view() as view:
            return debts.policy_of(view, request.ino)

    async def set_policy(self, request: wire.SetPolicy, caller: Caller) -> wire.PolicyFound:
        """What writes shall wait for."""
        at_ns = await self._changing()
        with self.ledger.change(grows=False) as tables:
            found = debts.set_policy(tables, request.ino, request.policy)
        text = f"inode {request.ino} was given {request.policy.name.lower()}"
        self.ledger.event(at_ns, "policy", text)
        return found

    def _check_holder(self, ino: Ino, token: Token, caller: Caller) -> None:
        held = self.sessions.holder(ino)
        if held is None:
            if not self.sessions.mount(caller.head.session).announced:
                raise Unavailable("the metaserver has restarted: announce first")
            raise Fenced(f"inode {ino}: this mount's write grant has ended")
        if (held.session, held.token) != (caller.head.session, token):
            raise Fenced(f"inode {ino}: another mount writes it now")

    async def truncate(self, request: wire.Truncate, caller: Caller) -> wire.Committed:
        """Cut or grow."""
        at, at_ns = await now(), await self._changing()
        self._check_holder(request.ino, request.token, caller)
        with self.ledger.change(grows=False) as tables, self._drops(at) as number:
            made, _ = extents.truncate(
                tables, at_ns, request.ino, request.token, request.number, request.size,
                self.members.block_bytes, number,
            )  # fmt: skip
        return wire.Committed(made)

    async def punch(self, request: wire.Punch, caller: Caller) -> wire.Committed:
        """fallocate: blocks become holes, and the file perhaps longer."""
        at, at_ns = await now(), await self._changing()
        self._check_holder(request.ino, request.token, caller)
        with self.ledger.change(grows=False) as tables, self._drops(at) as number:
            made, _ = holes.punch(tables, at_ns, request, self.members.block_bytes, number)
        return wire.Committed(made)

    # --- beside the requests -------------------------------------------------------------------

    async def reap(self) -> None:
        """Let go of orphans that no mount has open, slice by slice."""
        while True:
            await sleep(0.05 if self.orphans else 0.5)
            if not self.members.granted or not self.sessions.all_announced():
                continue
            at = await now()
            self._later = {ino: due for ino, due in self._later.items() if due > at}
            due = (ino for ino in self.orphans if ino not in self._later)
            for ino in list(islice(due, REAP_FILES)):
                if ino not in self.orphans:  # mended while another one was healed
                    continue
                self.orphans.turn(ino)
                if self.may_go(ino) and not await self._reap_one(ino, at):
                    break

    def may_go(self, ino: Ino) -> bool:
        """Whether nobody needs an orphan: nobody has it open, nor what stood in it."""
        return not self.sessions.is_open(ino) and not self.orphans.holds(ino)

    async def _reap_one(self, ino: Ino, at: float) -> bool:
        """A slice; False: there is more to do, or what was damaged came back from a copy."""
        try:
            try:
                with self.ledger.change(grows=False) as tables, self._drops(at) as number:
                    done = extents.reap(tables, ino, REAP_PAGES, number)
            except Damaged as error:
                copying = self.members.copying
                if copying is None or not await copying.heal(error.key):
                    raise
                return False
        except Failure as error:
            log.error("orphan %d can't be let go, tried again later: %s", ino, error)
            self._later[ino] = at + REAP_AGAIN_S
            return True
        if done:
            self.orphans.discard(ino)
        return done


def _check_name(view: View, request: wire.Open) -> None:
    """A mount may have remembered a name that another one has moved or made anew meanwhile."""
    if request.name:
        steps, _ = namespace.lookup(view, request.parent, [request.name])
        if not steps or steps[0].ino != request.ino:
            raise Posix(ESTALE, "the name leads elsewhere by now")


def newborn_of(ledger: Ledger, request: wire.Make | wire.Create, mode: int) -> Newborn:
    """The inode that a request wants made: numbered, and placed by the hash of its path."""
    assert ledger.cluster is not None
    start = placement.start(request.path, len(ledger.ring))
    rdev = request.rdev if isinstance(request, wire.Make) else 0
    target = request.target if isinstance(request, wire.Make) else b""
    return Newborn(
        ledger.new_ino(), mode, request.uid, request.gid, rdev=rdev, target=target,
        epoch=ledger.cluster.epoch, start=start, umask=request.umask,
    )  # fmt: skip
