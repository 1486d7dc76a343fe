"""Attributes where the kernel leaves them to us."""

import pytest

from zdfs import limits
from zdfs.attributes import UTIME_NOW, UTIME_OMIT, given_ns, without_set_ids


@pytest.mark.parametrize(
    "seconds, nanoseconds, wanted",
    [
        (0, 0, 0),
        (-1, 999_999_999, -1),
        (5, UTIME_NOW, None),
        (5, UTIME_OMIT, None),
        (15_032_385_535, 7, 15_032_385_535_000_000_007),  # 2446: more than 63 bits
        (1 << 60, 0, limits.LAST_NS),
        (-(1 << 60), 0, limits.FIRST_NS),
    ],
)
def test_given(seconds: int, nanoseconds: int, wanted: int | None) -> None:
    assert given_ns(seconds, nanoseconds) == wanted


@pytest.mark.parametrize(
    "before, after",
    [(0o6777, 0o777), (0o4700, 0o700), (0o2766, 0o2766), (0o1777, 0o1777), (0o100644, 0o100644)],
)
def test_set_ids(before: int, after: int) -> None:
    assert without_set_ids(before) == after
