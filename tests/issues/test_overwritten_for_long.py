"""A store that was full of what nobody needs any more refused what would have fitted.

- Only what was more than half dead was ever won back: at 80 % full, overwriting ended in ENOSPC.
- While somebody waited for room, a dataserver did nothing else: nobody heard from it.
- The metadata's copies had no room left after compaction, so nothing was let go of any more.
- What could be won was judged otherwise than it was won: a write waited for ever.
- With less left than is kept back, nothing was compacted, not even what had one block in it.
- Others' overwriting elsewhere kept hope up for ever, and what was stored a moment ago none.
- Writes that waited for room filled the memory, and every connection was dropped for it.
- A request that had waited was kept in memory, blocks and all, until its sender's time was over;
  one that was ready and out of time in the same turn ended the server.
"""

import gc
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.conftest import until
from tests.contract.test_broker import Counters, Here, SlowStore, answer, change, here, question
from tests.issues.test_repairs import CALLER, NAME, SEAL, dataserver
from tests.live.cluster import free_ports
from zdfs import checksum, disk, limits, wire
from zdfs.blockstore import LogStore
from zdfs.broker import Broker
from zdfs.calls import Now, Sleep, Wait, notify, wait
from zdfs.data import Data
from zdfs.errors import Failure, NoSpace, Unavailable
from zdfs.ids import BlockNo, Epoch, Ino, Name, Slot, Token, Version
from zdfs.measures import Commits
from zdfs.ports import Caller, Press, Space
from zdfs.upkeep import HELD_BYTES, HOPE_S, ROOM_S

__all__ = ["here"]  # a fixture

TOTAL = 32 * limits.MIB
BLOCK = 64 * limits.KIB
DATA = os.urandom(BLOCK)


# --- the store -----------------------------------------------------------------------------------


def _name(block: int, sequence: int = 1) -> Name:
    return Name(Ino(7), BlockNo(block), Version(Token(1), sequence))


