"""Hypothesis strategies made from the annotations that are a record's format (`records`).

record, field     values that the format allows
known             values of a type to draw as often as any other: inodes that are there, say
misfit, nearly    plain values (what msgpack carries) that a field, or a record, must refuse:
                  one thing about them is wrong, the rest is as it should be
"""

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from zdfs import records
from zdfs.records import BULK, I64, U64, Between, Length, Since

LONGEST = 6  # of lists and strings: bounds themselves have tests of their own
FAR = 5000  # a length beyond a bound is tried as long as it is no larger
BLOCK = st.binary(max_size=64)


class Known(dict[Any, Sequence[Any]]):
    """Values by their type; made once, so that strategies with them are made once, too."""

    __hash__ = object.__hash__  # type: ignore[assignment]


NOTHING = Known()
OTHERS: dict[type, tuple[Any, ...]] = {
    int: (None, True, 1.0, "1", b"1", [], [1]),
    bool: (None, 0, 1, "", b"", []),
    float: (None, False, 1, "1", b"1", [1.0], float("inf"), float("nan")),
    bytes: (None, False, 1, "text", [], [b"x"]),
    str: (None, False, 1, b"bytes", [], ["x"]),
    list: (None, False, 1, "text", b"bytes"),
}  # of another type than this one


def _between(bounds: Between) -> st.SearchStrategy[int]:
    return st.sampled_from(bounds) | st.integers(bounds.low, bounds.high)


def _sized(base: Any, bounds: Length, known: Known) -> st.SearchStrategy[Any]:
    most = min(bounds.high, max(bounds.low, LONGEST))
    if typing.get_origin(base) is tuple:
        item = field(typing.get_args(base)[0], known)
        return st.lists(item, min_size=bounds.low, max_size=most).map(tuple)
    if base is bytes:
        return st.binary(min_size=bounds.low, max_size=most)
    letters = st.characters(exclude_categories=["Cs"])
    return st.text(letters, min_size=bounds.low, max_size=most)


@functools.cache
def field(hint: Any, known: Known = NOTHING) -> st.SearchStrategy[Any]:
    """Values of a field with this annotation."""
    usual = _field(hint, known)
    return st.sampled_from(known[hint]) | usual if hint in known else usual


def _field(hint: Any, known: Known) -> st.SearchStrategy[Any]:
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        base, *marks = typing.get_args(hint)
        if BULK in marks:
            return st.lists(BLOCK, max_size=3).map(tuple)
        marks = [mark for mark in marks if not isinstance(mark, Since)]
        if not marks:
            return field(base, known)
        mark = marks[0]
        return _between(mark) if isinstance(mark, Between) else _sized(base, mark, known)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(
            *[
                st.none() if one is type(None) else field(one, known)
                for one in typing.get_args(hint)
            ]
        )
    if isinstance(hint, typing.NewType):
        return _between(U64)
    if hint is int:
        return _between(I64)
    if hint is bool:
        return st.booleans()
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if issubclass(hint, enum.IntEnum):
        return st.sampled_from(list(hint))
    return record(hint, known)


@functools.cache
def fields_of(kind: type) -> list[tuple[str, Any]]:
    hints = typing.get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        names = [one.name for one in dataclasses.fields(kind)]
    else:
        names = list(kind._fields)  # type: ignore[attr-defined]
    return [(name, hints[name]) for name in names]


@functools.cache
def record(kind: type, known: Known = NOTHING) -> st.SearchStrategy[Any]:
    """Values of a record class."""
    return st.builds(kind, *[field(hint, known) for _, hint in fields_of(kind)])


# --- what must be refused ----------------------------------------------------------------------


def _misfit_int(bounds: Between) -> st.SearchStrategy[Any]:
    outside = [bounds.low - 1, bounds.high + 1, -(2**63), 2**64 - 1]
    found = [one for one in outside if not bounds.low <= one <= bounds.high]
    sayable = [one for one in found if -(2**63) <= one < 2**64]
    return st.sampled_from([*OTHERS[int], *sayable])


def _misfit_sized(base: Any, bounds: Length) -> st.SearchStrategy[Any]:
    lengths = [one for one in (bounds.low - 1, bounds.high + 1) if 0 <= one <= FAR]
    if typing.get_origin(base) is tuple:
        item = typing.get_args(base)[0]
        good = plain(item)
        wrong = [good.map(lambda value, count=one: [value] * count) for one in lengths]
        if bounds.high:
            rest = st.lists(good, max_size=min(2, bounds.high - 1))
            wrong.append(st.builds(lambda one, more: [*more, one], misfit(item), rest))
        return st.one_of(st.sampled_from(OTHERS[list]), *wrong)
    letter = b"x" if base is bytes else "x"
    return st.sampled_from([*OTHERS[base], *(letter * one for one in lengths)])


@functools.cache
def misfit(hint: Any) -> st.SearchStrategy[Any]:
    """Plain values that are not a field's with this annotation."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        base, *marks = typing.get_args(hint)
        marks = [mark for mark in marks if not isinstance(mark, Since)]
        if not marks:
            return misfit(base)
        mark = marks[0]
        return _misfit_int(mark) if isinstance(mark, Between) else _misfit_sized(base, mark)
    if origin in (types.UnionType, typing.Union):
        (inner,) = [one for one in typing.get_args(hint) if one is not type(None)]
        return misfit(inner).filter(lambda value: value is not None)
    if isinstance(hint, typing.NewType):
        return _misfit_int(U64)
    if hint is int:
        return _misfit_int(I64)
    if hint in (bool, float):
        return st.sampled_from(OTHERS[hint])
    if issubclass(hint, enum.IntEnum):
        unknown = [max(hint) + 1, min(hint) - 1, 2**63]
        return st.sampled_from([*OTHERS[int], *unknown])
    return st.sampled_from(OTHERS[list]) | nearly(hint)


@functools.cache
def plain(hint: Any) -> st.SearchStrategy[Any]:
    """A field's values as msgpack carries them."""
    return field(hint).map(records.kind_of(hint).pack)


@functools.cache
def nearly(kind: type) -> st.SearchStrategy[list[Any]]:
    """The plain fields of a record, one of which is wrong, missing, or one too many."""
    return _nearly(kind)


@st.composite
def _nearly(draw: st.DrawFn, kind: type) -> list[Any]:
    hints = [hint for _, hint in fields_of(kind) if BULK not in getattr(hint, "__metadata__", ())]
    values = [draw(plain(hint)) for hint in hints]
    how = draw(
        st.sampled_from(["wrong", "wrong", "missing", "too many"] if hints else ["too many"])
    )
    place = draw(st.integers(0, len(hints) - (how != "too many")))
    if how == "wrong":
        values[place] = draw(misfit(hints[place]))
    elif how == "missing" and (least := min(records.codec(kind).counts)) < len(values):
        if not least:
            return [None]
        del values[least - 1 :]  # even the oldest version has more
    elif how == "missing":
        del values[place]
    else:
        values.insert(place, draw(st.sampled_from([None, 0, b"", [], [0]])))
    return values
