"""What stands on disk: there and back, in order, and no flipped bit goes unnoticed."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit import strategies

from zdfs import checksum, limits, records, schema, segments
from zdfs.errors import Damaged, Foreign
from zdfs.ids import BlockNo, Epoch, Ino, Name, PageNo, Session, Slot, Token, Version

RECORDS = [
    schema.Superblock, schema.Cluster, schema.Totals, schema.Inode, schema.Dirent, schema.Orphan,
    schema.DropRecord, schema.Ring, schema.Server, schema.SessionRecord, schema.KeptReply,
    schema.EventRecord, schema.DataState, schema.IndexHead, schema.Debt, schema.Account,
]  # fmt: skip
U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
NAMES = st.builds(Name, U64.map(Ino), U64.map(BlockNo), st.builds(Version, U64.map(Token), U32))
KEY = schema.inode_key(Ino(5))


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@settings(max_examples=40)
@given(data=st.data())
def test_records_round_trip(kind: type, data: st.DataObject) -> None:
    value = data.draw(strategies.record(kind))
    assert records.unpack(kind, records.pack(value)) == value


def test_no_record_is_forgotten_above() -> None:
    packed_by_hand = {schema.IndexEntry, schema.SegmentHeader, schema.RecordHeader}
    declared = {
        kind
        for kind in vars(schema).values()
        if isinstance(kind, type)
        and kind.__module__ in (schema.__name__, segments.__name__)
        and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"))
    }
    nested = {schema.Position, schema.ScrubState}
    assert declared == set(RECORDS) | packed_by_hand | nested


# --- sealed values -----------------------------------------------------------------------------


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_sealed_values_open(key: bytes, payload: bytes) -> None:
    assert schema.open_value(key, schema.seal_value(key, payload)) == payload


@given(st.binary(min_size=1, max_size=60), st.binary(max_size=60))
def test_every_flipped_bit_is_noticed(key: bytes, payload: bytes) -> None:
    value = schema.seal_value(key, payload)
    for bit in range(len(value) * 8):
        bad = bytearray(value)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            schema.open_value(key, bytes(bad))
    for bit in range(len(key) * 8):
        other = bytearray(key)
        other[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            schema.open_value(bytes(other), value)


@given(st.binary(max_size=60), st.data())
def test_a_cut_value_is_noticed(payload: bytes, data: st.DataObject) -> None:
    value = schema.seal_value(KEY, payload)
    with pytest.raises(Damaged):
        schema.open_value(KEY, value[: data.draw(st.integers(0, len(value) - 1))])


def test_damage_names_the_record() -> None:
    with pytest.raises(Damaged, match="inode 5"):
        schema.open_value(KEY, b"")
    with pytest.raises(Damaged, match="directory entry 1 b'name'"):
        schema.open_value(schema.entry_key(Ino(1), b"name"), bytes(20))


@pytest.mark.parametrize("key", [b"!", b"c", b"t", b"", b"i", b"z" * 20, b"k" + bytes(10)])
def test_every_key_has_a_name_for_people(key: bytes) -> None:
    assert schema.describe(key)


# --- keys --------------------------------------------------------------------------------------


@given(U64, U64)
def test_keys_sort_as_numbers(one: int, other: int) -> None:
    for key in (
        lambda n: schema.inode_key(Ino(n)),
        lambda n: schema.page_key(Ino(1), PageNo(n)),
        lambda n: schema.page_key(Ino(n), PageNo(1)),
        lambda n: schema.number_key(b"d", n),
        lambda n: schema.block_key(Name(Ino(1), BlockNo(n), Version(Token(1), 1))),
        lambda n: schema.block_key(Name(Ino(1), BlockNo(1), Version(Token(n), 1))),
    ):
        assert (key(one) < key(other)) == (one < other)


@given(NAMES, NAMES)
def test_block_keys_sort_as_names_and_come_back(one: Name, other: Name) -> None:
    assert (schema.block_key(one) < schema.block_key(other)) == (one < other)
    assert schema.name_of_key(schema.block_key(one)) == one
    assert len(schema.block_key(one)) == schema.INDEX_KEY_BYTES


@given(U64, U64, U16)
def test_keys_come_back(one: int, other: int, slot: int) -> None:
    assert schema.page_of_key(schema.page_key(Ino(one), PageNo(other))) == (one, other)
    assert schema.number_of_key(schema.number_key(b"o", one)) == one
    assert schema.number_of_key(schema.entry_key(Ino(one), b"name")) == one
    assert schema.kept_of_key(schema.kept_key(Session(one), slot)) == (one, slot)


@given(U64, st.binary(min_size=1, max_size=limits.NAME_BYTES))
def test_a_prefix_holds_its_children_and_nothing_else(number: int, name: bytes) -> None:
    for make in (schema.entry_key, schema.xattr_key):
        prefix = make(Ino(number), b"")
        assert prefix <= make(Ino(number), name) < schema.after(prefix)
        if number < 2**64 - 1:
            assert make(Ino(number + 1), b"") >= schema.after(prefix)
    pages = schema.page_prefix(Ino(number))
    assert pages <= schema.page_key(Ino(number), PageNo(2**64 - 1)) < schema.after(pages)


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_after_is_the_first_key_behind(prefix: bytes, key: bytes) -> None:
    if key.startswith(prefix):
        assert key < schema.after(prefix)
    elif key > prefix:
        assert key >= schema.after(prefix)


# --- the dataserver's index and log ------------------------------------------------------------

ENTRIES = st.builds(schema.IndexEntry, U64, U64, U32, U16, U32, U64.map(Epoch), U32.map(Slot))
HEADERS = st.builds(
    schema.RecordHeader,
    st.sampled_from([schema.KIND_BLOCK, schema.KIND_STATE, schema.KIND_ROUND]),
    U32, U64, U64, U32, U32, NAMES, U64.map(Epoch), U32.map(Slot),
    st.builds(checksum.Seal, U16, U32),
)  # fmt: skip
SALT = schema.record_salt(bytes(16), 7)
FORMATS = st.integers(schema.DATA_FORMAT_MIN, schema.DATA_FORMAT)
SEGMENTS = st.builds(
    schema.SegmentHeader, st.binary(min_size=16, max_size=16), U32, U64, U64, FORMATS
)


def test_another_format_is_refused_not_taken_for_damage() -> None:
    for other, what in ((schema.DATA_FORMAT + 1, "newer"), (schema.DATA_FORMAT_MIN - 1, "older")):
        packed = schema.pack_segment(schema.SegmentHeader(bytes(16), 1, 1, 1, other))
        with pytest.raises(Foreign, match=what):
            schema.unpack_segment(packed)


def _flips(data: bytes, end: int) -> list[bytes]:
    flipped = []
    for bit in range(end * 8):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(bad))
    return flipped


@given(ENTRIES)
def test_index_entries(entry: schema.IndexEntry) -> None:
    packed = schema.pack_index(entry)
    assert schema.unpack_index(packed) == entry
    for bad in (packed[:-1], packed + b"\0", b""):
        with pytest.raises(Damaged):
            schema.unpack_index(bad)


@settings(max_examples=20)
@given(HEADERS)
def test_record_headers(header: Any) -> None:
    packed, crc = schema.pack_record(header, SALT)
    assert len(packed) == schema.RECORD_BYTES
    assert schema.unpack_record(packed + b"body", SALT) == (header, crc)
    for bad in [*_flips(packed, len(packed)), packed[:-1], b"", bytes(len(packed))]:
        with pytest.raises(Damaged):
            schema.unpack_record(bad, SALT)


@given(HEADERS)
def test_a_record_of_another_segment_or_store_is_none(header: Any) -> None:
    packed, _ = schema.pack_record(header, SALT)
    for salt in (schema.record_salt(bytes(16), 8), schema.record_salt(bytes(15) + b"x", 7)):
        with pytest.raises(Damaged):
            schema.unpack_record(packed, salt)


@settings(max_examples=20)
@given(SEGMENTS)
def test_segment_headers(header: schema.SegmentHeader) -> None:
    packed = schema.pack_segment(header)
    assert len(packed) == schema.SEGMENT_HEADER_BYTES
    assert schema.unpack_segment(packed) == header
    covered = len(packed.rstrip(b"\0"))
    for bad in [*_flips(packed, covered), packed[:20], b"", bytes(len(packed))]:
        with pytest.raises(Damaged):
            schema.unpack_segment(bad)
