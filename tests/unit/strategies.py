"""Hypothesis strategies made from the annotations that are a record's format (`records`)."""

import dataclasses
import enum
import types
import typing
from typing import Any

from hypothesis import strategies as st

from zdfs.records import BULK, I64, U64, Between, Length

LONGEST = 6  # of lists and strings: bounds themselves have tests of their own
BLOCK = st.binary(max_size=64)


def _between(bounds: Between) -> st.SearchStrategy[int]:
    return st.sampled_from(bounds) | st.integers(bounds.low, bounds.high)


def _sized(base: Any, bounds: Length) -> st.SearchStrategy[Any]:
    most = min(bounds.high, max(bounds.low, LONGEST))
    if typing.get_origin(base) is tuple:
        item = field(typing.get_args(base)[0])
        return st.lists(item, min_size=bounds.low, max_size=most).map(tuple)
    if base is bytes:
        return st.binary(min_size=bounds.low, max_size=most)
    letters = st.characters(exclude_categories=["Cs"])
    return st.text(letters, min_size=bounds.low, max_size=most)


def field(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field with this annotation."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        base, *marks = typing.get_args(hint)
        if BULK in marks:
            return st.lists(BLOCK, max_size=3).map(tuple)
        mark = marks[0]
        return _between(mark) if isinstance(mark, Between) else _sized(base, mark)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(
            *[st.none() if one is type(None) else field(one) for one in typing.get_args(hint)]
        )
    if isinstance(hint, typing.NewType):
        return _between(U64)
    if hint is int:
        return _between(I64)
    if hint is bool:
        return st.booleans()
    if issubclass(hint, enum.IntEnum):
        return st.sampled_from(list(hint))
    return record(hint)


def record(kind: type) -> st.SearchStrategy[Any]:
    """Values of a record class."""
    hints = typing.get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        names = [one.name for one in dataclasses.fields(kind)]
    else:
        names = list(kind._fields)  # type: ignore[attr-defined]
    return st.builds(kind, *[field(hints[name]) for name in names])
