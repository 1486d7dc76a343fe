"""The numbered list of events: nothing is missed, nothing comes twice; what mounts do is told."""

from collections.abc import Coroutine
from typing import Any

from tests.world.stores import MemoryMetaStore
from zdfs import limits, schema, wire
from zdfs.calls import Now, Trap, Wait
from zdfs.events import Chronicle
from zdfs.ids import Incarnation, Session, Slot
from zdfs.ledger import Ledger
from zdfs.membership import Membership
from zdfs.ports import Caller
from zdfs.schema import SessionRecord
from zdfs.sessions import Mount, Sessions
from zdfs.tables import decode

CALLER = Caller(b"peer", wire.RequestHead(Session(0), wire.NO_SLOT, 1, 1000, Incarnation(0)))


def chronicle(store: MemoryMetaStore) -> Chronicle:
    """Of a metaserver that serves."""
    ledger = Ledger(store, bytes(16))
    members = Membership(ledger, Sessions(), 65536, False, lambda push: None)
    members.granted = True
    return Chronicle(members)


def texts(found: list[wire.Happened]) -> list[str]:
    return [event.text for event in found]


def test_all_events_in_order_over_restarts() -> None:
    store, said, seen, number = MemoryMetaStore(), [], [], 0
    for life in range(3):
        ledger = Ledger(store, bytes(16))
        for event in range(5):
            said.append(f"{life} {event}")
            ledger.event(1, "test", said[-1])
            ledger.store.end_round()
            if event % 2:
                found, gap = ledger.events_after(number, 0)
                assert not gap
                seen += texts(found)
                number = found[-1].number
        store = store.crash()
    found, gap = Ledger(store, bytes(16)).events_after(number, 0)
    assert seen + texts(found) == said and not gap


def test_the_newest_and_nothing_new() -> None:
    ledger = Ledger(MemoryMetaStore(), bytes(16))
    assert ledger.events_after(0, 0) == ledger.events_after(0, 9) == ([], False)
    for number in range(9):
        ledger.event(1, "test", str(number))
    newest, _ = ledger.events_after(0, 3)
    assert texts(newest) == ["6", "7", "8"]
    assert ledger.events_after(newest[-1].number, 0) == ([], False)


def test_events_that_are_gone_are_a_gap() -> None:
    ledger = Ledger(MemoryMetaStore(), bytes(16))
    ledger.event(1, "test", "first")
    (first,), _ = ledger.events_after(0, 1)
    for number in range(limits.EVENTS + 200):
        ledger.event(1, "test", str(number))
    found, gap = ledger.events_after(first.number, 0)
    assert gap and len(found) == limits.EVENTS_TOLD
    number, seen = found[-1].number, len(found)
    while found:
        found, gap = ledger.events_after(number, 0)
        assert not gap
        seen, number = seen + len(found), found[-1].number if found else number
    assert limits.EVENTS <= seen < limits.EVENTS + 64


def test_an_answer_fits_a_message() -> None:
    ledger = Ledger(MemoryMetaStore(), bytes(16))
    for _ in range(limits.EVENTS_TOLD):
        ledger.event(1, "k" * 500, "\U0001f600" * 5000)
    found, _ = ledger.events_after(0, 0)
    assert len(found) > 9
    head = wire.ReplyHead(Session(0), wire.NO_SLOT, 1, 86, Incarnation(1), ledger.store.round)
    wire.encode_reply(head, wire.Events(tuple(found), False, Incarnation(1)))


def test_a_damaged_event_does_not_hide_the_others() -> None:
    store = MemoryMetaStore()
    ledger = Ledger(store, bytes(16))
    for number in range(4):
        ledger.event(1, "test", str(number))
    key = schema.number_key(b"v", ledger.events_after(0, 3)[0][0].number)
    store.records.values[key] = store.records.values[key][:-1] + b"?"
    found, gap = ledger.events_after(0, 0)
    assert [event.kind for event in found] == ["test", "damage", "test", "test"] and not gap
    assert texts(ledger.events_after(found[1].number, 0)[0]) == ["2", "3"]
    assert texts(ledger.events_after(0, 4)[0])[-2:] == ["2", "3"]


def ask(made: Chronicle, wait_ms: int) -> Coroutine[Trap, Any, wire.Events]:
    return made.tell(wire.GetEvents(0, 0, wait_ms), CALLER)


def test_an_answer_waits_for_something_to_happen() -> None:
    made = chronicle(MemoryMetaStore())
    asked = ask(made, 1000)
    for value in (None, 5.0, 5.0):
        trap = asked.send(value)
    assert isinstance(trap, Wait) and trap.condition is made.ledger.happened
    assert trap.seconds == 1.0
    made.ledger.event(1, "test", "now")
    try:
        trap = asked.send(True)
        assert isinstance(trap, Now)
        asked.send(5.5)
    except StopIteration as done:
        assert [event.text for event in done.value.events] == ["now"]
    else:
        raise AssertionError("it waits on")


def mount(where: str, session: int = 7) -> Mount:
    record = SessionRecord(bytes(16), "host", where, 1)
    return Mount(Session(session), record, 0.0, True)


def blocked(slot: int) -> tuple[wire.Blocked, ...]:
    return (wire.Blocked(Slot(slot), 10, 2, False),)


def kinds(made: Chronicle) -> list[str]:
    return [event.kind for event in made.ledger.events_after(0, 0)[0]]


def test_blocked_writes_are_told_once_over_a_restart() -> None:
    store = MemoryMetaStore()
    made, one = chronicle(store), mount("/mnt")
    made.came(1, one)
    for _ in range(3):
        made.blocked(1, one, blocked(1))
    made.ledger.store.end_round()
    again = chronicle(store.crash())
    with again.ledger.store.read() as read:
        ((key, payload),) = read.scan(b"n", schema.after(b"n"))
    session, record = Session(schema.number_of_key(key)), decode(SessionRecord, key, payload)
    assert session == one.session and record.blocked == (Slot(1),)
    revived = Mount(session, record, 0.0, False)
    again.blocked(1, revived, blocked(1))
    again.blocked(1, revived, ())
    again.blocked(1, revived, ())
    assert kinds(again) == ["mount", "blocked", "unblocked"]
    assert texts(again.ledger.events_after(0, 2)[0])[0] == (
        "writes on host:/mnt wait for dataserver 1; programs waiting: 2"
    )


def test_a_mount_that_ends_does_not_wait_any_more() -> None:
    made, one = chronicle(MemoryMetaStore()), mount("/mnt")
    made.blocked(1, one, blocked(0) + blocked(2))
    made.went(1, one)
    assert kinds(made) == ["blocked", "blocked", "unblocked", "unblocked", "unmount"]


def test_commands_are_no_mounts() -> None:
    made, one = chronicle(MemoryMetaStore()), mount("(command)")
    made.came(1, one)
    made.went(1, one)
    assert kinds(made) == []


def test_who_may_change_nothing_tells_nothing() -> None:
    made, one = chronicle(MemoryMetaStore()), mount("/mnt")
    made.members.granted = False
    made.blocked(1, one, blocked(0))
    assert kinds(made) == [] and one.record.blocked == ()
