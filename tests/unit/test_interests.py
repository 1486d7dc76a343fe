"""Whom the metaserver tells of a change: who looked, once, and not who did it."""

from zdfs import wire
from zdfs.ids import Epoch, Ino, Session, Slot
from zdfs.interests import Interests, shown

ONE, TWO, THREE = Session(1), Session(2), Session(3)


def attributes(ino: int) -> wire.Attributes:
    return wire.Attributes(Ino(ino), *([0] * 11), Epoch(0), Slot(0), 0)  # type: ignore[arg-type]


def test_who_looked_is_told_once() -> None:
    interests = Interests()
    interests.looked(ONE, [Ino(7), Ino(8)])
    interests.looked(TWO, [Ino(8)])
    assert interests.changed([Ino(8), Ino(9)], THREE) == {ONE: [8], TWO: [8]}
    assert interests.changed([Ino(8)], THREE) == {}
    assert interests.changed([Ino(7)], THREE) == {ONE: [7]}


def test_who_did_it_is_not_told_and_goes_on_being_interested() -> None:
    interests = Interests()
    interests.looked(ONE, [Ino(7)])
    assert interests.changed([Ino(7)], ONE) == {}
    assert interests.changed([Ino(7)], TWO) == {ONE: [7]}


def test_what_is_remembered_is_bounded() -> None:
    interests = Interests(most=3)
    forgotten = interests.looked(ONE, map(Ino, range(1, 6)))
    assert forgotten == [1, 2], "it is told of these: it shall ask again"
    assert interests.changed([Ino(n) for n in range(1, 6)], TWO) == {ONE: [3, 4, 5]}


def test_a_mount_that_ended_is_not_told() -> None:
    interests = Interests()
    interests.looked(ONE, [Ino(7)])
    interests.died(ONE)
    assert interests.changed([Ino(7)], TWO) == {}


def test_a_walk_shows_each_step_and_the_directory_it_began_in() -> None:
    request = wire.Lookup(Ino(1), (b"a", b"b"))
    assert list(shown(request, wire.Walked((attributes(5), attributes(6)), 0, 9))) == [1, 5, 6]


def test_a_listing_shows_its_directory_and_what_is_in_it() -> None:
    entries = (wire.Entry(b"a", attributes(5)), wire.Entry(b"b", attributes(6)))
    listing = wire.Listing(entries, True, Ino(1), 9)
    assert list(shown(wire.ReadDirectory(Ino(4), b"", 512), listing)) == [4, 5, 6]
