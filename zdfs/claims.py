"""The locks of a mount's programs: asked for, held, given back, lost (see `locks`, `locking`).

    lock()    asks the metaserver; who must wait asks again when told to, or each limits.RETRY_S
    unlock()  what is dirty is committed first: whoever locks next sees it

**One change of an owner's locks at a time**, and beside its caller: a program that is killed
meanwhile leaves nothing open.  What it was granted then is given back.  What is kept here of an
owner never is more than the metaserver has: it grows when a reply says so, and shrinks before the
request is sent.  So it can be announced at any time, and a grant of a metaserver that was gone
before we announced to its successor doesn't count: it is asked for again.

**Lost locks.**  With its session a mount loses its locks.  A program must not go on as if it had
them, so the descriptors that it locked through fail (EIO) until they are closed; and while nobody
knows whether the session still lives, reads and writes through them wait.
"""

import contextlib
import itertools
import logging
from dataclasses import dataclass, field
from errno import EAGAIN, ENOLCK

from zdfs import limits, wire
from zdfs.cache import File, Told
from zdfs.calls import Condition, notify, spawn, wait
from zdfs.contact import Contact
from zdfs.errors import Failure, Interrupted, NoSession, Posix
from zdfs.ids import Incarnation, Ino
from zdfs.knowledge import Names
from zdfs.locks import END, Spans, cut, laid
from zdfs.reading import Reader
from zdfs.wire import FileLock, LockKind, Span, Verdict
from zdfs.writing import Writer

log = logging.getLogger("zdfs.mount")

Key = tuple[Ino, LockKind, int]


@dataclass(eq=False, slots=True)
class Owned:
    """What an owner has locked of one file."""

    key: Key
    pid: int = 0
    spans: Spans = ()
    handles: set[int] = field(default_factory=set)  # that it locked through
    busy: bool = False  # a change of it is underway
    users: int = 0  # callers and changes that know it
    moved: Condition = field(default_factory=Condition)


@dataclass(eq=False, slots=True)
class Change:
    """A change underway, and who waits for it."""

    verdict: Verdict | None = None
    failure: Failure | None = None
    abandoned: bool = False  # its caller was interrupted
    done: Condition = field(default_factory=Condition)


@dataclass(eq=False, slots=True)
class Waiter:
    """A caller that waits for others to unlock."""

    number: int
    again: bool = False  # told to ask again, before it waited
    told: Condition = field(default_factory=Condition)


