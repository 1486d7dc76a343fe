"""Which bytes of which files are locked by whom, and who waits for whom: pure, told the time.

    Locks     (inode, kind) -> owner -> spans, in order, apart, as long as they can be
    Waiter    a request that was refused and will be made again

An owner is (session, number).  Its own spans never are in its way: a new one is laid over them, and
splits, cuts or joins them (fcntl(2)).  A lock of `flock` is one span over everything.

**Waiting is asking again.**  Of who waits we only remember what for, in the order of arrival: to
say whose turn it may be when something is freed, and to find a circle of owners that wait for one
another, whose last member is told EDEADLK.  Who has not asked for a while is forgotten.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from zdfs import limits
from zdfs.ids import Ino, Session
from zdfs.wire import FileLock, LockKind, Span

Spans = tuple[Span, ...]
Key = tuple[Ino, LockKind]
END = limits.FILE_BYTES


class Owner(NamedTuple):
    """Who has locks."""

    session: Session
    number: int


def touched(spans: Sequence[Span], first: int, last: int) -> slice:
    """Which of an owner's spans have a byte in common with these."""
    begin = bisect_left(spans, first, key=attrgetter("last"))
    return slice(begin, bisect_right(spans, last, lo=begin, key=attrgetter("first")))


def cut(spans: Sequence[Span], first: int, last: int) -> Spans:
    """What is left when these bytes are given back."""
    left: list[Span] = []
    there = touched(spans, first, last)
    for span in spans[there]:
        if span.first < first:
            left.append(span._replace(last=first - 1))
        if span.last > last:
            left.append(span._replace(first=last + 1))
    return (*spans[: there.start], *left, *spans[there.stop :])


def laid(spans: Sequence[Span], new: Span) -> Spans:
    """An owner's spans with a new one over them; equal neighbours become one."""
    rest = cut(spans, new.first, new.last)
    begin = end = bisect_left(rest, new.first, key=attrgetter("first"))
    if begin and _continues(rest[begin - 1], new):
        begin -= 1
        new = new._replace(first=rest[begin].first)
    if end < len(rest) and _continues(new, rest[end]):
        new = new._replace(last=rest[end].last)
        end += 1
    return (*rest[:begin], new, *rest[end:])


def _continues(before: Span, after: Span) -> bool:
    return before.last + 1 == after.first and before.exclusive == after.exclusive


@dataclass(slots=True)
class Waiter:
    """A request that was refused."""

    owner: Owner
    claim: FileLock
    asked: float

    @property
    def key(self) -> Key:
        """What it is about."""
        return self.claim.ino, self.claim.kind


@dataclass(slots=True)
class Held:
    """What an owner has of one file."""

    pid: int
    spans: Spans