class Small:
    """A store on a small disk, that others may write to as well."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, commits: Commits | None = None
    ):
        self.others = 0
        monkeypatch.setattr(disk, "total_bytes", lambda where: TOTAL)
        monkeypatch.setattr(disk, "disk_free", lambda where: TOTAL - self.others - _used(where))
        self.store = LogStore(folder / "store", Slot(0), thread=False, commits=commits)
        self.blocks = 0

    def put(self, block: int, sequence: int = 1) -> None:
        name = _name(block, sequence)
        self.store.append(name, checksum.seal(name, DATA), Epoch(1), Slot(0), DATA)

    def tidy(self) -> None:
        self.store.end_round()
        self.store.sync()
        self.store.checkpoint()

    def fill(self, left: int) -> None:
        """Until so much may still be stored, a few blocks a round."""
        while self.store.space().free_bytes > left:
            self.put(self.blocks)
            self.blocks += 1
            if self.blocks % 8 == 0:
                self.tidy()
        self.tidy()

    def win(self) -> None:
        """All that somebody who waits could wait for."""
        for _ in range(100):
            while self.store.compact(limits.BATCH_BYTES, Press.SHORT):
                self.tidy()
            self.tidy()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    return Small(tmp_path, monkeypatch)


def _used(where: Path) -> int:
    return sum(path.stat().st_size for path in where.glob("segment-*.log"))


def test_a_nearly_full_store_is_overwritten_for_ever(small: Small) -> None:
    """As a dataserver would: what is superseded is dropped, compaction follows."""
    store = small.store
    small.fill(int(TOTAL * 0.12))
    for number in range(small.blocks * 3):
        block, times = number * 7919 % small.blocks, number // small.blocks
        small.put(block, times + 2)
        store.drop([_name(block, times + 1)])
        if number % 8 == 7:
            small.tidy()
            while store.space().free_bytes < 16 * BLOCK and store.compact(limits.MIB, Press.SHORT):
                small.tidy()
    assert all(store.read(_name(block, 4)) is not None for block in range(small.blocks))
    store.close()


def test_what_is_promised_is_won(small: Small) -> None:
    """A little is free, less than is wanted, and each segment is nearly alive: it is won all the
    same."""
    store = small.store
    small.fill(limits.MIB)
    store.drop([_name(block) for block in range(small.blocks) if block % 8 == 3])
    small.tidy()
    assert store.winnable()
    before = store.space().free_bytes
    small.win()
    assert store.space().free_bytes > before + limits.MIB and not store.winnable()
    store.close()


def test_little_is_moved_where_little_is_left(small: Small) -> None:
    store = small.store
    small.fill(4 * BLOCK)
    small.others = store._free() - store._kept + limits.KIB  # another program, a log, the metadata
    store.drop([_name(block) for block in range(small.blocks) if block % 16])
    small.tidy()
    small.win()
    assert store.space().free_bytes > TOTAL // 2
    store.close()


def test_a_segment_is_never_too_large_to_be_moved(small: Small) -> None:
    store = small.store
    assert not store.large
    for block in range(store._segment_bytes // BLOCK + 1):
        small.put(block)
    assert store.large  # the broker ends the round
    small.tidy()
    store.close()


# --- the dataserver ------------------------------------------------------------------------------


def _put(data: Data) -> wire.Put:
    block = wire.Put1(NAME, SEAL, Epoch(1), Slot(0), 13)
    return wire.Put(data.store.state.cluster, (block,), b"", (b"what it holds",))


def outcome(data: Data, winnable: bool, tick: Callable[[float], None] = lambda at: None) -> Any:
    """How a Put ends on a server without room: the failure's type, or None."""
    data.store.space = lambda: Space(TOTAL, 0, TOTAL, 1)  # type: ignore[method-assign]
    data.store.winnable = lambda: winnable  # type: ignore[method-assign]
    at, value, coroutine = 100.0, None, data.put(_put(data), CALLER)
    try:
        while at < 200.0:
            trap = coroutine.send(value)
            value = at
            if isinstance(trap, Wait):
                at += 0.1
                tick(at)
                data.upkeep._checkpoint()
                value = True
    except StopIteration:
        return None
    except Failure as error:
        return type(error)
    raise AssertionError("it waits for ever")


def hear(data: Data) -> Callable[[float], None]:
    """The metaserver is heard each second."""

    def tick(at: float) -> None:
        data.healer.heard_at = at - at % 1.0

    return tick


def test_a_write_waits_while_something_is_won_back() -> None:
    data = dataserver()
    assert outcome(data, True, hear(data)) is Unavailable
    assert [event.kind for event in data.healer.events] == ["scarce"]
    assert not data.upkeep._waiting and not data.upkeep._held


def test_a_full_disk_is_said_when_nothing_is() -> None:
    data = dataserver()
    assert outcome(data, False, hear(data)) is NoSpace
    assert [event.kind for event in data.healer.events] == ["scarce", "full"]


def test_only_the_metaserver_ends_hope() -> None:
    data = dataserver()
    data.healer.heard_at = 100.0 + HOPE_S / 2  # what was overwritten just now may not be ripe yet
    assert outcome(data, False) is Unavailable


def test_what_was_let_go_of_by_then_is_waited_for() -> None:
    data = dataserver()
    data.healer.drops_ready = 7
    assert outcome(data, False, hear(data)) is Unavailable


def test_what_was_stored_just_now_may_free_more_when_it_is_committed() -> None:
    data = dataserver()
    heard = hear(data)

    def tick(at: float) -> None:
        heard(at)
        data.upkeep._moved_at = at  # a write came through

    assert outcome(data, False, tick) is Unavailable


def test_others_who_overwrite_elsewhere_do_not_keep_hope_up() -> None:
    """The queue of what is let go of is one for all servers, and never empty for long."""
    data = dataserver()
    heard = hear(data)

    def tick(at: float) -> None:
        heard(at)
        data.healer.drops_ready = int(at * 10)
        data.store.set_state(replace(data.store.state, dropped=int(at * 10) - 5))

    assert outcome(data, False, tick) is NoSpace


