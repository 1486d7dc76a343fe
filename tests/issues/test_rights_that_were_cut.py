"""What a key's holder kept after its rights were cut, its file moved out, a name taken back; and a
key that may only read, which filled the metaserver's disk.

Its grants and locks stayed, and others waited for them; what it had once reached by a name stayed
its own for as long as its session lived; whoever sent questions in slots had each answer stored,
until the metaserver could commit nothing any more and did not start again.
"""

from errno import ESTALE

import pytest

from tests.issues.test_kept_grant import drive
from tests.unit.test_guard import DIRECTORY, RIGHTS, House, house, setting
from zdfs import limits, wire
from zdfs.errors import BadMessage
from zdfs.ids import ROOT, Ino, Policy, Session
from zdfs.wire import FileLock, LockKind, Span, Verdict

__all__ = ["house"]
BEAT = wire.Beat(1, 0, 0, (), (), ())


def stored(house: House) -> int:
    """Bytes of all records."""
    with house.meta.ledger.store.read() as read:
        return sum(len(key) + len(value) for key, value in read.scan(b"", b"\xff"))


def opening(ino: Ino, write: bool) -> wire.Open:
    return wire.Open(ino, 1, write, False, ROOT, b"")


def lock(house: House, key: str, ino: Ino) -> Verdict:
    """An exclusive flock, as a mount asks that knows this life of the metaserver."""
    request = wire.Lock(FileLock(ino, LockKind.FLOCK, 1, 1, Span(0, 2**63 - 1, True)), 0)
    caller = house.caller(key)
    caller = caller._replace(head=caller.head._replace(incarnation=house.meta.incarnation))
    house.meta.welcome(caller, request)
    verdict: Verdict = drive(house.meta.handlers[wire.Lock](request, caller)).verdict
    return verdict


# --- slots ---------------------------------------------------------------------------------------


def test_a_question_has_no_slot(house: House) -> None:
    for request in (wire.ListNames(house.shared, b""), wire.GetAttributes(ROOT), wire.StatFs()):
        with pytest.raises(BadMessage, match="changes nothing, and came in a slot"):
            house.ask("reader", request, slot=7)


def test_who_only_reads_stores_nothing(house: House) -> None:
    house.ask("reader", wire.GetAttributes(ROOT))
    before, mount = stored(house), house.meta.sessions.mounts[house.sessions["reader"]]
    for slot in range(256):
        house.ask("reader", opening(house.file, False), slot=slot)
    assert stored(house) == before
    assert not any(kept.reply for kept in mount.slots.values()), "nor in memory"


def test_a_late_repeat_gives_back_no_lock_that_was_taken_since(house: House) -> None:
    claim = FileLock(house.file, LockKind.FLOCK, 1, 1, Span(0, 2**63 - 1, True))
    asked = house.caller("ada", 1)
    caller = asked._replace(head=asked.head._replace(incarnation=house.meta.incarnation))
    for again in (False, True):
        assert lock(house, "ada", house.file) is Verdict.GRANTED
        kept = house.meta.admit(caller.head, wire.Unlock(claim))
        assert (kept is not None) is again
        if not again:
            handler = house.meta.handlers[wire.Unlock]
            house.meta.keep(caller.head, drive(handler(wire.Unlock(claim), caller)))
    assert lock(house, "eve", house.file) is Verdict.CONFLICT


# --- rights that were cut ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rights", "kept"),
    [("", True), ("ro", False), ("root=/in", False), ("root=/nowhere", False),
     ("root-squash", False), ("uid=1:2", True)],
)  # fmt: skip
def test_a_grant_that_may_not_be_held_any_more_is_free(
    house: House, monkeypatch: pytest.MonkeyPatch, rights: str, kept: bool
) -> None:
    granted = house.ask("ada", wire.Grant(house.out), slot=3)
    number = house.numbers[house.sessions["ada"]]
    monkeypatch.setitem(RIGHTS, "ada", rights)
    house.ask("ada", BEAT)
    held = house.meta.sessions.holder(house.out)
    assert (held is not None and held.token == granted.token) is kept
    if not kept:
        house.numbers[house.sessions["ada"]] = number - 1  # the same once more
        if rights != "ro":
            again = house.ask("ada", wire.Grant(house.out), slot=3)
            assert not again.token, "the answer that was kept grants nothing"
        assert house.meta.sessions.holder(house.out) is None
        assert house.ask("eve", wire.Grant(house.out)).token > granted.token


