"""What a mount remembers: names by time, blocks by bytes, dirty bytes against a bytearray."""

from hypothesis import given
from hypothesis import strategies as st

from zdfs import limits
from zdfs.blockmap import MapEntry
from zdfs.cache import Blocks, Dirty, File, Flight, version_of
from zdfs.checksum import Seal
from zdfs.errors import Fenced
from zdfs.ids import BlockNo, Epoch, Ino, Name, PageNo, Slot, Token, Version
from zdfs.wire import Attributes

BLOCK = 24  # small, so that Hypothesis meets every border


def attributes(ino: int = 7, change: int = 1, size: int = 0, mtime_ns: int = 5) -> Attributes:
    return Attributes(
        ino=Ino(ino), mode=0o100644, nlink=1, uid=0, gid=0, rdev=0, size=size, stored=0,
        atime_ns=5, mtime_ns=mtime_ns, ctime_ns=5, change=change, epoch=Epoch(1), start=Slot(0),
        xattrs=0,
    )  # fmt: skip


# --- dirty bytes ---------------------------------------------------------------------------------

Write = tuple[int, bytes]
writes = st.lists(
    st.integers(0, BLOCK - 1).flatmap(
        lambda first: st.tuples(st.just(first), st.binary(min_size=1, max_size=BLOCK - first))
    ),
    min_size=1,
    max_size=8,
)


def put(dirty: Dirty, below: bytes, first: int, piece: bytes) -> None:
    """As Writer does it: what does not touch needs the block below."""
    if not dirty.touches(first, first + len(piece)):
        dirty.fill(below)
        dirty.data.extend(bytes(max(0, first - len(dirty.data))))
    dirty.put(first, piece)


def model(below: bytes, done: list[Write]) -> bytes:
    """What a reader must see: the bytes below, zeros in gaps, the writes in their order."""
    block = bytearray(below)
    for first, piece in done:
        block.extend(bytes(max(0, first + len(piece) - len(block))))
        block[first : first + len(piece)] = piece
    return bytes(block)


def dirtied(below: bytes, done: list[Write]) -> Dirty:
    dirty = Dirty(bytearray(done[0][0]), done[0][0], 0.0)
    for first, piece in done:
        put(dirty, below, first, piece)
    return dirty


@given(st.binary(max_size=BLOCK), writes)
def test_dirty_bytes_over_what_is_below(below: bytes, done: list[Write]) -> None:
    dirty = dirtied(below, done)
    before = bytes(dirty.data), dirty.low
    assert dirty.over(below) == model(below, done)
    assert (bytes(dirty.data), dirty.low) == before, "`over` changes nothing"
    if dirty.whole(len(below)):
        assert bytes(dirty.data) == model(below, done)


@given(st.binary(max_size=BLOCK), writes)
def test_filled_is_whole(below: bytes, done: list[Write]) -> None:
    dirty = dirtied(below, done)
    dirty.fill(below)
    assert dirty.low == 0 and dirty.whole(len(below))
    assert bytes(dirty.data) == model(below, done)
    again = bytes(dirty.data)
    dirty.fill(below)
    assert bytes(dirty.data) == again, "filling twice is filling once"


@given(st.binary(max_size=BLOCK), st.lists(writes, min_size=1, max_size=4))
def test_layers_lie_over_one_another(below: bytes, layers: list[list[Write]]) -> None:
    """Dirty bytes over flights over the committed version, whatever gaps each layer has."""
    seen, want = below, below
    for done in layers:
        dirty = dirtied(seen, done)
        seen = bytes(dirty.over(seen))
        want = model(want, done)
        assert seen == want


def test_a_gap_below_a_write_is_zeros() -> None:
    dirty = Dirty(bytearray(10), 10, 0.0)
    dirty.put(10, b"new")
    assert dirty.over(b"old") == b"old" + bytes(7) + b"new"
    assert not dirty.whole(0)


# --- blocks --------------------------------------------------------------------------------------


def name(block: int, sequence: int = 1) -> Name:
    return Name(Ino(7), BlockNo(block), Version(Token(1), sequence))


