"""Typed records as msgpack arrays: the one codec under `wire` and `schema`.

A record is a dataclass or a NamedTuple whose annotations *are* its format:

    int                               signed 64 bit            NewType over int   unsigned 64 bit
    Annotated[int, Between(a, b)]     a <= value <= b          bool, IntEnum      themselves
    Annotated[bytes, Length(a, b)]    a <= len <= b            str likewise
    Annotated[tuple[X, ...], Length(a, b)]                     X | None           nil or X
    float                             a finite double
    another record                    a nested array           Annotated[..., BULK]  travels beside

A field that came later says since which version of what it is a part of, `Annotated[X, Since(5)]`,
stands behind all older ones and has a default.  What is packed for an older version leaves it out;
whoever unpacks knows by their number which fields are there, and takes the default of the rest.

Fields stand in the order of the class; there are no names on the wire and no maps.  Both
directions check: packing a value out of bounds is our mistake and unpacking one the peer's, and
either raises BadRecord.  Bounds are given to msgpack too, so that nothing large is ever built.
"""

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgpack

from zdfs import limits

R = TypeVar("R")


class BadRecord(ValueError):
    """Bytes that are not the record they should be, or a value that does not fit its field."""


class Between(NamedTuple):
    """Bounds of an int, both included."""

    low: int
    high: int


class Length(NamedTuple):
    """Bounds of a length, both included."""

    low: int
    high: int


class Since(NamedTuple):
    """The version of the protocol, or of a store's format, that a field exists since."""

    since: int


class _Bulk:
    """Marks a field that is not packed: its buffers travel as frames of their own."""


BULK = _Bulk()
EVERY = 2**31  # a version that has all fields
U16 = Between(0, 2**16 - 1)
U32 = Between(0, 2**32 - 1)
U64 = Between(0, 2**64 - 1)
I64 = Between(-(2**63), 2**63 - 1)
TIME = Between(limits.FIRST_NS, limits.LAST_NS)  # of a file, in ns since 1970


class Kind(NamedTuple):
    """How one type of field is packed, unpacked and described."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]
    text: str


class Codec(NamedTuple):
    """How one record is packed to a list of plain values and back."""

    pack: Callable[[Any], list[Any]]
    unpack: Callable[[Any], Any]
    fields: tuple[tuple[str, Kind], ...]
    bulk: str | None
    counts: frozenset[int]  # how many fields there may be: of this version, and of older ones
    since: tuple[int, ...]  # of each field; 0: always


def _leaf(check: Callable[[Any], Any], text: str) -> Kind:
    return Kind(check, check, text)


def _int(bounds: Between) -> Kind:
    low, high = bounds

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise BadRecord(f"{str(value)[:40]} is not an integer from {low} to {high}")
        return value

    names = {U16: "u16", U32: "u32", U64: "u64", I64: "i64"}
    return _leaf(check, names.get(bounds, f"int {low}..{high}"))


def _bool(value: Any) -> bool:
    if value is not True and value is not False:
        raise BadRecord(f"{type(value).__name__} where a boolean belongs")
    return value


def _float(value: Any) -> float:
    if type(value) is not float or not math.isfinite(value):
        raise BadRecord(f"{str(value)[:40]} is not a finite float")
    return value


def _sized(kind: type[bytes] | type[str], bounds: Length) -> Kind:
    low, high = bounds

    def check(value: Any) -> Any:
        if type(value) is not kind or not low <= len(value) <= high:
            raise BadRecord(f"not {kind.__name__} of length {low} to {high}")
        return value

    return _leaf(check, f"{kind.__name__} {low}..{high}")


def _many(item: Kind, bounds: Length) -> Kind:
    low, high = bounds
    pack_item, unpack_item = item.pack, item.unpack

    def pack(value: Any) -> list[Any]:
        if not low <= len(value) <= high:
            raise BadRecord(f"{len(value)} items, not {low} to {high}")
        return [pack_item(one) for one in value]

    def unpack(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or not low <= len(value) <= high:
            raise BadRecord(f"not a list of {low} to {high} items")
        return tuple([unpack_item(one) for one in value])

    return Kind(pack, unpack, f"[{item.text}] {low}..{high}")


def _optional(kind: Kind) -> Kind:
    return Kind(
        lambda value: None if value is None else kind.pack(value),
        lambda value: None if value is None else kind.unpack(value),
        f"{kind.text} or nil",
    )


def _enum(kind: type[enum.IntEnum]) -> Kind:
    def unpack(value: Any) -> enum.IntEnum:
        if type(value) is not int:
            raise BadRecord(f"{type(value).__name__} where {kind.__name__} belongs")
        try:
            return kind(value)
        except ValueError as error:
            raise BadRecord(f"{value} is no {kind.__name__}") from error

    return Kind(lambda value: int(kind(value)), unpack, kind.__name__)


def _annotated(hint: Any, version: int) -> Kind:
    base, *marks = typing.get_args(hint)
    marks = [mark for mark in marks if not isinstance(mark, Since)]
    if not marks:
        return kind_of(base, version)
    mark = marks[0]
    if isinstance(mark, Between):
        return _int(mark)
    assert isinstance(mark, Length), f"{hint}: what is {mark}?"
    if typing.get_origin(base) is tuple:
        return _many(kind_of(typing.get_args(base)[0], version), mark)
    return _sized(base, mark)


def kind_of(hint: Any, version: int = EVERY) -> Kind:
    """The kind of a field with this annotation, as a version has it."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _annotated(hint, version)
    if origin in (types.UnionType, typing.Union):
        inner = [one for one in typing.get_args(hint) if one is not type(None)]
        assert len(inner) == 1, f"{hint}: only X | None"
        return _optional(kind_of(inner[0], version))
    if isinstance(hint, typing.NewType):
        return _int(U64)
    if hint is int:
        return _int(I64)
    if hint is bool:
        return _leaf(_bool, "bool")
    if hint is float:
        return _leaf(_float, "f64")
    if isinstance(hint, type) and issubclass(hint, enum.IntEnum):
        return _enum(hint)
    found = codec(hint, version)
    assert found.bulk is None, f"{hint}: bulk only at the top of a message"
    return Kind(found.pack, found.unpack, hint.__name__)


