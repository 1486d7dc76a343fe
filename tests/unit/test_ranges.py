"""What the mount's side of fallocate and lseek says by itself: space, holes, what is unflushed.

The volume's code runs by hand: every question to a server stands still until the test answers.
"""

import errno
import os
from typing import Any

import pytest

from tests.issues.test_flights import BLOCK, Done, Mount, attributes
from zdfs import blockmap, wire
from zdfs.blockmap import MapEntry, pack_page
from zdfs.calls import notify
from zdfs.checksum import Seal
from zdfs.errors import Failure, Fenced, NoSpace
from zdfs.ids import BlockNo, PageNo, Token, Version
from zdfs.ranges import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE

PUNCH = PUNCH_HOLE | KEEP_SIZE
PAGE = 64


def entries(*blocks: int) -> tuple[MapEntry | None, ...]:
    one = MapEntry(Version(Token(4), 1), BLOCK, BLOCK, Seal(1, 2))
    return tuple(one if block in blocks else None for block in range(max(blocks) + 1))


class Ranged(Mount):
    """A file with some blocks, all of whose map is known."""

    def __init__(self, size: int, *blocks: int) -> None:
        super().__init__()
        self.file.attributes = attributes(1, size)
        self.file.size = size
        self.file.pages = {PageNo(0): entries(*blocks)}

    def fallocate(self, mode: int, offset: int, length: int) -> Done:
        return self.hand.start(self.ranges.fallocate(self.file, mode, offset, length, self.told))

    def free(self, free_bytes: int) -> None:
        self.hand.answer(wire.StatFs, wire.Space(10**6, free_bytes, 0, 0))

    def seek(self, offset: int, whence: int) -> Any:
        return self.hand.start(self.ranges.seek(self.file, offset, whence))


def answer(done: Done) -> Any:
    """An offset, or the name of an errno."""
    assert done.over
    return done.value if done.failure is None else errno.errorcode[done.failure.number]


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, ZERO_RANGE])
def test_what_is_missing_must_be_free(mode: int) -> None:
    for free, fits in ((8 * BLOCK - 1, False), (8 * BLOCK, True), (10 * BLOCK, True)):
        mount = Ranged(20 * BLOCK, 3, 4, 15)
        done = mount.fallocate(mode, BLOCK, 10 * BLOCK)  # eight of them are holes
        mount.free(free)
        assert (mount.hand.waits(wire.Punch) == 1) == fits
        assert isinstance(done.failure, NoSpace) == (not fits)


def test_a_hole_needs_no_space_and_no_write() -> None:
    mount = Ranged(20 * BLOCK, 3, 4)
    done = mount.fallocate(PUNCH, BLOCK, 10 * BLOCK)
    assert [type(ask.request) for ask, _ in mount.hand.asked] == [wire.Punch]
    mount.hand.answer(wire.Punch, wire.Committed(attributes(2, 20 * BLOCK)))
    assert done.over and done.failure is None and mount.file.number == 1
    assert not mount.file.pages, "what is known of that page is void"


def test_a_hole_in_a_hole_writes_no_edges() -> None:
    mount = Ranged(20 * BLOCK, 3)
    mount.fallocate(PUNCH, 5 * BLOCK + 1, BLOCK)
    assert not mount.file.dirty and mount.hand.waits(wire.Punch) == 1


def test_pages_that_come_while_a_hole_is_made_are_void_too() -> None:
    mount = Ranged(20 * BLOCK, 3)
    del mount.file.pages[PageNo(0)]
    mount.fallocate(PUNCH, 2 * BLOCK, 2 * BLOCK)
    page = wire.MapPage(PageNo(0), pack_page(entries(3)))
    mount.reader.take_pages(mount.file, attributes(1, 20 * BLOCK), [page])
    assert mount.file.pages
    mount.hand.answer(wire.Punch, wire.Committed(attributes(2, 20 * BLOCK)))
    assert not mount.file.pages


@pytest.mark.parametrize("failure", [NoSpace("full"), Fenced("another writes it")])
def test_a_hole_that_is_refused(failure: Failure) -> None:
    mount = Ranged(20 * BLOCK, 3)
    done = mount.fallocate(PUNCH, 0, 8 * BLOCK)
    mount.hand.answer(wire.Punch, failure)
    assert done.failure is failure and not mount.file.cut and not mount.file.committing
    assert bool(mount.file.token) == isinstance(failure, NoSpace)


