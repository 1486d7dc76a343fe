"""Who is read ahead for, and how far."""

import pytest

from tests.issues.test_flights import BLOCK, INO, Mount, attributes
from tests.issues.test_stale_maps import entry
from zdfs import reading, wire
from zdfs.cache import File
from zdfs.ids import PageNo

BLOCKS = 40
DATA = [b"%08d" % number for number in range(BLOCKS)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks are, so what counts as near is, too."""
    monkeypatch.setattr(reading, "JITTER_BYTES", BLOCK)


def mount_of_many() -> Mount:
    """A mount that knows the map of a file of forty blocks."""
    mount = Mount()
    mount.file = File(INO, attributes(1, BLOCK * BLOCKS), 100.0)
    mount.file.size = BLOCK * BLOCKS
    mount.file.pages = {PageNo(0): tuple(entry(4, data, block) for block, data in enumerate(DATA))}
    return mount


def wanted(mount: Mount) -> set[int]:
    """The blocks that the servers were asked for, and are answered now."""
    asked: set[int] = set()
    while mount.hand.waits(wire.Get):
        (request,) = [a.request for a, _ in mount.hand.asked if isinstance(a.request, wire.Get)][:1]
        blocks = [want.name.block for want in request.blocks]
        asked |= set(blocks)
        held = (wire.Held.OK,) * len(blocks)
        mount.hand.answer(wire.Get, wire.Got(held, tuple(DATA[b] for b in blocks)), count=1)
    return asked


def read(mount: Mount, block: int, size: int = BLOCK) -> set[int]:
    """What a read of a block asks for."""
    done = mount.hand.start(mount.reader.read(mount.file, size, block * BLOCK))
    asked = wanted(mount)
    assert done.over and bytes(done.value)[:BLOCK] == DATA[block]
    return asked


def test_who_reads_on_is_read_ahead_for_the_more_the_longer() -> None:
    mount = mount_of_many()
    assert read(mount, 0) == set(range(5)), "four times what was read"
    asked = set()
    for block in range(1, 4):
        asked |= read(mount, block)
    assert max(asked) >= 12


def test_who_begins_in_the_middle_is_read_ahead_for_too() -> None:
    mount = mount_of_many()
    assert read(mount, 10) == {10}
    assert len(read(mount, 11)) > 1


def test_who_reads_here_and_there_is_not() -> None:
    mount = mount_of_many()
    for block in (30, 7, 19, 2, 38, 11):
        assert read(mount, block) == {block}


def test_requests_that_changed_places_are_one_reader() -> None:
    mount = mount_of_many()
    read(mount, 0)
    read(mount, 2)
    read(mount, 1)
    assert mount.file.run == 3 * BLOCK


def test_a_look_at_the_head_reads_no_more() -> None:
    mount = mount_of_many()
    assert read(mount, 0, BLOCK) and mount.file.ahead > 0
    mount = mount_of_many()
    done = mount.hand.start(mount.reader.read(mount.file, 4, 0))
    assert wanted(mount) == {0} and done.over
