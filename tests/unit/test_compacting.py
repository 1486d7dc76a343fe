"""Which segment is emptied, and when."""

from hypothesis import given
from hypothesis import strategies as st

from zdfs import compacting

LIVE = {1: 60, 2: 85, 3: 0, 4: 40}
SEALED = dict.fromkeys(LIVE, 100)
SHARES = st.floats(0.0, 1.0)


def victim(most: float, room: int = 1000, stuck: frozenset[int] = frozenset()) -> int | None:
    return compacting.victim(SEALED, LIVE, stuck, most, room)


def test_with_room_only_what_is_mostly_dead_is_worth_it() -> None:
    assert compacting.worth(1.0) == compacting.worth(compacting.AMPLE) == compacting.MOSTLY_DEAD
    assert compacting.worth(0.0) == compacting.HARDLY_DEAD


@given(SHARES, SHARES)
def test_the_less_room_the_more_is_worth_it(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert compacting.worth(less) >= compacting.worth(more)


def test_the_emptiest_goes_first() -> None:
    assert victim(0.9) == 4
    assert victim(0.9, stuck=frozenset({4})) == 1
    assert victim(0.5, stuck=frozenset({4})) is None


def test_nothing_is_moved_out_of_what_has_nothing() -> None:
    assert compacting.victim({3: 100}, {3: 0}, frozenset(), 0.9, 1000) is None


def test_what_does_not_fit_is_not_begun() -> None:
    assert victim(0.9, room=40) is None
    assert victim(0.9, room=41) == 4
