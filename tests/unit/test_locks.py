"""Tables of locks, against bytes in a row; who waits for whom, against a walk over everything."""

from hypothesis import given
from hypothesis import strategies as st

from zdfs import limits
from zdfs.ids import Ino, Session
from zdfs.locks import END, Locks, Owner, Spans, cut, laid
from zdfs.wire import FileLock, LockKind, Span

BYTES = 12  # of which the last stands for all that follow
INO = Ino(7)
OWNERS = [Owner(Session(1), 1), Owner(Session(1), 2), Owner(Session(2), 1)]
KEY = (INO, LockKind.POSIX)


def span(first: int, last: int, exclusive: bool = True) -> Span:
    """The last byte is the end of the file, wherever that is."""
    return Span(first, END if last == BYTES - 1 else last, exclusive)


def claim(owner: Owner, wanted: Span, ino: Ino = INO, kind: LockKind = LockKind.POSIX) -> FileLock:
    return FileLock(ino, kind, owner.number, 100 + owner.number, wanted)


def row(spans: Spans) -> list[bool | None]:
    """Each byte: None, shared (False) or exclusive (True)."""
    found: list[bool | None] = [None] * BYTES
    for one in spans:
        for at in range(one.first, min(one.last, BYTES - 1) + 1):
            assert found[at] is None, "two spans of one owner meet"
            found[at] = one.exclusive
    return found


spans = st.builds(
    lambda a, b, exclusive: span(min(a, b), max(a, b), exclusive),
    st.integers(0, BYTES - 1),
    st.integers(0, BYTES - 1),
    st.booleans(),
)
steps = st.lists(st.tuples(st.sampled_from(OWNERS), spans, st.booleans()), max_size=40)


@given(steps)
def test_every_byte_is_as_in_a_row_of_bytes(story: list[tuple[Owner, Span, bool]]) -> None:
    locks = Locks()
    rows: dict[Owner, list[bool | None]] = {owner: [None] * BYTES for owner in OWNERS}
    for owner, wanted, locks_it in story:
        touched = range(wanted.first, min(wanted.last, BYTES - 1) + 1)
        if locks_it:
            free = all(
                rows[other][at] is None or not (wanted.exclusive or rows[other][at])
                for other in OWNERS
                if other != owner
                for at in touched
            )
            assert (locks.conflict(owner, claim(owner, wanted)) is None) == free
            if not free:
                continue
            locks.lock(owner, claim(owner, wanted))
        else:
            held = any(rows[owner][at] is not None for at in touched)
            assert locks.unlock(owner, KEY, wanted.first, wanted.last) == held
        for at in touched:
            rows[owner][at] = wanted.exclusive if locks_it else None
        for one in OWNERS:
            found = locks.spans(one, KEY)
            assert row(found) == rows[one]
            assert list(found) == sorted(found)
            for before, after in zip(found, found[1:]):  # as long as they can be
                assert before.last + 1 < after.first or before.exclusive != after.exclusive
    for session in {owner.session for owner in OWNERS}:
        total = sum(len(locks.spans(one, KEY)) for one in OWNERS if one.session == session)
        assert locks.counts.get(session, 0) == total


@given(steps)
def test_a_session_that_ends_leaves_nothing(story: list[tuple[Owner, Span, bool]]) -> None:
    locks = Locks()
    for number, (owner, wanted, _) in enumerate(story):
        if locks.conflict(owner, claim(owner, wanted)) is None:
            locks.lock(owner, claim(owner, wanted))
        else:
            assert locks.waits(owner, number + 1, claim(owner, wanted), 0.0)
    for session in {owner.session for owner in OWNERS}:
        locks.end(session)
    assert (locks.files, locks.counts, locks.waiters) == ({}, {}, {})


def test_a_hole_splits_and_a_bridge_joins() -> None:
    whole = laid((), Span(0, END, True))
    split = cut(whole, 10, 19)
    assert split == (Span(0, 9, True), Span(20, END, True))
    assert laid(split, Span(10, 19, True)) == whole
    assert laid(split, Span(10, 19, False))[1] == Span(10, 19, False)


def test_kinds_and_files_know_nothing_of_one_another() -> None:
    locks, (one, two, _) = Locks(), OWNERS
    everything = Span(0, END, True)
    locks.lock(one, claim(one, everything))
    assert locks.conflict(two, claim(two, everything)) is not None
    assert locks.conflict(two, claim(two, everything, kind=LockKind.FLOCK)) is None
    assert locks.conflict(two, claim(two, everything, ino=Ino(8))) is None


def test_who_is_in_the_way_is_named() -> None:
    locks, (one, two, _) = Locks(), OWNERS
    locks.lock(one, claim(one, Span(5, 9, False)))
    assert locks.conflict(two, claim(two, Span(0, END, False))) is None
    found = locks.conflict(two, claim(two, Span(0, END, True)))
    assert found == (one, claim(one, Span(5, 9, False)))


# --- bounds --------------------------------------------------------------------------------------


