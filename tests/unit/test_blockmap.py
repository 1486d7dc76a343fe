"""Map pages: holes are entries, lengths are checked, nothing else comes in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdfs import blockmap, limits
from zdfs.blockmap import Dropped, MapEntry
from zdfs.checksum import Seal
from zdfs.ids import BlockNo, Ino, Name, Token, Version

U32 = st.integers(0, 2**32 - 1)
BLOCKS = st.integers(0, 2**64 - 1).map(BlockNo)
VERSIONS = st.builds(Version, st.integers(1, 2**64 - 1).map(Token), U32)
LENGTHS = st.integers(0, limits.BLOCK_BYTES_MAX).flatmap(
    lambda stored: st.tuples(st.just(stored), st.integers(0, stored))
)
ENTRIES = st.builds(
    lambda version, lengths, seal: MapEntry(version, *lengths, seal),
    VERSIONS,
    LENGTHS,
    st.builds(Seal, st.integers(0, 2**16 - 1), U32),
)
PAGES = st.lists(st.none() | ENTRIES, max_size=limits.PAGE_BLOCKS)
ENTRY = MapEntry(Version(Token(1), 2), 8, 5, Seal(3, 4))


@given(PAGES)
def test_pages_come_back_without_trailing_holes(page: list[MapEntry | None]) -> None:
    back = list(blockmap.unpack_page(blockmap.pack_page(page)))
    assert back == page[: len(back)]
    assert all(entry is None for entry in page[len(back) :])
    assert not back or back[-1] is not None


def test_only_holes_are_nothing() -> None:
    assert blockmap.pack_page([None] * limits.PAGE_BLOCKS) == b""
    assert blockmap.unpack_page(b"") == ()


def test_a_hole_in_the_middle_is_an_entry() -> None:
    packed = blockmap.pack_page([None, ENTRY])
    assert packed[: blockmap.ENTRY_BYTES] == bytes(blockmap.ENTRY_BYTES)
    assert blockmap.unpack_page(packed) == (None, ENTRY)


@pytest.mark.parametrize(
    "length", [1, blockmap.ENTRY_BYTES - 1, blockmap.ENTRY_BYTES * (limits.PAGE_BLOCKS + 1)]
)
def test_a_length_that_no_page_has(length: int) -> None:
    with pytest.raises(ValueError, match="no"):
        blockmap.unpack_page(bytes(length))


@given(BLOCKS)
def test_page_of(block: BlockNo) -> None:
    page, position = blockmap.page_of(block)
    assert page * limits.PAGE_BLOCKS + position == block
    assert 0 <= position < limits.PAGE_BLOCKS


@given(st.lists(st.tuples(BLOCKS, ENTRIES), max_size=9))
def test_numbered_entries_come_back(entries: list[tuple[BlockNo, MapEntry]]) -> None:
    assert blockmap.unpack_numbered(blockmap.pack_numbered(entries)) == entries


UNCOMMITTABLE = {
    "a hole": ENTRY._replace(version=Version(Token(0), 2)),
    "more visible than stored": ENTRY._replace(visible=9),
    "more than a block": ENTRY._replace(stored=limits.BLOCK_BYTES_MAX + 1),
}


@pytest.mark.parametrize("case", UNCOMMITTABLE)
def test_what_cannot_be_committed(case: str) -> None:
    data = blockmap.pack_numbered([(BlockNo(3), UNCOMMITTABLE[case])])
    with pytest.raises(ValueError, match="block 3"):
        blockmap.unpack_numbered(data)


@given(st.lists(st.builds(Dropped, BLOCKS, VERSIONS), max_size=9))
def test_dropped_versions_come_back(items: list[Dropped]) -> None:
    assert blockmap.unpack_dropped(blockmap.pack_dropped(items)) == items


@given(st.binary(max_size=300))
def test_only_value_errors_escape(data: bytes) -> None:
    for unpack in (blockmap.unpack_page, blockmap.unpack_numbered, blockmap.unpack_dropped):
        try:
            unpack(data)
        except ValueError:
            continue


def test_name_of() -> None:
    assert blockmap.name_of(Ino(1), BlockNo(2), ENTRY) == Name(Ino(1), BlockNo(2), ENTRY.version)
