"""Copies of the metadata: which one counts, who may write to one, what a reply waits for."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.issues.test_reports import RING, report
from tests.world.stores import MemoryBlockStore, MemoryMetaStore
from zdfs import chain, copies, wire
from zdfs.chain import GENESIS, CopySet, Head
from zdfs.cluster import Heard
from zdfs.copied import CopiedStore, Sealed
from zdfs.copying import Copying, Follower
from zdfs.errors import Damaged, Foreign, Unavailable
from zdfs.ids import Incarnation, Round, Slot
from zdfs.ledger import Ledger
from zdfs.mirror import Mirror

OURS = Incarnation(5)
SET = CopySet(1, (Slot(0), Slot(1), Slot(2)), 2)
CLUSTER = b"c" * 16


def head(incarnation: int, number: int) -> Head:
    return GENESIS._replace(incarnation=Incarnation(incarnation), round=Round(number))


def heard(slot: int, at: Head, whole: bool = True, promised: int = OURS) -> Heard:
    """A dataserver and its copy."""
    copy = wire.CopyReport(SET, at, whole)
    return Heard(0.0, report(slot, promised=Incarnation(promised), copy=copy))


def judged(own: Head | None, *reports: Heard) -> copies.Verdict:
    return copies.judge(own, SET, {h.report.slot: h for h in reports}, RING, OURS)


# --- which one counts ----------------------------------------------------------------------------


def test_the_newest_copy_counts() -> None:
    old, new, later = head(3, 9), head(3, 10), head(4, 2)
    assert judged(new, heard(0, old), heard(1, old)).settled
    assert judged(old, heard(0, old), heard(1, new)).source == 1
    assert judged(new, heard(0, new), heard(1, later)).source == 1, "a later metaserver's"
    assert judged(None, heard(0, new), heard(2, old)).source == 0


def test_fewer_than_needed_do_not_count() -> None:
    """Of two that any round was answered by, one may have been among those that are silent."""
    at = head(3, 9)
    assert "waiting for 1 more" in judged(None, heard(0, at)).text
    assert "waiting for 1 more" in judged(None, heard(0, at), heard(1, at, whole=False)).text
    assert judged(at, heard(0, at)).settled


def test_a_copy_counts_once_its_server_is_promised() -> None:
    """Until then an older metaserver may still add to it."""
    at = head(3, 9)
    assert "waiting for 1 more" in judged(None, heard(0, at), heard(1, at, promised=4)).text


# --- who may write -------------------------------------------------------------------------------


def mirror() -> Mirror:
    """In a dataserver that is promised to us; whole and empty."""
    store = MemoryBlockStore(Slot(0))
    store.set_state(replace(store.state, cluster=CLUSTER, promised=OURS))
    made = Mirror(store, MemoryMetaStore())
    made.fill(
        wire.Fill(
            CLUSTER,
            OURS,
            GENESIS,
            GENESIS,
            False,
            b"",
            True,
            tuple(chain.cut(chain.pack_changes([]))),
        )
    )
    assert made.whole
    return made


def test_only_the_metaserver_it_is_promised_to_writes_to_a_copy() -> None:
    copy = mirror()
    copy.may_write(CLUSTER, OURS)
    with pytest.raises(Foreign, match="later metaserver"):
        copy.may_write(CLUSTER, Incarnation(OURS - 1))
    with pytest.raises(Unavailable):
        copy.may_write(CLUSTER, Incarnation(OURS + 1))
    with pytest.raises(Foreign, match="another cluster"):
        copy.may_write(b"d" * 16, OURS)


def rounds(count: int, value: bytes = b"") -> list[Sealed]:
    """Of a metaserver that changes one record in each."""
    store = CopiedStore(MemoryMetaStore(), CLUSTER)
    store.incarnation = OURS
    for number in range(count):
        change(store, value + b"%d" % number)
    return list(store.outbox)


def change(store: CopiedStore, payload: bytes) -> None:
    with store.write() as txn:
        txn.put(b"key", payload)
    store.end_round()


def append(copy: Mirror, some: Sequence[Sealed]) -> None:
    frames = [chain.cut(one.packed) for one in some]
    copy.append([len(one) for one in frames], [frame for one in frames for frame in one])


def test_only_rounds_that_follow_are_appended() -> None:
    copy, first, other = mirror(), rounds(3), rounds(3, b"other")
    append(copy, first[1:])
    assert copy.head == GENESIS, "one is missing"
    append(copy, first[:1] + other[1:])
    assert copy.head == first[0].head, "they grew from another one"
    append(copy, first)
    assert copy.head == first[2].head
    copy.apply()
    assert copy.whole and copy.applied == first[2].head


def test_a_round_that_leaves_other_records_is_not_agreed_to() -> None:
    copy, sent = mirror(), rounds(2)
    append(copy, sent[:1])
    copy.apply()
    with copy.mirror.write() as txn:
        txn.put(b"other", b"nobody sent that")
        txn.delete(b"key")
    append(copy, sent[1:])
    copy.apply()
    assert not copy.report().agrees and copy.whole


# --- what a reply waits for ----------------------------------------------------------------------


def test_replies_wait_for_their_copies() -> None:
    store = CopiedStore(MemoryMetaStore(), CLUSTER)
    change(store, b"1")
    change(store, b"2")
    assert store.safe(synced=True, change=True) == 2, "no copies are asked for"
    store.copies, store.alone = SET, False
    assert store.safe(synced=False, change=True) == store.safe(synced=False, change=False) == 0
    store.appended, store.synced_there = 2, 1
    assert (store.safe(synced=False, change=True), store.safe(synced=True, change=True)) == (2, 1)
    store.alone, store.appended = True, 1
    assert store.safe(synced=False, change=True) == 1
    assert store.safe(synced=False, change=False) == 2, "reads go on"


def test_replies_wait_for_the_own_disk_too() -> None:
    store = CopiedStore(MemoryMetaStore(), CLUSTER)
    change(store, b"1")
    store.copies, store.alone = SET, False
    with store.write() as txn:
        txn.put(b"key", b"2")
    assert store.prepare()
    store.appended = store.synced_there = 2
    assert store.safe(synced=True, change=True) == 1
    store.end_round()
    assert store.safe(synced=True, change=True) == 2


def test_a_round_counts_when_as_many_as_are_needed_have_it() -> None:
    assert copies.reached([7, 5, 9], 2) == 7
    assert copies.reached([7], 2) == copies.reached([], 1) == 0


def copied(rounds_: int = 0) -> Copying:
    """Of a metaserver whose set is in force; its store has so many rounds at its start."""
    store = CopiedStore(MemoryMetaStore(), CLUSTER)
    for number in range(rounds_):
        change(store, b"%d" % number)
    made = Copying(Ledger(store, bytes(16)), store, {}, 2)
    made.copies = store.copies = SET
    made.followers = {Slot(number): Follower() for number in range(4)}
    return made


def has(copying: Copying, slot: int, appended: int, synced: int) -> None:
    """A dataserver's copy is whole, and reaches so far."""
    one = copying.followers[Slot(slot)]
    one.whole, one.round, one.synced = True, appended, synced
    copying._count()


