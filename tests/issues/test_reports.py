"""A dataserver's reports, their repeats, and what must be on disk before they leave.

- Of all servers only the one that reported first each five seconds had its synced round recorded:
  after a restart of the metaserver an older copy of another's store was not seen as one.
- Events of a report whose answer was lost were recorded twice; events told to a metaserver that
  was not granted yet were forgotten.
- A vote was reported before its round was written: a kill -9 at that moment took it back.
- Events of a report whose answer was lost with the metaserver were recorded again by the next one.
- A store that was lost while nobody could be granted was taken for a former one.
"""

from collections.abc import Coroutine
from typing import Any

from tests.world.stores import MemoryBlockStore, MemoryMetaStore
from zdfs import wire
from zdfs.calls import CallAll, Now, Sleep, Trap, Wait
from zdfs.cluster import Heard
from zdfs.data import Data
from zdfs.errors import Unreachable
from zdfs.ids import Epoch, Incarnation, Round, Session, Slot
from zdfs.ledger import Ledger
from zdfs.membership import Membership
from zdfs.ports import Caller
from zdfs.sessions import Sessions
from zdfs.wire import State

RING = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
HEALTH = wire.Health(State.SERVING, 1, 1, 0, 0, None, 0, 0, 0, "test")
EVENT = wire.Event(7, "repaired", "something")
CALLER = Caller(b"peer", wire.RequestHead(Session(0), wire.NO_SLOT, 1, 1000, Incarnation(0)))


def report(slot: int, **fields: Any) -> wire.Report:
    usual: dict[str, Any] = {
        "slot": Slot(slot), "addresses": RING, "host": b"", "cluster": b"",
        "uuid": bytes([slot]) * 16, "life": 0, "boot": 1, "opened_round": Round(0),
        "synced_round": Round(0), "health": HEALTH, "promised": Incarnation(0),
        "served_incarnation": Incarnation(0), "served_round": Round(0), "reconciled": 0,
        "events": (),
    }  # fmt: skip
    return wire.Report(**(usual | fields))


def membership(store: MemoryMetaStore) -> Membership:
    """Of a founded cluster, granted."""
    made = Membership(Ledger(store, bytes(16)), Sessions(), 65536, False, lambda push: None)
    if made.ledger.cluster is None:
        for slot in range(3):
            made.reports[Slot(slot)] = Heard(0.0, report(slot))
        made._found(0.0, 1)
    made.granted = True
    return made


def told(members: Membership, request: wire.Report, at: float) -> wire.Instructions:
    """The answer to a report."""
    handler = members.report(request, CALLER)
    value: Any = None
    while True:
        try:
            trap = handler.send(value)
        except StopIteration as done:
            members.ledger.store.end_round()
            answer: wire.Instructions = done.value
            return answer
        assert isinstance(trap, Now)
        value = 1 if trap.wall else at


def test_every_servers_synced_round_is_recorded() -> None:
    store = MemoryMetaStore()
    members = membership(store)
    for second in range(1, 20):
        for slot in range(3):
            told(members, report(slot, synced_round=Round(second * 10)), float(second))
    again = membership(store.crash())
    assert min(server.synced_round for server in again.ledger.servers.values()) >= 100


def test_an_event_is_recorded_once() -> None:
    members = membership(MemoryMetaStore())
    told(members, report(1, events=(EVENT,)), 1.0)
    told(members, report(1, events=(EVENT, EVENT._replace(text="more"))), 2.0)
    told(members, report(2, events=(EVENT,)), 2.0)
    texts = [event.text for event in members.ledger.events(10) if event.kind == EVENT.kind]
    assert texts == ["something", "more", "something"]


def test_an_event_is_recorded_once_by_two_metaservers() -> None:
    store = MemoryMetaStore()
    first = report(1, events=(EVENT, EVENT._replace(text="more")))
    told(membership(store), first, 1.0)  # and the answer is lost
    again = membership(store.crash())
    told(again, first, 2.0)
    told(again, report(1, events=(EVENT._replace(text="news"),), first_event=3), 3.0)
    texts = [event.text for event in again.ledger.events(10) if event.kind == EVENT.kind]
    assert texts == ["something", "more", "news"]


