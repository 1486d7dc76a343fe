"""A store that is overwritten for long moved four bytes for each that was written to it.

- A fifth of the disk was to be free, whoever worked: what was kept free stood full of what lived.
- What the metaserver had let go of was known a second later, and was moved meanwhile.
- A segment that was emptied stood there until the next second, and others were emptied for it.
- Segments were large beside a small disk; half a reserve was free while what was dead was not.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.issues.test_overwritten_for_long import BLOCK, TOTAL, Small, _name
from tests.issues.test_repairs import dataserver, drive
from zdfs import limits, wire
from zdfs.blockstore import LogStore
from zdfs.calls import Now, Trap, Wait
from zdfs.errors import NoSpace
from zdfs.ids import Round
from zdfs.measures import Commits
from zdfs.ports import Press, Space
from zdfs.upkeep import Upkeep

TIMES = 2  # that everything is overwritten


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    return Small(tmp_path, monkeypatch)


# --- the store -----------------------------------------------------------------------------------


class Written(Commits):
    """How much went to the log."""

    def __init__(self) -> None:
        self.bytes = 0

    def took(self, seconds: float) -> None:
        pass

    def wrote(self, size: int) -> None:
        self.bytes += size


def test_little_is_moved_for_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Four fifths full, and overwritten at random: in theory 2.7 bytes are written for each."""
    written, dice = Written(), random.Random(seed)
    small = Small(tmp_path, monkeypatch, written)
    store = small.store
    small.fill(round(store.space().free_bytes * 0.2))
    newest = [1] * small.blocks
    for number in range(small.blocks * TIMES):
        if number == small.blocks * TIMES // 2:
            before = written.bytes
        block = dice.randrange(small.blocks)
        small.put(block, newest[block] + 1)
        store.drop([_name(block, newest[block])])
        newest[block] += 1
        if number % 4 == 0:
            small.tidy()
            while store.compact(4 * BLOCK, Press.BUSY):
                small.tidy()
    assert written.bytes - before < 2.8 * small.blocks * TIMES / 2 * BLOCK
    assert all(store.read(_name(*one)) is not None for one in enumerate(newest))
    store.close()


def test_what_is_dead_may_stand_in_the_reserve(small: Small) -> None:
    """A write does not wait until it is gone; what the largest segment needs stays free."""
    store = small.store
    small.fill(BLOCK)
    before = store.space().free_bytes
    store.drop([_name(block) for block in range(0, small.blocks, 8)])
    small.tidy()
    assert store.space().free_bytes > before + BLOCK
    with pytest.raises(NoSpace):
        for block in range(small.blocks, 2 * small.blocks):
            small.put(block)
    small.tidy()
    assert store._free() >= store._kept + max(store._sealed.values())
    assert store.winnable(), "so it can still be moved"
    before = store.space().free_bytes
    small.win()
    assert store.space().free_bytes > before
    store.close()


def test_what_lives_may_not(small: Small) -> None:
    store = small.store
    small.fill(BLOCK)
    assert store._free() >= store._reserve
    store.close()


def test_what_can_be_won_back_is_told_as_free(small: Small) -> None:
    """Or `df`, and whoever asks for room in advance, would take a store for full that is not."""
    store = small.store
    small.fill(BLOCK)
    assert not store.reclaimable_bytes()
    store.drop([_name(block) for block in range(small.blocks) if block % 2])
    small.tidy()
    told = store.space().free_bytes + store.reclaimable_bytes()
    small.win()
    won = store.space().free_bytes
    assert abs(told - won) < TOTAL // 16 and won > TOTAL // 3
    data = dataserver()
    data.store.reclaimable_bytes = lambda: 7 * BLOCK  # type: ignore[method-assign]
    assert data.health(100.0).free_bytes == data.store.space().free_bytes + 7 * BLOCK
    store.close()


def nearly_dead(small: Small) -> LogStore:
    """A store that was full; of each segment one block lives."""
    store = small.store
    small.fill(BLOCK)
    every = [_name(block) for block in range(small.blocks) if block % 8]
    store.drop([name for name in every if (at := store.find(name)) and at.segment in store._sealed])
    small.tidy()
    return store


def test_what_others_have_taken_of_the_reserve_is_not_told_as_free(small: Small) -> None:
    """It is made good first: `df` told of it, and the write that counted on it was refused."""
    store = nearly_dead(small)
    small.others = store._free() - store._kept // 2  # another program, the metadata
    told = store.space().free_bytes + store.reclaimable_bytes()
    small.win()
    assert told > TOTAL // 2 and abs(told - store.space().free_bytes) < 2 * BLOCK
    store.close()