def test_a_copy_that_is_being_filled_does_not_count() -> None:
    copying = copied()
    store = copying.store
    for slot in SET.slots:
        has(copying, slot, 7, 7)
        copying.followers[slot].whole = slot == 0
    copying._count()
    assert (store.appended, store.synced_there) == (0, 0)
    copying.followers[Slot(1)].whole = True
    copying._count()
    assert (store.appended, store.synced_there) == (7, 7)


# --- a set that takes over -----------------------------------------------------------------------


NEW = CopySet(2, (Slot(1), Slot(2), Slot(3)), 2)


def test_a_set_waits_until_it_has_on_disk_what_was_acknowledged_so() -> None:
    """Who takes over has the rounds, but not yet on disk as members that are gone told."""
    copying = copied()
    for number in range(7):
        change(copying.store, b"%d" % number)
    copying.store.promise(Round(7))
    for slot in (0, 1):
        has(copying, slot, 7, 7)
    assert copying.store.safe(synced=True, change=True) == 7, "somebody was told"
    copying.proposed = NEW
    has(copying, 3, 7, 0)
    assert not copying._holds(NEW)
    has(copying, 3, 7, 7)
    assert copying._holds(NEW)


def test_a_set_that_is_found_at_the_start_is_asked_what_it_has() -> None:
    """Whatever stands in the store may have been acknowledged, by a metaserver before this one."""
    copying = copied(rounds_=5)
    assert copying.store.wants_sync == 5, "members are asked to sync it"
    copying.adopt(NEW)
    for slot in (1, 2):
        has(copying, slot, 5, 4)
    assert not copying._holds(NEW)
    for slot in (1, 2):
        has(copying, slot, 5, 5)
    assert copying._holds(NEW)


def test_what_a_set_settles_with_is_asked_first() -> None:
    copying = copied(rounds_=5)
    copying.proposed = NEW
    for number in range(4):
        known = heard(number, head(1, 5))
        told = known.report.copy._replace(copies=NEW)
        copying.reports[Slot(number)] = Heard(0.0, replace(known.report, copy=told))
    copying._strive(0.0)
    assert copying.proposed == NEW, "nobody has what the store has"
    for slot in (1, 2):
        has(copying, slot, 5, 5)
    copying._strive(0.0)
    assert copying.copies == NEW and copying.proposed is None