_codecs: dict[int, dict[type, Codec]] = {}


def codec(record: type, version: int = EVERY) -> Codec:
    """The codec of a record class, made once from its annotations.  `version`: it packs what that
    one has; what older ones packed is unpacked by each."""
    try:
        return _codecs[version][record]
    except KeyError:
        found = _make(record, version)
        _codecs.setdefault(version, {})[record] = found
        return found


def _since(hint: Any) -> int:
    marks = getattr(hint, "__metadata__", ())
    return max((mark.since for mark in marks if isinstance(mark, Since)), default=0)


def _counts(record: type, since: Sequence[int]) -> frozenset[int]:
    """How many fields each version up to this one has."""
    assert list(since) == sorted(since), f"{record}: younger fields stand behind all older ones"
    return frozenset(sum(one <= version for one in since) for version in {0, *since})


def _make(record: type, version: int) -> Codec:
    hints = typing.get_type_hints(record, include_extras=True)
    if dataclasses.is_dataclass(record):
        names = [field.name for field in dataclasses.fields(record)]
    else:
        names = list(record._fields)  # type: ignore[attr-defined]
    bulk = None
    fields: list[tuple[str, Kind]] = []
    since: list[int] = []
    for name in names:
        if BULK in getattr(hints[name], "__metadata__", ()):
            assert bulk is None and name == names[-1], f"{record}: bulk stands last, once"
            bulk = name
        elif (born := _since(hints[name])) <= version:
            fields.append((name, kind_of(hints[name], version)))
            since.append(born)
    packers = [(name, kind.pack) for name, kind in fields]
    unpackers = [kind.unpack for _, kind in fields]
    counts = _counts(record, since)

    def pack(value: Any) -> list[Any]:
        return [pack_one(getattr(value, name)) for name, pack_one in packers]

    def unpack(plain: Any) -> Any:
        if type(plain) is not list or len(plain) not in counts:
            raise BadRecord(f"not the {len(fields)} fields of {record.__name__}")
        return record(*[unpack_one(one) for unpack_one, one in zip(unpackers, plain)])

    return Codec(pack, unpack, tuple(fields), bulk, counts, tuple(since))


def dumps(plain: Sequence[Any]) -> bytes:
    """Plain values as msgpack."""
    result = msgpack.packb(plain, use_bin_type=True, strict_types=False)
    assert isinstance(result, bytes)
    return result


def loads(frame: Any, most_bytes: int = limits.HEAD_BYTES) -> Any:
    """msgpack as plain values; BadRecord for anything that is too large or not msgpack."""
    if len(frame) > most_bytes:
        raise BadRecord(f"{len(frame)} bytes, more than {most_bytes}")
    try:
        return msgpack.unpackb(
            frame,
            raw=False,
            max_array_len=limits.LIST_ITEMS,
            max_map_len=0,
            max_str_len=limits.TEXT_BYTES,
            max_bin_len=most_bytes,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise BadRecord(f"not msgpack: {error}") from error


def pack(value: Any, version: int = EVERY) -> bytes:
    """A record as bytes, without its bulk, as a version has it."""
    return dumps(codec(type(value), version).pack(value))


def unpack(kind: type[R], data: Any, most_bytes: int = limits.HEAD_BYTES) -> R:
    """A record from bytes; BadRecord when they are anything else."""
    value: R = codec(kind).unpack(loads(data, most_bytes))
    return value
