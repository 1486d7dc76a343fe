"""A store that was full of what nobody needs any more refused what would have fitted.

- Only what was more than half dead was ever won back: at 80 % full, overwriting ended in ENOSPC.
- While somebody waited for room, a dataserver did nothing else: nobody heard from it.
- The metadata's copies had no room left after compaction, so nothing was let go of any more.
- A request that had waited was kept in memory, blocks and all, until its sender's time was over.
"""

import gc
import os
from pathlib import Path

import pytest

from tests.contract.test_broker import Here, answer, change, here, question
from tests.issues.test_repairs import CALLER, NAME, SEAL, dataserver
from zdfs import checksum, disk, limits, wire
from zdfs.blockstore import LogStore
from zdfs.calls import notify
from zdfs.data import Data
from zdfs.errors import Failure, NoSpace, Unavailable
from zdfs.ids import BlockNo, Epoch, Ino, Name, Slot, Token, Version
from zdfs.ports import Space
from zdfs.upkeep import HOPE_S, ROOM_S

__all__ = ["here"]  # a fixture

TOTAL = 32 * limits.MIB
BLOCK = 64 * limits.KIB


# --- the store -----------------------------------------------------------------------------------


def _name(block: int, sequence: int) -> Name:
    return Name(Ino(7), BlockNo(block), Version(Token(1), sequence))


def test_a_nearly_full_store_is_overwritten_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a dataserver would: what is superseded is dropped, compaction follows."""
    monkeypatch.setattr(disk, "total_bytes", lambda where: TOTAL)
    monkeypatch.setattr(disk, "disk_free", lambda where: TOTAL - _used(where))
    store = LogStore(tmp_path / "store", Slot(0), thread=False)
    blocks = int(TOTAL * 0.8) // BLOCK
    data = os.urandom(BLOCK)

    def put(block: int, sequence: int) -> None:
        name = _name(block, sequence)
        store.append(name, checksum.seal(name, data), Epoch(1), Slot(0), data)

    def tidy() -> None:
        store.end_round()
        store.sync()
        store.checkpoint()

    for block in range(blocks):
        put(block, 1)
        if block % 8 == 7:
            tidy()
    for number in range(blocks * 3):
        block, times = number * 7919 % blocks, number // blocks
        put(block, times + 2)
        store.drop([_name(block, times + 1)])
        if number % 8 == 7:
            tidy()
            while store.space().free_bytes < 16 * BLOCK and store.compact(limits.MIB):
                tidy()
        assert store._free() > store._kept, "the metadata's copies have no room"
    assert all(store.read(_name(block, 4)) is not None for block in range(blocks))
    store.close()


def _used(where: Path) -> int:
    return sum(path.stat().st_size for path in where.glob("segment-*.log"))


# --- the dataserver ------------------------------------------------------------------------------


def put(data: Data) -> wire.Put:
    block = wire.Put1(NAME, SEAL, Epoch(1), Slot(0), 13)
    return wire.Put(data.store.state.cluster, (block,), (b"what it holds",))


def outcome(data: Data, winnable: bool, steps: int = 200) -> type[Failure] | None:
    """How a Put ends on a server without room: NoSpace, Unavailable, or stored (None)."""
    data.store.space = lambda: Space(TOTAL, 0, TOTAL, 1)  # type: ignore[method-assign]
    data.store.winnable = lambda: winnable  # type: ignore[method-assign]
    try:
        coroutine = data.put(put(data), CALLER)
        at = 100.0
        value: object = None
        for _ in range(steps):
            trap = coroutine.send(value)
            at += 0.1
            value = at if type(trap).__name__ == "Now" else False
    except StopIteration:
        return None
    except Failure as error:
        return type(error)
    raise AssertionError("it waits for ever")


def test_a_write_waits_while_something_is_won_back() -> None:
    data = dataserver()
    data.healer.heard_at = 1000.0
    assert outcome(data, winnable=True) is Unavailable
    assert [event.kind for event in data.healer.events] == ["scarce"]


def test_a_full_disk_is_said_when_nothing_is() -> None:
    data = dataserver()
    data.healer.heard_at = 1000.0
    assert outcome(data, winnable=False) is NoSpace


def test_only_the_metaserver_ends_hope() -> None:
    data = dataserver()
    data.healer.heard_at = 100.0 + HOPE_S / 2  # what was overwritten just now may not be ripe yet
    assert outcome(data, winnable=False) is Unavailable


def test_who_waits_for_room_lets_others_live() -> None:
    """The housekeeping rests between two looks, however often those who wait have been woken."""
    data = dataserver()
    data.upkeep._waiting = 1
    traps: list[str] = []
    coroutine = data.upkeep.upkeep()
    value: object = None
    for _ in range(6):
        trap = coroutine.send(value)
        traps.append(type(trap).__name__)
        value = 100.0
    assert "Sleep" in traps and "Wait" not in traps
    coroutine.close()


# --- the broker ----------------------------------------------------------------------------------


def test_an_answered_request_is_let_go_of(here: Here) -> None:
    dealer = here.dealer()
    dealer.send_multipart(change(1, b"park"))
    dealer.send_multipart(question(2, ino=99))
    notified = False
    for _ in range(100):
        if len(here.room.opened.waiters) == 2:
            notify(here.room.opened)
            notified = True
            dealer.send_multipart(question(3))
            break
        dealer.poll(20)
    assert notified
    for _ in range(3):
        answer(dealer)
    kinds = (wire.RemoveXattr, wire.ReadLink)
    left = [one for one in gc.get_objects() if isinstance(one, kinds)]
    assert len(left) <= 1, left  # of the newest, a frame may still be there


assert ROOM_S < limits.BULK_TIMEOUT_S
