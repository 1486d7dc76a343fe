"""What a mount remembers of names and attributes: by time, and by promise."""

import pytest

from tests.unit.test_cache import attributes
from zdfs import limits
from zdfs.ids import COUNTER_BITS, ROOT, Ino
from zdfs.knowledge import AHEAD, NEVER, Names

D = Ino(5)  # a directory


# --- by time -------------------------------------------------------------------------------------


def test_names_are_known_for_a_while() -> None:
    names = Names(1.0, 1.0)
    names.enter(Ino(1), b"a", attributes(7), 10.0, 10.0)
    assert names.find(Ino(1), b"a", 10.9) == 7
    assert names.attributes(Ino(7), 10.9) == attributes(7)
    assert names.find(Ino(1), b"a", 11.0) is None
    assert names.attributes(Ino(7), 11.0) is None
    assert names.find(Ino(2), b"a", 10.0) is None


def test_older_attributes_are_passed_over() -> None:
    names = Names(1.0, 1.0)
    names.learn(attributes(change=5, size=50), 10.0)
    names.learn(attributes(change=4, size=40), 10.1)
    known = names.attributes(Ino(7), 10.2)
    assert known is not None and known.size == 50
    names.learn(attributes(change=6, size=60), 10.3)
    known = names.attributes(Ino(7), 10.4)
    assert known is not None and known.size == 60


def test_what_is_forgotten_is_not_found() -> None:
    names = Names(100.0, 100.0)
    names.enter(Ino(1), b"a", attributes(7), 10.0, 10.0)
    names.forget_inode(Ino(7), 10.0)
    assert names.attributes(Ino(7), 10.0) is None and names.find(Ino(1), b"a", 10.0) == 7
    names.forget(Ino(1), b"a")
    assert names.find(Ino(1), b"a", 10.0) is None
    names.enter(Ino(1), b"b", attributes(8), 10.0, 10.0)
    names.clear()
    assert names.find(Ino(1), b"b", 10.0) is None


def test_what_somebody_else_changed_is_not_believed() -> None:
    names = Names(100.0, 100.0)
    names.enter(Ino(1), b"d", attributes(7), 10.0, 10.0)
    names.enter(Ino(7), b"a", attributes(8), 10.0, 10.0)
    assert names.spoil(Ino(7), 11.0) == attributes(7)
    assert names.attributes(Ino(7), 11.5) is None and names.find(Ino(7), b"a", 11.5) is None
    assert names.find(Ino(1), b"d", 11.5) == 7 and names.attributes(Ino(8), 11.5) is not None
    names.enter(Ino(7), b"a", attributes(8), 12.0, 12.0)
    assert names.find(Ino(7), b"a", 12.5) == 8
    assert names.spoil(Ino(9), 12.0) is None


def test_a_place_is_found_through_renamed_directories() -> None:
    names = Names(0.0, 0.0)
    names.enter(ROOT, b"d", attributes(7), 10.0, 10.0)
    names.enter(Ino(7), b"a", attributes(8), 10.0, 10.0)
    assert names.last_place(Ino(8)) == b"/d/a" and names.last_place(ROOT) == b"/"
    names.forget(ROOT, b"d")
    assert names.last_place(Ino(8)) is None
    names.enter(ROOT, b"e", attributes(7), 11.0, 11.0)
    assert names.last_place(Ino(8)) == b"/e/a"


def test_nothing_is_believed_without_a_life() -> None:
    names = Names(0.0, 0.0)
    names.enter(ROOT, b"d", attributes(7), 10.0, 10.0)
    assert names.find(ROOT, b"d", 10.0) is None and names.attributes(Ino(7), 10.0) is None


def test_names_are_bounded() -> None:
    names = Names(100.0, 100.0)
    for number in range(limits.NAMES_CACHED + 10):
        names.enter(Ino(1), b"%d" % number, attributes(number + 10), 0.0, 0.0)
    assert names.find(Ino(1), b"0", 1.0) is None
    assert names.attributes(Ino(10), 1.0) is None
    assert names.find(Ino(1), b"%d" % (limits.NAMES_CACHED + 9), 1.0) is not None


# --- by promise ----------------------------------------------------------------------------------


@pytest.fixture
def names() -> Names:
    """Everything asked for so far stands, for another half second."""
    made = Names(0.5, 0.5)
    made.promises.doubt(100.0)
    confirm(made, 0, sent=200.0)
    return made


def confirm(names: Names, told: int, sent: float, now: float | None = None) -> None:
    """A heartbeat is answered."""
    names.promises.confirmed(told, sent, sent if now is None else now, 0.5)


def test_what_was_shown_is_believed_as_long_as_heartbeats_are_answered(names: Names) -> None:
    names.enter(D, b"a", attributes(7), 150.0, 149.0)
    names.listed(D, 3, 149.0, {b"a": Ino(7)})
    assert names.find(D, b"a", 200.4) == 7 and names.attributes(Ino(7), 200.4) == attributes(7)
    assert names.find(D, b"a", 200.5) is None and names.attributes(Ino(7), 200.5) is None
    confirm(names, 0, sent=300.0, now=300.3)
    assert names.find(D, b"a", 300.4) == 7 and names.attributes(Ino(7), 300.4) == attributes(7)
    assert names.find(D, b"a", 300.5) is None, "counted from when it was sent"


