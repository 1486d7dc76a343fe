"""A file's block map: which version of each block counts (DESIGN 4).

The map is cut into pages of `limits.PAGE_BLOCKS` entries.  A page is packed the same way on disk
and on the wire: 26 bytes an entry, big-endian, holes all zero, trailing holes left out.

    token u64 | sequence u32 | stored u32 | visible u32 | crc16 u16 | crc32c u32

`stored` bytes stand in the dataservers' records and are what the seal covers; readers see the first
`visible` of them and zeros up to the block's end.  A hole is an entry, never an absence.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zdfs import limits
from zdfs.checksum import Seal
from zdfs.ids import BlockNo, Ino, Name, PageNo, Token, Version

_ENTRY = struct.Struct(">QIIIHI")
_NUMBERED = struct.Struct(">QQIIIHI")
_DROPPED = struct.Struct(">QQI")
ENTRY_BYTES = _ENTRY.size
NUMBERED_BYTES = _NUMBERED.size


class MapEntry(NamedTuple):
    """The version of a block that counts."""

    version: Version
    stored: int  # bytes in the record
    visible: int  # bytes of it that a reader may see
    seal: Seal


class Dropped(NamedTuple):
    """A version that no map names any more."""

    block: BlockNo
    version: Version


Page = tuple[MapEntry | None, ...]  # None is a hole; shorter than PAGE_BLOCKS: holes follow


def page_of(block: BlockNo) -> tuple[PageNo, int]:
    """Page number and position of a block's entry."""
    return PageNo(block // limits.PAGE_BLOCKS), block % limits.PAGE_BLOCKS


def whole(offset: int, end: int, size: int, block_bytes: int) -> tuple[BlockNo, BlockNo]:
    """The blocks (first, and the one behind the last) of which nothing lies outside of
    offset..end: of a file's last block, what lies beyond its size does not count."""
    first = -(-offset // block_bytes)
    stop = -(-end // block_bytes) if end >= size else end // block_bytes
    return BlockNo(first), BlockNo(max(first, stop))


def edges(offset: int, end: int, size: int, block_bytes: int) -> list[tuple[int, int]]:
    """What else of offset..end the file has bytes in: at most a piece of a block at each side."""
    first, stop = whole(offset, end, size, block_bytes)
    last = min(end, size)
    pieces = [(offset, min(first * block_bytes, last)), (stop * block_bytes, last)]
    return [(low, high) for low, high in pieces if low < high]


def pack_page(entries: Sequence[MapEntry | None]) -> bytes:
    """A page as bytes, trailing holes cut off; b"" when there are only holes."""
    assert len(entries) <= limits.PAGE_BLOCKS
    used = len(entries)
    while used and entries[used - 1] is None:
        used -= 1
    return b"".join(
        bytes(ENTRY_BYTES) if e is None else _ENTRY.pack(*e.version, e.stored, e.visible, *e.seal)
        for e in entries[:used]
    )


def unpack_page(data: bytes) -> Page:
    """A page from bytes.  Raises ValueError on a length no page has."""
    if len(data) % ENTRY_BYTES or len(data) > limits.PAGE_BLOCKS * ENTRY_BYTES:
        raise ValueError(f"a map page has no {len(data)} bytes")
    return tuple(_entry(*fields) for fields in _ENTRY.iter_unpack(data))


def _entry(
    token: int, sequence: int, stored: int, visible: int, c16: int, c32: int
) -> MapEntry | None:
    if token == 0:
        return None
    return MapEntry(Version(Token(token), sequence), stored, visible, Seal(c16, c32))


def entry_at(data: bytes, position: int) -> MapEntry | None:
    """One entry of a packed page."""
    if (position + 1) * ENTRY_BYTES > len(data):
        return None
    return _entry(*_ENTRY.unpack_from(data, position * ENTRY_BYTES))


def spliced(data: bytes, entries: Iterable[tuple[int, MapEntry | None]]) -> bytes:
    """A packed page with entries set by position; b"" when only holes are left."""
    page = bytearray(data.ljust(limits.PAGE_BLOCKS * ENTRY_BYTES, b"\0"))
    for position, e in entries:
        start = position * ENTRY_BYTES
        page[start : start + ENTRY_BYTES] = (
            bytes(ENTRY_BYTES)
            if e is None
            else _ENTRY.pack(*e.version, e.stored, e.visible, *e.seal)
        )
    used = -(-len(page.rstrip(b"\0")) // ENTRY_BYTES)
    return bytes(page[: used * ENTRY_BYTES])


def pack_numbered(entries: Iterable[tuple[BlockNo, MapEntry]]) -> bytes:
    """Entries with their block numbers, as a Commit carries them."""
    return b"".join(
        _NUMBERED.pack(block, *e.version, e.stored, e.visible, *e.seal) for block, e in entries
    )


def unpack_numbered(data: bytes) -> list[tuple[BlockNo, MapEntry]]:
    """The inverse; ValueError on a wrong length, a hole, or visible > stored."""
    if len(data) % NUMBERED_BYTES:
        raise ValueError(f"{len(data)} bytes are no list of numbered entries")
    found = []
    for block, *fields in _NUMBERED.iter_unpack(data):
        entry = _entry(*fields)
        if entry is None or not 0 <= entry.visible <= entry.stored <= limits.BLOCK_BYTES_MAX:
            raise ValueError(f"block {block}: not an entry that can be committed")
        found.append((BlockNo(block), entry))
    return found


def pack_dropped(items: Iterable[Dropped]) -> bytes:
    """Versions to let go of, 20 bytes each."""
    return b"".join(_DROPPED.pack(item.block, *item.version) for item in items)


def unpack_dropped(data: bytes) -> list[Dropped]:
    """The inverse; ValueError on a wrong length."""
    if len(data) % _DROPPED.size:
        raise ValueError(f"{len(data)} bytes are no list of versions")
    return [
        Dropped(BlockNo(block), Version(Token(token), sequence))
        for block, token, sequence in _DROPPED.iter_unpack(data)
    ]


def name_of(ino: Ino, block: BlockNo, entry: MapEntry) -> Name:
    """The name under which dataservers keep this entry's bytes."""
    return Name(ino, block, entry.version)
