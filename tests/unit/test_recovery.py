"""What a dataserver must hold, whom it asks, in which portions."""

from hypothesis import given
from hypothesis import strategies as st

from zdfs import blockmap, checksum, limits, placement, recovery, wire
from zdfs.blockmap import MapEntry
from zdfs.calls import Peer
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


PEERS = [Peer(f"127.0.0.1:{port}") for port in range(9)]


@given(SERVERS, st.integers(0, 8), st.integers(0, 8), st.integers(100, 200))
def test_all_sides_share_the_load(servers: int, start: int, slot: int, blocks: int) -> None:
    """Whatever a server holds is asked of its neighbours in equal parts, as far as they have it."""
    slot, start = slot % servers, start % servers
    sources = recovery.Sources()
    for block in range(blocks):
        others = recovery.sources(want(block, start), Slot(slot), servers)
        if placement.replica(Slot(start), BlockNo(block), servers, Slot(slot)) is not None:
            chosen = sources.choose([PEERS[other] for other in others], 10, 0.0)
            assert chosen in [PEERS[other] for other in others]
    nearest = [sources.asked[PEERS[(slot + step) % servers]] for step in (1, -1)]
    assert min(nearest) > 0 and max(nearest) <= 1.3 * min(nearest) + 20
    if servers < 5:
        assert max(sources.asked.values()) - min(sources.asked.values()) <= 20


def test_who_is_silent_is_asked_less_and_less_often() -> None:
    sources = recovery.Sources()
    one, other = PEERS[0], PEERS[1]
    sources.silent(one, 0.0)
    assert sources.choose([one], 1, 1.0) is None, "each question would cost a timeout"
    assert sources.choose([one, other], 1, 1.0) == other
    assert sources.choose([one], 1, recovery.SILENT_S) == one
    at, waited = 10.0, 0.0
    for _ in range(9):
        sources.silent(one, at)
        before, waited = waited, 0.0
        while sources.choose([one], 1, at + waited) is None:
            waited += 0.5
        assert before <= waited <= recovery.SILENT_MOST_S
        at += waited
    assert waited == recovery.SILENT_MOST_S
    sources.heard(one)
    assert sources.choose([one], 1, at) == one


def test_a_rebuild_rests_for_longer_than_it_works_while_others_work() -> None:
    assert recovery.pause(0.2, 4096, 0, busy=False) == 0.0
    assert recovery.pause(0.2, 4096, 0, busy=True) == 0.4
    assert recovery.pause(0.2, 1000, 1000, busy=True) == 0.8, "1000 bytes took their second"
    assert recovery.pause(0.2, 100, 1000, busy=True) == 0.4, "the rate is no target"
    assert recovery.pause(2.0, 1000, 1000, busy=False) <= 0.0


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
    progress = recovery.Progress(10, 100.0)
    progress.missing(recovery.Amount(10, 1000))
    progress.copied([want(block, length=100) for block in range(4)], 102.0)
    assert progress.shown(102.0) == wire.Rebuild(4, 10, 400, 2000, 1000, 200)
    progress.missing(recovery.Amount(8, 700))
    assert progress.shown(104.0) == wire.Rebuild(4, 12, 400, 4000, 1100, 100)


def test_the_speed_is_that_of_lately() -> None:
    progress = recovery.Progress(1000, 0.0)
    for second in range(1, 101):
        progress.copied([want(second, length=1000 if second <= 50 else 10)], float(second))
    assert progress.bytes_per_s(100.0) == 10


def test_each_tenth_is_told_once() -> None:
    progress, told = recovery.Progress(100, 0.0), []
    for block in range(100):
        progress.copied([want(block)], float(block))
        told.append(progress.tenth())
    assert [one for one in told if one] == list(range(1, 10)), "the end is told anyway"
    progress.copied([want(block) for block in range(100)], 200.0)
    assert progress.tenth() is None


RATES = recovery.Rates(scrub=1000, scrub_period_s=1000.0)


def test_the_scrub_reads_faster_if_its_period_wants_it() -> None:
    assert recovery.pace(RATES, 1000, 0.0) == 1000, "the set rate suffices"
    assert recovery.pace(RATES, 5_000_000, 0.0) == 10_000
    assert recovery.pace(RATES, 5_000_000, 400.0) == 50_000, "less time is left"
    assert recovery.pace(RATES, 5_000_000, 9999.0) == 5_000_000, "it is late: as fast as it can"


@given(st.floats(0.0, 1e6), st.floats(60.0, 1e6), st.integers(1, 10**9), st.integers(0, 10**12))
def test_no_byte_is_left_alone_for_a_period(
    late: float, period: float, rate: int, stored: int
) -> None:
    """A byte is read at the latest half a period after a pass began, and a pass begins at the
    latest half a period after the one before."""
    rates = recovery.Rates(rate, period)
    took = stored / recovery.pace(rates, stored, 0.0)
    assert took <= period / 2 + 1.0
    between = took + recovery.rest(rates, took)
    assert between <= period / 2 + limits.BEAT_S + 1.0
    assert recovery.rest(rates, late) >= limits.BEAT_S


def test_the_scrub_rests_nine_times_as_long_as_it_reads() -> None:
    rates = recovery.Rates(1000, 100_000.0)
    assert recovery.rest(rates, 0.1) == recovery.SCRUB_REST_S
    assert recovery.rest(rates, 100.0) == 900.0
    assert recovery.rest(rates, 20_000.0) == 30_000.0, "or the next would be late"
