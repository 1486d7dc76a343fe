"""Who is let go of, and in which order."""

from zdfs.ids import Ino
from zdfs.orphans import Orphans

TOP, DIRECTORY, FILE, OTHER = Ino(1), Ino(5), Ino(6), Ino(7)


def test_a_directory_waits_for_what_stood_in_it() -> None:
    orphans = Orphans()
    orphans.add(FILE, DIRECTORY)
    orphans.add(OTHER, DIRECTORY)
    orphans.add(DIRECTORY, TOP)
    assert orphans.holds(DIRECTORY) and not orphans.holds(FILE)
    orphans.discard(FILE)
    assert orphans.holds(DIRECTORY)
    orphans.discard(OTHER)
    assert not orphans.holds(DIRECTORY) and DIRECTORY in orphans and len(orphans) == 1


def test_what_is_told_twice_counts_once() -> None:
    orphans = Orphans()
    for _ in range(2):
        orphans.add(FILE, DIRECTORY)
    orphans.discard(FILE)
    orphans.discard(FILE)
    assert not orphans.holds(DIRECTORY) and FILE not in orphans


def test_who_was_looked_at_comes_last() -> None:
    orphans = Orphans()
    for ino in (DIRECTORY, FILE, OTHER):
        orphans.add(ino, TOP)
    orphans.turn(DIRECTORY)
    assert list(orphans) == [FILE, OTHER, DIRECTORY]
