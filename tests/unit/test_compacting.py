"""Which segment is emptied, and when; what of the reserve is of use until then."""

from hypothesis import given
from hypothesis import strategies as st

from zdfs import compacting, limits
from zdfs.compacting import AMPLE
from zdfs.ports import Press

LIVE = {1: 60, 2: 85, 3: 0, 4: 40}
SEALED = dict.fromkeys(LIVE, 100)
SHARES = st.floats(0.0, 1.0)
PRESSES = st.sampled_from(Press)


def victim(most: float, room: int = 1000, stuck: frozenset[int] = frozenset()) -> int | None:
    return compacting.victim(SEALED, LIVE, stuck, most, room)


def test_with_room_only_what_is_mostly_dead_is_worth_it() -> None:
    for press in (Press.IDLE, Press.BUSY):
        assert compacting.worth(1.0, press) == compacting.MOSTLY_DEAD
        assert compacting.worth(AMPLE[press], press) == compacting.MOSTLY_DEAD
        assert compacting.worth(0.0, press) == compacting.HARDLY_DEAD


def test_who_waits_for_room_is_worth_it_all() -> None:
    assert compacting.worth(1.0, Press.SHORT) == compacting.HARDLY_DEAD


@given(SHARES, SHARES, PRESSES)
def test_the_less_room_the_more_is_worth_it(one: float, other: float, press: Press) -> None:
    less, more = sorted((one, other))
    assert compacting.worth(less, press) >= compacting.worth(more, press)


@given(SHARES)
def test_whoever_is_at_work_is_left_alone_for_longer(free: float) -> None:
    idle, busy, short = (compacting.worth(free, press) for press in Press)
    assert busy <= idle <= short


def test_the_emptiest_goes_first() -> None:
    assert victim(0.9) == 4
    assert victim(0.9, stuck=frozenset({4})) == 1
    assert victim(0.5, stuck=frozenset({4})) is None


def test_nothing_is_moved_out_of_what_has_nothing() -> None:
    assert compacting.victim({3: 100}, {3: 0}, frozenset(), 0.9, 1000) is None


def test_what_does_not_fit_is_not_begun() -> None:
    assert victim(0.9, room=40) is None
    assert victim(0.9, room=41) == 4


def test_the_reserve_is_lent_to_what_is_dead_alone() -> None:
    assert compacting.spare(1000, SEALED, LIVE, frozenset()) == 40 + 15 + 100 + 60
    assert compacting.spare(1000, SEALED, SEALED, frozenset()) == 0
    assert compacting.spare(1000, {}, {}, frozenset()) == 0


def test_what_is_hardly_dead_is_not_to_be_won() -> None:
    assert compacting.winnable({**SEALED, 5: 100}, {**LIVE, 5: 95}, frozenset()) == 215
    assert compacting.winnable(SEALED, LIVE, frozenset({3})) == 115


def test_what_never_comes_back_is_lent_nothing() -> None:
    assert compacting.spare(1000, SEALED, LIVE, frozenset({3})) == 40 + 15 + 60


def test_the_largest_segment_finds_room_in_the_reserve_all_the_same() -> None:
    assert compacting.spare(150, SEALED, LIVE, frozenset()) == 50
    assert compacting.spare(99, SEALED, LIVE, frozenset()) == 0


def test_segments_are_small_on_a_small_disk() -> None:
    reserve = limits.DATA_RESERVE_BYTES
    assert compacting.segment_bytes(1 << 40, reserve // 4) == limits.SEGMENT_BYTES
    assert compacting.segment_bytes(limits.GIB, limits.GIB // 64) == limits.GIB // 128
    assert compacting.segment_bytes(limits.GIB // 4, limits.MIB * 4) == limits.BATCH_BYTES
    assert compacting.segment_bytes(32 * limits.MIB, limits.MIB // 2) == limits.MIB // 2