@dataclass(slots=True)
class Locks:
    """All locks and all who wait."""

    files: dict[Key, dict[Owner, Held]] = field(default_factory=dict)
    waiters: dict[tuple[Session, int], Waiter] = field(default_factory=dict)
    counts: dict[Session, int] = field(default_factory=dict)  # spans held

    # --- holding -------------------------------------------------------------------------------

    def spans(self, owner: Owner, key: Key) -> Spans:
        """What an owner has."""
        held = self.files.get(key, {}).get(owner)
        return held.spans if held else ()

    def blockers(self, owner: Owner, claim: FileLock) -> Iterator[tuple[Owner, FileLock]]:
        """Who has what is in the way of a claim, and one lock of each."""
        for other, held in self.files.get((claim.ino, claim.kind), {}).items():
            if other != owner:
                for span in held.spans[touched(held.spans, claim.span.first, claim.span.last)]:
                    if span.excludes(claim.span):
                        yield other, FileLock(claim.ino, claim.kind, other.number, held.pid, span)
                        break

    def conflict(self, owner: Owner, claim: FileLock) -> tuple[Owner, FileLock] | None:
        """The first of them."""
        return next(self.blockers(owner, claim), None)

    def full(self, owner: Owner, claim: FileLock) -> bool:
        """Whether a bound is reached: nobody gets more spans of this file, or this mount."""
        return self._reached(owner, (claim.ino, claim.kind), 0)

    def beyond(self, owner: Owner, claim: FileLock) -> bool:
        """Whether somebody says that he holds more than he can have been granted."""
        return self._reached(owner, (claim.ino, claim.kind), limits.LOCKS_SPLIT)

    def _reached(self, owner: Owner, key: Key, more: int) -> bool:
        count = sum(len(held.spans) for held in self.files.get(key, {}).values())
        mine = self.counts.get(owner.session, 0)
        return count >= limits.LOCKS_OF_FILE + more or mine >= limits.LOCKS + more

    def splits(self, owner: Owner, claim: FileLock) -> bool:
        """Whether giving back these bytes leaves more spans than before."""
        before = self.spans(owner, (claim.ino, claim.kind))
        return len(cut(before, claim.span.first, claim.span.last)) > len(before)

    def lock(self, owner: Owner, claim: FileLock) -> None:
        """It is the owner's from now on; nobody else's lock may be in the way."""
        assert self.conflict(owner, claim) is None
        key = (claim.ino, claim.kind)
        self._set(owner, key, claim.pid, laid(self.spans(owner, key), claim.span))

    def unlock(self, owner: Owner, key: Key, first: int = 0, last: int = END) -> bool:
        """Give back; False: the owner had nothing there."""
        before = self.spans(owner, key)
        after = cut(before, first, last)
        if before == after:
            return False
        self._set(owner, key, self.files[key][owner].pid, after)
        return True

    def _set(self, owner: Owner, key: Key, pid: int, spans: Spans) -> None:
        owners = self.files.setdefault(key, {})
        before = owners.pop(owner, None)
        if spans:
            owners[owner] = Held(pid, spans)
        elif not owners:
            del self.files[key]
        count = self.counts.get(owner.session, 0)
        count += len(spans) - (len(before.spans) if before else 0)
        self.counts[owner.session] = count
        if not count:
            del self.counts[owner.session]

    def end(self, session: Session) -> set[Key]:
        """A mount is gone: what of its was held."""
        for number in [key for key in self.waiters if key[0] == session]:
            del self.waiters[number]
        if session not in self.counts:
            return set()
        freed = set()
        for key, owners in list(self.files.items()):
            for owner in [one for one in owners if one.session == session]:
                self.unlock(owner, key)
                freed.add(key)
        return freed

    # --- waiting -------------------------------------------------------------------------------

    def waits(self, owner: Owner, number: int, claim: FileLock, now: float) -> bool:
        """A refused request will be made again; False: too many do.  Its place in the queue is
        that of the first time."""
        self._forget(now)
        known = self.waiters.get((owner.session, number))
        if known is not None:
            known.asked = now
            return True
        if sum(session == owner.session for session, _ in self.waiters) >= limits.LOCK_WAITERS:
            return False
        self.waiters[owner.session, number] = Waiter(owner, claim, now)
        return True

    def waits_no_more(self, session: Session, number: int) -> None:
        """It was granted, or given up."""
        self.waiters.pop((session, number), None)

    def _forget(self, now: float) -> None:
        for key, waiter in list(self.waiters.items()):
            if now - waiter.asked > limits.LOCK_WAITER_S:
                del self.waiters[key]

    def deadlock(self, owner: Owner, claim: FileLock, now: float) -> bool:
        """Whether those in the way wait, at whatever remove, for this owner (fcntl's only)."""
        self._forget(now)
        wanted: dict[Owner, list[FileLock]] = {}
        for waiter in self.waiters.values():
            if waiter.claim.kind is LockKind.POSIX:
                wanted.setdefault(waiter.owner, []).append(waiter.claim)
        seen: set[Owner] = set()
        ahead = [other for other, _ in self.blockers(owner, claim)]
        while ahead:
            other = ahead.pop()
            if other == owner:
                return True
            if other not in seen:
                seen.add(other)
                for theirs in wanted.get(other, ()):
                    ahead += [one for one, _ in self.blockers(other, theirs)]
        return False

    def ready(self, keys: Iterable[Key], now: float) -> dict[Session, list[int]]:
        """Who should ask again, by mount: in order of arrival, all that fit together."""
        wanted = set(keys)
        found: dict[Session, list[int]] = {}
        chosen: list[Waiter] = []
        for (session, number), waiter in self.waiters.items():
            if waiter.key not in wanted or now - waiter.asked > limits.LOCK_WAITER_S:
                continue
            if self.conflict(waiter.owner, waiter.claim) or any(
                other.key == waiter.key
                and other.owner != waiter.owner
                and other.claim.span.excludes(waiter.claim.span)
                for other in chosen
            ):
                continue
            chosen.append(waiter)
            found.setdefault(session, []).append(number)
        return found