def test_a_write_waits_for_a_hole_underway() -> None:
    mount = Ranged(20 * BLOCK, 3)
    mount.fallocate(PUNCH, 0, 8 * BLOCK)
    write = mount.hand.start(mount.writer.write(mount.file, b"2" * BLOCK, 0, mount.told))
    assert not write.over and not mount.file.dirty
    mount.hand.answer(wire.Punch, wire.Committed(attributes(2, 20 * BLOCK)))
    assert write.over and mount.file.dirty


def test_a_file_that_grows_over_the_end_of_the_range_meanwhile() -> None:
    """What was its last block, all of it to be a hole, is an edge now: its bytes are zeroed."""
    mount = Ranged(3 * BLOCK + 4, 0, 1, 2, 3)
    tail = mount.file.entry(BlockNo(3))
    assert tail is not None
    mount.reader.blocks.put(blockmap.name_of(mount.file.ino, BlockNo(3), tail), b"oldstuff")
    mount.file.committing = True  # something else is on its way
    done = mount.fallocate(PUNCH, 2 * BLOCK, BLOCK + 6)
    mount.write(b"new", 3 * BLOCK + 5)
    mount.file.committing = False
    notify(mount.file.moved)
    mount.hand.go()
    put = mount.hand.answer(wire.Put, wire.Stored(b"u" * 16, 1, 1, 1))
    assert [bytes(data) for data in put.data] == [b"oldstnew"]
    mount.committed(4 * BLOCK)
    put = mount.hand.answer(wire.Put, wire.Stored(b"u" * 16, 1, 1, 1))
    assert [bytes(data) for data in put.data] == [b"\0\0\0\0\0\0ew"]
    assert not mount.hand.waits(wire.Punch)
    mount.committed(4 * BLOCK)
    mount.hand.answer(wire.Punch, wire.Committed(attributes(4, 4 * BLOCK)))
    assert done.over and done.failure is None


def test_unflushed_blocks_are_data() -> None:
    mount = Ranged(20 * BLOCK, 3)
    mount.write(b"1" * BLOCK, 7 * BLOCK)
    mount.fsync()  # underway
    mount.write(b"1", 9 * BLOCK + 3)
    found = [answer(mount.seek(block * BLOCK, os.SEEK_DATA)) for block in (0, 4, 8, 10)]
    assert found == [3 * BLOCK, 7 * BLOCK, 9 * BLOCK, "ENXIO"]
    found = [answer(mount.seek(block * BLOCK, os.SEEK_HOLE)) for block in (3, 7, 9, 10)]
    assert found == [4 * BLOCK, 8 * BLOCK, 10 * BLOCK, 10 * BLOCK]


@pytest.mark.parametrize("whence", [os.SEEK_DATA, os.SEEK_HOLE])
def test_what_is_committed_while_we_ask_was_data(whence: int) -> None:
    """The metaserver's answer was on its way, and is of before."""
    size = 2 * PAGE * BLOCK
    mount = Ranged(size, 3)
    mount.write(b"1" * BLOCK, PAGE * BLOCK)
    mount.fsync()
    asked = mount.seek(PAGE * BLOCK, whence)
    mount.stored()
    mount.committed(size)
    assert not mount.file.flights
    page = wire.MapPage(PageNo(1), b"")
    pages = () if whence == os.SEEK_DATA else (page,)
    mount.hand.answer(wire.Seek, wire.MapPages(attributes(1, size), pages))
    if not asked.over:  # it looks on behind that block
        mount.hand.answer(wire.Seek, wire.MapPages(attributes(2, size), pages))
    assert answer(asked) == (PAGE if whence == os.SEEK_DATA else PAGE + 1) * BLOCK


def test_blocks_that_are_stored_once_all_is_flushed() -> None:
    mount = Ranged(20 * BLOCK, 3)
    mount.file.attributes = mount.file.attributes._replace(stored=BLOCK)
    mount.write(b"1" * BLOCK, 3 * BLOCK)
    assert mount.file.shown().stored == BLOCK
    mount.write(b"1" * BLOCK, 5 * BLOCK)
    mount.fsync()
    mount.write(b"2" * BLOCK, 5 * BLOCK)
    assert mount.file.shown().stored == 2 * BLOCK
