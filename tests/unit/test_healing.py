"""What a dataserver takes in, what it gives out, and whom it believes while it heals itself."""

from collections.abc import Coroutine
from typing import Any

import pytest

from tests.issues.test_repairs import (
    BYTES,
    CALLER,
    META,
    NAME,
    RING,
    SEAL,
    WANT,
    dataserver,
    drive,
    rebuilt,
)
from tests.world.stores import MemoryBlockStore
from zdfs import blockmap, checksum, wire
from zdfs.blockmap import MapEntry
from zdfs.calls import Now, Peer, Sleep, Trap, Wait
from zdfs.data import Data
from zdfs.errors import BadMessage, Unreachable
from zdfs.ids import BlockNo, Epoch, Ino, Name, PageNo, Slot, Token, Version
from zdfs.ports import Space
from zdfs.upkeep import Upkeep
from zdfs.wire import Held, State

OLD_RING = (*RING, "127.0.0.1:4", "127.0.0.1:5")  # as a file of the epoch before knows it
OLD = Epoch(0)


def put(data: Data, name: Name, seal: checksum.Seal, stored: bytes) -> wire.Stored:
    """A Put of one block, to its end."""
    block = wire.Put1(name, seal, Epoch(1), Slot(0), len(stored))
    handler = data.put(wire.Put(b"c" * 16, (block,), b"", (stored,)), CALLER)
    assert isinstance(handler.send(None), Now)
    with pytest.raises(StopIteration) as ended:
        handler.send(1.0)
    reply: wire.Stored = ended.value.value
    return reply


def drive_on(task: Coroutine[Trap, Any, Any], steps: int) -> None:
    """So many traps more of a task that only sleeps, waits and looks at the clock."""
    for _ in range(steps):
        assert isinstance(task.send(1.0), Sleep | Wait | Now)


# --- what comes in -------------------------------------------------------------------------------


def test_a_block_that_arrives_damaged_is_refused() -> None:
    data = dataserver()
    with pytest.raises(BadMessage, match="arrived damaged"):
        put(data, NAME, SEAL, BYTES[:-1] + b"X")
    assert data.store.find(NAME) is None
    put(data, NAME, SEAL, BYTES)
    assert data.healer.held(WANT) == (Held.OK, BYTES)


def test_another_content_under_a_name_is_refused() -> None:
    """Two writers that use one name would have one content on one replica, the other on another."""
    data = dataserver()
    put(data, NAME, SEAL, BYTES)
    with pytest.raises(BadMessage, match="other content"):
        put(data, NAME, checksum.seal(NAME, b"not that"), b"not that")
    assert data.healer.held(WANT) == (Held.OK, BYTES)


def test_an_acknowledgement_names_the_round_of_its_blocks() -> None:
    """If it named an earlier one, it would outlive a power cut that the blocks don't."""
    data = dataserver()
    data.store.end_round()
    stored = put(data, NAME, SEAL, BYTES)
    assert stored.round > data.store.synced, "they are not on disk before this round is"
    data.store.end_round()
    assert stored.round == data.store.synced


# --- what goes out -------------------------------------------------------------------------------


def test_other_content_under_the_name_is_no_answer() -> None:
    data = dataserver()
    put(data, NAME, SEAL, BYTES)
    other = WANT._replace(seal=checksum.seal(NAME, b"what it should"))
    assert data.healer.held(other) == (Held.DAMAGED, b"")


def test_who_is_not_whole_yet_denies_nothing() -> None:
    data = dataserver()
    data.healer.state = State.RECOVERING
    assert data.healer.held(WANT)[0] is Held.NOT_YET
    data.healer.state = State.SERVING
    assert data.healer.held(WANT)[0] is Held.MISSING


# --- what neighbours say -------------------------------------------------------------------------


def test_what_a_neighbour_sends_is_checked_before_it_is_stored() -> None:
    """Old bytes of the same length, then the right ones from the other side."""

    def first_bad(peer: Peer, request: Any) -> Any:
        bad = b"what IT holds"
        assert len(bad) == len(BYTES)
        return wire.Fetched((Held.OK,), False, (bad if peer == RING[2] else BYTES,))

    data = rebuilt(first_bad)
    assert data.healer.held(WANT) == (Held.OK, BYTES)
    both_bad = rebuilt(lambda peer, request: wire.Fetched((Held.OK,), False, (b"what IT holds",)))
    assert both_bad.store.find(NAME) is None


