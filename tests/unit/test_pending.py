"""Calls underway and timers: a reply finds its own call or nobody."""

from hypothesis import given
from hypothesis import strategies as st

from zdfs.pending import Pending, Timers


def test_a_reply_finds_its_call_once() -> None:
    pending: Pending[str] = Pending()
    first, second = pending.add("first"), pending.add("second")
    assert first != second and len(pending) == 2
    assert pending.peek(first) == "first" and len(pending) == 2
    assert pending.take(first) == "first"
    assert pending.take(first) is None and pending.peek(first) is None
    assert pending.take(second) == "second" and len(pending) == 0


def test_a_made_up_reply_finds_nobody() -> None:
    pending: Pending[str] = Pending()
    number = pending.add("asked")
    assert pending.take(number + 1) is None and pending.take(0) is None
    assert len(pending) == 1


@given(st.lists(st.booleans(), max_size=60))
def test_numbers_are_never_used_again(adds: list[bool]) -> None:
    """A late reply must not be taken for the answer to a later call."""
    pending: Pending[int] = Pending()
    seen: set[int] = set()
    waiting: list[int] = []
    for add in adds:
        if add or not waiting:
            number = pending.add(len(seen))
            assert number not in seen
            seen.add(number)
            waiting.append(number)
        else:
            assert pending.take(waiting.pop()) is not None
    assert len(pending) == len(waiting)


@given(st.lists(st.integers(0, 20), max_size=40), st.lists(st.integers(0, 25), max_size=10))
def test_timers_are_due_once_and_in_order(whens: list[int], looks: list[int]) -> None:
    timers = Timers()
    done: list[tuple[int, int]] = []
    for number, when in enumerate(whens):
        timers.at(float(when), lambda entry=(when, number): done.append(entry))
    for now in sorted(looks):
        for act in timers.due(float(now)):
            act()
        assert done == sorted((when, n) for n, when in enumerate(whens) if when <= now)
        later = [when for when in whens if when > now]
        assert timers.next() == (min(later) if later else None)


def test_timers_of_one_moment_keep_their_order() -> None:
    timers = Timers()
    done: list[int] = []
    for number in range(5):
        timers.at(1.0, lambda n=number: done.append(n))  # type: ignore[misc]
    assert timers.due(0.9) == []
    for act in timers.due(1.0):
        act()
    assert done == [0, 1, 2, 3, 4] and timers.next() is None