def test_a_file_system_that_takes_some_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room, and then there is not: the write waits, as if there had been none."""
    data = dataserver()
    real, refusals = data.store.append, [NoSpace("the disk is full")] * 2

    def append(*words: Any, **more: Any) -> None:
        if refusals:
            raise refusals.pop()
        real(*words, **more)

    monkeypatch.setattr(data.store, "append", append)
    coroutine = data.put(_put(data), CALLER)
    value: Any = None
    waits = 0
    with pytest.raises(StopIteration) as ended:
        while True:
            trap = coroutine.send(value)
            value = 100.0 if isinstance(trap, Now) else True
            if isinstance(trap, Wait):
                waits += 1
                data.upkeep._checkpoint()
    assert isinstance(ended.value.value, wire.Stored) and waits == 2
    assert data.store.find(NAME) is not None and not data.upkeep._waiting


def test_those_who_wait_fit_the_memory() -> None:
    data = dataserver()
    data.upkeep._waiting, data.upkeep._held = 5, HELD_BYTES
    assert outcome(data, True) is Unavailable
    assert data.upkeep._waiting == 5


def test_who_waits_for_room_lets_others_live() -> None:
    """The housekeeping rests between two looks, however often those who wait have been woken."""
    data = dataserver()
    data.upkeep._waiting = 1
    coroutine = data.upkeep.upkeep()
    traps = [coroutine.send(None)]
    traps += [coroutine.send(100.0) for _ in range(6)]
    assert any(isinstance(trap, Sleep) for trap in traps)
    assert all(isinstance(trap, Sleep | Now) for trap in traps)
    coroutine.close()


# --- the broker ----------------------------------------------------------------------------------


def test_an_answered_request_is_let_go_of(here: Here) -> None:
    kinds = (wire.RemoveXattr, wire.ReadLink)
    others = [one for one in gc.get_objects() if isinstance(one, kinds)]  # of other tests
    dealer = here.dealer()
    dealer.send_multipart(change(1, b"park"))
    dealer.send_multipart(question(2, ino=99))
    until(lambda: len(here.room.opened.waiters) == 2, what="both wait")
    notify(here.room.opened)
    dealer.send_multipart(question(3))
    for _ in range(3):
        answer(dealer)
    found = [one for one in gc.get_objects() if isinstance(one, kinds)]
    left = [one for one in found if not any(one is other for other in others)]
    assert len(left) <= 1, left  # of the newest, a frame may still be there


class Stalling(Counters):
    """A request looks again now and then; another holds the loop up."""

    async def add(self, request: wire.RemoveXattr, caller: Caller) -> wire.Reply:
        self.started.append(request.name)
        while True:
            await wait(self.opened, 0.2)

    async def read(self, request: wire.ReadLink, caller: Caller) -> wire.Reply:
        if request.ino == 77:
            threading.Event().wait(0.6)
        return await super().read(request, caller)


def test_a_request_that_is_ready_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zdfs.broker.GRACE_S", 0.05)
    (port,) = free_ports(1)
    store = SlowStore()
    room, broker = Stalling(store), Broker(f"127.0.0.1:{port}")
    ended: list[BaseException] = []

    def serve() -> None:
        try:
            broker.serve(room, store)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    context: zmq.Context[Any] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{port}")
    try:
        dealer.send_multipart(change(1, b"park", ms=250))
        until(lambda: room.started == [b"park"], what="it waits")
        dealer.send_multipart(question(2, ino=77))
        answer(dealer)
        dealer.send_multipart(question(3))
        answer(dealer)
        assert not ended, ended
    finally:
        broker.stop()
        thread.join(30)
        broker.close()
        context.destroy(0)


assert ROOM_S < limits.BULK_TIMEOUT_S
