"""A mount between servers that are wrong, full or silent: what it believes, what it sends.

By hand, as in `tests/issues/test_flights.py`: every question stands still until the test answers.
"""

from typing import Any

import pytest

from tests.issues.test_flights import BLOCK, INO, Done, Mount, attributes
from tests.issues.test_stale_maps import entry
from zdfs import blockmap, wire
from zdfs.blockmap import pack_page, unpack_numbered
from zdfs.cache import File
from zdfs.calls import notify
from zdfs.errors import Damaged, NoSpace, PutAgain, Unreachable
from zdfs.ids import BlockNo, Ino, PageNo, Policy, Token
from zdfs.wire import Held

GOOD = b"11111111"
MISSING = wire.Got((Held.MISSING,), (b"",))


def got(data: bytes) -> wire.Got:
    return wire.Got((Held.OK,), (data,))


def reader_of(size: int = BLOCK) -> Mount:
    """A mount without a grant, that knows the map of a file of one block."""
    mount = Mount()
    mount.file = File(INO, attributes(1, size), 100.0)
    mount.file.size = size
    mount.file.pages = {PageNo(0): (entry(4, GOOD),)}
    return mount


def writer_of(size: int = BLOCK) -> Mount:
    """The same under a grant."""
    mount = reader_of(size)
    mount.file.token = Token(5)
    return mount


def reading(mount: Mount) -> Done:
    return mount.hand.start(mount.reader.read(mount.file, 100, 0))


def sent(mount: Mount) -> list[bytes]:
    """The blocks in the Puts that stand."""
    asks = [ask.request for ask, _ in mount.hand.asked if isinstance(ask.request, wire.Put)]
    return [bytes(data) for put in asks for data in put.data]


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [b"11111110", b"1111", b"", GOOD + b"1"])
def test_bytes_that_are_not_the_maps_are_asked_for_elsewhere(bad: bytes) -> None:
    mount = reader_of()
    read = reading(mount)
    mount.hand.answer(wire.Get, got(bad))
    assert not read.over and mount.hand.waits(wire.Get) == 1
    mount.hand.answer(wire.Get, got(GOOD))
    assert bytes(read.value) == GOOD


def test_what_no_replica_has_is_an_error_and_never_zeros() -> None:
    mount = reader_of()
    read = reading(mount)
    for _ in range(3):
        mount.hand.answer(wire.Get, MISSING)
    mount.hand.answer(wire.GetAttributes, wire.Found(attributes(1, BLOCK)))
    page = wire.MapPage(PageNo(0), pack_page([entry(4, GOOD)]))
    mount.hand.answer(wire.ReadMap, wire.MapPages(attributes(1, BLOCK), (page,)))
    assert isinstance(read.failure, Damaged)


def test_a_silent_server_may_have_it() -> None:
    mount = reader_of()
    read = reading(mount)
    mount.hand.answer(wire.Get, MISSING)
    mount.hand.answer(wire.Get, MISSING)
    mount.hand.answer(wire.Get, Unreachable("silence"))
    mount.hand.sleep()
    mount.hand.answer(wire.GetAttributes, wire.Found(attributes(1, BLOCK)))
    page = wire.MapPage(PageNo(0), pack_page([entry(4, GOOD)]))
    mount.hand.answer(wire.ReadMap, wire.MapPages(attributes(1, BLOCK), (page,)))
    assert not read.over
    mount.hand.answer(wire.Get, got(GOOD))
    assert bytes(read.value) == GOOD


def test_an_old_map_beside_a_silent_metaserver_proves_nothing() -> None:
    """They may all have let go of what an old map names."""
    mount = reader_of()
    read = reading(mount)
    for _ in range(3):
        mount.hand.answer(wire.Get, MISSING)
    mount.hand.answer(wire.GetAttributes, Unreachable("silence"))
    assert not read.over
    mount.hand.sleep()
    mount.hand.answer(wire.Get, got(GOOD))
    assert bytes(read.value) == GOOD


def test_a_map_that_was_forgotten_meanwhile_is_no_hole() -> None:
    mount = reader_of()
    read = reading(mount)
    mount.file.pages.clear()  # another mount has changed the file
    mount.hand.answer(wire.Get, got(GOOD))
    assert not read.over and mount.hand.waits(wire.ReadMap) == 1
    new = b"22222222"
    page = wire.MapPage(PageNo(0), pack_page([entry(9, new)]))
    mount.hand.answer(wire.ReadMap, wire.MapPages(attributes(2, BLOCK), (page,)))
    mount.hand.answer(wire.Get, got(new))
    assert bytes(read.value) == new


# --- what a partial overwrite lies on ------------------------------------------------------------


def test_a_partial_overwrite_is_laid_over_the_right_bytes() -> None:
    mount = writer_of()
    mount.write(b"22", 2)
    mount.fsync()
    mount.hand.answer(wire.Get, got(b"1X1111X1"))
    assert not sent(mount), "damage would be sealed as good"
    mount.hand.answer(wire.Get, got(GOOD))
    assert sent(mount) == [b"11221111"] * 3


