"""The codec: what a field accepts, in both directions."""

import enum
from dataclasses import dataclass
from typing import Annotated as A
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdfs import limits, records
from zdfs.ids import Ino
from zdfs.records import BULK, U16, BadRecord, Between, Length


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 7


class Point(NamedTuple):
    x: int
    y: A[int, Between(-3, 3)]


@dataclass(frozen=True, slots=True)
class Everything:
    ino: Ino
    small: A[int, U16]
    name: A[bytes, Length(1, 4)]
    text: A[str, Length(0, 5)]
    flag: bool
    colour: Colour
    perhaps: A[int, U16] | None
    point: Point
    points: A[tuple[Point, ...], Length(0, 2)]


GOOD = [5, 6, b"ab", "text", True, 7, None, [-1, 3], [[1, 2], [3, -3]]]
VALUE = Everything(
    Ino(5), 6, b"ab", "text", True, Colour.BLUE, None, Point(-1, 3), (Point(1, 2), Point(3, -3))
)


def test_a_record_is_a_list_of_its_fields() -> None:
    assert records.codec(Everything).pack(VALUE) == GOOD
    assert records.unpack(Everything, records.pack(VALUE)) == VALUE
    assert msgpack.unpackb(records.pack(VALUE)) == GOOD


@pytest.mark.parametrize(
    ("position", "bad"),
    [
        (0, -1), (0, True), (0, 1.0), (0, "5"), (0, None),
        (1, 65536), (1, None),
        (2, b""), (2, b"abcde"), (2, "ab"), (2, None),
        (3, "123456"), (3, b"a"),
        (4, 1), (4, 0), (4, None),
        (5, 2), (5, "RED"), (5, True), (5, 1.0),
        (6, -1), (6, False),
        (7, [1]), (7, [1, 2, 3]), (7, [1, 4]), (7, None), (7, 5),
        (8, [[1, 2]] * 3), (8, 1), (8, [1]), (8, None),
    ],
)  # fmt: skip
def test_a_foreign_value_is_refused(position: int, bad: Any) -> None:
    plain = list(GOOD)
    plain[position] = bad
    with pytest.raises(BadRecord):
        records.unpack(Everything, msgpack.packb(plain))


@pytest.mark.parametrize("plain", [GOOD[:-1], [*GOOD, 1], [], 5, None, "x"])
def test_the_number_of_fields_counts(plain: Any) -> None:
    with pytest.raises(BadRecord):
        records.unpack(Everything, msgpack.packb(plain))


def test_our_own_mistakes_are_refused_too() -> None:
    with pytest.raises(BadRecord):
        records.pack(Point(1, 4))
    with pytest.raises(BadRecord):
        records.pack(Point(2**63, 0))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\x91", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x81\x01\x02",
        b"\xd4\x05\x00", b"\xc7\x0c\xff" + bytes(12), b"\xa1\xff", b"\x01\x02", b"\x91" * 5000,
        b"\xdc\xff\xff" + b"\x90" * 65535,
    ],
    ids=lambda data: f"{data[:6].hex()}-{len(data)}",
)  # fmt: skip
def test_bytes_that_are_no_record(data: bytes) -> None:
    with pytest.raises(BadRecord):
        records.unpack(Everything, data)


def test_size_is_checked_before_anything_is_decoded() -> None:
    with pytest.raises(BadRecord, match="more than"):
        records.loads(bytes(limits.HEAD_BYTES + 1))
    with pytest.raises(BadRecord, match="more than 10"):
        records.loads(bytes(11), 10)


@given(st.binary(max_size=200))
def test_nothing_but_a_bad_record_escapes(data: bytes) -> None:
    for kind in (Everything, Point):
        try:
            value = records.unpack(kind, data)
        except BadRecord:
            continue
        assert records.unpack(kind, records.pack(value)) == value


def test_bulk_stands_last_and_stays_out() -> None:
    @dataclass
    class Carrier:
        number: int
        data: A[tuple[bytes, ...], BULK]

    found = records.codec(Carrier)
    assert found.bulk == "data" and found.pack(Carrier(1, (b"x",))) == [1]


def test_kinds_describe_themselves() -> None:
    texts = {name: kind.text for name, kind in records.codec(Everything).fields}
    assert texts["ino"] == "u64" and texts["name"] == "bytes 1..4"
    assert texts["perhaps"] == "u16 or nil" and texts["points"] == "[Point] 0..2"