def test_what_may_be_held_still_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = house.ask("ada", wire.Grant(house.file))
    assert lock(house, "ada", house.file) is Verdict.GRANTED
    monkeypatch.setitem(RIGHTS, "ada", "root=/in")
    house.ask("ada", BEAT)
    held = house.meta.sessions.holder(house.file)
    assert held is not None and held.token == granted.token
    assert lock(house, "eve", house.file) is Verdict.CONFLICT


def test_a_lock_that_may_not_be_had_any_more_is_free(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lock(house, "ada", house.out) is Verdict.GRANTED
    assert lock(house, "eve", house.out) is Verdict.CONFLICT
    monkeypatch.setitem(RIGHTS, "ada", "root=/in")
    house.ask("ada", BEAT)
    assert lock(house, "eve", house.out) is Verdict.GRANTED


# --- names that were taken away ------------------------------------------------------------------


def test_what_moved_out_is_outside_also_if_it_had_another_name_once(house: House) -> None:
    house.change("inside", wire.Link(house.leaf, ROOT, b"tmp"))
    house.change("inside", wire.Unlink(ROOT, b"tmp"))
    house.change("root", wire.Rename(house.deep, b"leaf", house.shared, b"leaf", 0))
    assert house.refused("inside", opening(house.leaf, True), slot=0) == ESTALE
    assert house.refused("inside", setting(house.leaf, 0o104777), slot=0) == ESTALE


def test_what_moved_out_with_its_directory_is_outside(house: House) -> None:
    house.change("inside", wire.Link(house.leaf, house.deep, b"second"))
    house.change("root", wire.Rename(house.inside, b"deep", house.shared, b"deep", 0))
    assert house.refused("inside", wire.GetAttributes(house.leaf)) == ESTALE


def test_what_was_exchanged_with_something_outside_is_outside(house: House) -> None:
    house.change("inside", wire.Link(house.leaf, house.deep, b"second"))
    house.change("root", wire.Rename(ROOT, b"out", house.inside, b"deep", 2))
    assert house.refused("inside", wire.GetAttributes(house.leaf)) == ESTALE


def test_a_name_that_was_taken_back_shows_nothing(house: House) -> None:
    house.change("root", wire.Link(house.out, house.inside, b"link"))
    assert house.ask("inside", wire.Lookup(ROOT, (b"link",))).steps
    house.ask("inside", wire.GetAttributes(house.out))
    house.change("root", wire.Unlink(house.inside, b"link"))
    assert house.refused("inside", wire.GetAttributes(house.out)) == ESTALE
    assert house.refused("inside", wire.Link(house.out, ROOT, b"mine"), slot=0) == ESTALE
    house.change("root", wire.Link(house.out, house.inside, b"again"))
    assert house.ask("inside", wire.Lookup(ROOT, (b"again",))).steps[0].ino == house.out
    house.ask("inside", wire.GetAttributes(house.out))


def test_what_is_open_goes_on_until_it_is_closed(house: House) -> None:
    house.change("root", wire.Link(house.out, house.inside, b"link"))
    house.ask("inside", wire.Lookup(ROOT, (b"link",)))
    house.ask("inside", opening(house.out, False), slot=0)
    house.change("root", wire.Unlink(house.inside, b"link"))
    house.ask("inside", wire.GetAttributes(house.out))
    assert house.refused("inside", wire.Link(house.out, ROOT, b"mine"), slot=1) == ESTALE
    house.ask("inside", wire.Beat(1, 0, 0, (), ((house.out, 1),), ()))
    assert house.refused("inside", wire.GetAttributes(house.out)) == ESTALE


def test_the_number_of_a_directory_above_is_not_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    middle = house.make(ROOT, b"middle", DIRECTORY)
    inner = house.make(middle, b"inner", DIRECTORY)
    file = house.create("root", inner, b"f").attributes.ino
    monkeypatch.setitem(RIGHTS, "deeper", "root=/middle/inner")
    for above in (ROOT, middle):
        house.change("root", wire.SetPolicy(above, Policy.QUORUM))
        assert house.ask("deeper", wire.GetPolicy(file)).origin == 0
    house.change("root", wire.SetPolicy(inner, Policy.QUORUM))
    assert house.ask("deeper", wire.GetPolicy(file)).origin == ROOT


# --- events --------------------------------------------------------------------------------------


def test_who_comes_and_goes_pushes_no_event_out(house: House) -> None:
    first = house.meta.ledger.events(limits.EVENTS)[0]
    for number in range(1100):
        nonce = number.to_bytes(16, "big")
        opened = house.ask("reader", wire.OpenSession(nonce, "h", "/m"), Session(0)).session
        house.ask("reader", wire.CloseSession(), opened)
    kept = house.meta.ledger.events(limits.EVENTS)
    assert kept[0] == first
    assert "comes and goes too often for each to be told" in kept[-1].text