def test_a_question_about_garbage_without_an_answer_drops_nothing() -> None:
    data = dataserver()
    put(data, NAME, SEAL, BYTES)
    drive(data.healer._sweep(), lambda peer, request: Unreachable("silence"))
    assert data.healer.held(WANT) == (Held.OK, BYTES)
    drive(data.healer._sweep(), lambda peer, request: wire.Judgement(b"\0", 0))
    assert data.store.find(NAME) is None


def test_what_a_full_disk_can_not_take_back_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBlockStore, "space", lambda self: Space(9, 0, 9, 0))
    data = rebuilt(lambda peer, request: wire.Fetched((Held.OK,), False, (BYTES,)))
    assert data.healer.state is State.RECOVERING
    assert [event.kind for event in data.healer.events] == ["rebuild"]


def test_drops_are_acknowledged_when_they_can_not_come_back() -> None:
    """A power cut undoes those that no checkpoint covers; nobody would say them again."""
    data = dataserver()
    store = data.store
    assert isinstance(store, MemoryBlockStore)
    put(data, NAME, SEAL, BYTES)
    store.end_round()
    store.checkpoint()
    store.lazy_sync = True
    data.healer.drops_ready = 7
    dropped = blockmap.pack_dropped([blockmap.Dropped(NAME.block, NAME.version)])
    items = (wire.DropItem(7, NAME.ino, dropped),)
    task = Upkeep(data.healer).take_drops()
    drive(task, lambda peer, request: wire.Drops(items, 7), steps=5)
    assert store.find(NAME) is None and store.state.dropped == 0
    store.end_round()
    drive_on(task, 3)
    assert store.state.dropped == 0, "not synced yet"
    store.sync()
    drive_on(task, 3)
    assert store.state.dropped == 7
    assert store.crash().find(NAME) is None


# --- rings ---------------------------------------------------------------------------------------


def of_the_old_ring(block: int) -> wire.Wanted:
    """A block of a file that was made when there were five servers."""
    name = Name(Ino(8), BlockNo(block), Version(Token(9), 1))
    return wire.Wanted(name, checksum.seal(name, BYTES), OLD, Slot(0), len(BYTES))


def with_two_rings() -> Data:
    """Slot 0 of a ring of three that was one of five."""
    data = dataserver()
    data.healer.rings[OLD] = OLD_RING
    return data


def test_duties_are_those_of_the_ring_that_a_file_stands_on() -> None:
    data = with_two_rings()
    wants = [of_the_old_ring(block) for block in range(5)]
    entries = [MapEntry(w.name.version, len(BYTES), len(BYTES), w.seal) for w in wants]
    page = wire.InventoryPage(Ino(8), OLD, Slot(0), PageNo(0), blockmap.pack_page(entries))
    assert [want.name.block for want in data.healer._missing(page)] == [0, 3, 4]


def test_neighbours_are_those_of_the_ring_that_a_block_stands_on() -> None:
    data = with_two_rings()
    asked = []

    def answer(peer: Peer, request: Any) -> Any:
        if peer == META:
            return wire.Judgement(b"\1" * len(request.names), 0)
        asked.append(peer)
        return wire.Fetched((Held.MISSING,), False, (b"",))

    data.healer.mend(of_the_old_ring(3), Held.MISSING)
    drive(data.healer.repair(), answer)
    assert sorted(asked) == [OLD_RING[3], OLD_RING[4]]


def test_surplus_is_judged_by_the_ring_of_the_block() -> None:
    data = with_two_rings()
    here, elsewhere = of_the_old_ring(3), of_the_old_ring(1)
    unknown = of_the_old_ring(2)._replace(epoch=Epoch(7))
    wants = (here, elsewhere, unknown)
    for want in wants:
        data.store.append(want.name, want.seal, want.epoch, want.start, BYTES)
    data.healer.discard([want.name for want in wants], b"\1\1\1", surplus=True)
    assert [data.store.find(want.name) is not None for want in wants] == [True, False, True]
