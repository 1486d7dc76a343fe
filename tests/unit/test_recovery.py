"""What a dataserver must hold, whom it asks, in which portions."""

from hypothesis import given
from hypothesis import strategies as st

from zdfs import blockmap, checksum, limits, placement, recovery, wire
from zdfs.blockmap import MapEntry
from zdfs.ids import BlockNo, Epoch, Ino, Name, PageNo, Slot, Token, Version

SERVERS = st.integers(3, 9)


def entry(number: int, length: int = 10) -> MapEntry:
    """Some version."""
    return MapEntry(Version(Token(9), number), length, length, checksum.Seal(1, number))


def page(start: int, number: int, entries: list[MapEntry | None]) -> wire.InventoryPage:
    """A page of inode 7."""
    packed = blockmap.pack_page(entries)
    return wire.InventoryPage(Ino(7), Epoch(1), Slot(start), PageNo(number), packed)


def want(block: int, start: int = 0, length: int = 10) -> wire.Wanted:
    """A block of inode 7."""
    name = Name(Ino(7), BlockNo(block), Version(Token(9), block))
    return wire.Wanted(name, checksum.Seal(1, 2), Epoch(1), Slot(start), length)


@given(SERVERS, st.integers(0, 8), st.integers(0, 3), st.lists(st.booleans(), max_size=64))
def test_duties_are_three_times_the_map(
    servers: int, start: int, number: int, there: list[bool]
) -> None:
    entries = [entry(at) if here else None for at, here in enumerate(there)]
    stock = page(start % servers, number, entries)
    found: dict[BlockNo, set[int]] = {}
    for slot in range(servers):
        for one in recovery.duty(stock, Slot(slot), servers):
            found.setdefault(one.name.block, set()).add(slot)
    first = number * limits.PAGE_BLOCKS
    assert found == {
        BlockNo(first + at): set(placement.slots(stock.start, BlockNo(first + at), servers))
        for at, here in enumerate(there)
        if here
    }


@given(SERVERS, st.integers(0, 8), st.integers(0, 50))
def test_the_sources_are_the_two_others(servers: int, start: int, block: int) -> None:
    wanted = want(block, start % servers)
    slots = placement.slots(wanted.start, wanted.name.block, servers)
    for slot in slots:
        found = recovery.sources(wanted, slot, servers)
        assert len(found) == 2 and {slot, *found} == set(slots)


def test_both_sides_share_the_load() -> None:
    wanted = [want(block) for block in range(120) if block % 4 != 1]  # those on slot 0 of 4
    asked = recovery.batches(wanted, Slot(0), 4, 0)
    other = recovery.batches(wanted, Slot(0), 4, 1)
    assert sum(map(len, asked.values())) == sum(map(len, other.values())) == len(wanted)
    assert min(map(len, asked.values())) > 10
    for slot, some in asked.items():
        assert not {w.name for w in some} & {w.name for w in other.get(slot, [])}


def test_only_genuine_bytes_are_stored() -> None:
    name = Name(Ino(7), BlockNo(1), Version(Token(9), 1))
    wanted = wire.Wanted(name, checksum.seal(name, b"right"), Epoch(1), Slot(0), 5)
    assert recovery.genuine(wanted, b"right")
    assert not recovery.genuine(wanted, b"wrong")
    assert not recovery.genuine(wanted, b"right" + b"\0")
    elsewhere = wanted._replace(name=name._replace(block=BlockNo(2)))
    assert not recovery.genuine(elsewhere, b"right"), "another block's bytes"


@given(st.lists(st.integers(0, limits.BLOCK_BYTES_MAX), max_size=600))
def test_chunks_fit_a_message_and_lose_nothing(lengths: list[int]) -> None:
    wanted = [want(block, length=length) for block, length in enumerate(lengths)]
    chunks = list(recovery.chunks(wanted))
    assert [one for chunk in chunks for one in chunk] == wanted
    for chunk in chunks:
        assert 0 < len(chunk) <= limits.BLOCKS
        assert len(chunk) == 1 or sum(one.length for one in chunk) <= limits.BATCH_BYTES


def test_a_sick_block_is_known_once() -> None:
    sick = recovery.Sick()
    assert sick.add(want(1)) and not sick.add(want(1)) and sick.add(want(2))
    assert sick.take(5) == [want(1), want(2)]
    assert not sick.add(want(1)), "its repair is underway"
    sick.cured(want(1))
    assert sick.add(want(1)) and sick.take(5) == [want(1)]


def test_progress_is_shown_in_blocks_and_milliseconds() -> None:
    progress = recovery.Progress(10, 100.0, done=4, done_bytes=400)
    assert progress.shown(102.5) == wire.Rebuild(4, 10, 400, 2500)