class Claims:
    """All locks of a mount."""

    def __init__(self, contact: Contact, reader: Reader, writer: Writer, names: Names):
        self.contact, self.reader, self.writer, self.names = contact, reader, writer, names
        self.owned: dict[Key, Owned] = {}
        self.of_handle: dict[int, set[Key]] = {}
        self.lost: set[int] = set()  # handles through which locks were held that are gone
        self.tolds: dict[int, Told] = {}  # of handles that were ever locked through
        self.waiters: dict[int, Waiter] = {}
        self.told = Incarnation(0)  # the metaserver that was last announced to
        self.lives = 0  # sessions that ended
        self.sure_until = 0.0  # no session that was alive when we last heard is dead before
        self._beats: dict[int, float] = {}  # when those that count were sent
        self._sure = Condition()
        self._numbers = itertools.count(1)
        self._refusing = False  # the log has said so

    # --- locking -------------------------------------------------------------------------------

    async def lock(self, file: File, handle: int, told: Told, claim: FileLock, waits: bool) -> None:
        """Returns when it is granted and the file is known as of then.  EAGAIN: somebody has it,
        and `waits` is not set; EDEADLK, ENOLCK; EIO: an earlier lock was lost; Interrupted."""
        self.tolds[handle] = told
        waiter = Waiter(next(self._numbers) if waits else 0)
        if waits:
            self.waiters[waiter.number] = waiter
        refused = False
        try:
            while True:
                self.complain(handle)
                waiter.again = False
                verdict = await self._ask(file, handle, claim, waiter)
                if verdict is Verdict.GRANTED:
                    return
                if verdict is Verdict.CONFLICT:
                    if not waits:
                        raise Posix(EAGAIN)
                    refused = True
                    self._bound()
                if not waiter.again:
                    await wait(waiter.told, limits.RETRY_S)
        except Failure:
            if refused:
                await spawn(self._stop_waiting(waiter.number), "end of a wait for a lock")
            raise
        finally:
            self.waiters.pop(waiter.number, None)

    def _bound(self) -> None:
        """Each that waits keeps a worker; the others must be enough for everything else."""
        full = len(self.waiters) > limits.LOCK_WAITERS
        if full and not self._refusing:
            log.warning(
                "%d processes wait for locks here: the next ones get ENOLCK", limits.LOCK_WAITERS
            )
        self._refusing = full
        if full:
            raise Posix(ENOLCK, f"{limits.LOCK_WAITERS} processes wait for locks on this mount")

    async def _stop_waiting(self, number: int) -> None:
        await self.contact.ask(wire.StopWaiting(number))

    async def _ask(self, file: File, handle: int, claim: FileLock, waiter: Waiter) -> Verdict:
        """Ask once, beside the caller."""
        change = Change()
        owned = self._of(claim)
        await spawn(self._lock(file, handle, owned, claim, waiter.number, change), "a lock")
        await self._done(change)
        if change.failure is not None:
            raise change.failure
        assert change.verdict is not None
        return change.verdict

    def _of(self, claim: FileLock) -> Owned:
        """Who asks; one user more knows it from now on."""
        key = (claim.ino, claim.kind, claim.owner)
        owned = self.owned.setdefault(key, Owned(key))
        owned.pid = claim.pid or owned.pid
        owned.users += 1
        return owned

    async def _done(self, change: Change) -> None:
        """Until it is; Interrupted: it goes on, and what it brings is given back."""
        while change.verdict is None and change.failure is None:
            try:
                await wait(change.done)
            except Interrupted:
                if change.verdict is None and change.failure is None:
                    change.abandoned = True
                    raise

    async def _lock(
        self, file: File, handle: int, owned: Owned, claim: FileLock, number: int, change: Change
    ) -> None:
        await self._begin(owned)
        try:
            if change.abandoned:
                raise Interrupted()
            change.verdict = await self._claim(file, handle, owned, claim, number, change)
        except Failure as failure:
            change.failure = failure
        finally:
            self._end(owned, change)

    async def _claim(
        self, file: File, handle: int, owned: Owned, claim: FileLock, number: int, change: Change
    ) -> Verdict:
        if _weaken(owned.spans, claim) != owned.spans:
            await self._flush(file)
        had, told, lives = owned.spans, self.told, self.lives
        owned.spans = _weaken(had, claim)
        at, answer = await self._answer(handle, owned, claim, number)
        if answer.verdict is not Verdict.GRANTED:
            if claim.kind is LockKind.POSIX and owned.spans != had and lives == self.lives:
                if told == self.told:
                    owned.spans = had  # refused: nothing has changed
                else:  # announced as less than it was, and that can't be taken back
                    self._lose([owned])
            return answer.verdict
        self._grant(owned, handle, claim)
        if change.abandoned:
            await self._give_back(owned, had, claim)
            raise Interrupted()
        while file.flights and not file.token:  # of a session that died, and not yet given up
            await wait(file.moved, limits.RETRY_S)
        assert answer.attributes is not None
        self.reader.take(file, answer.attributes)
        self.names.learn(answer.attributes, at)
        file.map_at = max(file.map_at, at)
        return Verdict.GRANTED

    async def _answer(
        self, handle: int, owned: Owned, claim: FileLock, number: int
    ) -> tuple[float, wire.Locked]:
        """What the metaserver says, and when it was asked."""
        lives, weak = self.lives, owned.spans
        while True:
            at = self.contact.driver.monotonic()
            answer: wire.Locked | None = None
            with contextlib.suppress(NoSession):  # it ended with everything that it had granted
                answer = await self.contact.change(wire.Lock(claim, number))
            if handle in self.lost:
                await self._send_unlock(claim)
                self.complain(handle)
            if answer is None or lives != self.lives or answer.incarnation < self.told:
                lives = self.lives  # by one that is gone
            elif answer.verdict is Verdict.LATER and weak:
                await wait(self._sure, limits.RETRY_S)  # what we have is not certain until then
            else:
                return at, answer

    def _grant(self, owned: Owned, handle: int, claim: FileLock) -> None:
        owned.spans = laid(owned.spans, claim.span)
        owned.handles.add(handle)
        self.of_handle.setdefault(handle, set()).add(owned.key)

    async def _give_back(self, owned: Owned, had: Spans, claim: FileLock) -> None:
        """Nobody wants it any more.  What was there before can't be made again, so a program that
        lives on has lost that."""
        span = claim.span
        if laid(had, span) == had:
            return
        if claim.kind is LockKind.POSIX and any(one.meets(span) for one in had):
            self._lose([owned])
            span = span._replace(first=0, last=END)
        owned.spans = cut(owned.spans, span.first, span.last)
        await self._send_unlock(claim._replace(span=span))

    # --- unlocking -----------------------------------------------------------------------------

    async def unlock(self, file: File, claim: FileLock) -> None:
        """What is dirty in the file is committed, or lost and that said to the next fsync; then the
        bytes are free.  A caller that is signalled need not wait for it.  ENOLCK: they are in the
        middle of a range, and of the two that would be left one is too many: all is as it was."""
        if (claim.ino, claim.kind, claim.owner) not in self.owned:
            return
        change = Change()
        await spawn(self._unlock(file, self._of(claim), claim, change), "an unlock")
        try:
            await self._done(change)
        except Interrupted:
            return
        if _full(change.failure):
            assert change.failure is not None
            raise change.failure

    async def released(self, file: File, handle: int) -> None:
        """The last descriptor of a handle is gone, and with it the locks of flock and of open file
        descriptions (F_OFD_SETLK); those of processes went with their close."""
        self.lost.discard(handle)
        self.tolds.pop(handle, None)
        for ino, kind, owner in list(self.of_handle.pop(handle, ())):
            claim = FileLock(ino, kind, owner, 0, Span(0, END, False))
            await spawn(self._unlock(file, self._of(claim), claim, Change()), "an unlock")

    async def _unlock(self, file: File, owned: Owned, claim: FileLock, change: Change) -> None:
        span = claim.span
        await self._begin(owned)
        had, told, lives = owned.spans, self.told, self.lives
        try:
            if any(one.meets(span) for one in owned.spans):
                await self._flush(file)
                owned.spans = cut(owned.spans, span.first, span.last)
                await self._send_unlock(claim)
            change.verdict = Verdict.GRANTED
        except Failure as failure:
            change.failure = failure
            if _full(failure) and (told, lives) == (self.told, self.lives):
                owned.spans = had
        finally:
            self._end(owned, change)

    async def _send_unlock(self, claim: FileLock) -> None:
        with contextlib.suppress(NoSession):  # it is gone with everything that it held
            await self.contact.change(wire.Unlock(claim))

    async def _flush(self, file: File) -> None:
        """Commit what is dirty.  A loss is kept for who asks: each descriptor's next fsync."""
        try:
            await self.writer.drain(file)
        except Interrupted:
            raise
        except Failure as failure:
            log.debug("inode %d is unlocked although its writes are lost: %s", file.ino, failure)

    # --- one change at a time ------------------------------------------------------------------

    async def _begin(self, owned: Owned) -> None:
        while owned.busy:
            await wait(owned.moved)
        owned.busy = True

    def _end(self, owned: Owned, change: Change) -> None:
        owned.busy = False
        owned.users -= 1
        if not owned.spans:
            self._forget_handles(owned)
            if not owned.users:
                self.owned.pop(owned.key, None)
        notify(owned.moved)
        notify(change.done)

    def _forget_handles(self, owned: Owned) -> None:
        for handle in owned.handles:
            keys = self.of_handle.get(handle, set())
            keys.discard(owned.key)
            if not keys:
                self.of_handle.pop(handle, None)
        owned.handles.clear()

    # --- looking -------------------------------------------------------------------------------

    async def test(self, claim: FileLock) -> FileLock | None:
        """F_GETLK: somebody's lock that is in the way."""
        while True:
            answer = await self.contact.ask(wire.TestLock(claim))
            if answer.verdict is not Verdict.LATER:
                return answer.holder
            await wait(self._sure, limits.RETRY_S)

    # --- the session ---------------------------------------------------------------------------

    def try_again(self, numbers: tuple[int, ...]) -> None:
        """The metaserver says that something was freed."""
        for number in numbers:
            waiter = self.waiters.get(number)
            if waiter is not None:
                waiter.again = True
                notify(waiter.told)

    def announce(self, incarnation: Incarnation) -> list[FileLock]:
        """What is held, for a new metaserver."""
        self.told = max(self.told, incarnation)
        return [
            FileLock(*owned.key, owned.pid, span)
            for owned in self.owned.values()
            for span in owned.spans
        ]

    def opened(self, at: float) -> None:
        """A session was opened, no earlier than this."""
        self.sure_until = at + self.contact.life_s
        notify(self._sure)

    def beat(self, number: int, heard: int, at: float) -> None:
        """A heartbeat is sent.  It counts if the metaserver sees that its answers arrive."""
        if number - heard <= limits.DEAF_BEATS:
            self._beats[number] = at
        while len(self._beats) > limits.DEAF_BEATS:
            del self._beats[next(iter(self._beats))]

    def heard(self, number: int) -> None:
        """A heartbeat was answered: the session lived when it was sent."""
        at = self._beats.pop(number, None)
        if at is not None:
            self.sure_until = max(self.sure_until, at + self.contact.life_s)
            notify(self._sure)

    def died(self) -> None:
        """The session has ended, and every lock with it."""
        self.lives += 1
        self.sure_until = 0.0
        self._beats.clear()
        self._lose([owned for owned in self.owned.values() if owned.spans])

    def _lose(self, losers: list[Owned]) -> None:
        for owned in losers:
            self.lost |= owned.handles
            for handle in owned.handles:
                self.tolds[handle].broken = _gone()
            owned.spans = ()
            self._forget_handles(owned)
            if not owned.users:
                self.owned.pop(owned.key)
        if losers:
            log.error(
                "locks on %d files are lost: reads and writes through the descriptors that held "
                "them fail until they are closed (the programs should be started anew)",
                len({owned.key[0] for owned in losers}),
            )

    # --- reading and writing -------------------------------------------------------------------

    def complain(self, handle: int) -> None:
        """EIO for whoever lost a lock."""
        if handle in self.lost:
            raise _gone()

    async def check(self, handle: int) -> None:
        """Before a read or a write, and after a read: what was locked through this handle must
        still be held."""
        while handle in self.of_handle and self.contact.driver.monotonic() > self.sure_until:
            await wait(self._sure, limits.RETRY_S)
        self.complain(handle)


def _full(failure: Failure | None) -> bool:
    return isinstance(failure, Posix) and failure.number == ENOLCK


def _gone() -> Failure:
    return Failure("a lock held through this descriptor was lost: close the file")


def _weaken(spans: Spans, claim: FileLock) -> Spans:
    """What an owner certainly has while it asks to change its locks: exclusive may become shared
    (fcntl), or all be given back first (flock)."""
    if claim.kind is LockKind.FLOCK:
        return spans if spans == (claim.span,) else ()
    if claim.span.exclusive:
        return spans
    weak = spans
    for span in spans:
        if span.exclusive and span.meets(claim.span):
            first, last = max(span.first, claim.span.first), min(span.last, claim.span.last)
            weak = laid(weak, Span(first, last, False))
    return weak
