"""A read whose time was over when it waited for another reader's fetch was given up when that had
brought the block."""

from tests.unit.test_reading import GOOD, got, reader_of, reading
from zdfs import limits, wire


def test_what_another_reader_has_fetched_is_taken_however_late() -> None:
    mount = reader_of()
    first, second = reading(mount), reading(mount)
    assert mount.hand.waits(wire.Get) == 1, "the second waits for the first"
    mount.hand.time += limits.GIVE_UP_READ_S + 1
    mount.file.map_at = mount.hand.time
    mount.hand.answer(wire.Get, got(GOOD))
    assert bytes(first.value) == GOOD and bytes(second.value) == GOOD