def test_events_of_the_next_boot_are_others() -> None:
    members = membership(MemoryMetaStore())
    told(members, report(1, events=(EVENT,)), 1.0)
    told(members, report(1, boot=2, opened_round=Round(5), events=(EVENT,)), 2.0)
    texts = [event.text for event in members.ledger.events(10) if event.kind == EVENT.kind]
    assert texts == ["something", "something"]


def test_what_a_server_could_not_keep_is_said() -> None:
    members = membership(MemoryMetaStore())
    told(members, report(1, events=(EVENT,)), 1.0)
    told(members, report(1, events=(EVENT,), first_event=9), 2.0)
    newest = [(event.kind, event.text) for event in members.ledger.events(2)]
    assert newest[0][0] == "unheard" and "had 7 more events" in newest[0][1]
    assert newest[1][0] == EVENT.kind


def test_events_have_the_same_numbers_in_each_repeat() -> None:
    data = Data(MemoryBlockStore(Slot(0)), Slot(0), RING, "127.0.0.1:9")
    reporter = Reporter(data)
    data.healer.say("damage", "one")
    first = reporter.until_call()
    data.healer.say("damage", "two")
    reporter.answer(Unreachable("no"))
    second = reporter.until_call()
    assert first is not None and second is not None
    assert (first.first_event, len(first.events)) == (1, 1)
    assert (second.first_event, len(second.events)) == (1, 2)
    data.healer.say("damage", "three")
    reporter.answer(instructions())
    data.store.end_round()
    reporter.until_call(1)
    data.store.end_round()
    third = reporter.until_call()
    assert third is not None and (third.first_event, len(third.events)) == (3, 1)


def instructions(**fields: Any) -> wire.Instructions:
    usual: dict[str, Any] = {
        "cluster": b"c" * 16, "epoch": Epoch(1), "addresses": RING, "block_bytes": 65536,
        "life": 0, "claim": wire.Claim(Incarnation(3), Incarnation(2), Round(5)), "granted": True,
        "wiped": False, "reconcile": 0, "drops": 0, "refused": "",
    }  # fmt: skip
    return wire.Instructions(**(usual | fields))


class Reporter:
    """Drives a dataserver's report task: its requests, and the answers to them."""

    def __init__(self, data: Data):
        self.data = data
        self.task: Coroutine[Trap, Any, None] = data.report()
        self.value: Any = None

    def until_call(self, most: int = 50) -> wire.Report | None:
        """The next report; None when none leaves in so many steps."""
        for _ in range(most):
            trap = self.task.send(self.value)
            if isinstance(trap, CallAll):
                request = trap.asks[0].request
                assert isinstance(request, wire.Report)
                return request
            assert isinstance(trap, Now | Sleep | Wait)
            self.value = 1 if isinstance(trap, Now) else None
        return None

    def answer(self, answer: wire.Instructions | Unreachable) -> None:
        """What the next step is given."""
        self.value = [answer]


def test_a_vote_is_on_disk_before_it_is_reported() -> None:
    store = MemoryBlockStore(Slot(0), lazy_sync=True)
    reporter = Reporter(Data(store, Slot(0), RING, "127.0.0.1:9"))
    first = reporter.until_call()
    assert first is not None and first.promised == 0
    reporter.answer(instructions(granted=False))
    assert reporter.until_call() is None, "the promise is not synced yet"
    store.end_round()
    assert reporter.until_call() is None
    store.sync()
    second = reporter.until_call()
    assert second is not None and second.promised == 3
    assert store.crash().state.promised == 3


def test_events_stay_until_somebody_recorded_them() -> None:
    data = Data(MemoryBlockStore(Slot(0)), Slot(0), RING, "127.0.0.1:9")
    data.healer.say("damage", "of something")
    reporter = Reporter(data)
    seen = []
    for answer in (Unreachable("no"), instructions(granted=False), instructions(), instructions()):
        asked = reporter.until_call()
        assert asked is not None
        seen.append(asked.events)
        reporter.answer(answer)
        data.store.end_round()
        reporter.until_call(1)
        data.store.end_round()
    assert seen[0] == seen[1] == seen[2] != () and seen[3] == ()


def test_an_empty_store_stays_one_until_it_is_granted() -> None:
    data = Data(MemoryBlockStore(Slot(0)), Slot(0), RING, "127.0.0.1:9")
    data.told(instructions(granted=False))
    assert data.store.state.cluster == b"" and data.store.state.promised == 3
    data.told(instructions(life=4))
    assert data.store.state.cluster == b"c" * 16 and data.store.state.life == 4