def test_what_there_is_no_room_to_move_is_not_told_as_free(small: Small) -> None:
    """Nothing is won back then: writes are refused."""
    store = nearly_dead(small)
    small.others = store._free()
    assert not store.winnable()
    assert not store.space().free_bytes and not store.reclaimable_bytes()
    small.others = 0
    assert store.reclaimable_bytes() > TOTAL // 2
    store.close()


def test_a_segment_that_is_to_be_deleted_counts_as_room(small: Small) -> None:
    """Else others are emptied in vain until it is."""
    store = small.store
    small.fill(BLOCK)
    emptied = {number for number in store._sealed if number % 2}
    every = [_name(block) for block in range(small.blocks)]
    store.drop([name for name in every if (at := store.find(name)) and at.segment in emptied])
    store.end_round()
    store.sync()
    assert not store.compact(limits.BATCH_BYTES, Press.BUSY)
    store.checkpoint()
    assert store.space().free_bytes > TOTAL // 4
    store.close()


def test_an_emptied_segment_says_what_it_waits_for(small: Small) -> None:
    store = small.store
    small.fill(BLOCK)
    store.drop([_name(block) for block in range(small.blocks) if block % 4])
    small.tidy()
    while store.emptied() is None:
        assert store.compact(limits.MIB, Press.SHORT)
    assert store.emptied() == store.round
    before = len(store._sealed)
    store.checkpoint()
    assert len(store._sealed) == before and store.emptied() is not None, "copies are not synced"
    small.tidy()
    assert len(store._sealed) < before and store.emptied() is None
    store.close()


def test_a_round_that_never_ends_is_not_waited_for(small: Small) -> None:
    """The last look into a segment finds nothing more to copy, and then nobody writes."""
    store = small.store
    small.fill(BLOCK)
    store.drop([_name(block) for block in range(small.blocks) if block % 4])
    small.tidy()
    copied = True
    while store.emptied() is None:
        assert store.compact(BLOCK, Press.SHORT)
        copied = store.dirty
        store.end_round()
        store.sync()
    assert not copied
    store.checkpoint()
    assert store.emptied() is None
    store.close()


# --- the dataserver ------------------------------------------------------------------------------


def traps(task: Any, at: float, count: int) -> list[Trap]:
    """So many traps of a task, at a time that stands still."""
    found, value = [], None
    for _ in range(count):
        found.append(task.send(value))
        value = at if isinstance(found[-1], Now) else None
    return found


def test_what_is_emptied_is_deleted_once_it_is_synced() -> None:
    """Its copies are synced for that alone, and nobody waits for the next second."""
    data = dataserver()
    wanted: list[Round] = []
    data.store.emptied = lambda: Round(7)  # type: ignore[method-assign]
    data.store.promise = wanted.append  # type: ignore[method-assign]
    data.store.compact = lambda *words: True  # type: ignore[method-assign]
    task = data.upkeep.upkeep()
    seen = traps(task, 100.0, 6)
    assert wanted and set(wanted) == {7}
    assert not any(isinstance(trap, Wait) for trap in seen)
    task.close()


def test_more_is_not_emptied_for_who_waits_while_room_is_on_its_way() -> None:
    data = dataserver()
    data.upkeep._waiting = 1
    assert data.upkeep._press(100.0) is Press.SHORT
    data.store.emptied = lambda: Round(7)  # type: ignore[method-assign]
    assert data.upkeep._press(100.0) is Press.BUSY


def test_who_reads_or_writes_is_left_alone() -> None:
    data = dataserver()
    data.healer.used_at = 99.5
    assert data.upkeep._press(100.0) is Press.BUSY
    assert data.upkeep._press(200.0) is Press.IDLE


def asks(free_bytes: int, came: int) -> int:
    """How often a dataserver, to which so much came, asks for drops that it was not told of."""
    data, asked = dataserver(), []
    data.store.space = lambda: Space(TOTAL, free_bytes, 0, 1)  # type: ignore[method-assign]

    def answer(peer: Any, request: Any) -> wire.Drops:
        asked.append(request)
        return wire.Drops((), 0)

    upkeep = Upkeep(data.healer)
    upkeep._came = came
    drive(upkeep.take_drops(), answer, steps=20)
    return len(asked)


def test_a_store_that_fills_up_asks_what_was_let_go_of() -> None:
    assert asks(limits.MIB, limits.MIB) == 1, "and not again before something came"
    assert asks(100 * limits.MIB, limits.MIB) == 0
    assert asks(0, 0) == 0