def test_the_least_recently_used_block_goes() -> None:
    blocks = Blocks(most_bytes=30)
    for number in range(3):
        blocks.put(name(number), bytes(10))
    assert blocks.get(name(0)) is not None
    blocks.put(name(3), bytes(10))
    assert name(1) not in blocks and name(0) in blocks and blocks.bytes == 30


def test_a_version_is_kept_once() -> None:
    blocks = Blocks(most_bytes=30)
    blocks.put(name(0), b"x" * 10)
    blocks.put(name(0), b"x" * 10)
    assert blocks.bytes == 10
    assert blocks.get(name(0, 2)) is None, "another version is another block"


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9)), max_size=60))
def test_blocks_count_their_bytes(puts: list[tuple[int, int]]) -> None:
    blocks = Blocks(most_bytes=20)
    for number, size in puts:
        blocks.put(name(number, size), bytes(size))
        known = [name(n, s) for n in range(7) for s in range(1, 10)]
        held = [one.version.sequence for one in known if one in blocks]
        assert blocks.bytes == sum(held) <= 20


# --- files ---------------------------------------------------------------------------------------


def flight_of(block: int, data: bytes, sequence: int) -> Flight:
    flight = Flight(
        {BlockNo(block): Dirty(bytearray(data), 0, 0.0)}, {BlockNo(block): sequence}, Token(3)
    )
    entry = MapEntry(version_of(flight, BlockNo(block)), len(data), len(data), Seal(1, 2))
    flight.entries[BlockNo(block)] = entry
    return flight


def test_unflushed_bytes_come_newest_first() -> None:
    file = File(Ino(7), attributes(), 0.0)
    old, new = flight_of(2, b"old", 1), flight_of(2, b"new", 2)
    file.flights.extend([old, new])
    file.dirty[BlockNo(2)] = Dirty(bytearray(b"newest"), 0, 0.0)
    found = [bytes(dirty.data) for dirty in file.unflushed(BlockNo(2))]
    assert found == [b"newest", b"new", b"old"]
    assert list(file.unflushed(BlockNo(3))) == []


def test_a_commit_moves_the_known_pages_only() -> None:
    file = File(Ino(7), attributes(), 0.0)
    file.pages[PageNo(0)] = ()
    far = limits.PAGE_BLOCKS + 1
    file.commit_entries(flight_of(3, b"abc", 1))
    file.commit_entries(flight_of(far, b"abc", 2))
    entry = file.entry(BlockNo(3))
    assert entry is not None and entry.version == Version(Token(3), 1)
    assert file.entry(BlockNo(2)) is None and not file.knows(BlockNo(far))
    assert PageNo(1) not in file.pages, "half of a page would take its other blocks for holes"


def test_attributes_show_what_is_unflushed() -> None:
    file = File(Ino(7), attributes(size=10), 0.0, size=10)
    assert file.shown() == attributes(size=10) and not file.busy
    file.dirty[BlockNo(0)] = Dirty(bytearray(b"abc"), 0, 0.0)
    file.size, file.mtime_ns = 30, 99
    assert file.busy and file.shown().size == 30 and file.shown().mtime_ns == 99


def test_replies_that_overtake_one_another() -> None:
    file = File(Ino(7), attributes(change=5), 0.0)
    file.learn(attributes(change=4, size=40))
    assert file.attributes.change == 5 and file.attributes.size == 0


def test_the_kernel_keeps_its_pages_only_under_our_grant() -> None:
    file = File(Ino(7), attributes(change=5), 0.0, kernel_change=5)
    file.token = Token(3)
    file.learn(attributes(change=6))
    assert file.kernel_change == 6
    file.give_up(Token(3))
    file.learn(attributes(change=7))
    assert file.kernel_change == 6


def test_a_grant_that_ended_is_never_taken_up_again() -> None:
    file = File(Ino(7), attributes(), 0.0, token=Token(3))
    file.give_up(Token(2))
    assert file.token == 3
    file.give_up(Token(4))
    assert (file.token, file.void) == (0, 4)


def test_a_lost_flight_says_why() -> None:
    flight = flight_of(0, b"abc", 1)
    assert flight.lost is None and not flight.landing
    flight.lost = Fenced("gone")
    assert isinstance(flight.lost, Fenced)
