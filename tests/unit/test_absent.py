"""What a mount remembers of extended attributes that aren't there."""

from zdfs import limits
from zdfs.absent import Xattrs
from zdfs.ids import Epoch, Ino, Slot
from zdfs.wire import Attributes

INO = Ino(7)
NAME = b"security.capability"


def attributes(count: int, change: int = 1) -> Attributes:
    return Attributes(INO, 0o100644, 1, 0, 0, 0, 0, 0, 0, 0, 0, change, Epoch(1), Slot(0), count)


def known(count: int, change: int = 1) -> Xattrs:
    """Told at 100 how many there are; believed until 101."""
    one = Xattrs(1.0)
    one.learn(attributes(count, change), 100.0)
    return one


def test_of_what_has_none_all_are_absent_for_a_while() -> None:
    one = known(0)
    assert one.lacks(INO, NAME, 100.9) and one.count(INO, 100.9) == 0
    assert not one.lacks(INO, NAME, 101.0) and one.count(INO, 101.0) is None
    assert one.lacks(INO, NAME, 101.0, 2.0)
    assert not one.lacks(Ino(8), NAME, 100.0) and one.count(Ino(8), 100.0) is None


def test_of_what_has_some_those_that_were_asked_for_in_vain() -> None:
    one = known(1)
    assert not one.lacks(INO, NAME, 100.0)
    one.missed(INO, NAME, one.turn(INO), 100.5)
    assert one.lacks(INO, NAME, 101.4) and not one.lacks(INO, NAME, 101.5)
    assert not one.lacks(INO, b"user.other", 101.0)


def test_other_attributes_with_the_same_count_leave_that_alone() -> None:
    """A commit moves the change counter several times a second."""
    one = known(1)
    one.missed(INO, NAME, one.turn(INO), 100.0)
    one.learn(attributes(1, 2), 100.5)
    assert one.lacks(INO, NAME, 100.9)
    one.learn(attributes(2, 3), 100.6)
    assert not one.lacks(INO, NAME, 100.9)


def test_older_attributes_are_passed_over() -> None:
    one = known(1, 5)
    one.learn(attributes(0, 4), 100.5)
    assert one.count(INO, 100.6) == 1
    one.forget(INO)
    one.learn(attributes(0, 4), 100.5)
    assert one.count(INO, 100.6) is None


def test_what_was_asked_before_a_change_says_nothing_after_it() -> None:
    one = known(1)
    turn = one.turn(INO)
    one.forget(INO)
    one.learn(attributes(2, 2), 100.1)
    one.missed(INO, NAME, turn, 100.2)
    assert not one.lacks(INO, NAME, 100.3)
    one.missed(INO, NAME, one.turn(INO), 100.2)
    assert one.lacks(INO, NAME, 100.3)
    one.forget(INO)
    assert not one.lacks(INO, NAME, 100.3)


def test_what_is_remembered_is_bounded() -> None:
    one = known(1)
    for number in range(10 * limits.XATTRS_MISSED):
        one.missed(INO, b"user.%d" % number, one.turn(INO), 100.0)
    names = [b"user.%d" % number for number in range(10 * limits.XATTRS_MISSED)]
    assert 1 <= sum(one.lacks(INO, name, 100.0) for name in names) <= limits.XATTRS_MISSED
    one.clear()
    assert one.count(INO, 100.0) is None and not one.lacks(INO, names[-1], 100.0)
