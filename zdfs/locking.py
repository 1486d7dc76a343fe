"""Locks on the metaserver: `locks` meets sessions, commits and time.

They are soft, as grants are: after a restart each mount says what it holds (Announce), and nothing
new is granted before all have said so or have died.  A mount that claims what another holds was
away while its session died: it is ended again, and told so.

A lock is where two mounts meet, so it waits, as `open` does, for what another mount has written and
not flushed; its reply brings the file's attributes as of then.
"""

import logging
from collections.abc import Callable, Iterable
from errno import EDEADLK, ENOLCK

from zdfs import limits, namespace, wire
from zdfs.calls import now
from zdfs.contents import Contents
from zdfs.errors import BadMessage, NoSession, Posix, Unavailable
from zdfs.ids import Ino, Session
from zdfs.ledger import Ledger
from zdfs.locks import Key, Locks, Owner
from zdfs.membership import Membership
from zdfs.ports import Caller, Push
from zdfs.sessions import Sessions
from zdfs.wire import FileLock, LockKind, Verdict

log = logging.getLogger("zdfs.meta")


class Locking:
    """Who has locked what."""

    def __init__(self, ledger: Ledger, sessions: Sessions, members: Membership, contents: Contents):
        self.ledger, self.sessions, self.members = ledger, sessions, members
        self.contents = contents
        self.locks = Locks()

    def _alive(self, caller: Caller) -> None:
        """Refuse what is not of a living session or was sent to an earlier metaserver: it may be
        late, and its mount has gone on since."""
        self.members.may_change()
        self.sessions.mount(caller.head.session)
        if caller.head.incarnation != self.ledger.incarnation:
            raise Unavailable("the metaserver has restarted: ask again")

    def _said(
        self, verdict: Verdict, holder: FileLock | None = None, ino: Ino | None = None
    ) -> wire.Locked:
        attributes = None
        if ino is not None:
            with self.ledger.view() as view:
                attributes = namespace.stat_inode(view, ino)
        return wire.Locked(verdict, self.ledger.incarnation, attributes, holder)

    async def lock(self, request: wire.Lock, caller: Caller) -> wire.Locked:
        """fcntl(F_SETLK), flock: granted or not, at once, but for another mount's flush."""
        claim, session = request.claim, caller.head.session
        _ordered(claim)
        owner = Owner(session, claim.owner)
        self._alive(caller)
        if self.locks.conflict(owner, claim) is None and self.sessions.all_announced():
            await self.contents.flushed(session, claim.ino)
        at = await now()
        self._alive(caller)
        if not self.sessions.all_announced():
            return self._said(Verdict.LATER)
        self._convert(owner, claim, at)
        if self.locks.conflict(owner, claim) is not None:
            return self._refused(request, owner, at)
        self.locks.waits_no_more(session, request.waiter)
        self._room(owner, claim)
        granted = self._said(Verdict.GRANTED, None, claim.ino)
        self.locks.lock(owner, claim)
        self._wake([(claim.ino, claim.kind)], at)  # what was exclusive may be shared now
        return granted

    def _room(self, owner: Owner, claim: FileLock) -> None:
        """ENOLCK: no more ranges."""
        if self.locks.full(owner, claim):
            log.warning(
                "inode %d: no lock for session %d: a bound is reached", claim.ino, owner.session
            )
            raise Posix(ENOLCK)

    def _convert(self, owner: Owner, claim: FileLock, at: float) -> None:
        """flock(2): to change a lock is to give it back and to take another."""
        key = (claim.ino, claim.kind)
        had = self.locks.spans(owner, key)
        if claim.kind is LockKind.FLOCK and had and had != (claim.span,):
            self.locks.unlock(owner, key)
            self._wake([key], at)

    def _refused(self, request: wire.Lock, owner: Owner, at: float) -> wire.Locked:
        claim = request.claim
        if request.waiter:
            if claim.kind is LockKind.POSIX and self.locks.deadlock(owner, claim, at):
                self.locks.waits_no_more(owner.session, request.waiter)
                raise Posix(EDEADLK)
            if not self.locks.waits(owner, request.waiter, claim, at):
                raise Posix(ENOLCK)
        return self._said(Verdict.CONFLICT)

    async def unlock(self, request: wire.Unlock, caller: Caller) -> wire.Unlocked:
        """Give back.  ENOLCK: in the middle of a range, and two are one too many."""
        claim = request.claim
        _ordered(claim)
        at = await now()
        self._alive(caller)
        if not self.sessions.mount(caller.head.session).announced:
            raise Unavailable("the metaserver has restarted: announce first")
        owner, key = Owner(caller.head.session, claim.owner), (claim.ino, claim.kind)
        if self.locks.splits(owner, claim):
            self._room(owner, claim)
        if self.locks.unlock(owner, key, claim.span.first, claim.span.last):
            self._wake([key], at)
        return wire.Unlocked()

    async def stop_waiting(self, request: wire.StopWaiting, caller: Caller) -> wire.Done:
        """Somebody was interrupted."""
        at = await now()
        waiter = self.locks.waiters.get((caller.head.session, request.waiter))
        if waiter is not None:
            self.locks.waits_no_more(caller.head.session, request.waiter)
            self._wake([waiter.key], at)  # it may have been its turn
        return wire.Done()

    async def test(self, request: wire.TestLock, caller: Caller) -> wire.Locked:
        """F_GETLK.  Process numbers mean nothing to another mount, so it is told none."""
        claim, session = request.claim, caller.head.session
        _ordered(claim)
        self.members.may_read(await now())
        if not self.sessions.all_announced():
            return self._said(Verdict.LATER)
        found = self.locks.conflict(Owner(session, claim.owner), claim)
        if found is None:
            return self._said(Verdict.GRANTED)
        holder, held = found
        return self._said(
            Verdict.CONFLICT, held if holder.session == session else held._replace(pid=0)
        )

    async def dispute(self, request: wire.Dispute, caller: Caller) -> wire.Disputed:
        """Who has what of a file, and who wants it; without one: all that is waited for."""
        at = await now()
        self.members.may_read(at)
        ino, most = request.ino, limits.DISPUTES
        waiters = [w for w in self.locks.waiters.values() if ino in (0, w.claim.ino)]
        wanted = {waiter.key for waiter in waiters}
        locks = [
            wire.Locker(self._party(owner.session, at, at), FileLock(*key, owner.number, h.pid, s))
            for key, owners in self.locks.files.items()
            if (key[0] == ino if ino else key in wanted)
            for owner, h in owners.items()
            for s in h.spans
        ]
        grants = [
            wire.Held1(one, self._party(held.session, at), tuple(
                self._party(session, at, since) for session, since in held.wanted.items()
            )[:most])
            for one, held in self.sessions.grants.items()
            if (one == ino if ino else held.recalled_at is not None)
        ]  # fmt: skip
        waits = [wire.Locker(self._party(w.owner.session, at, w.asked), w.claim) for w in waiters]
        return wire.Disputed(tuple(grants[:most]), tuple(locks[:most]), tuple(waits[:most]))

    def _party(self, session: Session, at: float, since: float | None = None) -> wire.Party:
        """A mount by name; since when it was last heard, if nothing else is told."""
        mount = self.sessions.mounts.get(session)
        if mount is None:
            return wire.Party("", "(a mount that has ended)", 0)
        since = min(mount.heard, at) if since is None else since
        return wire.Party(mount.record.host, mount.record.mount, int((at - since) * 1000))

    # --- sessions ------------------------------------------------------------------------------

    def announced(self, session: Session, claims: Iterable[FileLock]) -> None:
        """What a mount has held since before the restart.  NoSession: it can't be true."""
        for claim in claims:
            _ordered(claim)
            owner = Owner(session, claim.owner)
            found = self.locks.conflict(owner, claim)
            if found is not None:
                log.error(
                    "inode %d: session %d claims a lock that session %d holds: its mount was away "
                    "for too long, it has to start anew", claim.ino, session, found[0].session,
                )  # fmt: skip
                raise NoSession("this mount's session has ended: its locks are another's")
            if self.locks.beyond(owner, claim):
                log.error(
                    "inode %d: session %d claims more locks than it can have been granted: its "
                    "mount has to start anew", claim.ino, session,
                )  # fmt: skip
                raise NoSession("this mount's session has ended: it claims too many locks")
            self.locks.lock(owner, claim)

    def ended(self, session: Session, at: float) -> None:
        """A mount is gone, its locks are free."""
        self._wake(self.locks.end(session), at)

    def keep_only(self, session: Session, may: Callable[[Ino], bool], at: float) -> None:
        """A mount's rights have changed: its locks on other files are free."""
        freed = [
            (owner, key)
            for key, owners in self.locks.files.items()
            for owner in owners
            if owner.session == session and not may(key[0])
        ]
        for owner, key in freed:
            self.locks.unlock(owner, key)
        self._wake([key for _, key in freed], at)

    def _wake(self, keys: Iterable[Key], at: float) -> None:
        """Tell those whose turn it may be; who isn't reached asks all the same."""
        if not self.locks.waiters:
            return
        for session, numbers in self.locks.ready(keys, at).items():
            mount = self.sessions.mounts.get(session)
            if mount is not None and mount.address:
                again = wire.TryAgain(tuple(numbers))
                self.contents.pushes.append(Push(mount.address, session, again, mount.protocol))


def _ordered(claim: FileLock) -> None:
    """BadMessage: bytes whose end is before their beginning, which no mount asks for."""
    if claim.span.first > claim.span.last:
        raise BadMessage(f"a lock from byte {claim.span.first} to {claim.span.last}")