def test_what_was_asked_for_before_it_is_believed_by_time_only(names: Names) -> None:
    names.enter(D, b"a", attributes(7), 200.1, 99.0)
    names.listed(D, 3, 99.0, {b"a": Ino(7)}, b"", True)
    assert names.find(D, b"a", 200.2) == 7
    confirm(names, 0, sent=300.0)
    assert names.find(D, b"a", 300.1) is None and not names.absent(D, b"b", 300.1)
    assert names.attributes(Ino(7), 300.1) is None


@pytest.mark.parametrize("how", ["a gap", "the heartbeat", "a new metaserver"])
def test_lost_news_end_all_promises(names: Names, how: str) -> None:
    names.enter(D, b"a", attributes(7), 150.0, 149.0)
    names.listed(D, 3, 149.0, {b"a": Ino(7)}, b"", True)
    assert names.absent(D, b"b", 200.1)
    if how == "a gap":
        names.promises.pushed(1, 200.1)
        assert names.absent(D, b"b", 200.1), "about something else"
        names.promises.pushed(3, 200.1)
    elif how == "the heartbeat":
        confirm(names, 1, sent=200.1)
    else:
        names.promises.doubt(200.1)
    confirm(names, names.promises.told, sent=200.2)
    assert not names.absent(D, b"b", 200.3)
    assert names.find(D, b"a", 200.3) is None and names.attributes(Ino(7), 200.3) is None
    names.listed(D, 3, 200.25, {b"a": Ino(7)}, b"", True)
    assert names.absent(D, b"b", 200.3), "what is asked for from now on counts"


def test_late_and_doubled_news_are_no_gap(names: Names) -> None:
    for number in (1, 2, 2, 1, 3):
        names.promises.pushed(number, 200.1)
    confirm(names, 2, sent=200.2)
    assert names.promises.holds(150.0, 200.6)


def test_news_end_what_was_known_of_the_directory(names: Names) -> None:
    names.listed(D, 3, 149.0, {b"a": Ino(7)}, b"", True)
    names.spoil(D, 200.1)
    assert names.find(D, b"a", 200.2) is None and not names.absent(D, b"b", 200.2)
    names.listed(D, 3, 200.05, {b"a": Ino(7)}, b"", True)
    assert not names.absent(D, b"b", 200.2), "an answer that the news have overtaken"
    names.listed(D, 4, 200.15, {b"a": Ino(7)}, b"", True)
    assert names.absent(D, b"b", 200.2)


def test_news_overtake_answers_about_attributes(names: Names) -> None:
    names.spoil(Ino(7), 200.0)
    names.learn(attributes(7), 200.1, 199.9)
    confirm(names, 0, sent=300.0)
    assert names.attributes(Ino(7), 300.1) is None
    names.learn(attributes(7), 200.1, 200.05)
    assert names.attributes(Ino(7), 300.1) is not None
    names.unflushed(Ino(7), 300.1)
    names.learn(attributes(7), 300.2, 300.0)
    confirm(names, 0, sent=400.0)
    assert names.attributes(Ino(7), 400.1) is None, "asked for before it was written"


def test_our_own_changes_lead_from_version_to_version(names: Names) -> None:
    names.made(D, 3, 149.0)
    assert names.absent(D, b"a", 200.1)
    names.changed(D, 4, 151.0, 150.0, (b"a", Ino(7)))
    assert names.find(D, b"a", 200.1) == 7 and names.absent(D, b"b", 200.1)
    names.changed(D, 5, 151.0, 150.0, (b"a", None), (b"b", Ino(7)))
    assert names.find(D, b"b", 200.1) == 7 and names.absent(D, b"a", 200.1)


def test_our_own_changes_overtake_answers(names: Names) -> None:
    names.changed(D, 4, 151.0, 150.0, (b"a", None))
    names.enter(D, b"a", attributes(7), 151.1, 150.5)
    assert names.find(D, b"a", 151.2) is None, "asked for before it was removed"
    names.enter(D, b"a", attributes(7), 151.3, 151.2)
    assert names.find(D, b"a", 151.4) == 7


def test_own_changes_that_overtake_one_another(names: Names) -> None:
    """Their answers come in another order: a name that one of them moved is asked for."""
    names.made(D, 3, 149.0)
    names.changed(D, 5, 151.0, 150.0, (b"b", Ino(8)))
    assert not names.absent(D, b"b", 200.1) and names.absent(D, b"a", 200.1)
    names.changed(D, 6, 151.0, 150.0, (b"b", None))
    names.changed(D, 4, 151.0, 150.0, (b"a", Ino(7)))
    assert names.find(D, b"a", 200.1) == 7
    assert names.absent(D, b"b", 200.1) and names.find(D, b"b", 200.1) is None