def test_a_partial_overwrite_ends_where_the_file_was_cut() -> None:
    """What is stored behind the cut must not come back with the block's next version."""
    mount = writer_of(3)
    mount.file.pages = {PageNo(0): (entry(4, GOOD)._replace(visible=3),)}
    mount.write(b"22", 5)
    mount.fsync()
    mount.hand.answer(wire.Get, got(GOOD))
    assert sent(mount) == [b"111\0\x0022"] * 3


# --- what counts as stored -----------------------------------------------------------------------


def test_only_an_answer_says_that_a_block_is_stored() -> None:
    mount = writer_of()
    mount.write(GOOD, 0)
    done = mount.fsync()
    mount.stored(2)
    mount.hand.answer(wire.Put, Unreachable("silence"))
    mount.hand.answer(wire.GetPolicy, wire.PolicyFound(Policy.ALL, Policy.INHERIT, Ino(0)))
    assert not mount.hand.waits(wire.Commit) and not done.over
    notify(mount.writer.contact.map_changed)
    mount.hand.go()
    assert mount.hand.waits(wire.Put) == 1, "the others have it"
    mount.stored()
    request = mount.committed(BLOCK)
    assert sorted(ack.slot for ack in request.acks) == [0, 1, 2] and done.over


def test_one_full_server_fails_the_write_and_leaves_the_old_content() -> None:
    """And what the two others had stored is given up, or it would fill them too."""
    mount = writer_of()
    mount.write(b"22222222", 0)
    done = mount.fsync()
    mount.stored(2)
    mount.hand.answer(wire.Put, NoSpace("full"))
    assert isinstance(done.failure, NoSpace) and mount.hand.waits(wire.Commit) == 1
    request: Any = mount.committed(BLOCK)
    assert unpack_numbered(request.blocks) == []
    ((block, version),) = blockmap.unpack_dropped(request.abandoned)
    assert block == 0 and version.token == 5 and version.sequence < request.floor
    assert mount.file.entry(BlockNo(0)) == entry(4, GOOD) and not mount.file.abandoned


def test_blocks_that_a_store_lost_are_put_again() -> None:
    mount = writer_of()
    mount.write(GOOD, 0)
    done = mount.fsync()
    mount.stored()
    mount.hand.answer(wire.Commit, PutAgain("a new store", (1,)))
    mount.hand.sleep()
    assert mount.hand.waits(wire.Put) == 1 and not mount.hand.waits(wire.Commit)
    mount.hand.answer(wire.Put, wire.Stored(b"n" * 16, 2, 1, 7))
    request = mount.committed(BLOCK)
    assert {ack.slot: ack.uuid[:1] for ack in request.acks} == {0: b"u", 1: b"n", 2: b"u"}
    assert done.over and done.failure is None


# --- order ---------------------------------------------------------------------------------------


def test_a_file_has_one_commit_underway() -> None:
    mount = writer_of()
    for number in range(2):
        mount.write(GOOD, number * BLOCK)
        mount.fsync()
        mount.stored()
    assert mount.hand.waits(wire.Commit) == 1
    first = mount.committed(BLOCK)
    second = mount.committed(2 * BLOCK)
    assert (first.number, second.number) == (1, 2)


def test_flights_are_committed_in_their_order() -> None:
    """The second is stored first: were it committed first, the block's old version would win."""
    mount = writer_of()
    mount.write(b"22222222", 0)
    mount.fsync()
    earlier = list(mount.hand.asked)
    mount.write(b"33333333", 0)
    mount.fsync()
    late = [pair for pair in mount.hand.asked if pair not in earlier]
    for pair in late:
        mount.hand.asked.remove(pair)
        pair[1](wire.Stored(b"u" * 16, 1, 1, 1))
    mount.hand.go()
    assert not mount.hand.waits(wire.Commit), "the first isn't stored yet"
    mount.stored()
    request = mount.committed(BLOCK)
    ((block, counted),) = unpack_numbered(request.blocks)
    assert block == 0 and counted.version.sequence == 2
    ((_, superseded),) = blockmap.unpack_dropped(request.abandoned)
    assert superseded.sequence == 1


def test_a_truncate_comes_after_what_was_written_before_it() -> None:
    mount = writer_of()
    mount.write(b"22222222", 0)
    mount.hand.start(mount.ranges.truncate(mount.file, 4, mount.told))
    mount.write(b"33333333", BLOCK)  # while the first is on its way
    mount.stored()
    mount.committed(BLOCK)
    assert not mount.hand.waits(wire.Truncate), "it would come back behind the cut"
    mount.fsync()
    mount.stored()
    mount.committed(2 * BLOCK)
    request: Any = mount.hand.answer(wire.Truncate, wire.Committed(attributes(9, 4)))
    assert request.number == 3 and mount.file.size == 4