# --- records that come back ----------------------------------------------------------------------


def test_no_single_store_is_believed() -> None:
    a, b, bad = b"a", b"b", Damaged("flipped")
    assert copies.elected(a, [a, a, None]) == a, "a copy lost it"
    assert copies.elected(None, [a, a, None]) == a, "ours and one copy's lost it"
    assert copies.elected(a, [None, None, None]) is None, "ours has what was removed"
    assert copies.elected(bad, [a, None]) == a
    assert copies.elected(bad, [None, None]) is None
    assert copies.elected(a, [None]) == a, "nothing is taken away in doubt"
    assert copies.elected(a, [b]) == b, "ours is the one in doubt"
    assert copies.elected(a, [b, a]) == a


def test_a_store_is_healed_from_copies_that_lack_something_themselves() -> None:
    store = CopiedStore(MemoryMetaStore(), CLUSTER)
    with store.write() as txn:
        for key in (b"k1", b"k2", b"k3"):
            txn.put(key, b"right")
    store.end_round()
    with store.inner.write() as txn:
        txn.delete(b"k1")
        txn.put(b"k3", b"wrong")
    every = [(b"k1", b"right"), (b"k2", b"right"), (b"k3", b"right")]
    told = [(dict(one), set[bytes]()) for one in (every[:1] + every[2:], every[1:], every)]
    assert store.restore(b"k", b"l", told) == (2, False)
    with store.read() as read:
        assert dict(read.scan(b"k", b"l")) == dict(every)


def test_a_copy_has_no_vote_on_what_changed_since() -> None:
    store = CopiedStore(MemoryMetaStore(), CLUSTER)
    change(store, b"old")
    before = store.head
    change(store, b"new")
    lags = {b"key": b"old"}, store.changed_since(before) or set()
    assert lags[1] == {b"key"}
    assert store.restore(b"k", b"l", [lags, lags]) == (0, False)
    assert store.restore(b"k", b"l", [lags, ({b"key": b"new"}, set())]) == (0, False)
    with store.read() as read:
        assert read.get(b"key") == b"new"
    assert store.changed_since(before._replace(round=Round(-1))) is None, "too long ago"


def test_what_changed_just_before_it_was_damaged_is_asked_for_again() -> None:
    inner = MemoryMetaStore()
    store = CopiedStore(inner, CLUSTER)
    change(store, b"old")
    before = store.head
    change(store, b"new")
    value = inner.records.values[b"key"]
    inner.records.values[b"key"] = value[:-1] + bytes([value[-1] ^ 4])
    lags = {b"key": b"old"}, store.changed_since(before) or set()
    assert store.restore(b"k", b"l", [lags]) == (0, True)
    assert store.restore(b"k", b"l", [lags, ({b"key": b"new"}, set())]) == (1, False)
    with store.read() as read:
        assert read.get(b"key") == b"new"


def test_a_round_that_is_to_be_synced_is_sent_once() -> None:
    """Not one message for the rounds before, and then one for the round that it is about."""
    store = CopiedStore(MemoryMetaStore(), CLUSTER)
    woken: list[int] = []

    def wait() -> None:
        store.news.waiters.append(lambda: woken.append(store.head.round))

    wait()
    with store.write() as txn:
        txn.put(b"a", b"1")
    store.promise(store.round)
    assert not woken, "it is not sealed: there is nothing to be sent yet"
    store.prepare()
    assert woken == [1]
    store.end_round()
    wait()
    store.promise(Round(1))
    assert woken == [1], "nothing new"
    store.wants_sync = 0
    store.promise(Round(1))
    assert woken == [1, 1], "a round that was sent already"


def test_one_copy_that_has_none_does_not_take_a_damaged_record_away() -> None:
    """It was: a name that stood on two more copies, which were down, was not there meanwhile."""
    inner = MemoryMetaStore()
    store = CopiedStore(inner, CLUSTER)
    change(store, b"payload")
    store.copies = SET
    value = inner.records.values[b"key"]
    inner.records.values[b"key"] = value[:-1] + bytes([value[-1] ^ 4])
    lost: tuple[dict[bytes, bytes | None], set[bytes]] = ({}, set())
    assert store.restore(b"k", b"l", [lost]) == (0, True)
    assert b"key" in inner.records.values
    assert store.restore(b"k", b"l", [lost, ({b"key": b"payload"}, set())]) == (1, False)
    with store.read() as read:
        assert read.get(b"key") == b"payload"
    inner.records.values[b"key"] = value[:-1] + bytes([value[-1] ^ 4])
    assert store.restore(b"k", b"l", [lost, lost]) == (1, False), "two say so"
    assert b"key" not in inner.records.values