def test_a_change_of_somebody_else_in_between(names: Names) -> None:
    """Ours does not follow; the news of the other one is still on its way."""
    names.made(D, 3, 149.0)
    names.changed(D, 5, 151.0, 150.0, (b"b", Ino(8)))
    names.listed(D, 5, 150.0, {b"x": Ino(9)}, b"", True)
    assert names.absent(D, b"x", 200.1), "as of the version that we have"
    names.spoil(D, 200.1)
    assert not names.absent(D, b"x", 200.2) and names.find(D, b"b", 200.2) is None


def test_a_change_that_has_changed_nothing(names: Names) -> None:
    """rename(x, x): the version is one that we have, or that another change of ours has made."""
    names.made(D, 3, 149.0)
    names.changed(D, 3, 151.0, 150.0, (b"a", None), (b"a", Ino(7)))
    assert names.absent(D, b"b", 200.1)
    names.changed(D, 5, 151.0, 150.0, (b"c", Ino(8)))
    names.changed(D, 5, 151.0, 150.0, (b"a", None), (b"a", Ino(7)))
    assert not names.absent(D, b"c", 200.1), "version 4 has yet to come"
    names.changed(D, 4, 151.0, 150.0, (b"a", Ino(7)))
    assert names.find(D, b"c", 200.1) == 8 and names.find(D, b"a", 200.1) == 7


def test_the_first_change_of_a_metaserver_follows_too(names: Names) -> None:
    """Change counters begin anew with each of its lives."""
    names.made(D, 3, 149.0)
    names.changed(D, 9 << COUNTER_BITS, 151.0, 150.0, (b"a", Ino(7)))
    names.changed(D, (9 << COUNTER_BITS) + 1, 151.0, 150.0, (b"b", Ino(8)))
    assert names.find(D, b"a", 200.1) == 7 and names.find(D, b"b", 200.1) == 8
    names.changed(D, (10 << COUNTER_BITS) + 1, 151.0, 150.0, (b"c", Ino(9)))
    assert not names.absent(D, b"c", 200.1), "somebody was before us"


def test_another_version_says_nothing(names: Names) -> None:
    names.listed(D, 3, 149.0, {b"a": Ino(7)})
    names.listed(D, 4, 149.5, {b"b": Ino(8)}, b"", True)
    assert names.find(D, b"b", 200.1) is None and not names.absent(D, b"c", 200.1)
    assert names.missed(D, 4, 150.0) == 0
    assert [names.missed(D, 3, 150.0) for _ in range(2)] == [0, 2 * AHEAD], "not of another version"


def test_neighbours_are_learnt_as_long_as_they_are_used(names: Names) -> None:
    names.listed(D, 3, 149.0, {b"a": Ino(7)})
    most = [names.missed(D, 3, 150.0) for _ in range(9)]
    assert most == [0, 32, 0, 64, 0, 0, 0, 128, 0], "the first page; then less and less often"
    for _ in range(32):
        assert names.find(D, b"a", 200.1) == 7
    assert names.missed(D, 3, 150.0) == 256 and names.missed(D, 3, 150.0) == 0
    for _ in range(64):
        assert names.find(D, b"a", 200.1) == 7
    assert names.missed(D, 3, 150.0) == limits.LISTING_ENTRIES, "never more than fit a page"


def test_a_life_of_nothing_promises_nothing() -> None:
    names = Names(0.0, 0.0)
    names.promises.doubt(100.0)
    names.promises.confirmed(0, 200.0, 200.0, 0.5)
    names.listed(D, 3, 149.0, {b"a": Ino(7)}, b"", True)
    names.enter(D, b"a", attributes(7), 150.0, 149.0)
    assert names.find(D, b"a", 200.1) is None and not names.absent(D, b"b", 200.1)
    assert names.attributes(Ino(7), 200.1) is None


def test_folders_are_bounded_by_their_names(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_CACHED", 10)
    for directory in range(20, 24):
        made = {b"%d" % number: Ino(number) for number in range(100, 104)}
        names.listed(Ino(directory), 3, 149.0, made, b"", True)
    assert [names.absent(Ino(d), b"x", 200.1) for d in range(20, 24)] == [False, False, True, True]


def test_times_that_are_forgotten_are_a_floor(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NAMES_CACHED", 2)
    for ino in (7, 8, 9):
        names.spoil(Ino(ino), 200.0 + ino / 100)
    names.learn(attributes(7), 200.2, 200.05)
    confirm(names, 0, sent=300.0)
    assert names.attributes(Ino(7), 300.1) is None, "nobody knows any more that it was overtaken"


def test_what_a_kernel_was_told_is_listed(names: Names) -> None:
    names.enter(D, b"a", attributes(7), 150.0, 149.0)
    names.enter(D, b"b", attributes(8), 150.0, 149.0, told=False)
    names.listed(D, 3, 149.0, {b"a": Ino(7), b"b": Ino(8)}, b"", True)
    assert names.names_in(D, 149.9) == [b"a"]
    assert names.find(D, b"b", 200.1) == 8
    assert names.names_in(D, 200.0) == [b"b"] and names.names_in(D, NEVER) == [b"a", b"b"]