def test_a_file_has_so_many_locks_and_no_more() -> None:
    locks, one = Locks(), OWNERS[0]
    for number in range(limits.LOCKS_OF_FILE):
        assert not locks.full(one, claim(one, Span(0, 0, True)))
        locks.lock(one, claim(one, Span(2 * number, 2 * number, True)))
    assert locks.full(one, claim(one, Span(0, 0, True)))


def test_a_mount_has_so_many_waiters_and_no_more() -> None:
    locks, (one, two, other) = Locks(), OWNERS
    locks.lock(one, claim(one, Span(0, 0, True)))
    wanted = claim(two, Span(0, 0, True))
    for number in range(1, limits.LOCK_WAITERS + 1):
        assert locks.waits(two, number, wanted, 0.0)
    assert not locks.waits(two, limits.LOCK_WAITERS + 1, wanted, 0.0)
    assert locks.waits(two, 5, wanted, 0.0), "one that waits already may go on"
    assert locks.waits(other, 1, wanted, 0.0), "another mount has its own"


# --- waiting -------------------------------------------------------------------------------------


def test_the_first_come_are_told_first_and_those_that_fit_together() -> None:
    locks, (one, two, three) = Locks(), OWNERS
    locks.lock(one, claim(one, Span(0, 9, True)))
    assert locks.waits(two, 1, claim(two, Span(0, 9, False)), 0.0)
    assert locks.waits(three, 2, claim(three, Span(5, 5, False)), 0.0)
    assert locks.waits(three, 3, claim(three, Span(0, 0, True)), 0.0)
    assert locks.ready([KEY], 0.0) == {}
    locks.unlock(one, KEY)
    assert locks.ready([KEY], 0.0) == {two.session: [1], three.session: [2]}
    locks.waits_no_more(two.session, 1)
    assert locks.ready([KEY], 0.0) == {three.session: [2, 3]}, "one's own are not in the way"


def test_who_does_not_ask_again_is_forgotten() -> None:
    locks, (one, two, three) = Locks(), OWNERS
    locks.lock(one, claim(one, Span(0, 9, True)))
    assert locks.waits(two, 1, claim(two, Span(0, 9, True)), 0.0)
    assert locks.waits(three, 1, claim(three, Span(0, 9, True)), limits.LOCK_WAITER_S + 1)
    assert list(locks.waiters) == [(three.session, 1)]


def test_a_circle_of_three_is_a_deadlock_and_its_last_member_hears_of_it() -> None:
    locks = Locks()
    for number, owner in enumerate(OWNERS):
        locks.lock(owner, claim(owner, Span(number, number, True)))
    one, two, three = OWNERS
    for owner, wanted in ((one, 1), (two, 2)):
        asked = claim(owner, Span(wanted, wanted, True))
        assert not locks.deadlock(owner, asked, 0.0)
        assert locks.waits(owner, 1 + wanted, asked, 0.0)
    last = claim(three, Span(0, 0, False))
    assert locks.deadlock(three, last, 0.0)
    assert not locks.deadlock(three, last, limits.LOCK_WAITER_S + 1), "they have gone away"


def test_flock_waits_are_no_part_of_a_circle() -> None:
    locks, (one, two, _) = Locks(), OWNERS
    locks.lock(one, claim(one, Span(0, 0, True)))
    locks.lock(two, claim(two, Span(1, 1, True)))
    everything = Span(0, END, True)
    locks.lock(two, claim(two, everything, kind=LockKind.FLOCK))
    assert locks.waits(one, 1, claim(one, everything, kind=LockKind.FLOCK), 0.0)
    assert not locks.deadlock(two, claim(two, Span(0, 0, True)), 0.0)


@given(
    st.lists(st.tuples(st.sampled_from(OWNERS), st.integers(0, 3)), max_size=4),
    st.lists(st.tuples(st.sampled_from(OWNERS), st.integers(0, 3)), max_size=4),
    st.sampled_from(OWNERS),
    st.integers(0, 3),
)
def test_deadlocks_are_those_of_the_graph(
    held: list[tuple[Owner, int]], waits: list[tuple[Owner, int]], asks: Owner, wanted: int
) -> None:
    locks = Locks()
    holder: dict[int, Owner] = {}
    for owner, byte in held:
        if holder.setdefault(byte, owner) == owner:
            locks.lock(owner, claim(owner, Span(byte, byte, True)))
    edges = {(asks, holder[wanted])} if holder.get(wanted, asks) != asks else set()
    for number, (owner, byte) in enumerate(waits, 1):
        if holder.get(byte, owner) != owner:
            assert locks.waits(owner, number, claim(owner, Span(byte, byte, True)), 0.0)
            edges.add((owner, holder[byte]))
    reached = {b for a, b in edges if a == asks and b == holder.get(wanted)}
    for _ in OWNERS:
        reached |= {b for a, b in edges if a in reached}
    expected = asks in reached
    assert locks.deadlock(asks, claim(asks, Span(wanted, wanted, True)), 0.0) == expected
